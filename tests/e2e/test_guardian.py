"""The guardian, with real processes: a launcher that is killed leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.system import alive
from tests.support.waiting import wait_until

LAUNCHER = """
import asyncio, os, sys
from pathlib import Path
from penstock.deploy.local.up.guard import Guard
from penstock.deploy.local.up.processes import PYTHON, ProcessSpec, spawn

PARENT = '''
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
'''

async def main():
    lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    guard = Guard(lock)
    await guard.start()
    log = Path(sys.argv[2])
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    prefix = stubborn if sys.argv[3] == "stubborn" else ""
    child = await spawn(ProcessSpec("child", (*PYTHON, "-c", prefix + PARENT), log))
    guard.protect(child.pid)
    print(child.pid, guard.guardian_pid, flush=True)
    if sys.argv[4] == "kill_guardian":
        os.kill(guard.guardian_pid, 9)
        await asyncio.sleep(1.0)
        print(guard.guardian_pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("manners", ["polite", "stubborn"])
@pytest.mark.parametrize("before", ["nothing", "kill_guardian"])
def test_kill_9_ends_grandchildren_too(tmp_path: Path, manners: str, before: str) -> None:
    log = tmp_path / "child.log"
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path / "lock"), str(log), manners, before],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    child, guardian = (int(word) for word in launcher.stdout.readline().split())
    if before == "kill_guardian":
        guardian = int(launcher.stdout.readline())
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"), 10, "grandchild runs")
    grandchild = int(log.read_text())
    assert alive(child)
    assert alive(grandchild)
    assert alive(guardian)

    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    wait_until(lambda: not any(map(alive, (child, grandchild, guardian))), 8, "all have ended")
