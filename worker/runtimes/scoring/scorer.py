"""Bodies in the words of MLflow's scoring server, read and answered by that server's own code.

What no tensor carries goes this way: structured columns, models without a signature, agents, and
whatever MLflow understands that a gateway does not. MLflow parses, enforces the schema and writes
the answer, so that there is no copy of its rules which could drift from them. Three things differ:
numbers that are not finite are `null`, since NaN is no JSON; a model that raises is a failure, and
not a bad request; and no traceback leaves the process.
"""

from __future__ import annotations

import io
import json
import os
from importlib import import_module
from typing import Any, Protocol

import orjson
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.utils.proto_json_utils import NumpyEncoder, _get_jsonable_obj

from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.tensors import Buffer, Tensor, scoring_answer
from penstock.worker.runtimes.base import ExecutionError
from penstock.worker.runtimes.failures import as_execution_errors, readable
from penstock.worker.session.outcomes import FailureKind

PARQUET = "application/vnd.apache.parquet"

OK = 200
BAD_REQUEST = 400
SERVER_ERROR = 500
"""The lowest status that blames the server."""

REASON_CHARS_MAX = 4000
"""Of a refusal, in which MLflow repeats what was sent: the beginning and the end of longer ones."""

TEXT_BYTES_MAX = 256 * 1024 * 1024
"""Of the texts in a table of Parquet: several times what the largest body could say in JSON."""

_PLAIN_ONLY = (
    orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
)
"""Nothing is written that Python's own writer would write otherwise, or refuse."""

_NOT_FINITE = ("NaN", "Infinity")


class Scored(Protocol):
    """What MLflow's server needs of a model."""

    metadata: Any

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any: ...


class _Watched:
    """A model that tells what its own code raised from what MLflow did."""

    def __init__(self, model: Scored) -> None:
        self.metadata = model.metadata
        self.raised: BaseException | None = None
        self._model = model

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        try:
            return self._model.predict(data, params=params)
        except MlflowException:
            raise
        except BaseException as error:
            self.raised = error
            raise


class Scorer:
    """Answers bodies for one model.

    Args:
        model: as MLflow loaded it, or what looks like that.
        device: on which it runs.
    """

    def __init__(self, model: Scored, device: str) -> None:
        os.environ.setdefault(_MLFLOW_IS_IN_SERVING_ENVIRONMENT.name, "true")
        self._model = model
        self._schema = model.metadata.get_input_schema()
        self._device = device

    def score(self, body: Buffer, parameters: Parameters) -> Tensor:
        """What MLflow's server would answer, or why it refuses: with a status of 400, then.

        Args:
            body: of the request.
            parameters: its `content_type`, and `max_elements`: most values of a table in it.

        Raises:
            ExecutionError: the model raised, or MLflow did as it blames the server.
        """
        said = dict(parameters)
        kind = str(said.get("content_type") or "application/json")
        watched, content = _Watched(self._model), bytes(body)
        with as_execution_errors(self._device, trust_words=False):
            try:
                if kind.partition(";")[0].strip().lower() == PARQUET:
                    _check_parquet(content, said.get("max_elements"))
                answer = scoring_server.invocations(content, kind, watched, self._schema)
            except MlflowException as error:
                if watched.raised is not None:
                    raise watched.raised from None
                return _refusal(error)
            except Exception as error:
                if watched.raised is not None:
                    raise
                # Before the model had its turn, so by what came; MLflow has no word for it.
                return _answer("BAD_REQUEST", f"{type(error).__name__}: {error}", BAD_REQUEST)
            if answer.status >= BAD_REQUEST:
                return _answer("BAD_REQUEST", answer.response, answer.status)
            return scoring_answer(_finite(answer.response).encode(), OK)


def as_json(returned: Any) -> str:
    """What a model returned as the JSON that MLflow's server makes of it.

    Raises:
        TypeError: it is nothing that JSON can hold.
    """
    document = _get_jsonable_obj(returned, pandas_orient="records")
    try:
        return orjson.dumps(document, option=_PLAIN_ONLY).decode()
    except orjson.JSONEncodeError:  # it holds more than JSON's own, which MLflow knows how to write
        return _finite(json.dumps(document, cls=NumpyEncoder))


def _finite(text: str) -> str:
    """JSON as others read it, too: Python writes NaN where nothing is."""
    if not any(word in text for word in _NOT_FINITE):
        return text
    return json.dumps(json.loads(text, parse_constant=lambda _: None))


def _refusal(error: MlflowException) -> Tensor:
    if error.get_http_status_code() >= SERVER_ERROR:
        raise ExecutionError(FailureKind.INPUT, f"MlflowException: {error.message}") from error
    return _answer(str(error.error_code), error.message, BAD_REQUEST)


def _answer(code: str, reason: str, status: int) -> Tensor:
    if len(reason) > REASON_CHARS_MAX:
        half = REASON_CHARS_MAX // 2
        reason = f"{reason[:half]} ... {reason[-half:]}"
    document = {"error_code": code, "message": readable(reason)}
    return scoring_answer(json.dumps(document).encode(), status)


def _check_parquet(body: bytes, max_elements: Any) -> None:
    """A table that is larger than requests may be is not read: few bytes can hold much.

    Raises:
        MlflowException: it is that large. What is no Parquet at all, MLflow says itself.
    """
    try:
        values, text_bytes = _sizes_of(body)
    except Exception:
        return
    if isinstance(max_elements, int) and values > max_elements:
        raise MlflowException.invalid_parameter_value(
            f"expected at most {max_elements} values (--max-request-elements), got {values}"
        )
    if text_bytes > TEXT_BYTES_MAX:
        raise MlflowException.invalid_parameter_value(
            f"expected at most {TEXT_BYTES_MAX} bytes of text, got {text_bytes}"
        )


def _sizes_of(body: bytes) -> tuple[int, int]:
    """How many values a table holds, those of lists among them, and how long its texts are, each
    of which may be written once and meant a million times."""
    parquet, compute = import_module("pyarrow.parquet"), import_module("pyarrow.compute")
    told = parquet.ParquetFile(io.BytesIO(body)).metadata
    columns = range(told.num_columns)
    groups = [told.row_group(number) for number in range(told.num_row_groups)]
    values = sum(group.column(place).num_values for group in groups for place in columns)
    leaves = [told.schema.column(place) for place in columns]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    if not texts:
        return values, 0
    table = parquet.ParquetFile(io.BytesIO(body), read_dictionary=texts).read(columns=texts)
    text_bytes = 0
    for chunk in (chunk for column in table.columns for chunk in column.chunks):
        if hasattr(chunk, "dictionary"):
            lengths = compute.binary_length(chunk.dictionary)
            text_bytes += compute.sum(lengths.take(chunk.indices)).as_py() or 0
        else:
            text_bytes += chunk.nbytes
    return values, text_bytes
