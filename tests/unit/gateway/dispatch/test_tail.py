"""Hedges, retries, sheds and ejections, as dispatch makes them."""

from __future__ import annotations

import pytest

from penstock.gateway.dispatch.commands import Answered, CallFailed
from penstock.gateway.dispatch.counters import CancelReason, HedgeResult, ShedReason
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.policies.hedging import HedgeDenial
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.messages import Load, NackReason
from tests.unit.gateway.dispatch_world import World, table


def world_of(replicas: int, limits: DispatchLimits | None = None) -> World:
    world = World(limits, hedge=100.0)
    for _ in range(replicas):
        world.join()
    return world


def answer_of(world: World, number: int) -> Answered:
    outcome = world.outcomes[number]
    assert isinstance(outcome, Answered)
    return outcome


def test_a_slow_call_is_hedged_and_the_first_answer_wins() -> None:
    world = world_of(2)
    world.submit(1)
    assert world.dispatch.next_deadline() == pytest.approx(0.1)
    world.advance(0.1)
    assert [command.replica for command in world.sent.values()] in (["r1", "r2"], ["r2", "r1"])
    world.answer(2)
    assert answer_of(world, 1).answer.hedged == "won"
    assert answer_of(world, 1).answer.attempts == 2
    assert answer_of(world, 1).answer.before_s == pytest.approx(0.1)
    assert world.cancels == [1]
    counters = world.dispatch.counters
    assert counters.hedges[HedgeResult.WON] == 1
    assert counters.cancels[CancelReason.HEDGE] == 1


def test_a_hedge_that_loses_is_cancelled() -> None:
    world = world_of(2)
    world.submit(1)
    world.advance(0.1)
    world.answer(1)
    assert answer_of(world, 1).answer.hedged == "lost"
    assert world.cancels == [2]
    assert world.dispatch.counters.hedges[HedgeResult.LOST] == 1


def test_a_failure_says_whether_a_hedge_was_sent() -> None:
    world = world_of(2)
    for number, (wait_s, hedged) in enumerate([(0.1, "failed"), (0.01, "")]):
        world.submit(number)
        world.advance(wait_s)
        world.fail(next(iter(world.sent)), ErrorCode.MODEL_ERROR)
        outcome = world.outcomes[number]
        assert isinstance(outcome, CallFailed)
        assert outcome.error.hedged == hedged


def test_a_call_that_is_answered_in_time_is_not_hedged() -> None:
    world = world_of(2)
    world.submit(1)
    world.answer(1)
    world.advance(1.0)
    assert not world.sent
    assert answer_of(world, 1).answer.hedged == ""


def test_nothing_is_hedged_without_a_second_replica() -> None:
    world = world_of(1)
    world.submit(1)
    world.advance(5.0)
    assert len(world.sent) == 1


def test_a_replicas_calls_are_hedged_one_at_a_time() -> None:
    world = world_of(2)
    stuck = world.replicas.get("r2")
    assert stuck is not None
    stuck.draining = True
    for number in (1, 2, 3):
        world.submit(number)
    stuck.draining = False
    for attempt in (4, 5, 6):
        world.advance(0.1)
        assert [n for n, c in world.sent.items() if c.replica == "r2"] == [attempt]
        world.answer(attempt)
    assert world.dispatch.counters.denied[HedgeDenial.ONE_AT_A_TIME] == 2
    assert len(world.outcomes) == 3


def test_a_call_that_hung_both_replicas_is_the_culprit() -> None:
    world = world_of(2)
    for number in (1, 2):
        world.submit(number)
    first = world.sent[1].replica
    other = "r1" if first == "r2" else "r2"
    world.advance(0.1)
    (hedge,) = [n for n, c in world.sent.items() if n > 2 and c.replica == other]
    world.tell(first, executing=(1,))
    world.tell(other, executing=(hedge,))
    for name in (first, other):
        world.lose(name)
    world.join()
    while world.sent:
        world.answer(next(iter(world.sent)))
    assert world.code(1) is ErrorCode.REPLICA_CRASHED
    assert isinstance(world.outcomes[2], Answered)


def test_a_call_whose_replicas_die_at_about_the_same_time_is_no_culprit() -> None:
    world = world_of(2)
    world.submit(1)
    world.advance(0.1)
    world.tell(world.sent[1].replica, executing=(1,))
    for name in ("r1", "r2"):
        world.lose(name)
    world.join()
    (command,) = world.sent.values()
    assert command.request.suspect
    world.answer(command.request.attempt_id)
    assert isinstance(world.outcomes[1], Answered)


