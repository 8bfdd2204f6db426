"""Tensors as they cross process borders: a name, a datatype, a shape, and raw bytes.

Datatypes are those of the Open Inference Protocol. Numeric data is little-endian and row-major,
BOOL is one byte per element, and BYTES elements are each prefixed by their length as a
little-endian 32-bit integer: the layout of the protocol's binary tensor extension, so that binary
requests pass from socket to model without being touched. numpy has no BF16: its 16 bits, the upper
half of an FP32, travel as they are, and arrays hold them as unsigned integers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.shared.wire.records import record

Buffer: TypeAlias = bytes | bytearray | memoryview
AnyArray: TypeAlias = NDArray[Any]

NUMPY_OF: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""The numpy dtype that holds each datatype; BYTES elements are Python `bytes`, BF16 raw bits."""

LENGTH_BYTES: Final = 4
"""What an element of BYTES takes at least: its length."""

_length_at = struct.Struct("<I").unpack_from

SCORING: Final = "SCORING"
"""The datatype of what no tensor carries: a body in the words of MLflow's scoring server, which
passes between client and model as it is. No client can ask for it by name."""

DATATYPE_OF: dict[np.dtype[Any], str] = {
    dtype: name for name, dtype in NUMPY_OF.items() if name != "BF16"
}


@record
class Tensor:
    """One tensor's raw content.

    Attributes:
        name: the tensor's name.
        datatype: an Open Inference Protocol datatype.
        shape: sizes of the dimensions, none negative.
        data: contiguous bytes in the layout described in the module's docstring.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer

    @property
    def rows(self) -> int:
        """Size of the leading (batch) dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Size of the content."""
        return nbytes_of(self.data)


def nbytes_of(data: Buffer) -> int:
    """Size of what a buffer holds; a view's length counts items, which may be longer."""
    if isinstance(data, bytes):  # most are, and that takes no time to see
        return len(data)
    return data.nbytes if isinstance(data, memoryview) else len(data)


def scoring_request(body: Buffer) -> Tensor:
    """A body as the one input of a request; its shape has its magnitude, for estimates of time."""
    return Tensor("body", SCORING, (1, nbytes_of(body).bit_length()), body)


def scoring_answer(content: bytes, status: int) -> Tensor:
    """What a request with a body is answered: JSON, and its HTTP status, which is its shape's."""
    return Tensor("answer", SCORING, (1, status), content)


def is_scoring(tensors: Sequence[Tensor]) -> bool:
    """Whether a request has a body for tensors, or an answer one."""
    return len(tensors) == 1 and tensors[0].datatype == SCORING


def tensor_from_array(name: str, array: AnyArray) -> Tensor:
    """Wrap an array without copying it if it is contiguous and numeric.

    Raises:
        ValueError: if no datatype corresponds to the array's dtype.
    """
    if array.dtype.kind in "OUS":
        return Tensor(name, "BYTES", array.shape, encode_bytes_elements(array.ravel().tolist()))
    datatype = DATATYPE_OF.get(array.dtype.newbyteorder("="))
    if datatype is None and array.dtype.name == "bfloat16":  # of the package ml_dtypes
        datatype, array = "BF16", array.view(np.uint16)
    if datatype is None:
        raise ValueError(f"tensor {name!r}: numpy dtype {array.dtype} has no datatype")
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    if little.size == 0:
        return Tensor(name, datatype, array.shape, b"")
    return Tensor(name, datatype, array.shape, little.reshape(-1).view(np.uint8).data)


def array_from_tensor(tensor: Tensor) -> AnyArray:
    """The tensor as a (read-only, uncopied where numeric) array of its shape.

    Raises:
        ValueError: if the data's length does not fit datatype and shape.
    """
    dtype = NUMPY_OF.get(tensor.datatype)
    if dtype is None:
        raise ValueError(f"tensor {tensor.name!r}: unknown datatype {tensor.datatype!r}")
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        elements = decode_bytes_elements(tensor.data, count)
        array = np.empty(count, dtype=np.object_)
        array[:] = elements
        return array.reshape(tensor.shape)
    expected = count * dtype.itemsize
    got = memoryview(tensor.data).nbytes
    if got != expected:
        raise ValueError(f"tensor {tensor.name!r}: expected {expected} bytes, got {got}")
    return np.frombuffer(tensor.data, dtype=dtype.newbyteorder("<")).reshape(tensor.shape)


def bf16_bits(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Numbers rounded to the nearest BF16, ties to even; infinite where they are beyond it.

    On the way through FP32 they are rounded to odd, which keeps what the second rounding needs to
    know: whether anything was lost.
    """
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    exact = single.astype(np.float64) == values
    bits = single.view(np.uint32) - (np.abs(single) > np.abs(values))  # rounded towards zero
    bits = np.where(exact, bits, bits | 1).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)


def bf16_values(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers that BF16 bits stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encode_bytes_elements(elements: Iterable[bytes | str]) -> bytes:
    """Elements of a BYTES tensor, each prefixed by its length (little-endian u32)."""
    parts: list[bytes] = []
    for element in elements:
        raw = element if isinstance(element, bytes) else str(element).encode()
        parts.append(struct.pack("<I", len(raw)))
        parts.append(raw)
    return b"".join(parts)


class ElementsError(ValueError):
    """The elements of a BYTES tensor do not fill its data.

    Attributes:
        elements, end: how many begin in the data, up to the expected count, and where the last one
            ends, which may be beyond it.
    """

    def __init__(self, expected: int, elements: int, end: int, nbytes: int) -> None:
        super().__init__(
            f"expected {expected} BYTES elements in {nbytes} bytes, got {elements} in {end}"
        )
        self.elements = elements
        self.end = end


def element_ends(data: Buffer, count: int) -> Iterator[int]:
    """Where each element of a BYTES tensor ends, one by one; the next one's length begins there.

    Raises:
        ElementsError: after those that are whole, if they are not `count` that fill the data.
    """
    view = memoryview(data)
    nbytes = view.nbytes
    end = elements = 0
    while elements < count and end + LENGTH_BYTES <= nbytes:
        length: int = _length_at(view, end)[0]
        end += LENGTH_BYTES + length
        elements += 1
        if end > nbytes:
            break
        yield end
    if elements != count or end != nbytes:
        raise ElementsError(count, elements, end, nbytes)


def decode_bytes_elements(data: Buffer, count: int) -> list[bytes]:
    """The `count` elements of a BYTES tensor.

    Raises:
        ValueError: if the data holds fewer or more than `count` elements, or ends inside one.
    """
    view = memoryview(data)
    if count * LENGTH_BYTES > view.nbytes:  # known before anything is made
        raise ValueError(f"expected {count} BYTES elements, got {view.nbytes} bytes")
    elements: list[bytes] = []
    start = LENGTH_BYTES
    for end in element_ends(view, count):
        elements.append(bytes(view[start:end]))
        start = end + LENGTH_BYTES
    return elements


def shape_fits(shape: Sequence[int], spec: Sequence[int]) -> bool:
    """Whether a concrete shape matches a spec, in which -1 stands for any size."""
    return len(shape) == len(spec) and all(
        wanted in (-1, size) for size, wanted in zip(shape, spec, strict=True)
    )
