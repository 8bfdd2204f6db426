"""Domain errors: a code, a message for the caller, and whether a retry can help.

    PenstockError
     +- WireError            bytes from a peer that are no message of ours
     +- StateStoreError      the control plane could not be reached
         +- LeaseLostError   a write carried a lease token that is no longer the current one
         +- StoreFullError   the store has no room for another job

Web statuses are not known here; `penstock.gateway.http.errors` maps codes to them in one table.
"""

from __future__ import annotations

from enum import StrEnum

from penstock.shared.wire.records import record


class ErrorCode(StrEnum):
    """What went wrong with a call, in the domain's words."""

    INVALID_INPUT = "invalid_input"
    MODEL_NOT_FOUND = "model_not_found"
    VERSION_NOT_FOUND = "version_not_found"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    BODY_TIMEOUT = "body_timeout"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    FOREIGN_ORIGIN = "foreign_origin"
    UNKNOWN_HOST = "unknown_host"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    CANCELLED = "cancelled"
    MODEL_ERROR = "model_error"
    OUT_OF_MEMORY = "out_of_memory"
    REPLICA_CRASHED = "replica_crashed"
    NO_READY_REPLICA = "no_ready_replica"
    NOT_SERVABLE = "not_servable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    SHUTTING_DOWN = "shutting_down"
    UNAVAILABLE = "unavailable"
    STORE_FULL = "store_full"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    NOT_OFFERED = "not_offered"
    JOB_NOT_FOUND = "job_not_found"
    JOB_STATE = "job_state"
    JOB_GONE = "job_gone"
    INTERNAL = "internal"


RETRYABLE = frozenset(
    {
        ErrorCode.QUEUE_FULL,
        ErrorCode.QUEUE_TIMEOUT,
        ErrorCode.NO_READY_REPLICA,
        ErrorCode.SHUTTING_DOWN,
        ErrorCode.UNAVAILABLE,
        ErrorCode.STORE_FULL,
    }
)
"""Codes after which the same request may succeed a little later."""


@record
class FailedAttempt:
    """An attempt that a call failed with, in the words that the replica's log has for it."""

    attempt: int
    replica: str
    worker: str


class PenstockError(Exception):
    """An error of the domain.

    Args:
        code: what went wrong.
        message: a sentence for the caller; it never holds a traceback or a library's inner text.
        retry_after_s: when a retry may help, in seconds from now, if that is known.

    Attributes:
        attempts: how often the call was sent to a replica.
        version: the version that was to answer; empty if none was chosen.
        hedged: `failed` if one of these was a hedge; empty otherwise.
        failed: those that came to an error, were lost with their replica or were too late.
    """

    attempts: int = 0
    version: str = ""
    hedged: str = ""
    failed: tuple[FailedAttempt, ...] = ()

    def __init__(self, code: ErrorCode, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.code in RETRYABLE

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code.value!r}, {self.message!r})"


class WireError(PenstockError):
    """Bytes that are not a message of this protocol version."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INTERNAL, message)


class StateStoreError(PenstockError):
    """The control plane's store did not answer, or answered nonsense."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.UNAVAILABLE) -> None:
        super().__init__(code, message)


class LeaseLostError(StateStoreError):
    """A write was refused because its lease token is not the current one."""


class StoreFullError(StateStoreError):
    """The store takes no more jobs: its memory, or our share of it, is used up."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ErrorCode.STORE_FULL)