def test_a_suspect_that_was_cut_off_in_its_turn_has_another_one() -> None:
    world = World()
    for life in ("r1", "r2", "r3"):
        assert world.join(worker=life) == life
        if life == "r1":
            world.submit(1)
        else:
            world.lose(f"r{int(life[1]) - 1}")
            world.take_turn(max(world.sent))
            world.now += 1.0
    world.lose("r3")
    assert world.code(1) is ErrorCode.REPLICA_CRASHED


def test_a_replica_that_falls_silent_alone_in_a_suspects_turn_names_the_culprit() -> None:
    world = world_of(1)
    world.submit(1)
    world.join()
    world.lose("r1")
    world.take_turn(max(world.sent))
    world.now += 1.0
    world.join()
    world.lose("r2")
    assert world.code(1) is ErrorCode.REPLICA_CRASHED


def test_a_suspect_that_was_executed_before_is_not_held_to_its_time_in_queue() -> None:
    world = World()
    world.routes.take_table(table(2, "1", queue_timeout_ms=100.0))
    world.join()
    world.submit(1)
    world.advance(0.5)
    world.lose("r1")
    world.advance(0.5)
    world.join()
    (command,) = world.sent.values()
    assert command.request.queue_budget_us == 0
    world.answer(command.request.attempt_id)
    assert isinstance(world.outcomes[1], Answered)


def test_a_suspect_is_never_hedged() -> None:
    world = world_of(3)
    for number in range(1, 20):
        world.submit(number)
    world.advance(0.1)
    world.lose(world.sent[1].replica)
    for _ in range(20):
        world.advance(0.05)
        for attempt in [n for n in world.sent if n % 3 == 0][:1]:
            world.answer(attempt)
    calls = [a.call for a in world.dispatch._in_flight._attempts.values() if a.suspect]
    assert calls
    assert all(call.hedge is None for call in calls)


def test_denied_hedges_are_looked_at_more_and_more_rarely() -> None:
    world = World(hedge=5.0)
    world.join()
    world.join()
    for record in world.replicas:
        world.dispatch.load(record, Load(100, 8, 1000), 0.0)
    world.submit(1)
    looks = 0
    while world.now < 1.0:
        when = world.dispatch.next_deadline()
        assert when is not None
        world.advance(when - world.now)
        looks += 1
    assert 5 < looks < 15


def test_calls_behind_a_batch_that_hangs_are_hedged_freely() -> None:
    world = world_of(2)
    spare = world.replicas.get("r2")
    assert spare is not None
    spare.draining = True
    for number in (1, 2, 3):
        world.submit(number)
    spare.draining = False
    world.tell("r1", executing=(1,))
    world.advance(0.1)
    assert len([c for c in world.sent.values() if c.replica == "r2"]) == 3


def test_the_next_call_is_hedged_when_a_hedge_has_won() -> None:
    world = world_of(2)
    spare = world.replicas.get("r2")
    assert spare is not None
    spare.draining = True
    for number in (1, 2, 3):
        world.submit(number)
    spare.draining = False
    world.advance(0.1)
    for attempt in (4, 5, 6):
        world.answer(attempt)
    assert len(world.outcomes) == 3


def test_a_hedge_waits_for_a_word_of_the_slow_replica_or_for_its_time() -> None:
    world = world_of(2)
    world.submit(1)
    slow = world.replicas.get(world.sent[1].replica)
    assert slow is not None
    world.pass_time(0.1)
    assert len(world.sent) == 1
    assert world.probed == [slow.id], "it may have died of the call"
    world.pass_time(0.004)
    assert world.probed == [slow.id], "it is asked once"
    slow.heard_at = world.now
    world.pass_time(0.002)
    assert len(world.sent) == 2, "it lives"
    world.submit(3)
    silent = world.replicas.get(world.sent[3].replica)
    assert silent is not None
    world.pass_time(0.1)
    world.pass_time(0.03)
    assert len([sent for sent in world.sent.values() if sent.number == 2]) == 2


def test_a_call_that_its_replica_died_of_is_not_hedged_meanwhile() -> None:
    world = world_of(2)
    world.submit(1)
    first = world.sent[1].replica
    world.pass_time(0.1)
    world.pass_time(0.02)
    world.lose(first)
    assert [sent.request.suspect for sent in world.sent.values()] == [True]


