"""A replica process: one loaded model version that dials every gateway and answers its requests.

The loop waits on the gateways' sockets, the agent's control socket and the executor
(`penstock.worker.replica.poll`), hands what came to the session, and carries out the session's
commands: one envelope per gateway and turn. The loop owns all sockets; the executor, which has the
process's main thread since models may ask for that, never touches one. Batches that are surely
short run in the loop itself (`penstock.worker.session.short_runs`).

Previous stop of a request: `penstock.gateway.transport.router`, over `penstock.shared.wire.codec`.
Next: `penstock.worker.session.session`.
"""

from __future__ import annotations

import gc
import importlib.metadata
import math
import os
import threading
import time
from dataclasses import asdict
from functools import partial
from math import inf
from pathlib import Path
from typing import NoReturn

import zmq

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import WireError
from penstock.shared.contracts.findings import Finding, lower_of
from penstock.shared.process.telemetry import get_logger
from penstock.shared.process.tracing import Tracer
from penstock.shared.wire.codec import copied_on_send, decode, envelopes
from penstock.shared.wire.curve import read_worker_keys
from penstock.shared.wire.frames import has_unread, send_frames
from penstock.shared.wire.messages import Hello, Message
from penstock.worker.control.messages import (
    Drained,
    DrainNow,
    Found,
    Gateways,
    Heartbeat,
    LoadFailed,
    Lower,
    Ready,
    RouteChanged,
    Start,
    ToReplica,
)
from penstock.worker.control.replica_end import ControlSocket
from penstock.worker.job_line.messages import JOBS
from penstock.worker.jobs.side import Jobs
from penstock.worker.replica.executor import Executor, run_batch
from penstock.worker.replica.links import Links, receive
from penstock.worker.replica.loading import Loaded, NotLoaded, load
from penstock.worker.replica.orderly_end import OrderlyEnd
from penstock.worker.replica.poll import Waiting
from penstock.worker.replica.request_spans import RequestSpans
from penstock.worker.replica.short_of_memory import short_of_memory
from penstock.worker.runtimes.base import Runtime
from penstock.worker.session.batching import BatchLimits
from penstock.worker.session.commands import Command, End, Execute, Misfit, OutOfMemory, Send
from penstock.worker.session.outcomes import Completed, Failed, Outcome
from penstock.worker.session.run_limits import RunLimits
from penstock.worker.session.session import Session
from penstock.worker.trial.unbatched import unbatched

log = get_logger("replica")

ENVELOPES_PER_TURN = 64
"""Envelopes taken from one link before the others and the batch get their turn."""

COLLECT_AFTER = 10_000
"""Objects that garbage is collected after. Requests in flight come and go by the thousand without
being garbage; by default, every batch would be searched for some."""

EXIT_LOOP_FAILED = 1
EXIT_LOAD_FAILED = 3
EXIT_FATAL = 70


