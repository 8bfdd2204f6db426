"""Rows that are cut and put together again are the same rows, in the same order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.wire.rows import RowCutter, RowJoiner, RowsError
from penstock.shared.wire.tensors import (
    ElementsError,
    Tensor,
    array_from_tensor,
    encode_bytes_elements,
    tensor_from_array,
)

DTYPES = ("bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64")


@st.composite
def tensors(draw: st.DrawFn, rows: int, name: str) -> Tensor:
    inner = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))
    count = rows * int(np.prod(inner, dtype=int))
    if draw(st.booleans()):
        elements = draw(st.lists(st.binary(max_size=5), min_size=count, max_size=count))
        return Tensor(name, "BYTES", (rows, *inner), encode_bytes_elements(elements))
    dtype = draw(st.sampled_from(DTYPES))
    numbers = draw(st.lists(st.integers(0, 100), min_size=count, max_size=count))
    return tensor_from_array(name, np.array(numbers, dtype).reshape((rows, *inner)))


@st.composite
def cut_tensors(draw: st.DrawFn) -> tuple[tuple[Tensor, ...], list[int]]:
    """Tensors of as many rows, and sizes of pieces."""
    rows = draw(st.integers(1, 20))
    names = [f"t{number}" for number in range(draw(st.integers(1, 3)))]
    sizes, left = [], rows
    while left:
        sizes.append(draw(st.integers(1, left)))
        left -= sizes[-1]
    return tuple([draw(tensors(rows, name)) for name in names]), sizes


@given(cut_tensors(), st.randoms(use_true_random=False))
def test_what_is_cut_and_joined_in_any_order_is_what_it_was(
    given: tuple[tuple[Tensor, ...], list[int]], rng: object
) -> None:
    whole, sizes = given
    cutter, pieces, start = RowCutter(whole), [], 0
    for size in sizes:
        pieces.append((start, size, cutter.next(size)))
        start += size
    assert cutter.left == 0
    for begin, size, piece in pieces:
        for tensor, original in zip(piece, whole, strict=True):
            expected = array_from_tensor(original)[begin : begin + size]
            assert array_from_tensor(tensor).tolist() == expected.tolist()
    rng.shuffle(pieces)  # type: ignore[attr-defined]
    joiner = RowJoiner(start)
    for begin, size, piece in pieces:
        assert joiner.missing
        joiner.add(begin, size, piece)
    assert not joiner.missing
    for tensor, original in zip(joiner.outputs(), whole, strict=True):
        assert (tensor.name, tensor.datatype, tensor.shape) == (
            original.name,
            original.datatype,
            original.shape,
        )
        assert bytes(tensor.data) == bytes(original.data)


def test_the_last_piece_has_what_is_left() -> None:
    cutter = RowCutter([tensor_from_array("x", np.arange(5.0))])
    assert [cutter.next(3)[0].rows, cutter.next(3)[0].rows] == [3, 2]


def test_texts_that_end_early_are_no_pieces() -> None:
    whole = Tensor("x", "BYTES", (3, 1), encode_bytes_elements([b"a", b"b"]) + b"\x09\0\0\0c")
    cutter = RowCutter([whole])
    cutter.next(2)
    with pytest.raises(ElementsError):
        cutter.next(1)


FLOATS = tensor_from_array("y", np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    "other",
    [
        tensor_from_array("y", np.zeros((3, 3), np.float32)),
        tensor_from_array("y", np.zeros((2, 4), np.float32)),
        tensor_from_array("y", np.zeros((2, 3), np.float64)),
        tensor_from_array("z", np.zeros((2, 3), np.float32)),
        tensor_from_array("y", np.zeros((2, 3, 1), np.float32)),
        tensor_from_array("y", np.array(1, np.float32)),
    ],
    ids=["rows", "width", "datatype", "name", "dimensions", "a scalar"],
)
def test_pieces_that_differ_are_never_joined(other: Tensor) -> None:
    joiner = RowJoiner(4)
    joiner.add(0, 2, [FLOATS])
    with pytest.raises(RowsError):
        joiner.add(2, 2, [other])


def test_an_output_too_many_or_one_without_rows_is_refused() -> None:
    joiner = RowJoiner(4)
    joiner.add(0, 2, [FLOATS])
    with pytest.raises(RowsError):
        joiner.add(2, 2, [FLOATS, FLOATS])
    with pytest.raises(RowsError):
        RowJoiner(4).add(0, 2, [tensor_from_array("y", np.array(1, np.float32))])
    with pytest.raises(RowsError):
        RowJoiner(4).add(0, 1, [FLOATS])


def test_what_all_rows_will_take_is_told_before_it_is_taken() -> None:
    joiner = RowJoiner(10**12)  # which nobody has
    texts = Tensor("t", "BYTES", (2,), encode_bytes_elements([b"a", b"b"]))
    assert joiner.size_with([FLOATS, texts]) == 10**12 * 12 + 10
    small = RowJoiner(4)
    small.add(0, 2, [FLOATS, texts])
    assert small.size_with([FLOATS, texts]) == 4 * 12 + 20
    with pytest.raises(RowsError):
        RowJoiner(4).size_with([tensor_from_array("y", np.array(1, np.float32))])