def test_a_replica_that_is_silent_is_not_chosen_while_another_can_be_heard() -> None:
    """Whatever the hedging: with it off, no call is ever overdue."""
    world = World(hedge="off")
    silent, heard = world.join(), world.join()

    def chosen(now: float, heard_at: float, first: int) -> set[str]:
        world.now = now
        record = world.replicas.get(heard)
        assert record is not None
        record.heard_at = heard_at
        for number in range(first, first + 40):
            world.submit(number)
        return {world.sent[number].replica for number in range(first, first + 40)}

    assert chosen(0.3, 0.3, 1) == {silent, heard}  # a probe or two were missed, as happens
    assert chosen(0.4, 0.4, 41) == {heard}
    assert silent in chosen(1.2, 0.4, 81)  # nobody is heard: we were busy ourselves


def test_a_replica_with_overdue_calls_is_not_chosen_until_it_is_heard_again() -> None:
    world = world_of(2)
    for number in range(1, 7):
        world.submit(number)
    slow, fast = ("r1", "r2") if world.sent[1].replica == "r1" else ("r2", "r1")
    for attempt in [n for n, command in world.sent.items() if command.replica == fast]:
        world.answer(attempt)
    world.advance(0.1)
    while world.sent:
        for attempt in [n for n, command in world.sent.items() if command.replica == fast]:
            world.answer(attempt)
        world.advance(0.2)
    for number in range(20, 30):
        world.submit(number)
    assert {command.replica for command in world.sent.values()} == {fast}
    world.tell(slow, executing=())
    for number in range(30, 50):
        world.submit(number)
    assert slow in {command.replica for command in world.sent.values()}


def test_long_batches_are_no_reason_to_choose_another_replica() -> None:
    world = world_of(2)
    for number in range(1, 9):
        world.submit(number)
    held = [n for n, command in world.sent.items() if command.replica == "r1"]
    world.tell("r1", executing=tuple(held))
    replica = world.replicas.get("r1")
    assert replica is not None
    assert replica.overdue == 0
    world.advance(0.1)
    assert replica.overdue == len(held)
    world.tell("r1", executing=tuple(held))
    assert replica.overdue == len(held), "it may hang"


def test_what_waits_behind_a_culprit_is_innocent() -> None:
    world = world_of(1)
    world.submit(1)
    world.join()
    world.lose("r1")
    world.take_turn(max(world.sent))
    world.submit(2)
    world.lose("r2")
    assert world.code(1) is ErrorCode.REPLICA_CRASHED
    world.join()
    (command,) = world.sent.values()
    assert not command.request.suspect


def test_a_hedge_goes_on_when_the_first_attempt_is_refused_or_lost() -> None:
    world = world_of(3)
    world.submit(1)
    world.advance(0.1)
    world.nack(1, NackReason.FULL)
    assert sorted(world.sent) == [2, 3], "the next one starts at once"
    world.answer(2)
    assert answer_of(world, 1).answer.hedged == "won"
    world.submit(2)
    world.advance(0.1)
    world.lose(world.sent[4].replica)
    (hedge,) = world.sent
    world.answer(hedge)
    assert answer_of(world, 2).answer.hedged == "won"


def test_what_was_refused_for_want_of_room_starts_anew_after_a_drain() -> None:
    world = world_of(2)
    world.submit(1)
    world.nack(1, NackReason.FULL)
    world.nack(2, NackReason.DRAINING)
    (command,) = world.sent.values()
    world.answer(command.request.attempt_id)
    assert isinstance(world.outcomes[1], Answered)


def test_the_deadlines_of_hasty_clients_are_no_failures_of_replicas() -> None:
    world = world_of(2)
    for number in range(1, 300):
        world.submit(number, timeout_s=0.001)
        world.advance(0.002)
        world.submit(1000 + number)
        world.advance(0.01)
        world.answer(max(world.sent))
    assert world.dispatch._replicas.revision("m/1").ejection.ejections == 0


def test_an_expired_attempt_leaves_the_other_one_its_chance() -> None:
    world = world_of(2)
    world.submit(1)
    world.advance(0.1)
    world.fail(1, ErrorCode.QUEUE_TIMEOUT)
    assert not world.outcomes
    world.answer(2)
    assert answer_of(world, 1).answer.hedged == "won"


def test_a_models_own_error_is_final_for_both() -> None:
    world = world_of(2)
    world.submit(1)
    world.advance(0.1)
    world.fail(1, ErrorCode.MODEL_ERROR)
    assert world.code(1) is ErrorCode.MODEL_ERROR
    assert world.cancels == [2]


