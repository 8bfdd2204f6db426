"""Bounds of dispatch, as the gateway's settings give them."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.gateway.dispatch.policies.throttle import ThrottleSettings
from penstock.gateway.dispatch.replicas import RevisionSettings
from penstock.shared.contracts.errors import ErrorCode


@dataclass(frozen=True)
class DispatchLimits:
    """Bounds of dispatch.

    Attributes:
        queue_limit: most open calls per model at this gateway; more are shed.
        queue_bytes_limit: most bytes of inputs of open calls at this gateway, of all models
            together; more are shed, and a model that has most of them is shed before the others.
        default_timeout_s: deadline of a call when neither it nor its model states one.
        max_timeout_s: no deadline is later than this.
        replica_wait_s: how long a call waits for a replica when none is connected.
        attempts_max: most attempts of one call, whatever their end.
        suspect_retry_s: how long a suspect waits when every replica holds another one.
        retry_codes: failures after which a call is tried at another replica.
        backoff_s, backoff_s_max: longest wait before a second retry, doubled for each further one,
            and its bound. The first one needs no wait, as it goes to a replica that is not busy.
        throttle: bounds of retries and hedges.
        revisions: how what is learned of a revision is used: admission, hedging, ejection.
    """

    queue_limit: int = 2048
    queue_bytes_limit: int = 1024 * 1024 * 1024
    default_timeout_s: float = 30.0
    max_timeout_s: float = 3600.0
    replica_wait_s: float = 5.0
    attempts_max: int = 8
    suspect_retry_s: float = 0.02
    retry_codes: frozenset[ErrorCode] = frozenset()
    backoff_s: float = 0.02
    backoff_s_max: float = 1.0
    throttle: ThrottleSettings = field(default_factory=ThrottleSettings)
    revisions: RevisionSettings = field(default_factory=RevisionSettings)
