"""Real environments, each with one tiny package that needs no network."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from penstock.shared.contracts.errors import PenstockError
from penstock.worker.environments import cache as environments
from penstock.worker.environments.build import evict, use_lock
from penstock.worker.environments.cache import Environments
from penstock.worker.environments.installers import Installer
from penstock.worker.environments.recipes import Recipe, recipe_of
from tests.unit.worker.environments.tiny import model_with

pytestmark = pytest.mark.costly

INSTALLERS: tuple[Installer, ...] = ("auto", "pip")


@pytest.fixture(autouse=True)
def _no_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments without what a replica needs, which would have to be downloaded."""

    def bare(model: Path) -> Recipe:
        return recipe_of(model).model_copy(update={"needs": ()})

    monkeypatch.setattr(environments, "recipe_of", bare)


def run(interpreter: str, code: str) -> str:
    command = [interpreter, "-I", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("installer", INSTALLERS)
async def test_built_once_for_all_who_want_it_and_apart_from_ours(
    tmp_path: Path, installer: Installer
) -> None:
    one, other = model_with(tmp_path / "one", "1.0"), model_with(tmp_path / "other", "1.0")
    first, second = (Environments(tmp_path / "cache", 4, installer) for _ in range(2))
    await asyncio.gather(first.prepare(one), second.prepare(other), first.prepare(one))
    interpreter = first.interpreter(one)
    assert interpreter == second.interpreter(other)
    assert run(interpreter, "import tiny; print(tiny.VERSION)") == "1.0"
    found = "from importlib.util import find_spec as f; print([*map(bool, map(f, {!r}))])"
    names = [*(f"penstock.{each}" for each in ("shared", "worker", "gateway")), "numpy", "tests"]
    assert run(interpreter, found.format(names)) == "[True, True, False, False, False]"
    assert not list((tmp_path / "cache" / "tmp").iterdir())


@pytest.mark.parametrize("installer", INSTALLERS)
async def test_a_failure_says_what_pip_said_and_leaves_nothing(
    tmp_path: Path, installer: Installer
) -> None:
    model = model_with(tmp_path / "m", "1.0")
    (model / "requirements.txt").write_text("--no-index\nnot-there-at-all==3\n")
    cache = Environments(tmp_path / "cache", 4, installer)
    with pytest.raises(PenstockError, match="No matching distribution found for not-there-at-all"):
        await cache.prepare(model)
    assert not list((tmp_path / "cache" / "tmp").iterdir())
    assert not [path for path in (tmp_path / "cache").iterdir() if len(path.name) == 64]


async def test_those_in_use_outlive_the_bound(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    digests = [character * 64 for character in "abc"]
    for digest in digests:
        (folder / digest).mkdir(parents=True)
        (folder / "tmp").mkdir(exist_ok=True)
    user = Environments(folder, 1)
    held = user._hold(digests[0])
    assert held
    assert use_lock(folder, digests[0]).exists()
    assert evict(folder, 1, keep=digests[2]) == [digests[1]]