def test_the_budget_bounds_hedges() -> None:
    world = world_of(2)
    world.routes.take_table(table(2, "1", hedge=100.0))
    for number in range(1, 30):
        world.submit(number)
        world.advance(0.1)
        world.answer(max(world.sent))
        while world.sent:
            world.answer(min(world.sent))
    hedges = sum(world.dispatch.counters.hedges.values())
    assert 10 <= hedges <= 10 + 0.05 * 29
    assert world.dispatch.counters.denied[HedgeDenial.BUDGET] == 29 - hedges


def test_refusals_are_tried_elsewhere_until_the_throttle_says_no() -> None:
    world = world_of(2)
    for number in range(1, 201):
        world.submit(number)
        refused = max(world.sent)
        world.nack(refused, NackReason.FULL)
        if world.sent:
            world.answer(max(world.sent))
    counters = world.dispatch.counters
    answered = sum(isinstance(outcome, Answered) for outcome in world.outcomes.values())
    assert 50 <= answered <= 60
    assert counters.first_attempts == 200
    assert sum(counters.more_attempts.values()) == answered
    assert counters.sheds[ShedReason.REPLICAS_FULL] == 200 - answered


def test_named_failures_are_tried_at_another_replica_and_then_told() -> None:
    world = world_of(2, DispatchLimits(retry_codes=frozenset({ErrorCode.MODEL_ERROR})))
    world.submit(1)
    world.fail(1, ErrorCode.MODEL_ERROR)
    (again,) = world.sent.values()
    assert again.replica != ""
    world.fail(2, ErrorCode.MODEL_ERROR)
    assert world.code(1) is ErrorCode.MODEL_ERROR
    outcome = world.outcomes[1]
    assert isinstance(outcome, CallFailed)
    assert outcome.error.attempts == 2


def test_a_second_retry_waits_and_goes_to_the_third_replica() -> None:
    world = world_of(3)
    world.submit(1)
    world.nack(1, NackReason.FULL)
    world.nack(2, NackReason.FULL)
    assert not world.sent
    assert world.dispatch.parked == 1
    world.advance(0.02)
    (third,) = world.sent
    world.answer(third)
    assert answer_of(world, 1).answer.attempts == 3


def test_a_draining_replica_costs_no_tokens() -> None:
    world = world_of(2)
    world.submit(1)
    world.nack(1, NackReason.DRAINING)
    (model,) = world.dispatch.models()
    assert model.throttle.tokens == 100
    assert model.throttle.extra == 0


def test_a_call_that_may_not_wait_is_told_so_where_it_waits() -> None:
    world = World()
    world.routes.take_table(table(2, "1", queue_timeout_ms=200.0))
    world.submit(1)
    world.advance(0.2)
    assert world.code(1) is ErrorCode.QUEUE_TIMEOUT
    world.join()
    world.submit(2)
    assert world.sent[1].request.queue_budget_us == 200_000


def test_too_large_a_backlog_is_shed_with_a_time_to_come_back() -> None:
    world = world_of(1)
    for number in range(1, 5):  # replicas of the model take a second for each row
        world.submit(number)
        world.advance(1.0)
        world.answer(max(world.sent), infer_us=1_000_000 + number)
    admission = world.dispatch._replicas.revision("m/1").admission
    number = 10
    while admission.open_rows < 40:  # five batches of a second each
        world.submit(number, timeout_s=10.0)
        number += 1
    with pytest.raises(PenstockError, match="too much to do") as shed:
        world.submit(number, timeout_s=10.0)
    assert shed.value.code is ErrorCode.QUEUE_FULL
    assert shed.value.retry_after_s is not None
    assert world.dispatch.counters.sheds[ShedReason.BACKLOG] == 1


def test_a_replica_that_always_refuses_is_left_out_and_probed_back() -> None:
    world = world_of(2)
    number = 0
    while world.dispatch._replicas.revision("m/1").ejection.all_in:
        number += 1
        world.submit(number)
        attempt = max(world.sent)
        if world.sent[attempt].replica == "r1":
            world.nack(attempt, NackReason.FULL)
        if world.sent:
            world.answer(max(world.sent))
        assert number < 100
    for number in range(200, 220):
        world.submit(number)
        assert world.sent[max(world.sent)].replica == "r2"
        world.answer(max(world.sent))
    world.advance(1.1)
    sick = world.replicas.get("r1")
    assert sick is not None
    world.dispatch.load(sick, Load(0, 0, 0), world.now)
    tried = set()
    for number in range(300, 330):
        world.submit(number)
        tried.add(world.sent[max(world.sent)].replica)
        world.answer(max(world.sent))
    assert tried == {"r1", "r2"}
