"""Requests of more rows than a model takes at a time: executed in pieces, answered as one.

Theory. A large request is let in as a whole (`penstock.gateway.dispatch.policies.admission`). Its
rows are then cut into pieces of `max_batch_size`, each of which is a call of its own to dispatch:
retried, hedged and counted as any other. Of a revision, no more pieces are out at a time than it
has replicas that are ready, whatever number of requests they belong to. So a small call waits for
one piece at most at whichever replica it comes to, and a large request is spread over all of them.
Requests of one class take turns, piece by piece; higher classes come first.

All pieces are pinned to one version, and have what is left of one deadline. What fails for one of
them fails the request, and says which rows; the pieces that are out are cancelled, as they are when
the client goes.

Rows are cut only where it was found that they do not depend on each other: if the request has
inputs that no trial had the like of, or parameters that the model knows, it is one execution,
whatever its size, as in MLflow's own server. So it is, too, from the first row on, if that finding
is withdrawn meanwhile, or if the pieces' answers do not fit together. If its version is replaced
meanwhile, and the client had named none, it begins again with the new one, within its deadline.

Used by `penstock.gateway.inference.service`, and part of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from penstock.gateway.dispatch.dispatch import Dispatch
from penstock.gateway.dispatch.intake import LargeTicket
from penstock.gateway.dispatch.replicas import Replicas
from penstock.gateway.inference.port import CallOutcome
from penstock.gateway.inference.types import InferenceAnswer, InferenceCall
from penstock.gateway.memory.held_bytes import OPEN, HeldBytes, HeldShare
from penstock.gateway.routing.traffic import Routes
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.process.clock import Clock
from penstock.shared.wire.rows import RowCutter, RowJoiner, RowsError, rows_named
from penstock.shared.wire.tensors import Tensor

BEGINNINGS_MAX: Final = 4
"""How often a request begins, as versions come and go; each time it loses what it had."""

OnOutcome = Callable[[CallOutcome], None]


class Calls(Protocol):
    """What carries out the pieces: the service."""

    def submit_piece(self, call: InferenceCall, on_outcome: OnOutcome) -> int:
        """Start a call, as `penstock.gateway.inference.port.Inference.submit` does."""
        ...

    def cancel(self, call_id: int) -> None:
        """Give it up."""
        ...


class Timer(Protocol):
    """Something that is to happen."""

    def cancel(self) -> None:
        """It is not to happen any more."""
        ...


Later = Callable[[float, Callable[[], None]], Timer]
"""Has something called after so many seconds."""


class Piece:
    """Rows of a large request that are out.

    Attributes:
        start, rows: which they are.
        call_id: their call's; None while it is being submitted.
    """

    __slots__ = ("call_id", "rows", "start")

    def __init__(self, start: int, rows: int) -> None:
        self.start = start
        self.rows = rows
        self.call_id: int | None = None

    def __repr__(self) -> str:
        return f"<Piece of rows {self.start} to {self.start + self.rows - 1}, call {self.call_id}>"


class LargeCall:
    """One large request that is open.

    Attributes:
        rows_per_piece: 0: it is one execution.
        cutter, joiner: of its inputs, and of its outputs.
        next_row: the first that was not sent yet.
        out: its pieces that are out.
        attempts: most that one of its pieces took.
        batch_rows: most rows in the execution of one.
        hedged: of the first of its pieces that was hedged.
        queue_s: until its first piece was executed; None: none was yet.
        beginnings: how often it began.
    """

    def __init__(
        self,
        call: InferenceCall,
        on_outcome: OnOutcome,
        ticket: LargeTicket,
        rows_per_piece: int,
        answer_share: HeldShare,
    ) -> None:
        self.call = call
        self.on_outcome = on_outcome
        self.ticket = ticket
        self.rows = call.inputs[0].rows
        self.answer_share = answer_share
        self.out: set[Piece] = set()
        self.attempts = self.batch_rows = 0
        self.hedged = ""
        self.beginnings = 0
        self.timer: Timer | None = None
        self.begin(rows_per_piece)

    def __repr__(self) -> str:
        return f"<LargeCall of {self.call.model!r}, {self.answered_rows} of {self.rows} rows>"

    @property
    def answered_rows(self) -> int:
        """Rows whose answer is there."""
        return self.rows - self.joiner.missing

    def begin(self, rows_per_piece: int) -> None:
        """Nothing of it was sent."""
        self.rows_per_piece = rows_per_piece
        self.cutter = RowCutter(self.call.inputs)
        self.joiner = RowJoiner(self.rows)
        self.next_row = 0
        self.queue_s: float | None = None
        self.beginnings += 1

    def late(self, timeout_s: float) -> PenstockError:
        """Its error once the deadline has passed."""
        done = f"{self.answered_rows} of {self.rows} rows were done"
        return PenstockError(
            ErrorCode.DEADLINE_EXCEEDED, f"no answer within {timeout_s:.3f} s: {done}"
        )


class LargeCalls:
    """See the module's docstring.

    Attributes:
        begun, pieces: requests and pieces of them so far.
    """

    def __init__(
        self,
        calls: Calls,
        dispatch: Dispatch,
        *,
        routes: Routes,
        replicas: Replicas,
        clock: Clock,
        later: Later,
        held: HeldBytes,
    ) -> None:
        self.begun = self.pieces = 0
        self._calls = calls
        self._dispatch = dispatch
        self._routes = routes
        self._replicas = replicas
        self._clock = clock
        self._later = later
        self._held = held
        self._open: dict[int, LargeCall] = {}
        self._waiting: dict[str, deque[LargeCall]] = {}  # by revision; none is empty
        self._out: dict[str, int] = {}  # pieces, by revision; none is 0

    def __len__(self) -> int:
        return len(self._open)

    def takes(self, call: InferenceCall) -> bool:
        """Whether a call has so many rows that it goes in pieces."""
        try:
            route = self._routes.resolve(call.model, call.version)
        except PenstockError:
            return False  # submitting it says why
        interface = self._replicas.interface(route.revision)
        return interface is not None and rows_per_piece(call, interface) > 0

    def submit(self, call_id: int, call: InferenceCall, on_outcome: OnOutcome) -> None:
        """Start a request that `takes` said goes in pieces.

        Raises:
            PenstockError: if it is not accepted; then `on_outcome` is never called.
        """
        now = self._clock.monotonic()
        ticket = self._dispatch.accept_large(call, call.inputs[0].rows, now)
        over = partial(self._over, call_id, on_outcome)
        rows = self._rows_per_piece(call, ticket.revision.id)
        large = LargeCall(call, over, ticket, rows, HeldShare(self._held, OPEN))
        self._open[call_id] = large
        self.begun += 1
        self._arm(large, now)
        self._enqueue(large)

    def cancel(self, call_id: int) -> bool:
        """Give a request up; False: it is none of ours."""
        large = self._open.pop(call_id, None)
        if large is None:
            return False
        self._clean(large)
        self._pump(large.ticket.revision.id)
        return True

    def _over(self, call_id: int, on_outcome: OnOutcome, outcome: CallOutcome) -> None:
        """A request has come to its end: tell it, once."""
        large = self._open.pop(call_id, None)
        if large is None:
            return
        self._clean(large)
        if isinstance(outcome, PenstockError):
            outcome.version = outcome.version or large.ticket.version
        on_outcome(outcome)
        self._pump(large.ticket.revision.id)

    def _clean(self, large: LargeCall) -> None:
        if large.timer is not None:
            large.timer.cancel()
        self._withdraw(large)
        self._dispatch.close_large(large.ticket)
        large.answer_share.release()

    def _withdraw(self, large: LargeCall) -> None:
        """Send no more of it, and cancel what is out."""
        revision = large.ticket.revision.id
        waiting = self._waiting.get(revision)
        if waiting is not None and large in waiting:
            waiting.remove(large)
            if not waiting:
                del self._waiting[revision]
        for piece in tuple(large.out):
            self._ended_one(large, piece)
            if piece.call_id is not None:
                self._calls.cancel(piece.call_id)

    def _ended_one(self, large: LargeCall, piece: Piece) -> None:
        """A piece is not out any more."""
        large.out.remove(piece)
        revision = large.ticket.revision.id
        self._out[revision] -= 1
        if not self._out[revision]:
            del self._out[revision]

    # Time

    def _arm(self, large: LargeCall, now: float) -> None:
        ticket = large.ticket
        at = min(ticket.deadline, ticket.start_by) if large.next_row == 0 else ticket.deadline
        large.timer = self._later(max(at - now, 0.0), partial(self._timer_fired, large))

    def _timer_fired(self, large: LargeCall) -> None:
        ticket, now = large.ticket, self._clock.monotonic()
        if now >= ticket.deadline:
            large.on_outcome(large.late(ticket.deadline - ticket.submitted))
        elif large.next_row == 0 and now >= ticket.start_by:
            message = f"no replica began within {now - ticket.submitted:.3f} s"
            large.on_outcome(PenstockError(ErrorCode.QUEUE_TIMEOUT, message, 1.0))
        else:
            self._arm(large, now)

    # Turns

    def _enqueue(self, large: LargeCall) -> None:
        revision = large.ticket.revision.id
        self._waiting.setdefault(revision, deque()).append(large)
        self._pump(revision)

    def _pump(self, revision: str) -> None:
        """Send pieces while replicas have none, the request's turn by turn."""
        while (waiting := self._waiting.get(revision)) is not None:
            ready = self._replicas.ready(revision, self._clock.monotonic())
            if self._out.get(revision, 0) >= max(len(ready), 1):
                return
            large = min(waiting, key=_priority)  # the first of those that are equal
            waiting.remove(large)
            if not waiting:
                del self._waiting[revision]
            self._send(large)

    def _send(self, large: LargeCall) -> None:
        """Send the next piece; if rows are left, the request waits for its next turn."""
        if self._is_not_to_be_cut(large):
            self._run_whole(large)
            return
        revision = large.ticket.revision.id
        piece = Piece(large.next_row, min(large.rows_per_piece or large.rows, large.cutter.left))
        inputs = large.call.inputs if not large.rows_per_piece else large.cutter.next(piece.rows)
        large.next_row += piece.rows
        large.ticket.sent(piece.rows)
        large.out.add(piece)
        self._out[revision] = self._out.get(revision, 0) + 1
        self.pieces += 1
        if large.next_row < large.rows:
            self._waiting.setdefault(revision, deque()).append(large)
        left_s = max(large.ticket.deadline - self._clock.monotonic(), 0.0)
        call = replace(
            large.call, version=large.ticket.version, inputs=inputs, timeout_s=left_s, piece=True
        )
        ended = partial(self._piece_ended, large, piece)
        try:
            piece.call_id = self._calls.submit_piece(call, ended)
        except PenstockError as error:
            ended(error)

    # What pieces come to

    def _piece_ended(self, large: LargeCall, piece: Piece, outcome: CallOutcome) -> None:
        if piece not in large.out:
            return  # it was cancelled
        self._ended_one(large, piece)
        if isinstance(outcome, PenstockError):
            self._failed(large, piece, outcome)
        else:
            self._answered(large, piece, outcome)

    def _answered(self, large: LargeCall, piece: Piece, answer: InferenceAnswer) -> None:
        if large.queue_s is None:
            now = self._clock.monotonic()
            large.queue_s = max(now - large.ticket.submitted - answer.infer_s, 0.0)
        large.attempts = max(large.attempts, answer.attempts)
        large.batch_rows = max(large.batch_rows, answer.batch_rows)
        large.hedged = large.hedged or answer.hedged
        if not large.rows_per_piece:
            self._done(large, answer, answer.outputs)
            return
        if self._is_not_to_be_cut(large):
            self._run_whole(large)
            return
        try:
            large.answer_share.resize(large.joiner.size_with(answer.outputs))
            large.joiner.add(piece.start, piece.rows, answer.outputs)
        except RowsError:
            self._run_whole(large)
            return
        except PenstockError as full:
            large.on_outcome(full)
            return
        if not large.joiner.missing:
            self._done(large, answer, large.joiner.outputs())
        else:
            self._pump(large.ticket.revision.id)

    def _done(self, large: LargeCall, last: InferenceAnswer, outputs: tuple[Tensor, ...]) -> None:
        took_s = self._clock.monotonic() - large.ticket.submitted
        queue_s = min(large.queue_s or 0.0, took_s)
        large.on_outcome(
            replace(
                last,
                outputs=outputs,
                queue_s=queue_s,
                infer_s=took_s - queue_s,
                attempts=large.attempts,
                batch_rows=large.batch_rows,
                hedged=large.hedged,
                before_s=0.0,
            )
        )

    def _failed(self, large: LargeCall, piece: Piece, error: PenstockError) -> None:
        if error.code is ErrorCode.VERSION_NOT_FOUND and large.call.version is None:
            self._begin_again(large, error)
        else:
            large.on_outcome(_told(large, piece, error))

    def _begin_again(self, large: LargeCall, error: PenstockError) -> None:
        """Its version is gone: begin again with the one that there is now."""
        call, ticket = large.call, large.ticket
        before = ticket.revision.id
        self._withdraw(large)
        try:
            route = self._routes.resolve(call.model, None)
        except PenstockError as none:
            large.on_outcome(none)
            return
        if large.beginnings >= BEGINNINGS_MAX:
            large.on_outcome(error)
            return
        revision = self._replicas.revision(route.revision)
        ticket.begin_again(route.version, revision, large.rows)
        large.answer_share.resize(0)
        large.begin(self._rows_per_piece(call, route.revision))
        self._enqueue(large)
        self._pump(before)

    def _rows_per_piece(self, call: InferenceCall, revision: str) -> int:
        """Where nothing is known of the model, all rows are one execution: that is always right."""
        interface = self._replicas.interface(revision)
        return 0 if interface is None else rows_per_piece(call, interface)

    def _is_not_to_be_cut(self, large: LargeCall) -> bool:
        """Whether it was cut, and its model turned out meanwhile to mix rows."""
        interface = self._replicas.interface(large.ticket.revision.id)
        if not large.rows_per_piece or interface is None:
            return False
        return not rows_per_piece(large.call, interface)

    def _run_whole(self, large: LargeCall) -> None:
        """Its rows are not to be cut after all: all of them in one execution, from the first on."""
        ticket = large.ticket
        self._withdraw(large)
        ticket.begin_again(ticket.version, ticket.revision, large.rows)
        large.answer_share.resize(0)
        large.begin(0)
        self._enqueue(large)


def rows_per_piece(call: InferenceCall, interface: ModelInterface) -> int:
    """Rows of each piece of a call; 0: it is one execution, whatever its size."""
    most = interface.max_batch_size
    if not most or not call.inputs or call.inputs[0].rows <= most:
        return 0
    known = {spec.name for spec in interface.parameters}
    if any(name in known for name, _ in call.parameters):
        return 0
    if interface.row_inputs is None:
        return most
    names = {tensor.name for tensor in call.inputs}
    return most if any(names == set(each) for each in interface.row_inputs) else 0


def _priority(large: LargeCall) -> int:
    return large.call.priority


def _told(large: LargeCall, piece: Piece, error: PenstockError) -> PenstockError:
    """The request's error where one of its pieces failed, with the attempts that it names."""
    if error.code is ErrorCode.DEADLINE_EXCEEDED:
        told = large.late(large.ticket.deadline - large.ticket.submitted)
    else:
        rows = rows_named(piece.start, piece.rows, large.rows)
        told = PenstockError(error.code, f"{rows}: {error.message}", error.retry_after_s)
    told.attempts, told.version = error.attempts, error.version
    told.hedged, told.failed = error.hedged, error.failed
    return told
