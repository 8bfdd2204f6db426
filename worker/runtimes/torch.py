"""PyTorch models as MLflow logs them: torch.export programs, TorchScript, pickled modules.

An exported program (`pt2`) has a graph that names its inputs and fixes sizes, as ONNX has. The
others say nothing of themselves: their signature does, and the warm-up finds out which batch sizes
they take.

GPU: the tests run on the CPU; what is here for `cuda:N` is kept small, and was run nowhere yet.
"""

from __future__ import annotations

import inspect
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.tensors import DATATYPE_OF, NUMPY_OF, AnyArray
from penstock.worker.runtimes.base import BodyScorer, Form, ModelLoadError, RowWords, Runtime
from penstock.worker.runtimes.failures import as_execution_errors
from penstock.worker.runtimes.graph import batch_limit, batches, named_apart, reconcile, static_rows
from penstock.worker.runtimes.mlflow_model import MLmodel, named
from penstock.worker.runtimes.model_code import add_code_paths, check_requirements, model_code_runs
from penstock.worker.runtimes.results import Result, ResultError, arrange, discover_outputs
from penstock.worker.runtimes.scoring.graphs import GraphScorer, scoring_of
from penstock.worker.trial.example import read_example

PLATFORM = "pytorch_torch"
TITLE = "exported program"

MLFLOW_PICKLE_MODULE = "mlflow.pytorch.pickle_module"
"""MLflow's default: cloudpickle to write, plain pickle to read, which does not need MLflow."""

PICKLE_SWITCH = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
"""MLflow's own variable: where it is false, nothing is unpickled."""


class TorchRuntime:
    """One PyTorch model; see `penstock.worker.runtimes.base.Runtime`.

    Args:
        call: takes tensors by the interface's names.
        trust_words: no code of the model's own runs, so errors are the library's.
    """

    def __init__(
        self,
        call: Callable[[dict[str, torch.Tensor]], Any],
        interface: ModelInterface,
        static: int | None,
        device: str,
        *,
        trust_words: bool,
        unbatched: str = "",
    ) -> None:
        self.interface = interface
        self.unbatched = unbatched
        self.coarse = False
        self.scorer: BodyScorer | None = None
        self.form: Form | None = None
        self.words: RowWords | None = None
        self.may_be_static = True
        self.static_rows = static
        self.any_thread = False  # OpenMP has its threads for each thread that calls
        self.provider = f"torch {device}"
        self._call = call
        self.device = device
        self._trust_words = trust_words
        self.runs_code = not trust_words

    def opened(self) -> Runtime | None:
        return None

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Sequence[AnyArray]:
        return arrange(self.run(inputs), self.interface.outputs)

    def run(self, inputs: Mapping[str, AnyArray]) -> Result:
        """What the model returns, in arrays.

        Raises:
            ExecutionError: if it failed.
        """
        with (
            as_execution_errors(self.device, trust_words=self._trust_words),
            torch.inference_mode(),
        ):
            tensors = {name: self._tensor(array) for name, array in inputs.items()}
            returned = self._call(tensors)
            self.coarse = self.coarse or _has_bfloat16(returned)
            return _arrays(returned)

    def wrapped(self) -> Any:
        """MLflow's way to call a module, around this one."""
        from mlflow.pytorch import _PyTorchWrapper  # noqa: PLC0415 - only where it is asked for

        (spec,) = self.interface.inputs

        def module(tensor: torch.Tensor) -> Any:
            leaves = _leaves(self._call({spec.name: tensor}))
            return leaves[0] if len(leaves) == 1 else leaves

        return _PyTorchWrapper(module, self.device)

    def _tensor(self, array: AnyArray) -> torch.Tensor:
        # The library refuses memory that must not be written, which is what messages give.
        own = array if array.flags.writeable else array.copy()
        return torch.from_numpy(own).to(self.device)


def load_torch(
    folder: Path,
    mlmodel: MLmodel | None,
    *,
    max_batch_size: int,
    device: str,
    threads: int,
    allow_cpu_fallback: bool,
    may_execute: bool = True,
) -> TorchRuntime:
    """Load a folder's PyTorch model.

    Raises:
        ModelLoadError: if there is none, it is broken, or the device is not to be had.
    """
    if device != "cpu" and not torch.cuda.is_available():
        if not allow_cpu_fallback:
            raise ModelLoadError(f"{device} needs CUDA, which this PyTorch does not find")
        device = "cpu"
    torch.set_num_threads(threads)
    data = folder / str(mlmodel.flavors["pytorch"].get("model_data", "data")) if mlmodel else folder
    if (data / "model.pt2").is_file():
        runtime = _load_exported(data / "model.pt2", mlmodel, max_batch_size, device)
    elif (data / "model.pth").is_file() and mlmodel is not None:
        path = data / "model.pth"
        runtime = _load_module(
            folder, path, mlmodel, max_batch_size, device, may_execute=may_execute
        )
    else:
        raise ModelLoadError("there is neither a model.pt2 nor a model.pth", invalid=True)
    if mlmodel is not None:
        _have_scored(runtime, folder, mlmodel)
    return runtime


