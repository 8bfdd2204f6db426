"""Shell completion: the script that we show, in shells that are there."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from typer.models import CommandInfo

from penstock.deploy.local.cli.completion import OFFERED_MAX, models_of_gateway, models_of_store
from penstock.deploy.local.cli.main import app
from tests.e2e.system import own_environment
from tests.unit.deploy.fake_gateway import JOB, FakeGateway, job

pytestmark = pytest.mark.costly

ROOT = Path(__file__).parents[4]

IN_BASH = """
eval "$(penstock --show-completion)"
COMP_WORDS=({words} {last})
COMP_CWORD={at}
_penstock_completion penstock
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With `penstock` on the path, as installed, and a home of its own."""
    program = tmp_path / "bin" / "penstock"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable} -P\nfrom penstock.deploy.local.cli.main import main\nmain()\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    return {
        **own_environment(),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(home),
    }


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway().serving() as made:
        yield made


def in_shell(shell: str, script: str, environment: Mapping[str, str]) -> str:
    """What a script prints in a shell without the user's own files; nothing goes wrong."""
    quiet = {"bash": ["--norc", "--noprofile"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *quiet, "-c", script],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def offered(line: str, environment: Mapping[str, str]) -> list[str]:
    """What bash offers at the end of a line."""
    *words, last = line.split(" ")
    script = IN_BASH.format(words=" ".join(words), last=last or "''", at=len(words))
    return in_shell("bash", script, environment).split()


def test_bash_completes_commands_and_options(environment: dict[str, str]) -> None:
    assert offered("penstock sta", environment) == ["status"]
    assert offered("penstock jobs re", environment) == ["retry"]
    assert offered("penstock gateway --redis", environment) == ["--redis-url"]
    assert offered("penstock wait m --for s", environment) == ["serving"]


def takes_model(command: CommandInfo) -> bool:
    return command.callback is not None and "model" in get_type_hints(command.callback)


@pytest.mark.parametrize(
    "command",
    [each for each in app.registered_commands if takes_model(each)],
    ids=lambda each: each.name,
)
def test_whatever_takes_a_model_has_its_name_completed(command: CommandInfo) -> None:
    assert command.callback is not None
    hints = get_type_hints(command.callback, include_extras=True)
    (asked,) = get_args(hints["model"])[1:]
    assert asked.autocompletion in (models_of_gateway, models_of_store)


def test_bash_completes_models_of_a_gateway_but_none_that_a_shell_could_read(
    environment: dict[str, str], gateway: FakeGateway
) -> None:
    names = ["digits", "digits-torch", "other", "digits two", "digits$(touch bad)", "digits'"]
    index = [{"name": name, "version": "1", "state": "READY"} for name in names]
    gateway.will("POST /v2/repository/index", (200, index))
    assert offered(f"penstock submit --url {gateway.url} dig", environment) == [
        "digits",
        "digits-torch",
    ]


def test_bash_completes_ids_of_the_newest_jobs(
    environment: dict[str, str], gateway: FakeGateway
) -> None:
    others = [job("queued", id=f"f{at:031x}") for at in range(3)]
    page = {"jobs": [job("failed"), *others], "next_cursor": None}
    gateway.will("GET /v2/jobs", (200, page))
    assert offered(f"penstock jobs show --url {gateway.url} 00", environment) == [JOB]
    assert offered(f"penstock jobs cancel --url {gateway.url} {JOB} f", environment) == [
        each["id"] for each in others
    ]
    assert [target for _, target, _, _ in gateway.asked] == [f"/v2/jobs?limit={OFFERED_MAX}"] * 2


def test_nothing_is_offered_and_nothing_said_where_no_system_runs(
    environment: dict[str, str], tmp_path: Path
) -> None:
    nowhere = tmp_path / "nothing"
    assert offered(f"penstock jobs show --data-dir {nowhere} 0", environment) == []
    assert offered(f"penstock wait --data-dir {nowhere} d", environment) == []


def test_a_look_that_never_ends_is_given_up_in_silence(environment: dict[str, str]) -> None:
    program = (
        "import threading; from penstock.deploy.local.cli.completion import within\n"
        "within(0.1, threading.Event().wait)\n"
        "print('it went on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_installed_for_bash(environment: dict[str, str]) -> None:
    said = in_shell("bash", "penstock --install-completion", environment)
    assert "bash completion installed" in said
    startup = Path(environment["HOME"], ".bashrc")
    loaded = f"source {shlex.quote(str(startup))}; complete -p penstock"
    assert "_penstock_completion" in in_shell("bash", loaded, environment)


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_completes(environment: dict[str, str], gateway: FakeGateway) -> None:
    page = {"jobs": [job("failed")], "next_cursor": None}
    gateway.will("GET /v2/jobs", (200, page))
    script = "eval (penstock --show-completion); complete -C '{}'"
    said = in_shell("fish", script.format("penstock sta"), environment)
    assert said.split("\t")[0] == "status"
    line = f"penstock jobs show --url {gateway.url} 0"
    said = in_shell("fish", script.format(line), environment)
    assert said.strip() == f"{JOB}\tmlp failed"


KEEP_LINE = "\x07"  # Control-G


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_completes(environment: dict[str, str], gateway: FakeGateway) -> None:
    gateway.will("GET /v2/jobs", (200, {"jobs": [job("failed")], "next_cursor": None}))
    jobs = f"penstock jobs show --url {gateway.url} "
    keep = "keep() { print -r -- $BUFFER >> $HOME/lines; BUFFER=; }; zle -N keep; bindkey ^G keep"
    typed = [
        'autoload -Uz compinit && compinit -u -D; eval "$(penstock --show-completion)"\n',
        f"{keep}\n",
        f"penstock sta\t{KEEP_LINE}",
        f"{jobs}0\t{KEEP_LINE}",
        "exit\n",
    ]
    type_in_zsh("".join(typed), environment)
    kept = Path(environment["HOME"], "lines").read_text().splitlines()
    assert [line.rstrip() for line in kept] == ["penstock status", f"{jobs}{JOB}"]


def type_in_zsh(text: str, environment: Mapping[str, str]) -> None:
    """Have somebody type at a terminal, until the shell there ends."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**environment, "TERM": "dumb"})
    os.write(terminal, text.encode())
    with contextlib.suppress(OSError):  # EIO: the shell has ended
        while os.read(terminal, 65536):
            pass
    os.close(terminal)
    os.waitpid(pid, 0)
