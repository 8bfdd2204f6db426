"""What a replica counts, for its heartbeats."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Counters:
    """Totals since the replica's start; times in microseconds.

    Attributes:
        expired: requests that ran out of their deadline, or of their time in queue, in the queue.
        dispatched: batches by the reason of their release.
        batch_sizes: batches by size class; class n has at most 2**n rows, n the least.
        copied_bytes: of tensors, with the headers that they travel in, from socket to batch and
            back; the kernel's and the model's own copies are not counted.
    """

    requests: int = 0
    failures: int = 0
    expired: int = 0
    cancelled: int = 0
    rows: int = 0
    batches: int = 0
    infer_us: int = 0
    queue_us: int = 0
    copied_bytes: int = 0
    dispatched: dict[str, int] = field(default_factory=dict)
    batch_sizes: dict[int, int] = field(default_factory=dict)
