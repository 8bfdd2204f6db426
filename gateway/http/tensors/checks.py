"""Does a tensor fit what the model takes? Shapes and rows, in whatever format a request came."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from penstock.gateway.http.tensors.bad_input import mismatch, quoted, shown, shown_shape
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import Tensor, shape_fits

ELEMENTS_MAX = 2**31
"""Most elements that a shape may state, empty dimensions counted as one: more than any body holds,
and few enough for every array library to accept the shape."""


def checked_shape(what: str, shape: Any, spec: TensorSpec, *, batches: bool) -> tuple[int, ...]:
    """A shape that was found to fit.

    Args:
        what: names the tensor in messages, as in `input "x"`.
        shape: as the request has it, whatever that is.
        spec: what it is to fit.
        batches: whether the first dimension is rows, of which there must be one at least.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    if _fits_at_once(shape, spec.shape):
        return tuple(shape)
    if type(shape) is not list:
        raise mismatch(what, f"shape {shown_shape(spec.shape)}", shown(shape))
    if len(shape) != len(spec.shape):
        got = f"{len(shape)} dimension{'' if len(shape) == 1 else 's'}"
        raise mismatch(what, f"shape {shown_shape(spec.shape)}", got)
    for size in shape:
        if type(size) is not int or size < 0:
            raise mismatch(what, "sizes in shape that are whole and not negative", shown(size))
    if not shape_fits(shape, spec.shape):
        raise mismatch(what, f"shape {shown_shape(spec.shape)}", shown_shape(shape))
    if batches and not shape[0]:
        raise mismatch(what, "1 row or more", "0")
    if math.prod(size or 1 for size in shape) > ELEMENTS_MAX:
        raise mismatch(what, f"at most {ELEMENTS_MAX} elements", f"shape {shown_shape(shape)}")
    return tuple(shape)


def _fits_at_once(shape: Any, wanted: tuple[int, ...]) -> bool:
    """Whether a shape fits beyond doubt; most do, and are spared the search for what is wrong."""
    if type(shape) is not list or len(shape) != len(wanted) or not shape:
        return False
    elements = 1
    for size, expected in zip(shape, wanted, strict=True):
        if type(size) is not int or size < 1 or (size != expected and expected != -1):
            return False
        elements *= size
    return elements <= ELEMENTS_MAX


def check_row_count(tensors: tuple[Tensor, ...], interface: ModelInterface, most: int) -> None:
    """A request has no more rows than the operator allows; 0: any number.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    if not most or not tensors or not (interface.max_batch_size or interface.table):
        return
    rows = tensors[0].rows
    if rows > most:
        raise mismatch("inputs", f"at most {most} rows (--max-request-rows)", str(rows))


def check_rows(tensors: tuple[Tensor, ...], interface: ModelInterface) -> None:
    """All inputs of a model that batches, or takes a table, have the same number of rows.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    if not (interface.max_batch_size or interface.table) or not tensors:
        return
    first = tensors[0]
    for tensor in tensors:
        if tensor.rows != first.rows:
            expected = f"{first.rows} rows as in input {quoted(first.name)}"
            raise mismatch(f"input {quoted(tensor.name)}", expected, str(tensor.rows))


def in_order(tensors: dict[str, Tensor], interface: ModelInterface) -> tuple[Tensor, ...]:
    """The inputs in the interface's order, none missing but optional ones, with equal rows.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    if len(tensors) == 1 and len(interface.inputs) == 1:
        return tuple(tensors.values())
    if interface.open_inputs:
        if not tensors:
            raise mismatch("inputs", "at least one tensor", "none")
        return tuple(tensors.values())
    if len(tensors) < len(interface.inputs):
        _check_missing(tensors, interface.inputs)
    ordered = tuple([tensors[spec.name] for spec in interface.inputs if spec.name in tensors])
    check_rows(ordered, interface)
    return ordered


def _check_missing(tensors: dict[str, Tensor], specs: Iterable[TensorSpec]) -> None:
    for spec in specs:
        if spec.name not in tensors and not spec.optional:
            raise mismatch(f"input {quoted(spec.name)}", spec.describe(), "no such tensor")
    if not tensors:
        raise mismatch("inputs", "at least one tensor", "none")
