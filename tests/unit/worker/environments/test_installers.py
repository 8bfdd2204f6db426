"""uv does as pip would, and pip what uv does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.worker.environments import installers
from penstock.worker.environments.installers import Installed, Installer, Target, install
from penstock.worker.environments.recipes import recipe_of
from tests.unit.worker.environments.tiny import model_with

pytestmark = pytest.mark.costly


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip as it comes, whatever this machine says."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def target_for(model: Path) -> Target:
    recipe = recipe_of(model).model_copy(update={"needs": ()})
    return Target(model.parent / "environment", model, recipe, model.parent / "uv")


def installed_in(target: Target) -> list[str]:
    (packages,) = target.environment.glob("lib/python*/site-packages")
    return sorted(path.name for path in packages.glob("tiny-*"))


def test_by_uv_where_it_is_there(tmp_path: Path) -> None:
    target = target_for(model_with(tmp_path / "m", "1.0"))
    assert install(target, "auto") == Installed("uv")
    assert installed_in(target) == ["tiny-1.0.dist-info"]
    assert target.cache.is_dir()


@pytest.mark.parametrize("installer", ["auto", "pip"])
def test_by_pip_where_uv_is_not_there_or_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: Installer
) -> None:
    if installer == "auto":
        monkeypatch.setattr(installers, "find_uv", lambda: None)
    target = target_for(model_with(tmp_path / "m", "1.0"))
    assert install(target, installer) == Installed("pip")
    assert installed_in(target) == ["tiny-1.0.dist-info"]


def test_by_pip_what_uv_would_pass_over(tmp_path: Path) -> None:
    model = model_with(tmp_path / "m", "1.0")
    (model / "requirements.txt").write_text("--pre\n--no-index\n./tiny-1.0-py3-none-any.whl\n")
    target = target_for(model)
    assert install(target, "auto") == Installed("pip", "option --pre in the requirements")
    assert installed_in(target) == ["tiny-1.0.dist-info"]


def test_by_pip_where_uv_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", "/dev/null/uv")
    target = target_for(model_with(tmp_path / "m", "1.0"))
    made = install(target, "auto")
    assert made.installer == "pip"
    assert made.why_not_uv.startswith("uv failed: ")
    assert installed_in(target) == ["tiny-1.0.dist-info"]


@pytest.mark.parametrize("installer", ["auto", "pip"])
def test_from_where_pip_is_told_that_packages_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: Installer
) -> None:
    """The best version of two indexes that a constraint allows, and no variable of uv's counts."""
    model = model_with(tmp_path / "m", "1.0")
    for version in ("2.0", "3.0"):
        model_with(tmp_path / version, version)
        page = tmp_path / version / "tiny" / "index.html"
        page.parent.mkdir()
        wheel = f"tiny-{version}-py3-none-any.whl"
        page.write_text(f'<a href="{(tmp_path / version / wheel).as_uri()}">{wheel}</a>')
    (tmp_path / "constraints.txt").write_text("tiny<3\n")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "3.0").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (tmp_path / "2.0").as_uri())
    monkeypatch.setenv("PIP_FIND_LINKS", f"{model} {tmp_path}/not-there")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
    monkeypatch.setenv("PIP_QUIET", "0")
    monkeypatch.setenv("UV_CONSTRAINT", str(model / "not-there"))
    (model / "requirements.txt").write_text("tiny\n")
    target = target_for(model)
    assert install(target, installer) == Installed("uv" if installer == "auto" else "pip")
    assert installed_in(target) == ["tiny-2.0.dist-info"]


def test_by_pip_where_pip_does_not_say_how_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_QUIET", "2")  # it lists nothing, quietly
    target = target_for(model_with(tmp_path / "m", "1.0"))
    assert install(target, "auto") == Installed("pip", "pip does not list its configuration")


def test_a_cache_that_holds_too_much_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What environments have links to does not count, and outlives it."""
    monkeypatch.setattr(installers, "CACHE_BYTES_MAX", 10_000)
    target = target_for(model_with(tmp_path / "m", "1.0"))
    target.cache.mkdir()
    (target.cache / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    (target.cache / "old").write_bytes(bytes(20_000))
    assert install(target, "auto") == Installed("uv")
    assert not (target.cache / "old").exists()
    assert installed_in(target) == ["tiny-1.0.dist-info"]
