"""Rows to try a model with: its own example, what can be derived from that, or made-up ones. Pure.

A row is an array for each input, with a batch dimension of 1. All choices come from a seed, so that
a trial that failed fails again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import NUMPY_OF, AnyArray

SEED = 20210

ROWS_WANTED = 5
"""Ordinary rows in a trial. An answer that depends on rows beside it seldom hides from these."""

CANDIDATES_MAX = 12
"""Ordinary rows that are made. A model may refuse some of them, which proves nothing."""

EXAMPLE_ROWS_MAX = 100
"""Rows of an example that are looked at."""

VARIATION = 0.1
"""How far a number is moved where one row is all that is known of its range."""

EXTREMES = (1000.0, 10.0)
"""By how much the extreme row exceeds the largest number of its input, the next if it is refused.
Integers do not go so far: they count things, such as steps to take."""

SEPARATORS = (b";", b",", b"\n")
"""By what people join texts; the line end last, since some models refuse it."""

SEPARATED_MAX = 3
"""Inputs whose texts are parted one by one, if the model does not take all of them so."""

CODES = (10, 2)
"""Integers that are made up are below this, in turn."""

CAREFUL_CODES = (1, 2)
"""The same where a wrong one may end the process, as a GPU's assertions do: zeros come first."""

REWORDED_MAX = 6
"""Rows of other words than the example has, where that has too few rows."""

FREE_SIZES = (8, 1)
"""What is tried for a dimension, other than the batch's, that the interface leaves open."""

ROW_BYTES_MAX = 256 * 1024 * 1024
"""Rows that would be larger than this are not made."""

WORDS = ("a", "cat", "Rain falls.", "seven red boats", "0", "no", "Zürich")
"""Text where nothing is known of it."""

Row = Mapping[str, AnyArray]


def candidates(
    specs: Sequence[TensorSpec],
    example: Row | None,
    free_size: int = FREE_SIZES[0],
    *,
    careful: bool,
) -> Iterator[dict[str, AnyArray]]:
    """Ordinary rows, all different where the inputs allow that; the example's own come first.

    Args:
        specs: of the inputs.
        example: rows that the model's author gave, all inputs with as many; None: there are none.
        free_size: what to take for open dimensions; the example's own go first.
        careful: whether an integer that the model does not expect may end the process.
    """
    rng = np.random.default_rng(SEED)
    if example is None:
        if _row_bytes(specs, free_size) > ROW_BYTES_MAX:
            return
        for number in range(CANDIDATES_MAX):  # codes may have few values, and masks have two
            codes = (CAREFUL_CODES if careful else CODES)[number % len(CODES)]
            yield {spec.name: _made_up(spec, free_size, rng, codes) for spec in specs}
        yield {spec.name: _zeros(spec, free_size) for spec in specs}
        return
    example = _without_copies(example)
    given = min(_count(example), CANDIDATES_MAX)
    for position in range(given):
        yield _row(example, position)
    for number in range(CANDIDATES_MAX - given):
        base = _row(example, int(rng.integers(0, _count(example))))
        yield {  # in turn all of it, or its numbers alone: not all texts go together
            name: base[name]
            if number % 2 and array.dtype.kind == "O"
            else _varied(array, rng, careful=careful)
            for name, array in example.items()
        }
    for _ in range(
        REWORDED_MAX if any(array.dtype.kind == "O" for array in example.values()) else 0
    ):
        base = _row(example, int(rng.integers(0, _count(example))))
        yield {
            name: _exchanged(array, rng) if array.dtype.kind == "O" else array
            for name, array in base.items()
        }


def extremes(
    rows: Sequence[Row], *, table: bool, careful: bool
) -> Iterator[list[dict[str, AnyArray]]]:
    """Rows with values as no other has them: of each list, the first that the model takes.

    Numbers far above all others and far below, and integers too somewhat above; texts that look
    like several ones, for a model that joins and splits them, and such that are empty; in a table
    numbers that are missing, since code for tables fills them in by the rows beside.

    Args:
        rows: ordinary ones, at least one.
        table: whether the inputs are columns of a table.
        careful: as for `candidates`.
    """
    all_of_them = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    for sign in (1.0, -1.0):
        yield [
            {name: _extreme(values, sign * factor) for name, values in all_of_them.items()}
            for factor in EXTREMES
        ]
    kinds = "f" if careful else "fiu"
    yield [
        {
            name: _beyond(values) if values.dtype.kind in kinds else values[-1:]
            for name, values in all_of_them.items()
        }
    ]
    yield list(_separated(rows[0]))
    for places in (0, 1):
        yield [
            {
                name: _missing(array, table=table) if number % 2 == places or places == 0 else array
                for number, (name, array) in enumerate(rows[0].items())
            }
        ]