def _have_scored(runtime: TorchRuntime, folder: Path, mlmodel: MLmodel) -> None:
    """Have it answer bodies as MLflow's wrapper does, which has one tensor in and one out."""
    interface = runtime.interface
    if len(interface.inputs) != 1 or len(interface.outputs) != 1 or not mlmodel.inputs:
        return
    runtime.interface = interface.model_copy(update={"scoring": scoring_of(mlmodel)})
    runtime.form = Form("array", exact=True)
    runtime.scorer = GraphScorer(folder, runtime.wrapped, runtime.device)


# torch.export


@dataclass(frozen=True)
class _Calling:
    """How an exported program takes its inputs: so many by position, the others by keyword."""

    positional: int
    keywords: tuple[str, ...]

    def __call__(self, module: Callable[..., Any], values: Sequence[Any]) -> Any:
        by_keyword = dict(zip(self.keywords, values[self.positional :], strict=True))
        return module(*values[: self.positional], **by_keyword)


def _load_exported(
    path: Path, mlmodel: MLmodel | None, max_batch_size: int, device: str
) -> TorchRuntime:
    if not _may_unpickle():
        import_module("mlflow.pytorch")._validate_pt2_archive_is_pickle_free(str(path))
    try:
        program = torch.export.load(path)
    except Exception as error:  # the library raises many types of its own
        raise ModelLoadError(f"PyTorch cannot load {path.name}: {error}") from error
    if device != "cpu":
        program = move_to_device_pass(program, device)
    calling = _calling(program)
    graph_inputs = _graph_specs(program, program.graph_signature.user_inputs, "input")
    graph_outputs = _graph_specs(program, program.graph_signature.user_outputs, "output")
    inputs = reconcile(graph_inputs, mlmodel.inputs if mlmodel else None, "input", TITLE)
    outputs = reconcile(graph_outputs, mlmodel.outputs if mlmodel else None, "output", TITLE)
    by_name = {spec.name: graph for spec, graph in zip(inputs, graph_inputs, strict=True)}
    dtypes = {name: NUMPY_OF[graph.datatype] for name, graph in by_name.items()}
    interface = ModelInterface(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        max_batch_size=batch_limit(inputs, outputs, by_name, max_batch_size),
        platform=PLATFORM,
    )
    module = program.module()

    def call(tensors: dict[str, torch.Tensor]) -> Any:
        values = [tensors[name].to(_torch_dtype(dtype)) for name, dtype in dtypes.items()]
        return tuple(_leaves(calling(module, values)))

    static = static_rows(interface.max_batch_size, by_name, TITLE)
    unbatched = _sized_apart(program)
    return TorchRuntime(call, interface, static, device, trust_words=True, unbatched=unbatched)


def _sized_apart(program: Any) -> str:
    """Why the program's sizes say that its first dimensions are no batch; empty if they do not.

    Symbols of an exported program are what their sizes are, whoever named them.
    """
    signature = program.graph_signature
    inputs = _leads(program, signature.user_inputs)
    outputs = _leads(program, signature.user_outputs)
    return named_apart(inputs, outputs, made_up=re.compile("(?!)"))


def _leads(program: Any, names: Iterable[str]) -> dict[str, str | None]:
    """Of each tensor, the size of its first dimension, if that is open."""
    nodes = {node.name: node for node in program.graph.nodes}
    sizes = {
        name: nodes[name].meta["val"].shape[:1]
        for name in names
        if name in nodes and isinstance(nodes[name].meta.get("val"), torch.Tensor)
    }
    return {
        name: str(size[0]) if size and not isinstance(size[0], int) else None
        for name, size in sizes.items()
    }


def _calling(program: Any) -> _Calling:
    arguments, keywords = program.call_spec.in_spec.children()
    leaves = [*arguments.children(), *keywords.children()]
    if not all(leaf.is_leaf() for leaf in leaves):
        raise ModelLoadError("the exported program takes inputs nested in others", invalid=True)
    return _Calling(arguments.num_children, tuple(keywords.context or ()))


