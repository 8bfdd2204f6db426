"""Which calls are let in: those that can be expected to be answered in time, and no others.

Theory. A queue helps while it is short. Once more comes than can be done, a longer queue answers no
call more; it only makes each wait longer, until all of them miss their deadlines and nothing of
what is executed is still of use. So a call is shed, at once, when too much is in front of it.

"Too much" is a time here and not a number of calls. Limits on concurrency that learn (Netflix's
concurrency-limits with Vegas and Gradient2) compare round trips with what they were without load.
Batching blurs that: a batch of 32 may take as long as one row or 32 times as long, and most of a
round trip is the wait for the batch before. But replicas tell how large batches were and how long
they took, so the limit can follow from what it is for, as in Breakwater (OSDI 2020), which holds
queueing delay itself to a target. Ours is a share of the call's own timeout:

    expected time = bias * (intercept * batches + slope * rows)  <=  share * timeout

- *rows* are those in front of the call at the revision's replicas, divided by their number: our
  own, which are known exactly, and those of other gateways by the replicas' last reports. Replicas
  run higher classes and earlier deadlines first, so rows of lower classes, and of calls with far
  longer timeouts, are not in front.
- *intercept* and *slope* are a line through the times of recent batches (`BatchLine`). It says
  before it happens what larger batches will give: a burst after a quiet time is no overload. While
  only one size is known, others are taken to cost the same: rather too much is let in, until the
  next batch shows.
- *bias* is by how much expectations were wrong lately, as a factor: rows that cannot share a batch,
  work between batches, a processor that others use too. It makes the rule right where the line is
  not. A call that expires counts with the time that it had. Only calls that nothing can overtake
  are told from: the others may wait for what came after them, and that is not the replicas' doing.

Of the calls of one batch, which are answered together, the first one counts for all: a gateway that
has one row in each batch is to learn as soon as one that has all of them.

The expectation looks ahead; a limit that follows measured waits is late by one wait, and in that
time an overload of many times the capacity queues as many times too much.

What keeps estimates from doing harm: while nothing of ours is open, a call is let in whatever they
say, else a bad one would lock the model out for ever; and while what is in front fits into the
batches that run, nothing waits, and nearly all of the timeout may be used.

A *large* request, of more rows than a batch, is let in as a whole and then goes in pieces, one for
each replica at a time (`penstock.gateway.inference.large_calls`). It is expected to take what all
of its rows take, shared by the replicas, behind what runs before it and the rows of other large
requests; no small call waits for rows of it that were not sent yet.

Classes of priority have shares that differ, so that lower classes are shed first, and what is let
in of higher ones finds room. Aging keeps a class from starving: when nothing of it was let in for
`aging_s`, one call is let in as one of the highest class.

Invariants (tests/unit/gateway/dispatch/policies/test_admission.py): rows are counted once each;
nothing is shed while nothing is open; what is let in of one class is let in of each higher one,
unless it has aged; a class that asks again and again gets in, as long as the highest one would.
Overload, recovery and load without overload are played in
tests/unit/gateway/dispatch/test_overload.py.

Used by `penstock.gateway.dispatch.dispatch`, one for each revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp
from typing import Final

from penstock.shared.wire.messages import PRIORITY_DEFAULT, PRIORITY_HIGHEST, PRIORITY_LOWEST
from penstock.shared.wire.records import record

NEVER: Final = float("inf")

VARIANCE_MIN: Final = 1e-9
"""Below this, in rows squared, sizes do not vary, and a slope could be anything."""

BANDS = 32
"""Powers of two of timeouts that are told apart: from 2**-11 s, half a millisecond, to 12 days."""

SHORTEST_BAND = -11


@dataclass(frozen=True)
class AdmissionSettings:
    """How much is let in.

    Attributes:
        share_highest, share_default, share_lowest: of its timeout, what a call of that class may be
            expected to take; classes in between lie on straight lines. What the default leaves is
            for errors of the estimate, and for calls that are more important.
        share_unqueued: the same for calls that need not wait beyond the batch that runs.
        aging_s: how long a class is shut out before a call of it is treated as the highest class.
        batch_weight: weight of the newest batch in all averages: the last ten or twenty count.
        bias_min, bias_max: bounds of the correction; the upper one is for batches of one row where
            many would fit.
        surprise_max: most that one observation counts for, in multiples of what was expected: a
            pause of a second is no reason to shed.
        retry_after_s_max: longest wait that a client is advised.
        sheds: whether anything is shed at all.
    """

    share_highest: float = 0.7
    share_default: float = 0.55
    share_lowest: float = 0.3
    share_unqueued: float = 0.9
    aging_s: float = 1.0
    batch_weight: float = 0.1
    bias_min: float = 0.25
    bias_max: float = 64.0
    surprise_max: float = 4.0
    retry_after_s_max: float = 60.0
    sheds: bool = True

    def share(self, priority: int) -> float:
        """Of its timeout, what a call of this class may be expected to take."""
        if priority <= PRIORITY_DEFAULT:
            more = self.share_highest - self.share_default
            steps = (PRIORITY_DEFAULT - priority) / (PRIORITY_DEFAULT - PRIORITY_HIGHEST)
        else:
            more = self.share_default - self.share_lowest
            steps = (PRIORITY_DEFAULT - priority) / (PRIORITY_LOWEST - PRIORITY_DEFAULT)
        return self.share_default + more * steps


@record
class Ticket:
    """A call that was let in.

    Attributes:
        rows: its rows.
        priority: the class that it goes in with.
        band: the power of two of its timeout, counted from the shortest.
        batches, rows_in_all: what its time is expected from: batches until it is done, and rows in
            them, its own among them; 0 for a call that goes in with another class than its own.
    """

    rows: int
    priority: int
    band: int
    batches: int
    rows_in_all: float


class BatchLine:
    """A batch of n rows takes `intercept_s + slope_s * n` seconds; both 0 while nothing is known.

    Batches are as good as linear in their size (Clipper, NSDI 2017; Nexus, SOSP 2019). The line is
    fitted by exponentially weighted least squares, which needs four averages and no history. Time
    does not fall with the size, and grows at most in proportion to it. Where the sizes vary no
    more, what was known of the slope stays.

    Attributes:
        known: whether any batch was learned from.
    """

    __slots__ = (
        "_covariance",
        "_mean_rows",
        "_mean_s",
        "_variance",
        "intercept_s",
        "known",
        "slope_s",
    )

    def __init__(self) -> None:
        self.intercept_s = 0.0
        self.slope_s = 0.0
        self.known = False
        self._mean_rows = 0.0
        self._mean_s = 0.0
        self._variance = 0.0
        self._covariance = 0.0

    def __repr__(self) -> str:
        return f"<BatchLine {self.intercept_s:.6f} + {self.slope_s:.6f} * rows s>"

    def learn(self, rows: int, seconds: float, weight: float) -> None:
        """A batch of so many rows, at least one, took so long; the first one counts whole."""
        if not self.known:
            self.known = True
            weight = 1.0
        more_rows = rows - self._mean_rows
        more_s = seconds - self._mean_s
        self._mean_rows += weight * more_rows
        self._mean_s += weight * more_s
        rest = 1.0 - weight
        self._variance = rest * (self._variance + weight * more_rows * more_rows)
        self._covariance = rest * (self._covariance + weight * more_rows * more_s)
        slope_s = self.slope_s
        if self._variance > VARIANCE_MIN:
            slope_s = self._covariance / self._variance
        steepest_s = self._mean_s / self._mean_rows
        self.slope_s = slope_s = min(max(slope_s, 0.0), steepest_s)
        self.intercept_s = max(self._mean_s - slope_s * self._mean_rows, 0.0)


class Admission:
    """See the module's docstring. Every ticket is given back once, by `answered`, `expired` or
    `closed`."""

    __slots__ = (
        "_batch_rows_max",
        "_bias",
        "_foreign_rows",
        "_large_rows",
        "_last_band",
        "_last_batch_s",
        "_last_timeout_s",
        "_line",
        "_open_rows",
        "_replicas",
        "_rows_by_band",
        "_rows_by_class",
        "_settings",
        "_shares",
        "_shut_since",
    )

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self._shares = [settings.share(priority) for priority in range(PRIORITY_LOWEST + 1)]
        self._shut_since = [NEVER] * (PRIORITY_LOWEST + 1)
        self._replicas = 0
        self._foreign_rows = 0
        self._batch_rows_max = 1
        self._rows_by_band = [[0] * BANDS for _ in range(PRIORITY_LOWEST + 1)]
        self._rows_by_class = [0] * (PRIORITY_LOWEST + 1)
        self._open_rows = 0
        self._large_rows = 0
        self._line = BatchLine()
        self._bias = 1.0
        self._last_batch_s = 0.0
        self._last_timeout_s = 0.0
        self._last_band = 0

    def __repr__(self) -> str:
        return (
            f"<Admission {self._open_rows} rows open, {self._replicas} replicas, {self._line}, "
            f"bias {self._bias:.2f}>"
        )

    @property
    def open_rows(self) -> int:
        """Rows of calls that were let in and are not over."""
        return self._open_rows

    @property
    def large_rows(self) -> int:
        """Rows of large requests that were let in and wait to be sent."""
        return self._large_rows

    @property
    def bias(self) -> float:
        """By what expectations are multiplied."""
        return self._bias

    def replicas_told(self, ready: int, foreign_rows: int, max_batch_size: int) -> None:
        """How many replicas are ready, what they hold of other gateways, and their largest batch.

        Called when a replica reports its load, or readiness changes; not for each call.
        """
        self._replicas = ready
        self._foreign_rows = foreign_rows
        self._batch_rows_max = max(max_batch_size, 1)

    def admit(
        self, rows: int, priority: int, timeout_s: float, now: float, *, in_any_case: bool = False
    ) -> Ticket | None:
        """Let a call in, or shed it (None): see `retry_after_s`.

        Args:
            in_any_case: it is a piece of a large request that was let in, and is never shed.
        """
        if timeout_s != self._last_timeout_s:  # nearly all calls of a model have the same
            self._last_timeout_s, self._last_band = timeout_s, _band(timeout_s)
        band = self._last_band
        ahead = self._rows_ahead(priority, band)
        rows_in_all = ahead / (self._replicas or 1) + rows
        batches = self._batches(rows_in_all)
        line = self._line
        expected_s = self._bias * (line.intercept_s * batches + line.slope_s * rows_in_all)
        if self._open_rows and self._replicas and self._settings.sheds and not in_any_case:
            unqueued = ahead <= self._batch_rows_max * self._replicas
            share = self._settings.share_unqueued if unqueued else self._shares[priority]
            if expected_s > share * timeout_s:
                if (
                    not self._aged(priority, now)
                    or expected_s > self._shares[PRIORITY_HIGHEST] * timeout_s
                ):
                    return None
                self._shut_since[priority] = NEVER
                priority, batches, rows_in_all = PRIORITY_HIGHEST, 0, 0.0
        if self._shut_since[priority] != NEVER:
            self._shut_since[priority] = NEVER
        self._rows_by_band[priority][band] += rows
        self._rows_by_class[priority] += rows
        self._open_rows += rows
        return Ticket(rows, priority, band, batches, rows_in_all)

    def admit_large(self, rows: int, priority: int, timeout_s: float) -> bool:
        """Whether a request that goes in pieces is let in; its rows then count for others like it
        until `large_sent` says that they were sent, or are not to be."""
        replicas = self._replicas or 1
        in_front = self._rows_ahead(priority, _band(timeout_s)) + self._large_rows
        rows_each = (in_front + rows) / replicas
        line = self._line
        expected_s = line.intercept_s * self._batches(rows_each) + line.slope_s * rows_each
        late = self._bias * expected_s > self._shares[priority] * timeout_s
        busy = self._open_rows or self._large_rows
        if late and busy and self._replicas and self._settings.sheds:
            return False
        self._large_rows += rows
        return True

    def large_sent(self, rows: int) -> None:
        """So many rows of a large request that was let in do not wait any more."""
        self._large_rows -= rows

    def large_begins_again(self, rows: int) -> None:
        """A large request that was let in before waits here now, with so many rows."""
        self._large_rows += rows

    def retry_after_s(self, priority: int, timeout_s: float) -> float:
        """When what is now in front of a call that was shed will be done, in seconds from now."""
        ahead = self._rows_ahead(priority, _band(timeout_s))
        in_all = ahead / (self._replicas or 1) + 1
        line = self._line
        expected_s = line.intercept_s * self._batches(in_all) + line.slope_s * in_all
        return min(expected_s * self._bias, self._settings.retry_after_s_max)

    def answered(self, ticket: Ticket, took_s: float, batch_rows: int, infer_s: float) -> None:
        """A call was executed, in its first attempt, well.

        Args:
            took_s: from its sending to its answer.
            batch_rows: rows in its batch.
            infer_s: execution time of that batch.
        """
        self.closed(ticket)
        if batch_rows <= 0 or infer_s == self._last_batch_s:
            return  # another call of the batch that was learned from just now
        self._last_batch_s = infer_s
        weight = self._settings.batch_weight
        self._line.learn(batch_rows, infer_s, weight)
        self._learn_bias(ticket, took_s, weight)

    def expired(self, ticket: Ticket, took_s: float) -> None:
        """A call was not answered in time, in its first attempt, which had lasted so long."""
        self.closed(ticket)
        if not self._line.known:
            self._line.learn(1, took_s, 1.0)  # all we know: let in one after the other
        else:
            weight = self._settings.batch_weight * min(ticket.rows / self._batch_rows_max, 1.0)
            self._learn_bias(ticket, took_s, weight, at_least=True)

    def take_over(self, ticket: Ticket) -> None:
        """A call that another revision had let in comes here; it is not asked about again."""
        self._rows_by_band[ticket.priority][ticket.band] += ticket.rows
        self._rows_by_class[ticket.priority] += ticket.rows
        self._open_rows += ticket.rows

    def closed(self, ticket: Ticket) -> None:
        """A call is over in any other way: nothing is learned."""
        self._rows_by_band[ticket.priority][ticket.band] -= ticket.rows
        self._rows_by_class[ticket.priority] -= ticket.rows
        self._open_rows -= ticket.rows

    def _rows_ahead(self, priority: int, band: int) -> float:
        """Rows that run before a call of this class and timeout, on all replicas together.

        Of those of other gateways, the same share is taken to be in front as of our own.
        """
        total, foreign = self._open_rows, self._foreign_rows
        if not total:
            return foreign
        bands = self._rows_by_band[priority]
        own = bands[band]
        if own != total:
            own = sum(self._rows_by_class[:priority]) + sum(bands[: band + 1])
        return own + foreign * own / total if foreign else own

    def _overtaken(self, ticket: Ticket) -> bool:
        """Whether anything is open that runs before calls like this one."""
        bands, band = self._rows_by_band[ticket.priority], ticket.band
        if bands[band] == self._open_rows:
            return False
        return any(self._rows_by_class[: ticket.priority]) or any(bands[:band])

    def _batches(self, rows_in_all: float) -> int:
        """Batches until so many rows of one replica are done; none joins the one that runs."""
        most = self._batch_rows_max
        if rows_in_all > most:
            return -int(-rows_in_all // most)
        return 2 if self._open_rows or self._foreign_rows else 1

    def _aged(self, priority: int, now: float) -> bool:
        """Whether a class was shut out for long enough; notes that it is."""
        since = self._shut_since[priority]
        if since == NEVER:
            self._shut_since[priority] = now
            return False
        return now - since >= self._settings.aging_s

    def _learn_bias(
        self, ticket: Ticket, took_s: float, weight: float, *, at_least: bool = False
    ) -> None:
        """Compare what a call took with what the line, as it is now, says of it.

        What the line has learned meanwhile is not to be learned twice.
        """
        if self._overtaken(ticket):
            return
        settings, bias = self._settings, self._bias
        line = self._line
        line_s = line.intercept_s * ticket.batches + line.slope_s * ticket.rows_in_all
        if line_s <= 0.0:
            return
        factor = min(took_s / line_s, settings.surprise_max * bias)
        if at_least and factor < bias:
            return
        bias += weight * (factor - bias)
        self._bias = min(max(bias, settings.bias_min), settings.bias_max)


def _band(timeout_s: float) -> int:
    return min(max(frexp(timeout_s)[1] - SHORTEST_BAND, 0), BANDS - 1)
