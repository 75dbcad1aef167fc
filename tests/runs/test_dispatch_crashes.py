"""The dispatcher dies at each of its requests, before it reached the service or after, and is started again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from tests.builders import NOW, NOW_MS, Aws, message
from tests.worlds import Death, Died, World

pytestmark = pytest.mark.long


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something the dispatcher has to do, and how often the handler is called for it in the end."""

    arrange: Callable[[World], object]
    executions: int = 1
    statuses: tuple[tuple[str, int], ...] = (("succeeded", 1),)


def a_due_run(world: World) -> None:
    world.jobs.create("work", delay=timedelta(hours=1))
    world.clock.advance(hours=1)


def a_run_due_soon(world: World) -> None:
    world.jobs.create("work", delay=timedelta(hours=1))
    world.clock.advance(minutes=59)


def a_lost_message(world: World) -> None:
    world.jobs.create("work")
    world.queue.waiting.clear()
    world.clock.advance(minutes=2)


def a_lost_worker(world: World) -> None:
    world.aws.a_running_run(job_name="work", lease_until=NOW_MS, wake_at=NOW_MS)


def a_lost_worker_in_the_last_attempt(world: World) -> None:
    world.aws.a_running_run(job_name="work", attempt=2, lease_until=NOW_MS, wake_at=NOW_MS)


def a_lost_worker_of_a_run_to_be_canceled(world: World) -> None:
    world.aws.a_running_run(job_name="work", lease_until=NOW_MS, wake_at=NOW_MS, cancel_requested_at=NOW_MS - 1)


def a_living_worker(world: World) -> None:
    world.aws.a_running_run(job_name="work", lease_until=NOW_MS + 1, wake_at=NOW_MS)


def a_due_occurrence(world: World) -> None:
    world.jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW)


def an_occurrence_due_soon(world: World) -> None:
    world.jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW + timedelta(seconds=30))


def three_missed_occurrences(world: World, **settings: Any) -> None:
    world.jobs.create_schedule(
        "work",
        schedule_type="interval",
        schedule_expr="rate(10 minutes)",
        end_at=NOW + timedelta(minutes=30),
        **settings,
    )
    world.clock.advance(hours=2)


def three_occurrences_of_which_one_may_run(world: World) -> None:
    three_missed_occurrences(world, overlap="skip")


def all_at_once(world: World) -> None:
    for arrange in (a_due_occurrence, a_lost_worker, a_run_due_soon, a_due_run, a_lost_message):
        arrange(world)


CASES = {
    "due": Case(arrange=a_due_run),
    "due soon": Case(arrange=a_run_due_soon),
    "lost message": Case(arrange=a_lost_message),
    "lost worker": Case(arrange=a_lost_worker),
    "lost worker, last attempt": Case(
        arrange=a_lost_worker_in_the_last_attempt, executions=0, statuses=(("failed", 1),)
    ),
    "lost worker, to be canceled": Case(
        arrange=a_lost_worker_of_a_run_to_be_canceled, executions=0, statuses=(("canceled", 1),)
    ),
    "living worker": Case(arrange=a_living_worker),
    "occurrence": Case(arrange=a_due_occurrence),
    "occurrence soon": Case(arrange=an_occurrence_due_soon),
    "missed occurrences": Case(arrange=three_missed_occurrences, executions=3, statuses=(("succeeded", 3),)),
    "no overlap": Case(arrange=three_occurrences_of_which_one_may_run),
}


def dispatch_and_die(world: World, at: int, *, applied: bool, beside: tuple[str, ...] = ("query",)) -> Death:
    """Run the dispatcher in a process that dies at its ``at``-th request."""
    death = Death(at, applied=applied, beside=beside)
    mortal = world.another(dynamodb=death.wrap(world.aws.dynamodb), sqs=death.wrap(world.queue))
    with contextlib.suppress(Died):
        mortal.dispatch()
    return death


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_dispatcher_that_dies_between_any_two_requests_loses_nothing_and_doubles_nothing(
    aws: Aws, name: str, applied: bool
):
    case = CASES[name]
    died_at = 0
    while True:
        world = World(aws.dynamodb.client)
        case.arrange(world)
        if not dispatch_and_die(world, died_at + 1, applied=applied).came:
            break
        died_at += 1
        world.check()

        world.settle()

        assert world.statuses() == dict(case.statuses), f"after request {died_at}"
        assert len(world.executed) == case.executions, f"after request {died_at}"
        world.clock.advance(hours=3)
        world.settle()
        assert len(world.executed) == case.executions, f"after request {died_at}, later"
    assert died_at >= 2


@pytest.mark.parametrize("applied", [False, True])
def test_a_dispatcher_that_dies_again_and_again_gets_everything_done_in_the_end(aws: Aws, applied: bool):
    world = World(aws.dynamodb.client)
    all_at_once(world)
    for at in range(1, 40):
        if not dispatch_and_die(world, at, applied=applied, beside=()).came:
            break
        world.check()
        world.deliver()
        world.clock.advance(seconds=20)

    world.settle()

    assert world.statuses() == {"succeeded": 5}
    assert len(world.executed) == 5


@pytest.mark.parametrize("applied", [False, True])
def test_a_process_that_dies_while_it_creates_leaves_a_run_that_completes_or_none(aws: Aws, applied: bool):
    for at in (1, 2):
        world = World(aws.dynamodb.client)
        death = Death(at, applied=applied)
        mortal = world.another(dynamodb=death.wrap(world.aws.dynamodb), sqs=death.wrap(world.queue))
        with pytest.raises(Died):
            mortal.create("work")

        world.settle()
        assert len(world.executed) == len(world.runs()) == (1 if applied or at == 2 else 0)


@pytest.mark.parametrize("applied", [False, True])
def test_a_consumer_that_dies_at_any_request_leaves_a_run_that_completes(aws: Aws, applied: bool):
    for at in (1, 2, 3):
        world = World(aws.dynamodb.client)
        run_id = world.jobs.create("flaky")
        world.queue.waiting.clear()
        death = Death(at, applied=applied)
        mortal = world.another(dynamodb=death.wrap(world.aws.dynamodb), sqs=death.wrap(world.queue))
        with pytest.raises(Died):
            mortal.consume(message(run_id))
        world.check()

        world.settle()

        assert world.statuses() == {"succeeded": 1}


def test_an_occurrence_that_was_put_but_not_advanced_is_no_second_run_after_a_long_outage(aws: Aws):
    world = World(aws.dynamodb.client)
    schedule_id = world.jobs.create_schedule("work", schedule_type="cron", schedule_expr="0 13 * * *")
    world.clock.now = NOW + timedelta(hours=1)
    assert dispatch_and_die(world, 4, applied=False).came
    assert len(world.runs_of(schedule_id)) == 1
    world.deliver()
    world.clock.advance(days=2)

    assert world.tick().schedules == 2
    world.settle(rounds=10)

    assert len(world.runs_of(schedule_id)) == 3
    assert set(world.times_executed().values()) == {1}
