"""What a message's fields must be, and how messages name what they are instead."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from penstock.shared.contracts.errors import WireError

Packed: TypeAlias = tuple[Any, ...]
"""A msgpack array: written from tuples and read into tuples, which is cheaper than lists."""

INT64_MAX: Final = 2**63 - 1

_SHOWN_CHARACTERS = 40
"""How much of a name is repeated."""


def array_of(value: Any) -> Packed:
    """The value, if it is an array.

    Raises:
        WireError: if it is anything else.
    """
    if type(value) is not tuple:
        raise WireError(f"expected an array, got {type(value).__name__}")
    return value


def uint_of(value: Any) -> int:
    """The value, if it is a number from 0 to `INT64_MAX`.

    Raises:
        WireError: if it is anything else.
    """
    if type(value) is not int or not 0 <= value <= INT64_MAX:
        raise WireError(f"expected an unsigned integer, got {shown(value)}")
    return value


def bool_of(value: Any) -> bool:
    """The value, if it is a boolean.

    Raises:
        WireError: if it is anything else.
    """
    if type(value) is not bool:
        raise WireError(f"expected a boolean, got {type(value).__name__}")
    return value


def text_of(value: Any) -> str:
    """The value, if it is text.

    Raises:
        WireError: if it is anything else.
    """
    if type(value) is not str:
        raise WireError(f"expected a string, got {type(value).__name__}")
    return value


def bytes_of(value: Any) -> bytes:
    """The value, if it is bytes.

    Raises:
        WireError: if it is anything else.
    """
    if type(value) is not bytes:
        raise WireError(f"expected bytes, got {type(value).__name__}")
    return value


def shown(value: Any) -> str:
    """A value as messages have it: never all of what may be long."""
    if type(value) is str:
        return repr(value[:_SHOWN_CHARACTERS])
    if type(value) is tuple or type(value) is bytes or type(value) is dict:
        return type(value).__name__
    return f"{value!r:.40}"
