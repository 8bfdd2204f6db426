# make demo: everything from nothing, then a running system with a model. make help: the rest.

SHELL := /bin/bash
# Where it is set, as in many containers, each of our processes would compile all sources anew.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Downloads and builds show, so that something moves; what was found where does not.
QUIETER := grep --line-buffered -vE '^(Looking in|Requirement already|Installing collected|Successfully|  (Using cached|Preparing|Installing|Getting|Checking|Stored|Created) )'

# What requests pass through, as C: where there is no compiler, or with COMPILE=0, it is interpreted.
COMPILE ?= 1
TO_COMPILE := $(wildcard $(shell sed -n '/^compiled = /,/^]/s/^ *"\(.*\)",$$/\1/p' pyproject.toml))

.PHONY: help install compiled interpreted demo test test-fast long models-table soak bench check format clean

help:
	@echo 'make demo     install, then run Penstock with a model; Ctrl-C ends it'
	@echo 'make install  everything into $(VENV)'
	@echo 'make compiled compile what requests pass through (a minute); install, demo, test and bench do it,'
	@echo '              unless there is no C compiler or COMPILE=0'
	@echo 'make test     all tests but the long ones'
	@echo 'make test-fast  units and simulations, without those that take long, in under 90 seconds'
	@echo 'make long     tests that take minutes: many models, environments, all examples of properties'
	@echo 'make models-table  the table in docs/models.md, from a run of tests/parity'
	@echo 'make interpreted  remove what was compiled'
	@echo 'make soak     storms, soaks and the longest forms of other tests'
	@echo 'make bench    load tests of everything, about 15 minutes; SCENARIO=tiny for one of them'
	@echo 'make check    format, lint, types, imports'
	@echo 'make format   rewrite the code as make check wants it'
	@echo 'make clean    remove what these commands made; models and state in .penstock too'

# A stamp for each set of packages: nothing is installed again until pyproject.toml changes.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Penstock needs Python 3.11 or later; name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo 'making $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@echo 'installing Penstock and what it needs (some minutes the first time)'
	@set -o pipefail; $(PIP) install --progress-bar off -e '.[all]' | { $(QUIETER) || true; }
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	@echo 'installing what tests and checks need'
	@set -o pipefail; $(PIP) install --progress-bar off -e '.[dev]' | { $(QUIETER) || true; }
	@touch $@

$(VENV)/.installed-parity: pyproject.toml $(VENV)/.installed-dev
	@echo 'installing other libraries, whose models are served beside MLflow'
	@set -o pipefail; $(PIP) install --progress-bar off -e '.[parity]' | { $(QUIETER) || true; }
	@touch $@

# Of what is older than its source, nothing is left to be imported in its place.
$(VENV)/.compiled: setup.py pyproject.toml $(TO_COMPILE) $(VENV)/.installed
	@set -o pipefail; $(PIP) install --progress-bar off -e '.[compile]' | { $(QUIETER) || true; }
	@$(MAKE) --no-print-directory interpreted
	@echo 'compiling what requests pass through (a minute; COMPILE=0 does without)'
	@PENSTOCK_COMPILE=1 $(BIN)/python setup.py --quiet build_ext --inplace || \
	  { $(MAKE) --no-print-directory interpreted; [ -z "$$CI" ] && echo 'not compiled; it is interpreted, and slower'; }
	@find shared gateway worker -name '*.so' -exec touch {} +  # what did not change keeps its old time
	@touch $@

ifeq ($(COMPILE),1)
compiled: $(VENV)/.compiled
else
compiled: interpreted
endif

interpreted:
	@rm -f $(VENV)/.compiled
	@find shared gateway worker -name '*.so' -delete

install: $(VENV)/.installed compiled

demo: install
	@exec $(BIN)/penstock up --demo

# Most tests wait more than they compute, so modules run side by side; those that measure follow.
# Side by side, one thread computes in each: those of a pool spin while they wait for each other.
# ARGS that choose tests may leave none to one of the two, which pytest tells by a 5.
SIDE_BY_SIDE ?= 4
NONE_IS_WELL = $(if $(ARGS),|| [ $$? = 5 ])
TOGETHER = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(SIDE_BY_SIDE) --dist loadfile --no-loadscope-reorder
test: $(VENV)/.installed-dev compiled
	$(TOGETHER) -m 'not slow and not long and not alone' $(ARGS) $(NONE_IS_WELL)
	$(BIN)/python -m pytest -m 'not slow and not long and alone' $(ARGS) $(NONE_IS_WELL)

# For the loop: compiled or not, as it is.
test-fast: SIDE_BY_SIDE = 3
test-fast: $(VENV)/.installed-dev
	$(TOGETHER) -m 'not slow and not long and not alone and not costly' tests/unit tests/simulation $(ARGS)

# What takes minutes, which .ci/run wants too: models beside their own libraries, environments of
# their own, tails and overload under load, and property tests with all their examples.
long: $(VENV)/.installed-dev $(VENV)/.installed-parity compiled
	$(TOGETHER) -m 'long and not slow and not alone' $(ARGS) $(NONE_IS_WELL)
	$(BIN)/python -m pytest -m 'long and not slow and alone' $(ARGS) $(NONE_IS_WELL)
	$(TOGETHER) -m 'property and not slow and not long' --hypothesis-profile full $(ARGS) $(NONE_IS_WELL)

# docs/models.md has a table of what tests/parity found: this makes it anew.
models-table: $(VENV)/.installed-parity compiled
	rm -rf .penstock/parity
	PENSTOCK_PARITY=$(CURDIR)/.penstock/parity $(TOGETHER) tests/parity
	$(BIN)/python -m tests.parity.table .penstock/parity

soak: $(VENV)/.installed-dev compiled
	$(BIN)/python -m pytest -m slow --hypothesis-profile full --timeout 3600 $(ARGS)

# As in make bench SCENARIO=tiny ARGS='--duration 2'. Run nothing else meanwhile.
SCENARIO ?= all
bench: $(VENV)/.installed-dev compiled
	$(BIN)/python -m load_tests run $(SCENARIO) $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	@if [ -e .penstock/lock ] && ! $(PYTHON) -c 'import fcntl as f; f.flock(open(".penstock/lock"), f.LOCK_SH | f.LOCK_NB)' 2>/dev/null; then \
	  echo 'Penstock runs on .penstock; end it first'; exit 1; fi
	rm -rf $(VENV) .penstock build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find shared gateway worker -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