def rows_possible(specs: Sequence[TensorSpec]) -> float:
    """How many different rows these inputs can have: few if they are of BOOL alone."""
    if any(spec.datatype != "BOOL" or -1 in spec.shape[1:] for spec in specs):
        return math.inf
    return 2.0 ** sum(math.prod(spec.shape[1:]) for spec in specs)


def crossed(rows: Sequence[Row]) -> Iterator[dict[str, AnyArray]]:
    """Rows that have some inputs in common with one row, and the rest with another."""
    for even, odd in ((rows[0], rows[1]), (rows[1], rows[0])) if len(rows) > 1 else ():
        yield {name: (odd if number % 2 else even)[name] for number, name in enumerate(even)}


def joined(rows: Sequence[Row]) -> dict[str, AnyArray]:
    """Rows as one batch, in their order; None of them may be of another shape than the first."""
    batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    for array in batch.values():
        array.flags.writeable = False  # as what requests carry
    return batch


def same_shapes(one: Row, other: Row) -> bool:
    """Whether two rows may stand in one batch."""
    return {name: array.shape for name, array in one.items()} == {
        name: array.shape for name, array in other.items()
    }


def same_values(one: Row, other: Row) -> bool:
    """Whether two rows are equal."""
    return all(
        np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f")
        for name, array in one.items()
    )


def _count(rows: Row) -> int:
    return len(next(iter(rows.values())))


def _row(rows: Row, position: int) -> dict[str, AnyArray]:
    return {name: array[position : position + 1] for name, array in rows.items()}


def _without_copies(example: Row) -> Row:
    """The example's different rows: copies of one row say nothing of a range."""
    kept: list[Row] = []
    for position in range(min(_count(example), EXAMPLE_ROWS_MAX)):
        row = _row(example, position)
        if not any(same_values(row, other) for other in kept):
            kept.append(row)
    return {name: np.concatenate([row[name] for row in kept]) for name in example}


def _row_bytes(specs: Sequence[TensorSpec], free_size: int) -> int:
    return sum(
        math.prod(_shape(spec, free_size)) * NUMPY_OF[spec.datatype].itemsize for spec in specs
    )


def _shape(spec: TensorSpec, free_size: int) -> tuple[int, ...]:
    return (1, *[free_size if size == -1 else size for size in spec.shape[1:]])


def _zeros(spec: TensorSpec, free_size: int) -> AnyArray:
    dtype = NUMPY_OF[spec.datatype]
    return np.full(_shape(spec, free_size), b"" if dtype.kind == "O" else 0, dtype)


def _made_up(spec: TensorSpec, free_size: int, rng: np.random.Generator, codes: int) -> AnyArray:
    shape, dtype = _shape(spec, free_size), NUMPY_OF[spec.datatype]
    match dtype.kind:
        case "f":
            return rng.standard_normal(shape).astype(dtype)
        case "b":
            bits: AnyArray = rng.integers(0, 2, shape).astype(dtype)
            return bits
        case "O":
            text = np.empty(shape, np.object_)
            text.reshape(-1)[:] = [
                WORDS[i].encode() for i in rng.integers(0, len(WORDS), text.size)
            ]
            return text
    return rng.integers(0, codes, shape).astype(dtype)


def _varied(example: AnyArray, rng: np.random.Generator, *, careful: bool) -> AnyArray:
    """One more row like those of an input."""
    shape = (1, *example.shape[1:])
    if len(example) > 1 and example.dtype.kind in "fiu":
        return _between(example, rng)
    if example.dtype.kind == "O" or (len(example) > 1 and example.dtype.kind == "b"):
        return _exchanged(example, rng)
    match example.dtype.kind:
        case "b":
            return rng.integers(0, 2, shape).astype(example.dtype)
        case "f":
            scale = float(np.nanmax(np.abs(example), initial=0.0)) or 1.0
            base = np.where(example == 0, scale * VARIATION, example)
            moved = base * (1 + VARIATION * rng.uniform(-1, 1, shape))
            return np.where(np.isfinite(example), moved, example).astype(example.dtype)
    if example.size > 1:  # codes and token ids: what stands elsewhere in the row is valid
        return rng.permutation(example.reshape(-1)).reshape(shape)
    if careful:
        return example
    moved = example.astype(np.float64) * (1 + VARIATION * rng.uniform(-1, 1, shape))
    steps = rng.integers(-1, 2, shape)
    limits = np.iinfo(example.dtype)
    low = 0 if (example >= 0).all() else limits.min
    whole = np.where(np.abs(example.astype(np.float64)) * VARIATION < 1, example + steps, moved)
    codes: AnyArray = np.clip(np.rint(whole), low, limits.max).astype(example.dtype)
    return codes


