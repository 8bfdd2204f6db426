"""`penstock logs`: the lines of a local system about a request, a job or a model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.commands.log_lines import Finder, LogLine, LogQuery, shown
from penstock.deploy.local.system.data_dir import DataDir

LINE_BYTES_MAX = 1 << 20
"""No line of ours is longer; a model may print without an end."""

FOLLOW_S = 0.5
"""How often logs are read for new lines."""


@dataclass
class _Position:
    """How far a log was read: which file, and how many bytes of it."""

    inode: int = 0
    offset: int = 0


class Logs:
    """All logs of a local system, each read once.

    Args:
        folder: where they lie.
        warn: told when a log began anew while it was followed.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn
        self._positions: dict[Path, _Position] = {}

    def all_lines(self) -> Iterator[bytes]:
        """Every line: the gateways' first, since they name what to look for in the others."""
        old, new = self._folder.glob("*.log.1"), self._folder.glob("*.log")
        for log in _gateways_first([*old, *new]):
            if log.suffix == ".1":  # moved away: it grew too long, or its system started again
                yield from self._read(log, _Position())
            else:
                yield from self._more_of(log)

    def new_lines(self) -> Iterator[bytes]:
        """What was written since the last call; only whole lines."""
        for log in _gateways_first(self._folder.glob("*.log")):
            yield from self._more_of(log)

    def _more_of(self, log: Path) -> Iterator[bytes]:
        try:
            status = log.stat()
        except FileNotFoundError:
            return  # it was moved away just now
        position = self._positions.setdefault(log, _Position(status.st_ino))
        if status.st_ino != position.inode or status.st_size < position.offset:
            self._warn(f"{log.name} began anew: its last lines may be missing here")
            position.inode, position.offset = status.st_ino, 0
        yield from self._read(log, position)

    def _read(self, log: Path, position: _Position) -> Iterator[bytes]:
        try:
            with log.open("rb") as file:
                file.seek(position.offset)
                while line := file.readline(LINE_BYTES_MAX):
                    if not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX:
                        return  # it is being written
                    position.offset += len(line)
                    yield line
        except FileNotFoundError:
            return
        except OSError as error:
            raise CommandError(f"{log}: {error.strerror}") from error


def _gateways_first(logs: Iterable[Path]) -> list[Path]:
    return sorted(logs, key=lambda log: (not log.name.startswith("gateway"), log.name))


def run_logs(query: LogQuery, data_dir: Path, *, follow: bool, as_json: bool) -> int:
    """Print the lines in order of time; returns the exit code, 1 if there are none.

    Raises:
        CommandError: if there are no logs, or they cannot be read.
    """
    folder = DataDir(data_dir.resolve()).logs
    if not folder.is_dir():
        raise CommandError(f"no logs in {data_dir}: `penstock up` did not run there")
    logs = Logs(folder, lambda text: print(f"penstock: {text}", file=sys.stderr))
    finder = Finder(query)
    try:
        found = [line for raw in logs.all_lines() for line in finder.feed(raw)]
        _print(found, as_json)
        while follow:
            time.sleep(FOLLOW_S)
            _print([line for raw in logs.new_lines() for line in finder.feed(raw)], as_json)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # as into `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if not found:
        print("penstock: no lines (a log of format `console` cannot be searched)", file=sys.stderr)
    return 0 if found else 1


def _print(lines: list[LogLine], as_json: bool) -> None:
    for line in sorted(lines, key=lambda line: line.at):
        text = line.raw.decode(errors="replace").rstrip("\n") if as_json else shown(line)
        print(text, flush=True)