class ReplicaLoop:
    """The shell around a `Session`."""

    def __init__(self, start: Start, control: ControlSocket, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._spans = RequestSpans(tracer, start.model, start.version) if tracer else None
        self._start = start
        self._control = control
        self._context = zmq.Context()
        self._executor: Executor[Outcome | Loaded | NotLoaded] = Executor()
        self._waiting = Waiting([control.fileno(), self._executor.wake_fd])
        self._jobs = Jobs(start, start.jobs, self._waiting) if start.jobs is not None else None
        self._links = Links(self._context, self._waiting.poller, start.replica)
        self._runtime: Runtime | None = None
        self._finding: Finding | None = None
        self._session: Session | None = None
        self._gateways = start.gateways
        self._route = start.route.model_dump_json().encode() if start.route else b""
        self._next_heartbeat = 0.0
        self._told_of: float | None = None  # when the batch began that the agent was told of last
        self._has_more = False
        self._orderly_end = OrderlyEnd()

    def run(self, early: list[ToReplica]) -> None:
        """Load, then serve until drained; the process is to end when this returns.

        Call it on the main thread. `early` came with the start.
        """
        self._orderly_end.prepare()
        if self._start.keys_dir is not None:
            self._links.keys = read_worker_keys(Path(self._start.keys_dir))
        if self._jobs is not None:
            self._jobs.spawn()
        self._executor.submit(partial(load, self._start))
        threading.Thread(target=self._loop, args=(early,), name="loop", daemon=True).start()
        self._executor.run()

    def _loop(self, early: list[ToReplica]) -> NoReturn:
        try:
            for message in early:
                self._on_control(message)
            while True:
                busy = self._session is not None and self._session.executing_since is not None
                self._turn(self._waiting.wait(self._timeout_ms(), busy=busy))
        except BaseException:
            log.exception("the replica's loop failed")
            os._exit(EXIT_LOOP_FAILED)

    def _timeout_ms(self) -> int:
        if self._has_more:
            self._has_more = False
            return 0
        now = time.monotonic()
        deadline = self._session.next_deadline() if self._session else None
        wake = self._next_heartbeat if deadline is None else min(deadline, self._next_heartbeat)
        if self._jobs is not None and self._session is not None:
            wake = min(wake, self._jobs.next_deadline(now))
        return max(0, math.ceil((wake - now) * 1000))

    def _turn(self, ready: dict[object, int]) -> None:
        commands: list[Command] = []
        if self._control.fileno() in ready:
            for message in self._control.receive():
                commands += self._on_control(message)
        if self._executor.wake_fd in ready:
            for result in self._executor.collect():
                commands += self._on_result(result)
        now = time.monotonic()
        for name, link in self._links.readable(ready, now):
            commands += self._receive(name, link, now)
        if self._session is not None:
            if self._jobs is not None:
                commands += self._jobs.collect(self._session, ready, now)
            commands += self._session.advance(time.monotonic())
        self._carry_out(commands)
        if self._jobs is not None and self._session is not None:
            self._jobs.pull(self._session, now)

    def _on_control(self, message: ToReplica) -> list[Command]:
        match message:
            case Gateways():
                self._gateways = message.gateways
                return self._connect()
            case RouteChanged():
                self._route = message.route.model_dump_json().encode()
                return self._session.route_changed(self._route) if self._session else []
            case DrainNow():
                if self._session is None:
                    self._end(End(fatal=False))  # it never served
                return self._session.drain(time.monotonic(), message.grace_s)
            case Lower():
                return [*self._hold_to(message.finding)]
            case Start():
                return []

    def _on_result(self, result: Outcome | Loaded | NotLoaded) -> list[Command]:
        match result:
            case Completed() | Failed():
                assert self._session is not None
                if self._spans is not None:
                    self._spans.executed(result)
                return self._session.executed(result)
            case NotLoaded():
                self._control.send(LoadFailed(message=result.message, invalid=result.invalid))
                self._finish(EXIT_LOAD_FAILED)
            case Loaded():
                return self._serve(result)

    def _serve(self, loaded: Loaded) -> list[Command]:
        start, interface = self._start, loaded.runtime.interface
        limits = BatchLimits(
            max_batch_size=loaded.finding.rows_merged,
            max_queue_delay_s=start.settings.max_queue_delay_ms / 1000,
            queue_rows_max=start.queue_rows_max,
        )
        self._runtime, self._finding = loaded.runtime, loaded.finding
        timeout_ms = start.settings.execution_timeout_ms
        run_limits = RunLimits(
            execution_timeout_s=None if timeout_ms is None else timeout_ms / 1000,
            abandoned_grace_s=start.abandoned_grace_s,
            job_execution_s_max=start.jobs.execution_s_max if start.jobs else inf,
            jobs_only=start.duty == "jobs",
        )
        slice_ms = start.settings.job_slice_ms
        hello = self._hello(_announced(loaded.finding))
        self._session = Session(
            hello,
            interface,
            limits,
            loaded.latency,
            run_limits,
            job_slice_s=None if slice_ms is None else slice_ms / 1000,
            job_cancel_grace_s=start.jobs.cancel_grace_s if start.jobs else inf,
            tried=loaded.finding.tried,
            error_details=start.error_details,
        )
        if self._jobs is not None:
            self._jobs.start(interface)
        gc.collect()
        gc.freeze()  # what is loaded stays: collections need not look at it again
        gc.set_threshold(COLLECT_AFTER)
        provider, finding = loaded.runtime.provider, loaded.finding
        self._control.send(
            Ready(provider=provider, finding=finding, fresh=loaded.fresh, unmet=loaded.unmet)
        )
        log.info(
            "ready",
            provider=provider,
            max_batch_size=interface.max_batch_size,
            static_rows=finding.static_rows,
            note=finding.reason,
            unmet=loaded.unmet,
        )
        return self._connect()

    def _hello(self, interface: ModelInterface) -> Hello:
        start = self._start
        return Hello(
            replica=start.replica,
            worker=start.worker,
            model=start.model,
            version=start.version,
            revision=start.revision,
            interface=interface.model_dump_json().encode(),
            route=self._route,
            takes_calls=start.duty != "jobs",
        )

    def _connect(self) -> list[Command]:
        """Dial the gateways that are new, leave those that are gone."""
        if self._session is None:
            return []
        for name in self._links.follow(self._gateways, time.monotonic()):
            self._session.link_lost(name)
        return []

    def _receive(self, name: str, link: zmq.Socket[bytes], now: float) -> list[Command]:
        assert self._session is not None
        commands: list[Command] = []
        for _ in range(ENVELOPES_PER_TURN):
            frames = receive(link)
            if not frames:
                break
            self._session.counters.copied_bytes += len(frames[0])
            try:
                envelope = decode(frames)
            except WireError as error:
                log.warning("dropped an envelope", gateway=name, reason=error.message)
            else:
                if self._spans is not None:
                    for message in envelope.messages:
                        self._spans.received(name, message)
                commands += self._session.received(name, envelope, now)
            if not has_unread(link):
                break
        return commands

    def _carry_out(self, commands: list[Command]) -> None:
        outbox: dict[str, list[Message]] = {}
        execute: Execute | None = None
        ended: End | None = None
        for command in commands:
            if isinstance(command, Send):
                if self._spans is not None:
                    self._spans.sent(command.link, command.message)
                if command.link not in outbox:
                    outbox[command.link] = []
                outbox[command.link].append(command.message)
            elif isinstance(command, Execute):
                execute = command
            elif isinstance(command, Misfit | OutOfMemory):
                for told in self._lower(command):
                    outbox.setdefault(told.link, []).append(told.message)
            else:
                ended = command
        if JOBS in outbox and self._jobs is not None:
            self._jobs.ended(outbox.pop(JOBS), time.monotonic())
        for name, messages in outbox.items():
            self._send(name, messages)
        self._keep_beating()
        if execute is not None:
            self._execute(execute)
        if ended is not None:
            self._end(ended)

    def _lower(self, shown: Misfit | OutOfMemory) -> list[Send]:
        """An execution showed that the model allows less than was thought."""
        assert self._finding is not None
        if isinstance(shown, Misfit):
            return self._hold_to(
                unbatched(self._finding, f"{shown.reason} (seen when it was called)")
            )
        return self._hold_to(
            short_of_memory(self._finding, shown.rows, shown.rows_together, self._start.device)
        )

    def _hold_to(self, finding: Finding) -> list[Send]:
        """Be lowered to a finding, as far as it allows less than ours: tell agent and gateways.

        The runtime goes on with what it was, since requests that fit that wait in the queue.
        """
        if self._finding is None or self._session is None:
            return []
        lower = lower_of(self._finding, finding)
        if not lower.is_lower_than(self._finding):
            return []
        self._finding = lower
        self._control.send(Found(finding=lower))
        log.warning(
            "the model is held to less",
            max_batch_size=lower.interface.max_batch_size,
            rows_together=lower.rows_merged,
            reason=lower.reason,
        )
        return self._session.lowered(_announced(lower), lower.rows_merged)

    def _execute(self, execute: Execute) -> None:
        assert self._runtime is not None
        assert self._session is not None
        if self._spans is not None:
            self._spans.executing(execute.items, execute.reason)
        if self._jobs is not None:
            self._jobs.executing(self._session, execute.items)
            stream = self._jobs.stream(self._runtime, execute.items)
            if stream is not None:
                self._executor.submit(stream)
                return
        requests = [item.payload for item in execute.items]
        job = partial(run_batch, self._runtime, requests, execute.items)
        if not execute.short or not self._runtime.any_thread:
            self._executor.submit(job)
            return
        # Answers leave before more is read; then what waits gets its turn without delay.
        self._carry_out(self._on_result(job()))
        self._has_more = self._session.has_more

    def _send(self, name: str, messages: list[Message]) -> None:
        link = self._links.socket(name)
        if link is None or self._session is None:
            return
        for part, frames in envelopes(self._session.gateway_at(name), messages):
            self._session.counters.copied_bytes += copied_on_send(frames)
            try:
                send_frames(link, frames)
            except zmq.Again:
                log.warning("gateway does not read", gateway=name, dropped=len(part))

    def _keep_beating(self) -> None:
        """Tell the agent what is due. Called before each batch begins: it may hold the interpreter.

        A batch that the agent was told of and that is over is taken back at once, or the next one
        would be judged by its limit. That tells nothing of the next one, or each would be told of.
        """
        now = time.monotonic()
        began = self._session.executing_since if self._session else None
        due = now >= self._next_heartbeat
        if due or self._told_of not in (None, began):
            self._heartbeat(now, began if due else None)
            self._links.redial_silent(now)

    def _heartbeat(self, now: float, tell_of: float | None = None) -> None:
        """Tell the agent how things are, and of the batch that runs if its beginning is given."""
        self._next_heartbeat = now + self._start.heartbeat_interval_s
        session = self._session
        if session is None:
            self._control.send(Heartbeat())
            return
        self._told_of = tell_of
        ends_by = None if tell_of is None else session.batch_ends_by()
        self._control.send(
            Heartbeat(
                queued_rows=session.queued_rows,
                executing_rows=session.executing_rows,
                batch_ends_in_s=None if ends_by is None else ends_by - now,
                **asdict(session.counters),
            )
        )

    def _end(self, end: End) -> NoReturn:
        if end.fatal:
            log.error("the device or the model's process is of no more use")
            os._exit(EXIT_FATAL)
        if self._session is not None:
            self._heartbeat(time.monotonic())
        if self._jobs is not None:
            self._jobs.close()
        self._links.close()
        self._context.term()
        if self._tracer is not None:
            self._tracer.flush()
        self._control.send(Drained(replace=end.replace))
        log.info("ended with a job that nobody wants" if end.replace else "drained")
        if self._session is None or self._session.executing_since is not None:
            os._exit(0)  # the model is busy, and that is not to go on
        self._finish(0)

    def _finish(self, code: int) -> NoReturn:
        """Have the main thread end the process as Python does, within bounds."""
        self._orderly_end.begin(code, leave_main=self._executor.end)


def _announced(finding: Finding) -> ModelInterface:
    """What gateways are told."""
    try:
        version = importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return finding.announced.model_copy(update={"mlflow_version": version})
