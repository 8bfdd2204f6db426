"""Bodies in every form that MLflow's scoring server takes."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"

ARROW_EXCEPTION: Any = import_module("pyarrow").ArrowException


@dataclass(frozen=True)
class Body:
    """What is sent, byte by byte, and its form for people."""

    form: str
    kind: str
    content: bytes


def document(form: str, said: Any) -> Body:
    """A JSON document; what it has of pandas' and numpy's own is written as people would."""
    return Body(form, JSON, json.dumps(said, default=_plain).encode())


def text(form: str, content: str, kind: str = JSON) -> Body:
    """A text as it is."""
    return Body(form, kind, content.encode())


def of_frame(frame: pd.DataFrame, counts: Sequence[int] = (1, 3, 500)) -> list[Body]:
    """A table in all forms, with so many of its rows (which come again where there are fewer)."""
    bodies = []
    for count in counts:
        rows: Any = frame.iloc[[number % len(frame) for number in range(count)]].reset_index(
            drop=True
        )
        split = {"columns": list(rows.columns), "data": _cells(rows)}
        records = [dict(zip(rows.columns, row, strict=True)) for row in split["data"]]
        columns = {name: [row[name] for row in records] for name in rows.columns}
        bodies += [
            document(f"dataframe_split x{count}", {"dataframe_split": split}),
            document(f"dataframe_records x{count}", {"dataframe_records": records}),
            document(f"inputs by column x{count}", {"inputs": columns}),
            document(f"instances x{count}", {"instances": records}),
        ]
        flat = not any(isinstance(cell, list | dict | bytes) for cell in split["data"][0])
        if flat and all(isinstance(name, str) for name in rows.columns):
            bodies.append(text(f"csv x{count}", rows.to_csv(index=False), CSV))
        if all(isinstance(name, str) for name in rows.columns):
            with suppress(ARROW_EXCEPTION):  # of columns that hold this and that
                target = io.BytesIO()
                rows.to_parquet(target)
                bodies.append(Body(f"parquet x{count}", PARQUET, target.getvalue()))
    return bodies


def of_array(array: Any, counts: Sequence[int] = (1, 3, 500)) -> list[Body]:
    """An array in all forms, with so many of its rows."""
    bodies = []
    for count in counts:
        rows = array[[number % len(array) for number in range(count)]].tolist()
        bodies += [
            document(f"inputs x{count}", {"inputs": rows}),
            document(f"instances x{count}", {"instances": rows}),
        ]
    return bodies


def _cells(frame: pd.DataFrame) -> list[list[Any]]:
    return [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]


def _cell(value: Any) -> Any:
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    return None if isinstance(value, float) and math.isnan(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes):
        return base64.encodebytes(value).decode("ascii")
    return value.isoformat()
