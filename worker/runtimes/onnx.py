"""ONNX models on ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.tensors import NUMPY_OF, AnyArray
from penstock.worker.runtimes.base import BodyScorer, Form, ModelLoadError, RowWords, Runtime
from penstock.worker.runtimes.failures import execution_error
from penstock.worker.runtimes.graph import batch_limit, named_apart, reconcile, static_rows
from penstock.worker.runtimes.mlflow_model import MLmodel
from penstock.worker.runtimes.scoring.graphs import GraphScorer, scoring_of

PLATFORM = "onnxruntime_onnx"

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

TITLE = "ONNX graph"

MADE_UP_NAMES = re.compile(
    r"|\?|None|unk_?.*|unknown.*|.*_dynamic_axes_\d+|.*_dim_\d+|dim_param_\d+|dyn_?\d*|[su]\d+|-?\d+"
    r"|.*DynamicDimension\.\d+"
)
"""Names of dimensions that exporters and shape inference make up: they say nothing."""


class OnnxRuntime:
    """One ONNX graph in one inference session; see `penstock.worker.runtimes.base.Runtime`."""

    def __init__(
        self,
        session: Any,
        interface: ModelInterface,
        graph_inputs: Mapping[str, TensorSpec],
        device: str,
        unbatched: str = "",
    ) -> None:
        self.interface = interface
        self.any_thread = True
        self.runs_code = False
        self.unbatched = unbatched
        self.coarse = False
        self.scorer: BodyScorer | None = None
        self.form: Form | None = None
        self.words: RowWords | None = None
        self.may_be_static = False
        self.provider: str = session.get_providers()[0]
        self.static_rows = static_rows(interface.max_batch_size, graph_inputs, TITLE)
        self._device = device
        self._session = session
        self._outputs = [node.name for node in session.get_outputs()]
        self._feeds = {
            name: (spec.name, NUMPY_OF[spec.datatype]) for name, spec in graph_inputs.items()
        }

    def opened(self) -> Runtime | None:
        return None

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Sequence[AnyArray]:
        feeds = {}
        for name, array in inputs.items():
            graph_name, dtype = self._feeds[name]
            if dtype.kind == "O":
                array = _as_strings(array)
            feeds[graph_name] = array.astype(dtype, copy=False)
        try:
            outputs: Sequence[AnyArray] = self._session.run(self._outputs, feeds)
        except BaseException as error:
            raise execution_error(error, self._device, trust_words=True) from error
        return outputs


def load_onnx(
    folder: Path,
    mlmodel: MLmodel | None,
    *,
    max_batch_size: int,
    device: str,
    threads: int,
    allow_cpu_fallback: bool,
    may_execute: bool = True,
) -> OnnxRuntime:
    """Load a folder's ONNX graph.

    Raises:
        ModelLoadError: if there is none, it is broken, or its provider is not to be had.
    """
    flavor = mlmodel.flavors.get("onnx", {}) if mlmodel else {}
    path = folder / str(flavor.get("data", "model.onnx"))
    if not path.is_file():
        raise ModelLoadError(f"there is no ONNX graph at {path.name}", invalid=True)
    session = _open(path, device, threads)
    _check_provider(session, device, allow_cpu_fallback)
    graph_inputs = [_spec(node, "input") for node in session.get_inputs()]
    graph_outputs = [_spec(node, "output") for node in session.get_outputs()]
    inputs = reconcile(graph_inputs, mlmodel.inputs if mlmodel else None, "input", TITLE)
    outputs = reconcile(graph_outputs, mlmodel.outputs if mlmodel else None, "output", TITLE)
    by_name = {spec.name: graph for spec, graph in zip(inputs, graph_inputs, strict=True)}
    interface = ModelInterface(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        max_batch_size=batch_limit(inputs, outputs, by_name, max_batch_size),
        platform=PLATFORM,
        scoring=scoring_of(mlmodel),
    )
    leads = [
        {node.name: node.shape[0] if node.shape else None for node in nodes}
        for nodes in (session.get_inputs(), session.get_outputs())
    ]
    unbatched = named_apart(*leads, made_up=MADE_UP_NAMES)
    runtime = OnnxRuntime(session, interface, by_name, device, unbatched)
    runtime.scorer = GraphScorer(folder, partial(_wrapped, session), device)
    if mlmodel is not None and mlmodel.inputs:  # which MLflow answers by the graph's names
        runtime.form = Form("object", tuple(spec.name for spec in graph_outputs), exact=True)
    return runtime


def _wrapped(session: Any) -> Any:
    """MLflow's way to call a session, around one that is here."""
    from mlflow.onnx import _OnnxModelWrapper  # noqa: PLC0415 - where it is not asked for, not there

    wrapper = _OnnxModelWrapper.__new__(_OnnxModelWrapper)
    wrapper.rt = session
    wrapper.inputs = [(node.name, node.type) for node in session.get_inputs()]
    wrapper.output_names = [node.name for node in session.get_outputs()]
    return wrapper


def _open(path: Path, device: str, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda:"):
        ort.preload_dlls()
        index = int(device.removeprefix("cuda:"))
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the library raises many types of its own
        raise ModelLoadError(f"ONNX Runtime cannot load {path.name}: {error}") from error


def _check_provider(session: Any, device: str, allow_cpu_fallback: bool) -> None:
    """ONNX Runtime falls back to the CPU silently; we do so only if that is allowed."""
    taken = session.get_providers()[0]
    wanted = "CUDAExecutionProvider" if device.startswith("cuda:") else "CPUExecutionProvider"
    if taken != wanted and not allow_cpu_fallback:
        raise ModelLoadError(
            f"{device} needs {wanted}, but ONNX Runtime took {taken}; "
            "to accept that, set PENSTOCK_ALLOW_CPU_FALLBACK=true"
        )


def _spec(node: Any, side: str) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise ModelLoadError(
            f"{side} {node.name!r} of the ONNX graph is a {node.type}, which is no tensor that "
            "can be served (for scikit-learn classifiers, convert with zipmap off)",
            invalid=True,
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(name=node.name, datatype=datatype, shape=shape, text=datatype == "BYTES")


def _as_strings(array: AnyArray) -> AnyArray:
    flat = [item.decode("utf-8", "replace") for item in array.ravel().tolist()]
    strings = array.copy().reshape(-1)
    strings[:] = flat
    return strings.reshape(array.shape)
