"""The seam between a measurement and a server: ours or a peer.

A measurement asks a `Server` to serve one model and gets a `Running` one, to which it sends what
the server makes of an input in an encoding. Every server speaks its own protocol; what they answer
is compared as arrays with onnxruntime's own answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
"""Shape [rows, width]."""

Inputs: TypeAlias = Rows | NDArray[np.int64]
"""What our own server is asked, beside rows: images of any shape, token ids."""

MAX_BATCH_SIZE = 32
MAX_QUEUE_DELAY_MS = 3
"""For peers that batch by waiting; ours never waits."""


class ServerError(Exception):
    """A server that cannot be set up, does not start, or answers wrongly."""


class NotHereError(ServerError):
    """This machine lacks what a scenario needs; nothing was measured."""


class Encoding(StrEnum):
    """How bodies are written."""

    JSON = "json"
    BINARY = "binary"  # the Open Inference Protocol's binary tensor extension
    MSGPACK = "msgpack"


@dataclass(frozen=True)
class Model:
    """A model to be served: one FP32 input `x` of shape [-1, width], one FP32 output `y`.

    Attributes:
        name: as servers know it.
        path: the `model.onnx`.
        width: elements of an input row.
        output_width: elements of an output row.
    """

    name: str
    path: Path
    width: int
    output_width: int


@dataclass(frozen=True)
class HttpRequest:
    """What a client sends by POST."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Running(Protocol):
    """A server that answers."""

    @property
    def port(self) -> int:
        """On 127.0.0.1."""
        ...

    @property
    def version(self) -> str:
        """Of the server's software."""
        ...

    def pids(self) -> Mapping[str, Sequence[int]]:
        """All processes of the server now, by role ("gateway", "replica", "server", ...)."""
        ...

    def request(self, encoding: Encoding, rows: Rows) -> HttpRequest:
        """The request that asks for the model's answer to some rows."""
        ...

    def answer(self, encoding: Encoding, headers: Mapping[str, str], body: bytes) -> Rows:
        """The model's output in the body of a 200. Header names are lower case.

        Raises:
            ServerError: if it holds none.
        """
        ...

    def stop(self) -> None:
        """End all of its processes; returns when they are gone."""
        ...


class Server(Protocol):
    """Something that can serve a model on one inference process with one thread."""

    @property
    def name(self) -> str: ...

    @property
    def encodings(self) -> Sequence[Encoding]:
        """What it reads."""
        ...

    def start(self, model: Model, work_dir: Path) -> Running:
        """Serve a model; returns once it has answered a request.

        Args:
            work_dir: an empty folder for configuration and logs.

        Raises:
            ServerError: saying what is wrong, with the end of the server's log.
        """
        ...
