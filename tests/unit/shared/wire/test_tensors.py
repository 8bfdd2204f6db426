"""Raw tensors and arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from penstock.shared.wire.tensors import (
    NUMPY_OF,
    AnyArray,
    Tensor,
    array_from_tensor,
    decode_bytes_elements,
    encode_bytes_elements,
    shape_fits,
    tensor_from_array,
)

numeric = [dtype for name, dtype in NUMPY_OF.items() if name != "BYTES"]


@given(
    st.sampled_from(numeric).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, min_side=0))
    )
)
def test_numeric_arrays_survive_the_way_out_and_back(array: AnyArray) -> None:
    tensor = tensor_from_array("x", array)
    back = array_from_tensor(tensor)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(st.lists(st.binary(max_size=9)))
def test_bytes_elements_survive(elements: list[bytes]) -> None:
    assert decode_bytes_elements(encode_bytes_elements(elements), len(elements)) == elements


@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_are_elements_or_a_value_error(data: bytes, count: int) -> None:
    try:
        elements = decode_bytes_elements(data, count)
    except ValueError:
        return
    assert encode_bytes_elements(elements) == data
    assert len(elements) == count


def test_strings_become_bytes_tensors() -> None:
    tensor = tensor_from_array("s", np.array([["a", "bb"]]))
    assert (tensor.datatype, tensor.shape) == ("BYTES", (1, 2))
    assert array_from_tensor(tensor).tolist() == [[b"a", b"bb"]]


def test_big_endian_and_strided_arrays_are_normalised() -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    assert array_from_tensor(tensor_from_array("x", array)).tolist() == array.tolist()


def test_data_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="'x': expected 8 bytes, got 4"):
        array_from_tensor(Tensor("x", "FP32", (2,), b"1234"))


@pytest.mark.parametrize(
    ("shape", "spec", "fits"),
    [((3, 4), (-1, 4), True), ((3, 5), (-1, 4), False), ((3,), (-1, 4), False), ((), (), True)],
)
def test_shapes_fit_their_specs(shape: tuple[int, ...], spec: tuple[int, ...], fits: bool) -> None:
    assert shape_fits(shape, spec) is fits
