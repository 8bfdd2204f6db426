"""pyfunc models that take or give what no tensor carries.

Bodies in MLflow's words are `penstock.worker.runtimes.scoring.scorer`'s; this is of tensors.
Structured columns, models whose signature is made of type hints, and models without any. Each
request is one execution. In the Open Inference Protocol, an input that is structured is a BYTES
tensor of JSON texts, one for each row; without a signature, names, datatypes and shapes are those
of the request. The model gets what MLflow's server would give it: a frame for columns, the list for
a type hint, an object for agents and chat models; without a signature an array for one tensor, a
frame for several columns, or else arrays by name.

It answers whole, also where it could stream: parts of a talk are no answer by themselves.

What it returns is tensors where it can be: arrays, frames and series of numbers, texts and times.
All else is one JSON text, in an output that is called `json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.tensors import DATATYPE_OF, AnyArray
from penstock.worker.runtimes.base import UNKNOWN, ExecutionError, Runtime
from penstock.worker.runtimes.failures import as_execution_errors
from penstock.worker.runtimes.frames import frame_of, structured
from penstock.worker.runtimes.mlflow_model import COLUMN_DATATYPES, TEXT_KINDS, MLmodel
from penstock.worker.runtimes.model_params import ModelParams, as_refusals
from penstock.worker.runtimes.results import as_text
from penstock.worker.runtimes.scoring.scorer import Scorer, as_json
from penstock.worker.session.outcomes import FailureKind

JSON_OUTPUT = "json"
"""The output that is a JSON text."""

Given = Callable[[Mapping[str, AnyArray]], Any]
"""Of the inputs by name, what a model is given."""


class OpenPyfuncRuntime:
    """One such model; see `penstock.worker.runtimes.base.Runtime`.

    Args:
        model: what MLflow loaded.
        given: what the model is given, made of a request's inputs.
        why: its outputs are open, if that is not for its signature's sake; for the operator.
    """

    static_rows: int | None = None
    any_thread: bool = False
    runs_code: bool = True
    coarse: bool = False
    may_be_static: bool = False
    form = UNKNOWN
    words = None

    def __init__(
        self, model: Any, interface: ModelInterface, given: Given, device: str, why: str = ""
    ) -> None:
        self.interface = interface
        self.provider = f"pyfunc {device}"
        self.scorer = Scorer(model, device)
        self.unbatched = why
        self._model = model
        self._given = given
        self._device = device
        self._params = ModelParams(interface)

    def opened(self) -> Runtime | None:
        return None

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Mapping[str, AnyArray]:
        with as_execution_errors(self._device, trust_words=False), as_refusals():
            params = self._params.of(parameters)
            returned = self._model.predict(self._given(inputs), params=params)
            return tensors_of(returned, [spec.name for spec in self.interface.outputs])


def given_of(mlmodel: MLmodel, specs: Sequence[TensorSpec]) -> Given:
    """How a request's inputs become what such a model is given.

    Args:
        mlmodel: what its file says.
        specs: of its inputs; none where it has no signature.
    """
    columns = mlmodel.input_columns or ()
    kinds = {spec.name: column.kind for spec, column in zip(specs, columns, strict=True)}

    def of_request(inputs: Mapping[str, AnyArray]) -> Any:
        return _of_request({name: _readable(array) for name, array in inputs.items()})

    def of_hint(inputs: Mapping[str, AnyArray]) -> Any:
        (values,) = [_values(name, array, kinds[name]) for name, array in inputs.items()]
        return values

    def of_talk(inputs: Mapping[str, AnyArray]) -> Any:
        values = {name: _values(name, array, kinds[name]) for name, array in inputs.items()}
        return {name: _only(name, each) for name, each in values.items()}

    def of_columns(inputs: Mapping[str, AnyArray]) -> Any:
        try:
            return frame_of(inputs, columns)
        except ValueError as error:
            raise ExecutionError(FailureKind.REFUSED, str(error)) from error

    if not columns:
        return of_request
    if mlmodel.hinted:
        return of_hint
    return of_talk if mlmodel.talks else of_columns


def _values(name: str, array: AnyArray, kind: str) -> list[Any]:
    """A value for each row, of Python's own types."""
    values = array.tolist()
    try:
        if kind not in COLUMN_DATATYPES:
            return [structured(text) for text in values]
        return [text.decode() for text in values] if kind in TEXT_KINDS else list(values)
    except ValueError as error:
        reason = f"input {name!r}: {error}"
        raise ExecutionError(FailureKind.REFUSED, reason) from error


def _only(name: str, values: Sequence[Any]) -> Any:
    if len(values) != 1:
        reason = (
            f"input {name!r}: expected 1 element, since it is called for one, got {len(values)}"
        )
        raise ExecutionError(FailureKind.REFUSED, reason)
    return values[0]


def _readable(array: AnyArray) -> AnyArray:
    """An array that a model may write into; texts as such, where they are in UTF-8."""
    if array.dtype.kind != "O":
        return array.copy()
    texts = np.empty(array.size, np.object_)
    try:
        texts[:] = [item.decode() for item in array.ravel().tolist()]
    except UnicodeDecodeError:
        return array.copy()
    return texts.reshape(array.shape)


def _of_request(arrays: Mapping[str, AnyArray]) -> Any:
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if len({array.shape for array in arrays.values()}) == 1 and _first(arrays).ndim == 1:
        return pd.DataFrame(dict(arrays))
    return dict(arrays)


def _first(arrays: Mapping[str, AnyArray]) -> AnyArray:
    return next(iter(arrays.values()))


def tensors_of(returned: Any, names: Sequence[str]) -> dict[str, AnyArray]:
    """What a model returned, by name.

    Args:
        names: of the outputs in its signature, for what has none; empty: it names none.

    Raises:
        TypeError: it is nothing that JSON can hold.
    """
    match returned:
        case pd.DataFrame():
            labels = [str(name) for name in returned.columns]
            columns = {name: _plain(returned.iloc[:, i]) for i, name in enumerate(labels)}
            if len(columns) != len(labels):
                columns = {}  # two have one name
        case pd.Series() | np.ndarray():
            columns = {names[0] if len(names) == 1 else "output-0": _plain(returned)}
        case Mapping() if returned and all(
            isinstance(each, np.ndarray) for each in returned.values()
        ):
            columns = {str(name): _plain(each) for name, each in returned.items()}
            if len(columns) != len(returned):
                columns = {}
        case list() if returned and all(isinstance(each, str) for each in returned):
            columns = {
                names[0] if len(names) == 1 else "output-0": as_text(np.array(returned, object))
            }
        case _:
            columns = {}
    tensors = {name: array for name, array in columns.items() if array is not None}
    if not tensors or len(tensors) != len(columns):
        return {JSON_OUTPUT: as_text(np.array([as_json(returned)], object))}
    return tensors


def _plain(values: Any) -> AnyArray | None:
    """An array of numbers, texts or times, none of which is missing; None: it is none."""
    array = values.to_numpy() if isinstance(values, pd.Series) else values
    if array.dtype.newbyteorder("=") in DATATYPE_OF and array.dtype.kind != "O":
        return np.asarray(array)
    if array.dtype.kind == "M" and not np.isnat(array).any():
        return as_text(array)
    flat = array.ravel().tolist()
    if array.dtype.kind in "OUS" and flat and all(isinstance(each, str | bytes) for each in flat):
        return as_text(array)
    return None
