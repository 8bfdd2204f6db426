"""MLflow's pyfunc: scikit-learn, custom Python models, and whatever has no faster runtime here.

A signature of tensors means arrays; one of columns means a data frame, of which each column is a
tensor of one dimension. MLflow checks types once more before the model sees them and never casts
down, so everything is cast to exactly what the signature says. It streams for one row only, which
it hands over as a mapping, or as a plain value if the one column or tensor has no name.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.exceptions import MlflowException

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.tensors import AnyArray
from penstock.worker.runtimes.base import ExecutionError, ModelLoadError
from penstock.worker.runtimes.failures import as_execution_errors
from penstock.worker.runtimes.frames import frame_of, result_of, strings, without_frames
from penstock.worker.runtimes.graph import batches
from penstock.worker.runtimes.mlflow_model import Column, MLmodel, MLmodelError, column_specs, named
from penstock.worker.runtimes.model_code import check_requirements, model_code_runs
from penstock.worker.runtimes.results import Result, arrange, discover_outputs
from penstock.worker.session.outcomes import FailureKind
from penstock.worker.trial.example import read_example

PLATFORM = "mlflow_pyfunc"

IGNORED_NAMED_MAX = 100
"""Names of unknown parameters that are logged, once each; clients invent them."""

log = get_logger("runtimes")

SERVER_ERROR = 500
"""The lowest status that blames the server."""

_END = object()


class PyfuncRuntime:
    """One pyfunc model; see `penstock.worker.runtimes.base.Runtime`.

    Args:
        model: what MLflow loaded.
        columns: of the signature's input; None if it is one of tensors.
        dtypes: numpy's types of the input tensors, as MLflow wants them.
    """

    static_rows: int | None = None
    any_thread: bool = False
    runs_code: bool = True
    unbatched: str = ""
    coarse: bool = False
    may_be_static: bool = False

    def __init__(
        self,
        model: Any,
        interface: ModelInterface,
        columns: Sequence[Column] | None,
        dtypes: Mapping[str, np.dtype[Any]],
        device: str,
    ) -> None:
        self.interface = interface
        self.provider = f"pyfunc {device}"
        self._model = model
        self._columns = columns
        self._dtypes = dtypes
        self._device = device
        self._parameters = {spec.name for spec in interface.parameters}
        self._ignored: set[str] = set()

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Sequence[AnyArray]:
        return arrange(self.run(inputs, parameters), self.interface.outputs)

    def run(self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()) -> Result:
        """What the model returns, in arrays.

        Raises:
            ExecutionError: if it failed.
        """
        with as_execution_errors(self._device, trust_words=False), _as_refusals():
            data = self._data(inputs)
            returned = self._model.predict(data, params=self._params(parameters))
            return result_of(returned, self.interface.outputs)

    def stream(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Generator[object]:
        with as_execution_errors(self._device, trust_words=False):
            params = self._params(parameters)
            with _as_refusals():
                values = self._model.predict_stream(self._data(inputs), params=params)
        try:
            while (value := self._next(values)) is not _END:
                yield value
        finally:
            with as_execution_errors(self._device, trust_words=False):
                values.close()

    def _next(self, values: Any) -> object:
        with as_execution_errors(self._device, trust_words=False):
            value = next(values, _END)
            return value if value is _END else without_frames(value, self.interface.outputs)

    def _data(self, inputs: Mapping[str, AnyArray]) -> Any:
        if self._columns is not None:
            try:
                return frame_of(inputs, self._columns)
            except ValueError as error:
                raise ExecutionError(FailureKind.REFUSED, str(error)) from error
        arrays = {name: self._as_declared(name, array) for name, array in inputs.items()}
        if set(arrays) == {"input-0"} and not self._named:
            return arrays["input-0"]
        return arrays

    @property
    def _named(self) -> bool:
        return "" not in self._dtypes

    def _as_declared(self, name: str, array: AnyArray) -> AnyArray:
        dtype = self._dtypes.get(name, self._dtypes.get(""))
        if array.dtype.kind == "O":
            array = strings(array)
        return array.astype(dtype)  # a copy: a model may write into what it gets

    def _params(self, parameters: Parameters) -> dict[str, Any] | None:
        """Those that the signature knows. MLflow ignores others too, with a warning each time."""
        for name, _ in parameters:
            known = name in self._parameters or name in self._ignored
            if not known and len(self._ignored) < IGNORED_NAMED_MAX:
                self._ignored.add(name)
                log.warning("ignored a parameter that the signature does not name", name=name)
        return {name: value for name, value in parameters if name in self._parameters} or None


@contextmanager
def _as_refusals() -> Iterator[None]:
    """What MLflow's own server answers with a status of 400 to 499: its enforcement of schemas.

    A model may raise the same, and then means it.
    """
    try:
        yield
    except MlflowException as error:
        if error.get_http_status_code() >= SERVER_ERROR:
            raise
        raise ExecutionError(FailureKind.REFUSED, error.message) from error


def load_pyfunc(
    folder: Path,
    mlmodel: MLmodel | None,
    *,
    max_batch_size: int,
    device: str,
    threads: int,
    allow_cpu_fallback: bool,
    may_execute: bool = True,
) -> PyfuncRuntime:
    """Load a folder's model by MLflow's `python_function` flavor.

    Raises:
        ModelLoadError: if it has no signature, lacks packages, or is broken.
    """
    if mlmodel is None or not (mlmodel.inputs or mlmodel.input_columns):
        raise ModelLoadError(
            "the model has no signature, and nothing else says what it takes; log it again with "
            "a signature or an input_example",
            invalid=True,
        )
    try:
        inputs = _side(mlmodel.inputs, mlmodel.input_columns, "input")
        outputs = _side(mlmodel.outputs, mlmodel.output_columns, "output")
    except MLmodelError as error:
        raise ModelLoadError(str(error), invalid=True) from error
    check_requirements(folder)
    # Flavors that can use a GPU ask MLflow's own setting for it.
    os.environ.setdefault("MLFLOW_DEFAULT_PREDICTION_DEVICE", device)
    with model_code_runs():
        model = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
    interface = ModelInterface(
        inputs=inputs,
        outputs=outputs,
        max_batch_size=0,
        platform=PLATFORM,
        parameters=mlmodel.parameters,
        streams=mlmodel.streams,
        table=mlmodel.input_columns is not None,
    )
    columns = mlmodel.input_columns
    dtypes = {} if columns is not None else _dtypes(model)
    if not outputs:
        trial = PyfuncRuntime(model, interface, columns, dtypes, device)
        example = read_example(folder, mlmodel, inputs)
        outputs = discover_outputs(trial.run, inputs, example, may_execute=may_execute)
    limit = max_batch_size if batches(inputs, outputs) else 0
    known = interface.model_copy(update={"outputs": outputs, "max_batch_size": limit})
    return PyfuncRuntime(model, known, columns, dtypes, device)


def _side(
    tensors: Sequence[TensorSpec] | None, columns: Sequence[Column] | None, side: str
) -> tuple[TensorSpec, ...]:
    """The tensors of one side of a signature; none if it says nothing about that side.

    Raises:
        MLmodelError: if they cannot be served.
    """
    if tensors:
        return named(tensors, side)
    return column_specs(columns, side) if columns else ()


def _dtypes(model: Any) -> dict[str, np.dtype[Any]]:
    specs = model.metadata.get_input_schema().inputs
    return {spec.name or "": spec.type for spec in specs}
