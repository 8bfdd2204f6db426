"""What a model's own graph says of its inputs and outputs, and what its signature says of them.

For formats that fix shapes in a graph (ONNX, torch.export). Graph and signature may each know what
the other does not: a signature has names and datatypes for clients, a graph has sizes that hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.worker.runtimes.base import ModelLoadError

BATCH_NAMES = frozenset({"batch", "batch_size", "batchsize", "bs", "n"})
"""What people call the same dimension, in one graph now so and now so."""


def reconcile(
    graph: Sequence[TensorSpec], signature: Sequence[TensorSpec] | None, side: str, title: str
) -> list[TensorSpec]:
    """Specs in the graph's order, as the signature describes them.

    The signature's names and datatypes are what clients see; a size that the graph fixes stays
    fixed, save for the batch dimension, which a replica can pad.

    Args:
        side: `input` or `output`.
        title: what to call the graph.

    Raises:
        ModelLoadError: if the two contradict each other.
    """
    if signature is None:
        return list(graph)
    if len(signature) != len(graph):
        raise ModelLoadError(
            f"the signature has {len(signature)} {side}s, the {title} has {len(graph)}",
            invalid=True,
        )
    named = {spec.name: spec for spec in signature}
    by_name = set(named) == {spec.name for spec in graph}
    partners = [named[spec.name] for spec in graph] if by_name else signature
    return [_merge(spec, node, side, title) for spec, node in zip(partners, graph, strict=True)]


def _merge(spec: TensorSpec, graph: TensorSpec, side: str, title: str) -> TensorSpec:
    name = spec.name or graph.name
    text = "BYTES" in (spec.datatype, graph.datatype) and spec.datatype != graph.datatype
    fits = len(spec.shape) == len(graph.shape) and all(
        -1 in (ours, theirs) or ours == theirs
        for ours, theirs in zip(spec.shape, graph.shape, strict=True)
    )
    if text or not fits:
        raise ModelLoadError(
            f"{side} {name!r} is {spec.describe()} in the signature, but "
            f"{graph.describe()} in the {title}",
            invalid=True,
        )
    sizes = [
        theirs if ours == -1 and axis > 0 else ours
        for axis, (ours, theirs) in enumerate(zip(spec.shape, graph.shape, strict=True))
    ]
    datatype = spec.datatype if side == "input" else graph.datatype
    is_text = datatype == "BYTES"  # which in a graph is a string
    return TensorSpec(name=name, datatype=datatype, shape=tuple(sizes), text=is_text)


def batch_limit(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    graph_inputs: Mapping[str, TensorSpec],
    wanted: int,
) -> int:
    """Most rows of one request; 0 if the model has no batch dimension.

    Where the graph takes one row only, those of a request are executed one by one.
    """
    if not batches(inputs, outputs):
        return 0
    return min(_leading(graph_inputs) - {1} | {wanted})


def named_apart(
    inputs: Mapping[str, object], outputs: Mapping[str, object], *, made_up: re.Pattern[str]
) -> str:
    """Why the names of the first dimensions say that they are no batch; empty if they do not.

    Args:
        inputs, outputs: of each, the name of its first dimension; what is no text has none.
        made_up: names that an exporter gave, which say nothing.
    """
    given = {
        name: lead
        for name, lead in inputs.items()
        if isinstance(lead, str) and not made_up.fullmatch(lead)
    }
    if len({_one_name(lead) for lead in given.values()}) > 1:
        listed = ", ".join(f"{name!r} begins with {lead}" for name, lead in given.items())
        return f"its inputs have no first dimension in common: {listed}"
    if not given:
        return ""
    batch = next(iter(given.values()))
    for name, lead in outputs.items():
        if not isinstance(lead, str) or made_up.fullmatch(lead):
            continue
        if _one_name(lead) != _one_name(batch):
            return f"output {name!r} begins with dimension {lead}, the inputs with {batch}"
    return ""


def _one_name(lead: str) -> str:
    return "batch" if lead.lower() in BATCH_NAMES else lead


def batches(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether every input and every output begins with a dimension that is open."""
    return all(spec.shape[:1] == (-1,) for spec in [*inputs, *outputs])


def static_rows(
    max_batch_size: int, graph_inputs: Mapping[str, TensorSpec], title: str
) -> int | None:
    """The one batch size that the graph takes, or None if it takes any, or knows no batches.

    Raises:
        ModelLoadError: if its inputs want different ones.
    """
    if max_batch_size == 0:
        return None
    static = _leading(graph_inputs)
    if len(static) > 1:
        raise ModelLoadError(f"the {title} fixes batch sizes {sorted(static)}", invalid=True)
    return static.pop() if static else None


def _leading(graph_inputs: Mapping[str, TensorSpec]) -> set[int]:
    return {graph.shape[0] for graph in graph_inputs.values()} - {-1}
