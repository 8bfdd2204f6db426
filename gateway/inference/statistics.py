"""What became of this gateway's calls, in the counters of Triton's statistics extension; pure.

A gateway sees calls, not executions. An answer says how many rows its batch had, so a call of r
rows in a batch of b counts as r/b of an execution: the sum over all calls of all gateways is the
number of executions, and what one gateway shows is its share, rounded. Bounded: the versions that
were first seen longest ago are forgotten beyond a limit, as is what they counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

BATCH_SIZES_MAX = 64
"""Most batch sizes told apart per version; calls in batches of others count in the totals only."""


@dataclass(slots=True)
class BatchCounters:
    """Executions of one batch size; times are this gateway's share of theirs."""

    executions: float = 0.0
    parse_s: float = 0.0
    infer_s: float = 0.0
    encode_s: float = 0.0


@dataclass(slots=True)
class VersionCounters:
    """One version's totals since this gateway first called it; times in seconds.

    Attributes:
        last_at_ms: wall-clock time of the last answer, in milliseconds; 0: none yet.
        rows: rows of answered calls.
        executions: this gateway's share of executions.
        succeeded, failed: calls; a failed one that named no version counts for the default one.
        success_s, fail_s: from a request's headers to its answer.
        queue_s: in the gateway and in the replica's queue.
        parse_s, encode_s: spent on payloads in the gateway.
        infer_s: execution times of the calls' batches.
    """

    last_at_ms: int = 0
    rows: int = 0
    executions: float = 0.0
    succeeded: int = 0
    failed: int = 0
    success_s: float = 0.0
    fail_s: float = 0.0
    queue_s: float = 0.0
    parse_s: float = 0.0
    infer_s: float = 0.0
    encode_s: float = 0.0
    batches: dict[int, BatchCounters] = field(default_factory=dict)


class InferenceStatistics:
    """The counters of all versions.

    Args:
        max_versions: most versions kept.
    """

    def __init__(self, max_versions: int = 256) -> None:
        self._max_versions = max_versions
        self._versions: dict[tuple[str, str], VersionCounters] = {}

    def counters(self, model: str, version: str) -> VersionCounters:
        """What a version has counted so far; zeros if it was never called."""
        return self._versions.get((model, version)) or VersionCounters()

    def versions(self) -> Iterable[tuple[str, str]]:
        """Every model and version that has counted anything."""
        return self._versions.keys()

    def succeeded(
        self,
        model: str,
        version: str,
        rows: int,
        batch_rows: int,
        total_s: float,
        queue_s: float,
        parse_s: float,
        infer_s: float,
        encode_s: float,
        at_ms: int,
    ) -> None:
        """A call was answered; the arguments are named as in `VersionCounters`.

        Args:
            rows: of the call.
            batch_rows: of its batch; 0 if that is not known.
            total_s: from its headers to its answer.
        """
        counters = self._versions.get((model, version)) or self._new(model, version)
        share = rows / batch_rows if batch_rows else 1.0
        counters.last_at_ms = at_ms
        counters.rows += rows
        counters.executions += share
        counters.succeeded += 1
        counters.success_s += total_s
        counters.queue_s += queue_s
        counters.parse_s += parse_s
        counters.infer_s += infer_s
        counters.encode_s += encode_s
        batch = counters.batches.get(batch_rows)
        if batch is None:
            if not batch_rows or len(counters.batches) >= BATCH_SIZES_MAX:
                return
            batch = counters.batches[batch_rows] = BatchCounters()
        batch.executions += share
        batch.parse_s += parse_s
        batch.infer_s += infer_s * share
        batch.encode_s += encode_s

    def failed(self, model: str, version: str, total_s: float) -> None:
        """A call of a version that exists came to nothing."""
        counters = self._versions.get((model, version)) or self._new(model, version)
        counters.failed += 1
        counters.fail_s += total_s

    def _new(self, model: str, version: str) -> VersionCounters:
        if len(self._versions) >= self._max_versions:
            del self._versions[next(iter(self._versions))]
        counters = self._versions[model, version] = VersionCounters()
        return counters
