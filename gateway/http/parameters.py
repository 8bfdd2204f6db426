"""What a request says beside its tensors: deadline, priority, and parameters for the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.gateway.http.tensors.bad_input import bad_input, mismatch, quoted, shown
from penstock.shared.contracts.deployment import ParameterSpec
from penstock.shared.wire.messages import (
    PRIORITY_DEFAULT,
    PRIORITY_HIGHEST,
    PRIORITY_LOWEST,
    Parameters,
)

RESERVED = frozenset({"priority", "timeout", "headers", "binary_data_output"})
RESERVED_PREFIXES = ("sequence_", "triton_")

PARAMETERS_MAX = 64
"""Most parameters of one request: more belong into a tensor."""

PARAMETER_CHARACTERS_MAX = 8192
"""Most characters in names and strings of a request's parameters together. They travel in the
header of a message that other requests share, which is bounded."""

TIMEOUT_S_MAX = 365 * 86400.0
"""Longer timeouts mean no more than this one does."""


def as_object(what: str, value: Any) -> dict[str, Any]:
    """A member that must be an object; absent and null mean an empty one.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    if value is None:
        return {}
    if type(value) is not dict:
        raise mismatch(what, "an object", shown(value))
    return value


def as_boolean(what: str, value: Any) -> bool:
    """A member that must be true or false; null means false.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    if value is None:
        return False
    if type(value) is not bool:
        raise mismatch(what, "true or false", shown(value))
    return value


def priority_of(parameters: dict[str, Any]) -> int:
    """Triton's meaning: 1 (first) to 9 (last), 0 or absent for the default.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    value = parameters.get("priority")
    if value is None:
        return PRIORITY_DEFAULT
    if type(value) is not int or not 0 <= value <= PRIORITY_LOWEST:
        expected = (
            f"a whole number from {PRIORITY_HIGHEST} (first) to {PRIORITY_LOWEST} (last), or 0"
        )
        raise mismatch('parameter "priority"', expected, shown(value))
    return value or PRIORITY_DEFAULT


def timeout_s_of(parameters: dict[str, Any]) -> float | None:
    """The `timeout` parameter, which is in microseconds, in seconds; 0 or absent: None.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    value = parameters.get("timeout")
    if value is None:
        return None
    if type(value) is not int or value < 0:
        expected = "a whole number of microseconds, not negative"
        raise mismatch('parameter "timeout"', expected, shown(value))
    return min(value / 1e6, TIMEOUT_S_MAX) or None


def model_parameters(parameters: dict[str, Any], specs: Sequence[ParameterSpec] = ()) -> Parameters:
    """What the model is to be given: all but the protocol's own, sorted by name.

    Args:
        specs: what the model's signature says of parameters; it says nothing of others.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    kept: list[tuple[str, Any]] = []
    characters = 0
    kinds = {spec.name: spec.datatype for spec in specs}
    for name, value in parameters.items():
        if name in RESERVED or name.startswith(RESERVED_PREFIXES):
            continue
        if name.startswith("\0"):
            raise mismatch("parameters", "names of characters that are printed", quoted(name))
        if isinstance(value, list | dict):
            expected = "a string, a number, true or false"
            raise mismatch(f"parameter {quoted(name)}", expected, shown(value))
        _check_kind(name, value, kinds.get(name))
        characters += len(name) + (len(value) if isinstance(value, str) else 0)
        kept.append((name, value))
    if len(kept) > PARAMETERS_MAX or characters > PARAMETER_CHARACTERS_MAX:
        raise bad_input(
            f"parameters: expected at most {PARAMETERS_MAX} with {PARAMETER_CHARACTERS_MAX} "
            f"characters in all, got {len(kept)} with {characters}"
        )
    return tuple(sorted(kept, key=lambda pair: pair[0]))


_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "BOOL": ("true or false", (bool,)),
    "INT32": ("a whole number of 32 bits", (int,)),
    "INT64": ("a whole number of 64 bits", (int,)),
    "FP32": ("a number", (int, float)),
    "FP64": ("a number", (int, float)),
    "BYTES": ("a string", (str,)),
}
"""What values a parameter of each datatype takes, and how to call them."""

_INTEGER_LIMITS = {"INT32": 2**31, "INT64": 2**63}


def _check_kind(name: str, value: Any, datatype: str | None) -> None:
    """Compare a parameter with the model's signature, as MLflow does: numbers may widen, no more.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    if datatype is None or value is None:
        return
    expected, kinds = _KINDS[datatype]
    limit = _INTEGER_LIMITS.get(datatype)
    if type(value) not in kinds or (limit and not -limit <= value < limit):
        raise mismatch(f"parameter {quoted(name)}", expected, shown(value))


def output_is_binary(what: str, parameters: dict[str, Any], default: bool) -> bool:
    """Whether one requested output is to be sent as binary data.

    Raises:
        PenstockError: INVALID_INPUT, also for what would silently change the answer: Triton's
            classification and shared memory. Other parameters are ignored, as Triton does.
    """
    if parameters.get("classification"):
        raise bad_input(f'{what}: parameter "classification" is not supported')
    refuse_shared_memory(what, parameters)
    if "binary_data" not in parameters:
        return default
    return as_boolean(f'{what}: parameter "binary_data"', parameters["binary_data"])


def refuse_shared_memory(what: str, parameters: dict[str, Any]) -> None:
    """Raise INVALID_INPUT if a tensor is said to lie in memory shared with the client."""
    if "shared_memory_region" in parameters:
        raise bad_input(f'{what}: parameter "shared_memory_region" is not supported')
