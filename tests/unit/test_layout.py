"""Rooms of the house: each folder is one process or one machine, and says what it is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("gateway", "worker", "registry_sync", "shared", "deploy")
MODULES_MAX = 15
"""In one folder: with more, nobody knows where a file belongs."""

ROOMS = sorted(path.parent for top in OURS for path in (ROOT / top).rglob("__init__.py"))
BESIDE = [
    ROOT / "load_tests",
    *sorted(each.parent for each in (ROOT / "load_tests").glob("*/__init__.py")),
]
"""Rooms of what is not installed; no deeper, where peers have their environments."""

MODULES = [path for room in ROOMS for path in sorted(room.glob("*.py"))]
TREES = {path: ast.parse(path.read_text()) for path in MODULES}
WAYS = {
    "gateway/http/call_route.py",
    "gateway/http/server/direct.py",
    "gateway/inference/service.py",
    "gateway/dispatch/dispatch.py",
    "gateway/transport/router.py",
    "worker/replica/loop.py",
    "worker/session/batching.py",
    "gateway/http/jobs/intake.py",
    "gateway/jobs/clients/service.py",
    "shared/jobs/store.py",
    "worker/job_port/port.py",
    "worker/jobs/queue.py",
    "worker/jobs/stream.py",
}
"""A request's way and a job's: only these say where a call comes from, and where it goes."""

POSITIONAL_MAX = 5
"""Arguments that a call of ours may have without their names: a swapped pair passes every check."""

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_STOPS = re.compile(r"[Pp]revious (?:and next )?stop(.*)", re.DOTALL)


def theory(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def has_names(definition: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether what it takes has names, as `*titles` have none."""
    return isinstance(definition, ast.ClassDef) or definition.args.vararg is None


def positional(call: ast.Call) -> int:
    """How many arguments it spells out without a name; those of a `*sequence` are one thing."""
    return sum(not isinstance(each, ast.Starred) for each in call.args)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("room", ROOMS + BESIDE, ids=name_of)
def test_no_folder_is_crowded_and_each_says_what_it_is(room: Path) -> None:
    modules = [path.name for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MODULES_MAX, modules
    assert theory(room / "__init__.py")


def test_only_the_two_ways_say_where_they_lead_and_that_is_there() -> None:
    stops = {name_of(path): _STOPS.search(theory(path)) for path in MODULES}
    told = {name: found[1] for name, found in stops.items() if found is not None}
    assert set(told) <= WAYS
    for text in told.values():
        for named in re.findall(r"`penstock\.([a-z_.]+)`", text):
            found = ROOT / named.replace(".", "/")
            assert found.with_suffix(".py").is_file() or found.is_dir(), named


def test_what_calls_itself_pure_is_held_to_it() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (held,) = [each["source_modules"] for each in contracts["contracts"] if "Pure" in each["name"]]
    free = []
    for path in MODULES:
        name = "penstock." + name_of(path).removesuffix(".py").replace("/", ".")
        is_held = any(name == each or name.startswith(each.rstrip("*")) for each in held)
        text = theory(path)
        is_said = re.search(r"\b[Pp]ure\b", text.partition("\n\n")[0]) or "(pure)" in text
        if is_said and "ure but" not in text and not is_held and path.name != "__init__.py":
            free.append(name)
    assert free == []


def test_long_calls_name_their_arguments() -> None:
    nodes = [(name_of(path), node) for path, tree in TREES.items() for node in ast.walk(tree)]
    ours = {node.name for _, node in nodes if isinstance(node, DEFINITIONS) and has_names(node)}
    unnamed = [
        (module, node.lineno)
        for module, node in nodes
        if isinstance(node, ast.Call) and positional(node) > POSITIONAL_MAX
        if called(node) in ours
    ]
    assert unnamed == []


@pytest.mark.parametrize("name", OURS)
def test_a_package_has_one_name(name: str) -> None:
    """Else it is loaded twice, and shadows what a model brings."""
    command = [sys.executable, "-c", f"import {name}"]
    in_checkout = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"ImportError: import penstock.{name}, not {name}" in in_checkout.stderr
    command.insert(1, "-I")
    anywhere = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert f"ModuleNotFoundError: No module named '{name}'" in anywhere.stderr
