"""A peer as a `Server`, of its recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from load_tests.peers.process import Launch, ServerProcess, free_port
from load_tests.peers.recipes import Place, Recipe
from load_tests.peers.venvs import PeerVenv
from load_tests.server import Encoding, HttpRequest, Model, Rows, Running, ServerError

ROLE = "server"


class Peer:
    """Serves models by a peer's software, which is installed when it is first started."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.venv = PeerVenv(recipe.environment)

    @property
    def name(self) -> str:
        return self._recipe.name

    @property
    def encodings(self) -> Sequence[Encoding]:
        return self._recipe.protocol.encodings

    def start(self, model: Model, work_dir: Path) -> Running:
        """As `Server.start`."""
        self.venv.install()
        process = ServerProcess(work_dir)
        running = RunningPeer(self._recipe, self.venv, model, process, free_port())
        try:
            temporary = process.make_temporary()
            place = Place(model, self.venv, work_dir.resolve(), temporary, running.port)
            launch = self._recipe.launch(place)
            environment = {**self._recipe.environment_at(place), **launch.environment}
            process.start(Launch(launch.command, environment))
            running.wait_until_answers()
        except BaseException as error:
            process.stop()
            if isinstance(error, ServerError):
                raise ServerError(f"{self.name} does not start: {error}") from error
            raise
        return running


class RunningPeer:
    """A peer's processes, which serve one model."""

    def __init__(
        self, recipe: Recipe, venv: PeerVenv, model: Model, process: ServerProcess, port: int
    ) -> None:
        self._recipe = recipe
        self._venv = venv
        self._model = model
        self._process = process
        self.port = port

    @property
    def version(self) -> str:
        return self._venv.version(self._recipe.distribution) + self._recipe.version_note

    def pids(self) -> Mapping[str, Sequence[int]]:
        return {ROLE: self._process.pids()}

    def request(self, encoding: Encoding, rows: Rows) -> HttpRequest:
        return self._recipe.protocol.request(self._model.name, encoding, rows)

    def answer(self, encoding: Encoding, headers: Mapping[str, str], body: bytes) -> Rows:
        return self._recipe.protocol.answer(encoding, headers, body)

    def stop(self) -> None:
        self._process.stop()

    def wait_until_answers(self) -> None:
        """Ask for one row's answer, in the first of the encodings, until there is one.

        Raises:
            ServerError: with the end of the server's log.
        """
        encoding = self._recipe.protocol.encodings[0]
        request = self.request(encoding, np.zeros((1, self._model.width), np.float32))

        def check(headers: Mapping[str, str], body: bytes) -> None:
            shape = self.answer(encoding, headers, body).shape
            if shape != (1, self._model.output_width):
                raise ServerError(f"an answer of shape {shape}")

        self._process.wait_until_answers(self.port, request, check)
