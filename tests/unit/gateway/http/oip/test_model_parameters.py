"""Parameters of a request against those that the model's signature names."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.gateway.http.parameters import model_parameters
from penstock.shared.contracts.deployment import ParameterSpec
from penstock.shared.contracts.errors import ErrorCode, PenstockError

SPECS = [
    ParameterSpec(name=datatype.lower(), datatype=datatype)
    for datatype in ("BOOL", "INT32", "INT64", "FP64", "BYTES")
]


def test_values_that_fit_pass_as_they_are_and_unknown_ones_too() -> None:
    values = {"bool": True, "int32": -(2**31), "fp64": 2, "bytes": "x", "other": 1.5}
    assert dict(model_parameters(values | {"int64": None}, SPECS)) == values | {"int64": None}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("bool", 1, "expected true or false"),
        ("int32", 2**31, "expected a whole number of 32 bits"),
        ("int64", 1.0, "expected a whole number of 64 bits"),
        ("int64", True, "expected a whole number"),
        ("fp64", "1", "expected a number"),
        ("fp64", False, "expected a number"),
        ("bytes", 1, "expected a string"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any, words: str) -> None:
    with pytest.raises(PenstockError, match=words) as refused:
        model_parameters({name: value}, SPECS)
    assert refused.value.code is ErrorCode.INVALID_INPUT
    assert f'parameter "{name}"' in refused.value.message
