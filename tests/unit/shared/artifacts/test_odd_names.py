"""Which names of models MLflow would not find in a URI."""

from __future__ import annotations

import pytest

from penstock.shared.artifacts.fetch import odd_name_in


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("models:/digits/2", None),
        ("models:/modèle-模型/2", None),
        ("models:/m-0123456789", None),
        ("folder:/a?b/c", None),
        ("models:/50%off&a=b?#/12", ("50%off&a=b?#", "12")),
        ("models:/a\nb/1", ("a\nb", "1")),
    ],
)
def test_odd_names_are_asked_for_by_themselves(uri: str, named: tuple[str, str] | None) -> None:
    assert odd_name_in(uri) == named
