"""Ours beside a peer: round by round in turn, so that whatever the machine does hits both.

Throughput on a shared machine may differ by half from one minute to the next; the ratio of rounds
that lie beside each other does not. Both servers stay started, unless one that is idle would
disturb the other (see `seat`).
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from load_tests.measuring.measure import closed_point, target, told
from load_tests.measuring.seat import Seat, Waiting
from load_tests.measuring.session import Session
from load_tests.models.reference import Reference, batch_of
from load_tests.report.ratios import Ratio, ratio_of
from load_tests.report.results import Point, ScenarioResult, Table, merge
from load_tests.report.tables import number
from load_tests.server import MAX_BATCH_SIZE, Encoding, Model, Server, ServerError
from load_tests.servers.bare import BareUvicorn

BINARY = (Encoding.BINARY, Encoding.MSGPACK)
"""A peer without the binary tensor extension may have msgpack for the same purpose."""


@dataclass(frozen=True)
class Plan:
    """What is compared, and how thoroughly.

    Attributes:
        pairs: rounds of each.
        waiting: what becomes of a server between its rounds.
    """

    pairs: int
    concurrencies: Sequence[int]
    waiting: Waiting = Waiting.AUTO


@dataclass(frozen=True)
class Pairing:
    """Rounds of ours and of a peer, in turn."""

    ours: Sequence[Point]
    theirs: Sequence[Point]

    def ratio(self, figure: Callable[[Point], float]) -> Ratio | None:
        """Ours by theirs."""
        return ratio_of([figure(p) for p in self.ours], [figure(p) for p in self.theirs])


@dataclass
class Comparison:
    """What is known of one model so far."""

    pairings: list[Pairing] = field(default_factory=list)
    seats: dict[str, tuple[str, str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def compare(
    session: Session, ours: Server, peers: Sequence[Server], model: Model, plan: Plan
) -> ScenarioResult:
    """Compare ours with every peer on one model; peers that fail are reported, with the reason.

    Raises:
        ServerError: if ours fails.
    """
    comparison = Comparison()
    baseline = _baseline(session, model, plan)
    our_seat = Seat(session, ours, model, plan.waiting)
    try:
        session.say(f"{model.name}: starting {ours.name}")
        our_seat.open(ours.encodings)
        comparison.seats[ours.name] = (our_seat.version, f"{our_seat.start_s:.1f}")
        for peer in peers:
            _with_peer(session, comparison, ours, our_seat, peer, model, plan)
        our_seat.verify(ours.encodings)
    finally:
        our_seat.close()
    return _result(model, comparison, baseline)


def matches(
    ours: Sequence[Encoding], theirs: Sequence[Encoding]
) -> list[tuple[Encoding, Encoding]]:
    """Which encodings of the two are compared: JSON with JSON, binary with the best of theirs."""
    pairs = [(Encoding.JSON, Encoding.JSON)]
    pairs += [(Encoding.BINARY, encoding) for encoding in BINARY]
    return [(mine, other) for mine, other in pairs if mine in ours and other in theirs]


def _with_peer(
    session: Session,
    comparison: Comparison,
    ours: Server,
    our_seat: Seat,
    peer: Server,
    model: Model,
    plan: Plan,
) -> None:
    seat = Seat(session, peer, model, plan.waiting)
    try:
        session.say(f"{model.name}: starting {peer.name}")
        seat.open(peer.encodings)
        comparison.seats[peer.name] = (seat.version, f"{seat.start_s:.1f}")
        for mine, theirs in matches(ours.encodings, peer.encodings):
            for connections in plan.concurrencies:
                pairing = _pairing(session, (our_seat, mine), (seat, theirs), connections, plan)
                comparison.pairings.append(pairing)
        seat.verify(peer.encodings)
    except (ServerError, OSError, http.client.HTTPException) as error:
        session.say(f"  {peer.name} failed: {error}")
        comparison.failures[peer.name] = str(error)
    finally:
        with contextlib.suppress(ServerError, OSError):
            seat.close()


def _pairing(
    session: Session,
    ours: tuple[Seat, Encoding],
    theirs: tuple[Seat, Encoding],
    connections: int,
    plan: Plan,
) -> Pairing:
    rounds: tuple[list[Point], list[Point]] = ([], [])
    for _ in range(plan.pairs):
        for (seat, encoding), points in zip((ours, theirs), rounds, strict=True):
            point = closed_point(seat.take(encoding), connections, session.duration_s)
            session.say(told(point))
            points.append(point)
            seat.rest()
    return Pairing(*rounds)


def _baseline(session: Session, model: Model, plan: Plan) -> Table:
    """What is below both: the model alone, and HTTP alone."""
    reference = Reference(model.path)
    rows = []
    for size in (1, MAX_BATCH_SIZE):
        us = reference.call_us(batch_of(model, size))
        rows.append([f"ONNX Runtime alone, batch of {size}", f"{us / size:.1f} µs per row"])
    server = BareUvicorn()
    running = server.start(model, session.new_folder(server.name))
    try:
        at = target(server.name, running, model, Encoding.JSON, session.samples(model))
        for connections in plan.concurrencies:
            point = closed_point(at, connections, session.duration_s)
            session.say(told(point))
            figures = f"{number(point.goodput_rps)}/s, CPU {number(point.cpu_us_all)} µs"
            rows.append([f"{server.name}, JSON, fixed answer, c={connections}", figures])
    finally:
        running.stop()
    return Table("Below both", ("what", "figures"), rows)


def _result(model: Model, comparison: Comparison, baseline: Table) -> ScenarioResult:
    header = (
        *("peer", "ours : theirs", "c", "req/s ours", "theirs", "ratio (quartiles; min..max)"),
        *("p50 ms", "p99 ms", "CPU µs/req", "CPU ratio", "errors", "PSS MiB"),
    )
    rows = [_row(pairing) for pairing in comparison.pairings]
    tables = [
        Table("Ours beside each peer, in turn; figures as ours : theirs", header, rows),
        _seats_table(comparison.seats),
        baseline,
    ]
    if comparison.failures:
        failed = [[name, reason] for name, reason in comparison.failures.items()]
        tables.append(Table("Not measured, or not to the end", ("peer", "reason"), failed))
    points = [merge(each) for pair in comparison.pairings for each in (pair.ours, pair.theirs)]
    return ScenarioResult(
        name=model.name,
        about=f"`{model.name}`, one inference process with one thread each; medians of rounds. "
        "Of throughput a ratio above 1 is good, of processor time one below 1.",
        points=points,
        tables=tables,
    )


def _seats_table(seats: Mapping[str, tuple[str, str]]) -> Table:
    rows = [[name, *figures] for name, figures in seats.items()]
    return Table("Servers", ("server", "version", "start to first answer, s"), rows)


def _row(pairing: Pairing) -> list[str]:
    ours, theirs = merge(pairing.ours), merge(pairing.theirs)

    def both(figure: Callable[[Point], float]) -> str:
        return f"{number(figure(ours))} : {number(figure(theirs))}"

    return [
        *(theirs.server, f"{ours.encoding} : {theirs.encoding}", str(ours.connections)),
        *(number(ours.goodput_rps), number(theirs.goodput_rps)),
        str(pairing.ratio(lambda point: point.goodput_rps) or "-"),
        both(lambda point: point.latency.p50_ms),
        both(lambda point: point.latency.p99_ms),
        both(lambda point: point.cpu_us_all),
        str(pairing.ratio(lambda point: point.cpu_us_all) or "-"),
        f"{ours.failed} : {theirs.failed}",
        both(lambda point: point.pss_mib_all),
    ]
