"""Which pairs of checkouts are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from load_tests.server import ServerError
from load_tests.servers.forms import ENTRY, OLD_ENTRY, Form, check_pair, entry_of, form_of
from penstock.shared.process.compiled import is_compiled

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("compiled", [True, False])
def test_two_of_one_form_are_compared(compiled: bool) -> None:
    check_pair(Form(Path("/a"), compiled), Form(Path("/b"), compiled))


@pytest.mark.parametrize("ours", [True, False])
def test_a_pair_of_which_only_one_is_compiled_is_refused(ours: bool) -> None:
    words = "/a is .*, but /b is .*; compare like with like: compile /" + ("b" if ours else "a")
    with pytest.raises(ServerError, match=words):
        check_pair(Form(Path("/a"), ours), Form(Path("/b"), not ours))


def test_one_checkout_is_not_compared_with_itself() -> None:
    with pytest.raises(ServerError, match="name another checkout"):
        check_pair(Form(Path("/a"), True), Form(Path("/a"), True))


def test_the_form_is_asked_of_what_is_imported(tmp_path: Path) -> None:
    path = {"PYTHONPATH": str(ROOT)}
    assert form_of(path, entry_of(ROOT)) == form_of({}) == Form(ROOT, is_compiled())


@pytest.mark.parametrize("entry", [ENTRY, OLD_ENTRY])
def test_a_checkout_is_started_by_its_own_entry(tmp_path: Path, entry: str) -> None:
    shared, path = tmp_path / "shared", {"PYTHONPATH": str(tmp_path)}
    with pytest.raises(ServerError, match="is no checkout of Penstock"):
        entry_of(tmp_path)
    shared.mkdir()
    (shared / "__init__.py").write_text("")
    codec = shared / "wire.py"
    if entry == ENTRY:
        (tmp_path / "penstock").symlink_to(".")
        codec = shared / "wire" / "codec.py"
        codec.parent.mkdir()
    codec.write_text("")
    assert entry_of(tmp_path) == entry
    assert form_of(path, entry) == Form(tmp_path.resolve(), False)
    codec.write_text("raise ImportError('broken')")
    with pytest.raises(ServerError, match=r"cannot be imported from the checkout: .*broken"):
        form_of(path, entry)
