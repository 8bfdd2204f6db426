"""Which pairs of checkouts are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from load_tests.forms import Form, check_pair, form_of
from load_tests.server import ServerError
from shared.compiled import is_compiled

ROOT = Path(__file__).resolve().parents[3]


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
    assert form_of({"PYTHONPATH": str(ROOT)}) == Form(ROOT, is_compiled())
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").write_text("")
    (tmp_path / "shared" / "wire.py").write_text("")
    assert form_of({"PYTHONPATH": str(tmp_path)}) == Form(tmp_path.resolve(), False)
    (tmp_path / "shared" / "wire.py").write_text("raise ImportError('broken')")
    with pytest.raises(ServerError, match=r"cannot be imported from the checkout: .*broken"):
        form_of({"PYTHONPATH": str(tmp_path)})
