"""What a load generator is told, and what it brings back; both cross a process boundary as files.

Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from load_tests.report.percentiles import Latency, latency_of, percentile

OK = "ok"

LAG_P99_MS_MAX = 5.0
"""A generator that is later than this is what is measured, instead of the server."""


@dataclass(frozen=True)
class LoadPlan:
    """One load.

    Attributes:
        requests: as they are sent; in turn.
        rate_rps: of an open loop; 0: a closed one, of `connections` clients.
        connections: of an open loop, the most that it opens.
        drain_s: longest wait for answers after the last request was sent.
        keep_answers: whether bodies are brought back, each different one once for each request.
    """

    port: int
    requests: Sequence[bytes]
    duration_s: float
    rate_rps: float = 0.0
    connections: int = 512
    seed: int = 1
    drain_s: float = 10.0
    keep_answers: bool = False

    def write(self, path: Path) -> None:
        """To a file."""
        path.write_bytes(msgpack.packb(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> LoadPlan:
        """From a file."""
        return cls(**msgpack.unpackb(path.read_bytes()))


@dataclass(frozen=True)
class KeptAnswer:
    """A body that came as an answer to one of the requests."""

    request: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Outcomes:
    """What became of all requests; arrays have an element for each.

    Attributes:
        began_at: when the load began.
        intended_s: when it was to be sent, from `began_at`; of a closed loop, when it was.
        lag_s: how much later the generator got to it.
        ended_s: when its fate was known.
        kind: index into `kinds`, of which the first is "ok".
        request: index into the plan's requests.
        answer: index into `answers`, or -1.
        duration_s: for which requests were sent.
    """

    began_at: float
    duration_s: float
    intended_s: NDArray[np.float64]
    lag_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    kind: NDArray[np.int64]
    request: NDArray[np.int64]
    answer: NDArray[np.int64]
    kinds: Sequence[str]
    answers: Sequence[KeptAnswer]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which were answered with a 200."""
        is_ok: NDArray[np.bool_] = self.kind == 0
        return is_ok

    @property
    def answered(self) -> int:
        """How many of them."""
        return int(self.ok.sum())

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """From the intended time, of all requests."""
        return (self.ended_s - self.intended_s) * 1000

    def latency(self) -> Latency:
        """Of those that were answered."""
        return latency_of(self.latency_ms[self.ok])

    @property
    def goodput_rps(self) -> float:
        """Answers per second, until the last one came."""
        last_s = self.ended_s[self.ok].max(initial=0.0)
        return self.answered / max(self.duration_s, float(last_s))

    @property
    def lag_p99_ms(self) -> float:
        """The generator's own lateness."""
        return percentile(self.lag_s * 1000, 99)

    @property
    def void(self) -> str:
        """Why this is no measurement, or empty."""
        lag_ms = self.lag_p99_ms
        if math.isnan(lag_ms):
            return "nothing was sent"
        return f"the generator was {lag_ms:.1f} ms late (p99)" if lag_ms > LAG_P99_MS_MAX else ""

    def errors(self) -> dict[str, int]:
        """How many failed, by kind."""
        counts = np.bincount(self.kind, minlength=len(self.kinds))
        return {
            kind: int(n) for kind, n in zip(self.kinds, counts, strict=True) if n and kind != OK
        }

    def write(self, path: Path) -> None:
        """To a file."""
        document = {
            name: value.tobytes() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }
        document["answers"] = [[a.request, dict(a.headers), a.body] for a in self.answers]
        path.write_bytes(msgpack.packb(document))

    @classmethod
    def read(cls, path: Path) -> Outcomes:
        """From a file."""
        document: dict[str, Any] = msgpack.unpackb(path.read_bytes())
        for name in ("intended_s", "lag_s", "ended_s"):
            document[name] = np.frombuffer(document[name], np.float64)
        for name in ("kind", "request", "answer"):
            document[name] = np.frombuffer(document[name], np.int64)
        document["answers"] = [KeptAnswer(*answer) for answer in document["answers"]]
        return cls(**document)
