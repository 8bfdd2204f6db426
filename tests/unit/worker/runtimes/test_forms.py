"""In which form a model returned what it did, and each request's share of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.worker.runtimes.base import UNKNOWN, Form, RowsMisfitError
from penstock.worker.runtimes.scoring.form import form_of, merged, shares_of
from penstock.worker.runtimes.scoring.scorer import as_json


def exact(returns: Any, keys: tuple[str, ...], *kinds: str) -> Form:
    return Form(returns, keys, kinds, exact=True)


def texts(returns: Any, keys: tuple[str, ...], *kinds: str) -> Form:
    return Form(returns, keys, kinds)


@pytest.mark.parametrize(
    ("returned", "form"),
    [
        (np.array([1.5]), exact("array", (), "f")),
        (np.ones((2, 3)), exact("array", (), "f")),
        (np.array(["a"]), texts("array", (), "text")),
        (np.array(1.5), UNKNOWN),
        ([1, 2], exact("array", (), "i")),
        ([1, 2.5], UNKNOWN),
        ([float("nan")], exact("array", (), "f")),
        ([np.float32(1)], exact("array", (), "f")),
        (["a", None], texts("array", (), "text")),
        ([[1], [2]], texts("array", (), "[i]")),
        ([[1], [2.5]], UNKNOWN),
        ([1, "a"], UNKNOWN),
        ([], UNKNOWN),
        ((1, 2), UNKNOWN),
        (pd.DataFrame({"a": [1], "b": [0.5]}), exact("records", ("a", "b"), "i", "f")),
        (pd.DataFrame({"a": [1], "t": ["x"]}), texts("records", ("a", "t"), "i", "text")),
        (pd.DataFrame({"v": [[1]]}), UNKNOWN),
        (pd.DataFrame({"t": pd.to_datetime(["2024-01-01"])}), UNKNOWN),
        (pd.DataFrame({"n": pd.array([1, None], "Int64")}), UNKNOWN),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), UNKNOWN),
        (pd.Series([1.5]), exact("records", ("0",), "f")),
        (pd.Series([1.5], name="y"), exact("records", ("y",), "f")),
        ({"a": np.array([1]), "b": [2.5]}, exact("object", ("a", "b"), "i", "f")),
        ({"a": ["x"]}, texts("object", ("a",), "text")),
        ({"a": 1}, UNKNOWN),
        ([{"a": 1}, {"a": 2}], exact("records", ("a",), "i")),
        ([{"a": 1}, {"b": 2}], UNKNOWN),
        ("x", UNKNOWN),
        (None, UNKNOWN),
    ],
)
def test_the_form_of_what_is_returned(returned: Any, form: Form) -> None:
    assert form_of(returned) == form


def test_forms_that_differ_are_none_and_one_that_is_not_exact_stays_so() -> None:
    numbers = exact("array", (), "f")
    cast = Form("array", (), ("f",))
    assert merged(numbers, cast) == merged(cast, numbers) == cast
    assert merged(numbers, exact("array", (), "i")) == UNKNOWN
    assert merged(numbers, exact("records", ("a",), "f")) == UNKNOWN


CELLS = st.one_of(st.none(), st.text(max_size=3))
ROWS = st.lists(st.integers(1, 3), min_size=1, max_size=5)


@st.composite
def returned_rows(draw: st.DrawFn) -> tuple[list[int], list[Any], str]:
    rows = draw(ROWS)
    cells = draw(st.lists(CELLS, min_size=sum(rows), max_size=sum(rows)))
    kind = draw(st.sampled_from(["list", "array", "series", "frame", "object", "records"]))
    return rows, cells, kind


def made(cells: list[Any], kind: str) -> Any:
    array = np.empty(len(cells), object)
    array[:] = cells
    match kind:
        case "list":
            return cells
        case "array":
            return array
        case "series":
            return pd.Series(array, dtype=object)
        case "frame":
            return pd.DataFrame({"n": range(len(cells)), "t": array}, dtype=object)
        case "object":
            return {"t": cells, "u": array}
    return [{"t": cell} for cell in cells]


@given(returned_rows())
def test_each_request_has_its_own_rows(given_rows: tuple[list[int], list[Any], str]) -> None:
    rows, cells, kind = given_rows
    shares = shares_of(made(cells, kind), rows)
    start = 0
    for count, share in zip(rows, shares, strict=True):
        own = made(cells[start : start + count], kind)
        if kind == "frame":
            own["n"] = range(start, start + count)
        assert json.loads(as_json(share)) == json.loads(as_json(own))
        start += count


@pytest.mark.parametrize(
    "returned",
    [[1, 2], np.ones(4), {"a": [1]}, pd.DataFrame({"a": [1]}), "abc", 3.5, np.array(1.0)],
)
def test_what_is_not_the_rows_is_not_divided(returned: Any) -> None:
    with pytest.raises(RowsMisfitError):
        shares_of(returned, [2, 1])
    assert shares_of(returned, [3])[0] is returned