def _between(example: AnyArray, rng: np.random.Generator) -> AnyArray:
    """Numbers within the range that each place has in the example."""
    values = example.astype(np.float64)
    finite = np.where(np.isfinite(values), values, np.nan)
    source = values[rng.integers(0, len(values))][np.newaxis]
    low, high = np.fmin.reduce(finite)[np.newaxis], np.fmax.reduce(finite)[np.newaxis]
    drawn = low + (high - low) * rng.uniform(0, 1, low.shape)
    if example.dtype.kind in "iu":
        drawn = np.rint(drawn)
    between: AnyArray = np.where(np.isfinite(drawn), drawn, source).astype(example.dtype)
    return between


def _exchanged(example: AnyArray, rng: np.random.Generator) -> AnyArray:
    """Each place as some row of the example has it; of a single row, its texts varied."""
    flat = example.reshape(len(example), -1)
    if len(example) > 1:
        chosen = rng.integers(0, len(example), flat.shape[1])
        row = flat[chosen, np.arange(flat.shape[1])]
    else:
        row = np.empty(flat.shape[1], np.object_)
        row[:] = [_reworded(text, rng) for text in flat[0]]
    return row.reshape((1, *example.shape[1:]))


def _reworded(text: bytes, rng: np.random.Generator) -> bytes:
    """Other words, and other numbers of them."""
    words = text.split() or [b"a"]
    count = int(rng.integers(1, 2 * len(words) + 1))
    return b" ".join([words[i] for i in rng.integers(0, len(words), count)])


def _extreme(values: AnyArray, factor: float) -> AnyArray:
    """One row with the largest values of an input, or beyond."""
    if values.dtype.kind == "O":
        return values[-1:]
    if values.dtype.kind != "f":
        largest_of_each: AnyArray = values.max(axis=0, keepdims=True)
        return largest_of_each
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    largest = float(finite.max()) if finite.size else 1.0
    signs = np.where(np.arange(values[0].size) % 3 == 1, -1.0, 1.0).reshape((1, *values.shape[1:]))
    ramp = np.linspace(1.0, 0.5, values[0].size).reshape((1, *values.shape[1:]))
    limit = float(np.finfo(values.dtype).max) / 4
    size = np.clip((largest or 1.0) * factor, -limit, limit)
    extreme: AnyArray = (signs * ramp * size).astype(values.dtype)
    return extreme


def _beyond(values: AnyArray) -> AnyArray:
    """One row with numbers above all others of an input, by as much as these are apart."""
    known = values.astype(np.float64)
    finite = known[np.isfinite(known)]
    if not finite.size:
        return values[-1:]
    top = np.finfo(values.dtype).max if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    wanted = finite.max() + max(finite.max() - finite.min(), 1.0)
    largest = np.nextafter(float(top), 0.0)  # that of 64 bits is no float
    beyond: AnyArray = np.full_like(values[-1:], min(wanted, largest))
    return beyond


def _separated(row: Row) -> Iterator[dict[str, AnyArray]]:
    """The row with separators in its texts: in all, in all without line ends, in one by one."""
    texts = [name for name, array in row.items() if array.dtype.kind == "O"]
    if not texts:
        return
    tries = [(texts, SEPARATORS), (texts, SEPARATORS[:-1])]
    tries += [([name], SEPARATORS) for name in texts[:SEPARATED_MAX] if len(texts) > 1]
    for names, separators in tries:
        yield {
            name: _with(separators, array) if name in names else array
            for name, array in row.items()
        }


def _with(separators: Sequence[bytes], array: AnyArray) -> AnyArray:
    parted = np.empty_like(array)
    parted.reshape(-1)[:] = [
        b"".join(text + separator for separator in separators) + text
        for text in array.reshape(-1).tolist()
    ]
    return parted


def _missing(array: AnyArray, *, table: bool) -> AnyArray:
    """A value that is not there; as it is where a value must be."""
    if array.dtype.kind == "O":
        return np.full_like(array, b"")
    return np.full_like(array, np.nan) if table and array.dtype.kind == "f" else array
