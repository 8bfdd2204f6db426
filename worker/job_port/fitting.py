"""Does a job's input fit the model that is to execute it? Pure.

A gateway compared it with the version that the job was submitted for; the job may have been moved
to another one since, with another signature.
"""

from __future__ import annotations

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.wire.messages import Request
from penstock.shared.wire.packed_values import shown
from penstock.shared.wire.tensors import shape_fits


def misfit(request: Request, interface: ModelInterface) -> str:
    """Why a request is none for this model; empty if it is one."""
    given = {tensor.name: tensor for tensor in request.inputs}
    if interface.open_inputs:
        return "" if given else "it has no inputs"
    for spec in interface.inputs:
        tensor = given.pop(spec.name, None)
        if tensor is None:
            if not spec.optional:
                return f"input {spec.name!r} is missing"
        elif tensor.datatype != spec.datatype or not shape_fits(tensor.shape, spec.shape):
            got = f"{tensor.datatype}{list(tensor.shape)}".replace(" ", "")
            return f"input {spec.name!r} is {got}, expected {spec.describe()}"
    if given:
        return f"it has no input {shown(min(given))}"
    unknown = set(request.outputs) - {spec.name for spec in interface.outputs}
    if unknown:
        return f"it has no output {shown(min(unknown))}"
    if interface.max_batch_size and request.inputs and not request.inputs[0].rows:
        return "it has no rows"
    return ""