def _graph_specs(program: Any, names: Iterable[str], side: str) -> list[TensorSpec]:
    nodes = {node.name: node for node in program.graph.nodes}
    specs = []
    for position, name in enumerate(names):
        value = nodes[name].meta["val"] if name in nodes else None
        dtype = _numpy_dtype(value.dtype) if isinstance(value, torch.Tensor) else None
        if dtype is None or not isinstance(value, torch.Tensor):
            raise ModelLoadError(
                f"{side} {name!r} of the exported program is no tensor that can be served",
                invalid=True,
            )
        specs.append(
            TensorSpec(
                name=name if side == "input" else f"output-{position}",
                datatype=DATATYPE_OF[dtype],
                shape=tuple(size if isinstance(size, int) else -1 for size in value.shape),
            )
        )
    return specs


# TorchScript and pickles


def _load_module(
    folder: Path,
    path: Path,
    mlmodel: MLmodel,
    max_batch_size: int,
    device: str,
    *,
    may_execute: bool,
) -> TorchRuntime:
    if not mlmodel.inputs:
        raise ModelLoadError(
            "a PyTorch model that is no exported program needs a signature of tensors",
            invalid=True,
        )
    scripted = _is_torchscript(path)
    module = _open_script(path) if scripted else _unpickle(folder, path, mlmodel)
    with model_code_runs():
        module.eval()
        module.to(device)
    inputs = named(mlmodel.inputs, "input")
    text = [spec.name for spec in inputs if spec.datatype == "BYTES"]
    if text:
        raise ModelLoadError(f"PyTorch has no tensors of strings: {text}", invalid=True)
    call = _by_keyword_or_position(module, [spec.name for spec in inputs])
    unknown = ModelInterface(inputs=inputs, outputs=(), max_batch_size=0, platform=PLATFORM)
    trial = TorchRuntime(call, unknown, None, device, trust_words=scripted)
    if mlmodel.outputs:
        outputs = named(mlmodel.outputs, "output")
    else:
        example = read_example(folder, mlmodel, inputs)
        outputs = discover_outputs(trial.run, inputs, example, may_execute=may_execute)
    limit = max_batch_size if batches(inputs, outputs) else 0
    interface = unknown.model_copy(update={"outputs": outputs, "max_batch_size": limit})
    return TorchRuntime(call, interface, None, device, trust_words=scripted)


def _open_script(path: Path) -> Any:
    try:
        return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # the library raises many types of its own
        raise ModelLoadError(f"PyTorch cannot load {path.name}: {error}") from error


def _unpickle(folder: Path, path: Path, mlmodel: MLmodel) -> Any:
    if not _may_unpickle():
        message = f"the model is a pickle, and {PICKLE_SWITCH} forbids to load those"
        raise ModelLoadError(message, invalid=True)
    check_requirements(folder)
    add_code_paths(folder, mlmodel.flavors["pytorch"])
    note = path.parent / "pickle_module_info.txt"
    name = note.read_text().strip() if note.is_file() else MLFLOW_PICKLE_MODULE
    module = pickle if name == MLFLOW_PICKLE_MODULE else import_module(name)
    with model_code_runs():
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)


def _by_keyword_or_position(
    module: Any, names: Sequence[str]
) -> Callable[[dict[str, torch.Tensor]], Any]:
    """Inputs go by name if `forward` knows all their names, else in the signature's order."""
    try:
        known = set(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):  # TorchScript
        known = {each.name for each in module.forward.schema.arguments}
    if known.issuperset(names):
        return lambda tensors: module(**tensors)
    return lambda tensors: module(*[tensors[name] for name in names])


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _may_unpickle() -> bool:
    return os.environ.get(PICKLE_SWITCH, "true").lower() in ("true", "1")


# Tensors and arrays


def _arrays(returned: Any) -> Result:
    if isinstance(returned, torch.Tensor):
        return _array(returned)
    if isinstance(returned, Mapping):
        return {str(name): _array(value) for name, value in returned.items()}
    if isinstance(returned, tuple | list):
        return [_array(value) for value in returned]
    raise ResultError(f"the model returned a {type(returned).__name__}, not tensors")


def _has_bfloat16(returned: Any) -> bool:
    values = returned.values() if isinstance(returned, Mapping) else returned
    values = values if isinstance(values, tuple | list) else [values]
    return any(getattr(value, "dtype", None) is torch.bfloat16 for value in values)


def _array(value: Any) -> AnyArray:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    if value.dtype is torch.bfloat16:
        value = value.float()
    array: AnyArray = value.cpu().numpy()
    return array


def _leaves(returned: Any) -> list[torch.Tensor]:
    """A graph's outputs in its own order, whatever they are packed in."""
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    if isinstance(returned, tuple | list):
        return [leaf for value in returned for leaf in _leaves(value)]
    return [returned]


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any] | None:
    if dtype is torch.bfloat16:
        return np.dtype(np.float32)
    try:
        found: np.dtype[Any] = torch.empty(0, dtype=dtype).numpy().dtype
    except TypeError:
        return None
    return found if found in DATATYPE_OF else None


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
