"""A child task for `test_child_task`: echoes, dies, or hangs with a child of its own."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from pydantic import BaseModel

from penstock.shared.process.child_task import TaskOutcome, answer


class EchoRequest(BaseModel):
    """What it is to do, and what to say."""

    do: str
    say: str = ""


class EchoOutcome(TaskOutcome):
    """What it was to say, and its folder."""

    said: str = ""
    folder: str = ""


def echo(folder: Path, request: EchoRequest) -> EchoOutcome:
    """Do as asked."""
    print("a library prints")
    if request.do == "die":
        raise RuntimeError(request.say)
    if request.do == "hang":
        sleeper = subprocess.Popen(["sleep", "60"])
        (folder / "pids.tmp").write_text(f"{os.getpid()} {sleeper.pid}")
        (folder / "pids.tmp").rename(folder / "pids")
        time.sleep(60)
    return EchoOutcome(said=request.say, folder=str(folder))


if __name__ == "__main__":
    answer(EchoRequest, echo)
