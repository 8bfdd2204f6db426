"""Which statuses are written when."""

from __future__ import annotations

from penstock.registry_sync.daemon.status_queue import BACKOFF_MAX_S, StatusQueue
from penstock.registry_sync.sources.types import Status, StatusUpdate

ONE, TWO = (StatusUpdate("m", version, Status.LOADING) for version in ("1", "2"))
ONE_SERVES = StatusUpdate("m", "1", Status.SERVING)


def test_a_status_that_was_refused_waits_and_lets_others_pass() -> None:
    queue = StatusQueue(2.0)
    assert queue.replace([ONE, TWO])
    assert queue.next(0.0) == ONE
    queue.refused(ONE, 0.0)
    assert queue.next(0.0) == TWO
    queue.written(TWO)
    assert queue.next(1.9) is None
    assert queue.next(2.0) == ONE


def test_each_refusal_doubles_the_wait_up_to_a_bound_whatever_the_status_says() -> None:
    queue = StatusQueue(2.0)
    now, waits = 0.0, []
    for turn in range(40):
        update = (ONE, ONE_SERVES)[turn % 2]
        queue.replace([update])
        queue.refused(update, now)
        waited = next(n for n in range(1000) if queue.next(now + n) is not None)
        waits.append(waited)
        now += waited
    assert waits[:5] == [2, 4, 8, 16, 32]
    assert set(waits[5:]) == {BACKOFF_MAX_S}


def test_a_refusal_is_forgotten_once_the_status_was_written_or_is_as_wished() -> None:
    for forget in ("written", "as wished"):
        queue = StatusQueue(2.0)
        queue.replace([ONE])
        queue.refused(ONE, 0.0)
        if forget == "written":
            queue.written(ONE)
        queue.replace([])
        queue.replace([ONE])
        assert queue.next(0.0) == ONE


def test_all_are_due_when_the_registry_is_back() -> None:
    queue = StatusQueue(2.0)
    queue.replace([ONE, TWO])
    for update in (ONE, TWO):
        queue.refused(update, 0.0)
    assert queue.next(0.0) is None
    queue.forgive()
    assert queue.next(0.0) == ONE


def test_what_is_not_news_wakes_nobody() -> None:
    queue = StatusQueue(2.0)
    assert queue.replace([ONE])
    assert not queue.replace([ONE])
    assert queue.replace([ONE_SERVES])
    queue.written(ONE)  # what was written meanwhile is old
    assert queue.next(0.0) == ONE_SERVES
