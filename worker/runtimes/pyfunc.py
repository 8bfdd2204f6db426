"""MLflow's pyfunc: scikit-learn, custom Python models, and whatever has no faster runtime here.

A signature of tensors means arrays; one of columns means a data frame, of which each column is a
tensor of one dimension. MLflow checks types once more before the model sees them and never casts
down, so everything is cast to exactly what the signature says. It streams for one row only, which
it hands over as a mapping, or as a plain value if the one column or tensor has no name.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.tensors import AnyArray, Tensor, scoring_answer
from penstock.worker.runtimes.base import (
    UNKNOWN,
    ExecutionError,
    Form,
    ModelLoadError,
    RowsMisfitError,
)
from penstock.worker.runtimes.failures import as_execution_errors
from penstock.worker.runtimes.frames import frame_of, result_of, strings, without_frames
from penstock.worker.runtimes.graph import batches
from penstock.worker.runtimes.mlflow_model import Column, MLmodel, column_specs, named
from penstock.worker.runtimes.model_code import check_requirements, model_code_runs
from penstock.worker.runtimes.model_params import ModelParams, as_refusals
from penstock.worker.runtimes.open_pyfunc import OpenPyfuncRuntime, given_of
from penstock.worker.runtimes.results import (
    Result,
    ResultError,
    arrange,
    discover_outputs,
    same_values,
)
from penstock.worker.runtimes.scoring.form import form_of, merged, shares_of
from penstock.worker.runtimes.scoring.scorer import OK, Scorer, as_json
from penstock.worker.session.outcomes import FailureKind
from penstock.worker.trial.example import read_example

PLATFORM = "mlflow_pyfunc"

log = get_logger("runtimes")

_END = object()


class PyfuncRuntime:
    """One pyfunc model; see `penstock.worker.runtimes.base.Runtime`.

    Attributes:
        scorer: answers bodies that no gateway made tensors of.
        form: of what it has returned so far; None: nothing yet.

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
        self.scorer = Scorer(model, device)
        self.form: Form | None = None
        self._params = ModelParams(interface)
        self._fits, self._misfit = False, ""

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Sequence[AnyArray]:
        result = self.run(inputs, parameters)
        try:
            if self._in_trial and not same_values(result, self.interface.outputs):
                self.form = replace(self.form or UNKNOWN, exact=False)  # MLflow casts nothing
            arrays = arrange(result, self.interface.outputs)
        except ResultError as error:
            self._misfit = str(error)
            raise
        self._fits = True
        return arrays

    def words(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters, rows: Sequence[int]
    ) -> list[Tensor]:
        """See `penstock.worker.runtimes.base.RowWords`."""
        with as_execution_errors(self._device, trust_words=False), as_refusals():
            params = self._params.of(parameters)
            returned = self._model.predict(self.given(inputs), params=params)
        if len(rows) > 1:
            self._check_form(returned)
        shares = shares_of(returned, rows)
        with as_execution_errors(self._device, trust_words=False):
            texts = [as_json(share) for share in shares]
        return [scoring_answer(f'{{"predictions": {text}}}'.encode(), OK) for text in texts]

    def _check_form(self, returned: Any) -> None:
        """See that no request changed how the answers to others are worded: one without a number
        makes floats of a whole column, or one more column of a frame.

        Raises:
            RowsMisfitError: if the form is not the one that each request alone had in the trial.
        """
        form, known = form_of(returned), self.interface
        if (form.returns, form.keys, form.kinds) != (known.returns, known.keys, known.kinds):
            raise RowsMisfitError(f"{form.keys} of {form.kinds}, not {known.keys} of {known.kinds}")

    def opened(self) -> OpenPyfuncRuntime | None:
        if self._fits or not self._misfit:
            return None
        why = f"what it returns is not what its signature says ({self._misfit[:200]})"
        return self.with_open_outputs(why)

    def with_open_outputs(self, why: str) -> OpenPyfuncRuntime:
        """The same model, whose outputs are as they come."""
        update = {"outputs": (), "scoring": "all", "max_batch_size": 0, "streams": False}
        interface = self.interface.model_copy(update=update)
        return OpenPyfuncRuntime(self._model, interface, self.given, self._device, why)

    def run(self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()) -> Result:
        """What the model returns, in arrays.

        Raises:
            ExecutionError: if it failed.
        """
        with as_execution_errors(self._device, trust_words=False), as_refusals():
            data = self.given(inputs)
            returned = self._model.predict(data, params=self._params.of(parameters))
            self._note_form(returned)
            try:
                return result_of(returned, self.interface.outputs)
            except ResultError as error:
                self._misfit = str(error)
                raise

    @property
    def _in_trial(self) -> bool:
        """Whether the form of answers is still to be found out, which costs a look at all of it."""
        return self.interface.scoring == "rest" and not self.interface.returns

    def _note_form(self, returned: Any) -> None:
        """As long as all that was returned had one form, that is how answers are worded."""
        if self.form == UNKNOWN or not self._in_trial:
            return
        form = form_of(returned)
        self.form = form if self.form is None else merged(self.form, form)

    def stream(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Generator[object]:
        with as_execution_errors(self._device, trust_words=False):
            params = self._params.of(parameters)
            with as_refusals():
                values = self._model.predict_stream(self.given(inputs), params=params)
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

    def given(self, inputs: Mapping[str, AnyArray]) -> Any:
        """What the model is given, made of a request's inputs.

        Raises:
            ExecutionError: if they do not fit.
        """
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


def load_pyfunc(
    folder: Path,
    mlmodel: MLmodel | None,
    *,
    max_batch_size: int,
    device: str,
    threads: int,
    allow_cpu_fallback: bool,
    may_execute: bool = True,
) -> PyfuncRuntime | OpenPyfuncRuntime:
    """Load a folder's model by MLflow's `python_function` flavor.

    Raises:
        ModelLoadError: if it lacks packages, or is broken.
    """
    assert mlmodel is not None  # or it would not be known to have this flavor
    inputs = _side(mlmodel.inputs, mlmodel.input_columns, "input")
    outputs = _side(mlmodel.outputs, mlmodel.output_columns, "output")
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
        open_inputs=not inputs,
        scoring="all" if _worded_apart(mlmodel.input_columns) else "rest",
    )
    columns = mlmodel.input_columns
    dtypes = {} if columns is not None or not inputs else _dtypes(model)
    trial = PyfuncRuntime(model, interface, columns, dtypes, device)
    plain = bool(inputs) and not mlmodel.hinted and not _structured(inputs)
    if not plain or _structured(outputs):
        given = trial.given if plain else given_of(mlmodel, inputs)
        given_outputs = () if _structured(outputs) else outputs
        update = {"outputs": given_outputs, "scoring": "all", "streams": False}
        return OpenPyfuncRuntime(model, interface.model_copy(update=update), given, device)
    if not outputs:
        example = read_example(folder, mlmodel, inputs)
        try:
            outputs = discover_outputs(trial.run, inputs, example, may_execute=may_execute)
        except ModelLoadError as error:
            log.info("the outputs are not known before a request", reason=str(error)[:500])
            return trial.with_open_outputs(f"its outputs are not known ({str(error)[:200]})")
    limit = max_batch_size if batches(inputs, outputs) else 0
    known = interface.model_copy(update={"outputs": outputs, "max_batch_size": limit})
    return PyfuncRuntime(model, known, columns, dtypes, device)


def _worded_apart(columns: Sequence[Column] | None) -> bool:
    """Whether JSON words columns in ways that a gateway does not know: bytes in base64, and times
    now with zones and now as numbers, by the field that they come in."""
    return any(column.kind in ("binary", "datetime") for column in columns or ())


def _structured(specs: Sequence[TensorSpec]) -> bool:
    return any(spec.structured for spec in specs)


def _side(
    tensors: Sequence[TensorSpec] | None, columns: Sequence[Column] | None, side: str
) -> tuple[TensorSpec, ...]:
    """The tensors of one side of a signature; none if it says nothing about that side."""
    if tensors:
        return named(tensors, side)
    return column_specs(columns, side) if columns else ()


def _dtypes(model: Any) -> dict[str, np.dtype[Any]]:
    specs = model.metadata.get_input_schema().inputs
    return {spec.name or "": spec.type for spec in specs}
