"""How the loop of a replica waits, on real pipes and sockets."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest
import zmq

from penstock.worker.replica.poll import LINKS_REST_MS, Waiting

LONG_MS = 10_000


class Bench:
    """One urgent pipe and one link, both with a far end."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.link, self.gateway = (self.context.socket(zmq.PAIR) for _ in range(2))
        self.link.bind("inproc://link")
        self.gateway.connect("inproc://link")
        self.pipe, self.far_end = os.pipe()
        self.waiting = Waiting([self.pipe])
        self.waiting.poller.register(self.link, zmq.POLLIN)

    def wait(self, timeout_ms: int, *, busy: bool) -> tuple[set[object], float]:
        """What was ready, and after how many milliseconds."""
        began = time.monotonic()
        ready = self.waiting.wait(timeout_ms, busy=busy)
        return set(ready), (time.monotonic() - began) * 1000

    def request(self) -> None:
        self.gateway.send(b"request")

    def batch_ends(self) -> None:
        os.write(self.far_end, b"\0")

    def close(self) -> None:
        self.link.close()
        self.gateway.close()
        self.context.term()
        os.close(self.pipe)
        os.close(self.far_end)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_links_rest_while_a_batch_runs_and_are_read_then(bench: Bench) -> None:
    bench.request()
    ready, after_ms = bench.wait(LONG_MS, busy=True)
    assert ready == {bench.link}
    assert LINKS_REST_MS <= after_ms < LONG_MS


def test_the_end_of_a_batch_comes_with_what_lies_in_the_links(bench: Bench) -> None:
    bench.request()
    bench.batch_ends()
    assert bench.wait(LONG_MS, busy=True)[0] == {bench.link, bench.pipe}


@pytest.mark.parametrize("busy", [False, True])
def test_what_is_urgent_ends_the_wait(bench: Bench, busy: bool) -> None:
    bench.batch_ends()
    ready, after_ms = bench.wait(LONG_MS, busy=busy)
    assert ready == {bench.pipe}
    assert after_ms < LONG_MS


def test_an_idle_loop_reads_its_links_whatever_the_rest(bench: Bench) -> None:
    bench.request()
    assert bench.wait(LONG_MS, busy=False)[0] == {bench.link}


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("timeout_ms", [0, 1, LINKS_REST_MS, 3 * LINKS_REST_MS])
def test_nothing_is_ready_after_the_whole_timeout(
    bench: Bench, timeout_ms: int, busy: bool
) -> None:
    ready, after_ms = bench.wait(timeout_ms, busy=busy)
    assert ready == set()
    assert after_ms >= timeout_ms * 0.9  # clocks of timeouts are coarser than ours


def test_a_timeout_shorter_than_the_rest_still_reads_the_links(bench: Bench) -> None:
    bench.request()
    assert bench.wait(1, busy=True)[0] == {bench.link}


def test_a_descriptor_may_come_and_go_and_be_waited_for_to_take_more(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bench.waiting.add(ours.fileno())
        assert bench.wait(0, busy=False)[0] == set()
        bench.waiting.watch_writes(ours.fileno(), watch=True)
        for busy in (False, True):
            assert bench.wait(LONG_MS, busy=busy)[0] == {ours.fileno()}
        bench.waiting.watch_writes(ours.fileno(), watch=False)
        assert bench.wait(0, busy=False)[0] == set()
        theirs.send(b"word")
        assert bench.wait(LONG_MS, busy=True)[0] == {ours.fileno()}
        bench.waiting.remove(ours.fileno())
        assert bench.wait(0, busy=True)[0] == set()
