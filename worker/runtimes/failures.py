"""What an exception out of a model or a library means for what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.worker.runtimes.base import ExecutionError
from penstock.worker.session.outcomes import FailureKind

_OUT_OF_MEMORY_SIGNS = ("failed to allocate memory", "out of memory", "bad_alloc")
_FATAL_SIGNS = ("cuda error", "cuda failure", "device-side assert", "illegal memory access")
_OUT_OF_MEMORY_TYPES = ("MemoryError", "OutOfMemoryError")
_FATAL_TYPES = ("AcceleratorError",)
"""Of PyTorch, by name: those who do not use it need not import it."""


def kind_of(error: BaseException, device: str, *, trust_words: bool) -> FailureKind:
    """How an execution failed.

    Args:
        device: only a GPU can be of no more use.
        trust_words: the words are the library's own. A model's own code may repeat what a client
            sent, and no client is to end a replica by its words.
    """
    name = type(error).__name__
    words = str(error).lower() if trust_words else ""
    if name in _OUT_OF_MEMORY_TYPES or any(sign in words for sign in _OUT_OF_MEMORY_SIGNS):
        return FailureKind.OUT_OF_MEMORY
    if device != "cpu" and (name in _FATAL_TYPES or any(sign in words for sign in _FATAL_SIGNS)):
        return FailureKind.FATAL
    return FailureKind.INPUT


def readable(text: str) -> str:
    """A text that can be sent: halves of characters are shown, which no UTF-8 has."""
    return text.encode("utf-8", "backslashreplace").decode()


def execution_error(error: BaseException, device: str, *, trust_words: bool) -> ExecutionError:
    """What was raised while a model ran, in our words."""
    reason = readable(f"{type(error).__name__}: {error}")
    return ExecutionError(kind_of(error, device, trust_words=trust_words), reason)


@contextmanager
def as_execution_errors(device: str, *, trust_words: bool) -> Iterator[None]:
    """Turn whatever is raised inside into an `ExecutionError`, `sys.exit` included."""
    try:
        yield
    except ExecutionError:
        raise
    except BaseException as error:
        raise execution_error(error, device, trust_words=trust_words) from error
