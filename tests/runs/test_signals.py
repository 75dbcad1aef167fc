"""What waits and signals promise: early, late and twice are right, and no signal is lost, whoever races."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError

from kumofire_core import InvalidArgumentError, InvalidJSONError, JobContext, Jobs
from kumofire_core.model.steps import MAX_STEP_BYTES
from kumofire_core.model.times import from_ms
from tests.builders import NOW, Aws, Clock, message
from tests.faults import Outage
from tests.runs.test_steps import Reversing, kept
from tests.worlds import Death, Died, World, a_world

DAY = timedelta(days=1)


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as made:
        yield made


def waits(jobs: Jobs, **arguments: Any) -> None:
    """Register the job ``order``, whose runs wait for ``go`` and return its payload."""
    jobs.handler("order", max_attempts=1)(lambda ctx: ctx.wait_for("go", **arguments))


def a_waiting_run(world: World, **arguments: Any) -> str:
    waits(world.jobs, **arguments)
    run_id = world.jobs.create("order")
    [result] = world.deliver()
    assert (result.outcome, result.reason) == ("retried", "waiting")
    return run_id


def test_a_waiting_run_is_woken_by_its_signal_and_gets_the_payload(world: World):
    run_id = a_waiting_run(world)
    run = world.jobs.get_status(run_id)
    assert (run.status, run.waiting_for, run.attempts) == ("scheduled", "go", ())
    world.clock.advance(hours=3)

    assert world.jobs.signal(run_id, "go", {"by": "Ann"})
    assert world.jobs.get_status(run_id).waiting_for is None
    [result] = world.deliver()

    assert result.outcome == "succeeded"
    run = world.jobs.get_status(run_id)
    assert (run.output, run.failed_attempts, run.finished_at) == ({"by": "Ann"}, 0, NOW + timedelta(hours=3))


def test_a_signal_may_come_before_the_run_waits_for_it(world: World):
    waits(world.jobs)
    run_id = world.jobs.create("order", delay=60)

    assert world.jobs.signal(run_id, "go", 1)
    assert not world.jobs.signal(run_id, "go", 2)
    world.clock.advance(seconds=60)

    assert [result.outcome for result in world.deliver()] == ["succeeded"]
    assert world.jobs.get_status(run_id).output == 1


def test_a_signal_may_come_while_the_handler_is_executing(world: World):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> Any:
        assert world.jobs.signal(ctx.run.id, "go", 5)
        return ctx.wait_for("go")

    run_id = world.jobs.create("order")

    assert [result.outcome for result in world.deliver()] == ["succeeded"]
    assert world.jobs.get_status(run_id).output == 5


def test_the_first_payload_stays_and_a_second_signal_is_refused(world: World):
    run_id = a_waiting_run(world)

    assert world.jobs.signal(run_id, "go", "first")
    assert not world.jobs.signal(run_id, "go", "second")
    world.settle()

    assert world.jobs.get_status(run_id).output == "first"


@pytest.mark.parametrize("payload", [None, 0, "", [], {"a": 1}], ids=repr)
def test_every_json_payload_arrives(world: World, payload: Any):
    run_id = a_waiting_run(world)
    assert world.jobs.signal(run_id, "go", payload)
    world.deliver()

    run = world.jobs.get_status(run_id)
    assert (run.status, run.output) == ("succeeded", payload)


def test_a_signal_of_another_name_is_kept_and_does_not_wake(world: World):
    run_id = a_waiting_run(world)

    assert world.jobs.signal(run_id, "other", 1)

    assert world.jobs.get_status(run_id).waiting_for == "go"
    assert world.queue.due() == []
    assert world.jobs.signal(run_id, "go", 2)
    world.settle()
    assert [(step.name, step.kind, step.result) for step in world.jobs.steps(run_id)] == [
        ("go", "wait", 2),
        ("other", "signal", 1),
    ]


def test_a_run_may_wait_for_several_signals_one_after_the_other(world: World):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> list[Any]:
        return [ctx.wait_for(name) for name in ("a", "b", "c")]

    run_id = world.jobs.create("order")
    world.deliver()
    for name in ("c", "b", "a"):
        assert world.jobs.signal(run_id, name, name * 2)
        world.deliver()

    assert world.jobs.get_status(run_id).output == ["aa", "bb", "cc"]


def test_a_wait_that_is_over_raises_and_fails_the_run_at_once(world: World):
    world.jobs.handler("order", max_attempts=5)(lambda ctx: ctx.wait_for("go", timeout=timedelta(hours=2)))
    run_id = world.jobs.create("order")
    world.deliver()
    assert world.jobs.get_status(run_id).scheduled_for == NOW + timedelta(hours=2)

    world.settle()

    run = world.jobs.get_status(run_id)
    assert (run.status, run.error_type, run.failed_attempts) == ("failed", "WaitTimeoutError", 1)
    assert "no signal 'go' came until 2026-03-14T14:00:00+00:00" in run.last_error
    assert run.finished_at == NOW + timedelta(hours=2)


@pytest.mark.parametrize("default", [None, "nobody", {"a": 1}], ids=repr)
def test_a_wait_that_is_over_returns_its_default(world: World, default: Any):
    run_id = a_waiting_run(world, timeout=timedelta(hours=2), default=default)

    world.settle()

    run = world.jobs.get_status(run_id)
    assert (run.status, run.output) == ("succeeded", default)


def test_a_signal_that_comes_after_the_timeout_is_refused(world: World):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> Any:
        late = ctx.wait_for("go", timeout=60, default="late")
        ctx.sleep(DAY)
        return late

    run_id = world.jobs.create("order")
    world.deliver()
    world.clock.advance(seconds=61)
    world.deliver()

    assert not world.jobs.signal(run_id, "go", "here")
    world.settle()
    assert world.jobs.get_status(run_id).output == "late"


def test_a_signal_that_comes_after_the_timeout_and_before_the_run_has_looked_wins(world: World):
    run_id = a_waiting_run(world, timeout=60, default="late")
    world.clock.advance(hours=5)

    assert world.jobs.signal(run_id, "go", "here")
    world.settle()

    assert world.jobs.get_status(run_id).output == "here"


def test_a_timeout_is_fixed_by_the_first_call(world: World):
    run_id = a_waiting_run(world, timeout=timedelta(hours=1), default="over")
    for _ in range(3):
        world.clock.advance(minutes=10)
        assert world.jobs.run_now(run_id)
        assert world.deliver()[0].reason == "waiting"

    world.settle()

    assert world.jobs.get_status(run_id).finished_at == NOW + timedelta(hours=1)


def test_a_wait_of_no_length_looks_once(world: World):
    waits(world.jobs, timeout=0, default="nothing")
    run_id = world.jobs.create("order")

    assert [result.outcome for result in world.deliver()] == ["succeeded"]
    assert world.jobs.get_status(run_id).output == "nothing"


def test_a_run_that_waits_looks_by_itself_once_a_day(world: World):
    run_id = a_waiting_run(world)

    assert go_on(world, timedelta(days=3, hours=1)) == "waiting"

    assert world.aws.item(run_id)["suspensions"] == 4
    assert world.jobs.get_status(run_id).waiting_for == "go"


def go_on(world: World, length: timedelta) -> str | None:
    """Let time pass from one moment at which something happens to the next; return why the last run was suspended."""
    ends = world.clock.now + length
    reason = None
    while world.clock.now < ends:
        world.tick()
        for result in world.deliver():
            reason = result.reason
        moments = [visible_at for visible_at, _ in world.queue.waiting]
        moments += [from_ms(item["wake_at"]) for item in world.runs() if "wake_at" in item]
        world.clock.now = max(world.clock.now + timedelta(seconds=1), min([*moments, ends]))
    return reason


def test_a_signal_to_a_run_that_has_ended_or_is_unknown_leaves_nothing(world: World):
    waits(world.jobs, timeout=0, default=None)
    run_id = world.jobs.create("order")
    world.deliver()
    before = world.aws.items()

    assert not world.jobs.signal(run_id, "other", 1)
    assert not world.jobs.signal("nobody", "go", 1)
    assert not world.jobs.signal("\n", "go", 1)

    assert world.aws.items() == before


def test_a_signal_costs_a_read_a_put_an_update_and_a_message(world: World):
    run_id = a_waiting_run(world)
    world.aws.dynamodb.requests.clear()
    world.queue.requests.clear()

    world.jobs.signal(run_id, "go")

    assert [operation for operation, _ in world.aws.dynamodb.requests] == ["get_item", "put_item", "update_item"]
    assert [operation for operation, _ in world.queue.requests] == ["send_message"]


@pytest.mark.parametrize(
    ("name", "payload", "error", "text"),
    [
        (5, None, InvalidArgumentError, "the name of a signal must be a string, not int"),
        ("", None, InvalidArgumentError, "the name of a signal must have 1 to 100 characters, not 0"),
        ("go", {1}, InvalidJSONError, "the payload of a signal is not JSON"),
        ("go", "x" * MAX_STEP_BYTES, InvalidJSONError, f"a signal has room for {MAX_STEP_BYTES}"),
    ],
)
def test_a_wrong_signal_is_refused_and_nothing_is_written(
    world: World, name: Any, payload: Any, error: type[Exception], text: str
):
    run_id = a_waiting_run(world)
    before = world.aws.items()

    with pytest.raises(error, match=text):
        world.jobs.signal(run_id, name, payload)

    assert world.aws.items() == before


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_signal_whose_sender_died_is_found_within_a_day_and_a_second_call_wakes_at_once(
    world: World, at: int, applied: bool, again: bool
):
    run_id = a_waiting_run(world)
    death = Death(at, applied=applied)
    dying = world.another(dynamodb=death.wrap(world.aws.dynamodb), sqs=death.wrap(world.queue))
    with contextlib.suppress(Died):
        dying.signal(run_id, "go", "first")
    assert death.came
    arrived = at > 2 or (at == 2 and applied)
    if again:
        assert world.jobs.signal(run_id, "go", "second") is not arrived

    go_on(world, timedelta(days=1, minutes=15))

    run = world.jobs.get_status(run_id)
    if not (arrived or again):
        assert run.waiting_for == "go"
        return
    assert run.output == ("first" if arrived else "second")
    assert run.finished_at - NOW < (
        timedelta(minutes=6) if again or (at > 2 and applied) else timedelta(days=1, minutes=5)
    )


class Between:
    """A table client that calls ``then`` before or after the first request that ``at`` says yes to."""

    def __init__(self, client: Any, at: Callable[[str, dict[str, Any]], bool], then: Callable[[], object]) -> None:
        self._client = client
        self._at = at
        self._then: Callable[[], object] | None = then

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        method = getattr(self._client, operation)

        def call(**parameters: Any) -> Any:
            then = self._then
            if then is not None and self._at(operation, parameters):
                self._then = None
                then()
            return method(**parameters)

        return call


def is_suspend(operation: str, parameters: dict[str, Any]) -> bool:
    return operation == "update_item" and "suspensions" in parameters["UpdateExpression"]


def test_a_signal_that_comes_when_the_run_is_about_to_wait_is_not_lost(world: World):
    run_ids: list[str] = []
    jobs = world.another(
        dynamodb=Between(world.aws.dynamodb, is_suspend, lambda: world.jobs.signal(run_ids[0], "go", "in time"))
    )
    waits(jobs)
    waits(world.jobs)
    run_ids.append(jobs.create("order"))
    [run_id] = world.queue.due()

    result = jobs.consume(message(run_id))
    assert (result.outcome, result.reason) == ("retried", "waiting")
    assert world.jobs.get_status(run_id).scheduled_for == NOW
    assert [result.outcome for result in world.deliver()] == ["succeeded"]
    assert world.jobs.get_status(run_id).output == "in time"


def test_a_signal_of_another_name_at_that_moment_lets_the_run_wait(world: World):
    run_ids: list[str] = []
    jobs = world.another(
        dynamodb=Between(world.aws.dynamodb, is_suspend, lambda: world.jobs.signal(run_ids[0], "other", 1))
    )
    waits(jobs)
    run_ids.append(jobs.create("order"))
    [run_id] = world.queue.due()

    jobs.consume(message(run_id))

    run = world.jobs.get_status(run_id)
    assert (run.waiting_for, run.scheduled_for) == ("go", NOW + DAY)


def test_a_run_that_begins_to_wait_while_it_is_signaled_is_woken(world: World):
    """The signaler has read the run while it was executing; before it tells the run, that waits."""
    waits(world.jobs)
    run_id = world.jobs.create("order")

    def is_telling(operation: str, parameters: dict[str, Any]) -> bool:
        return operation == "update_item" and "signals" in parameters["UpdateExpression"]

    signaling = world.another(
        dynamodb=Between(world.aws.dynamodb, is_telling, lambda: consumed.extend(world.deliver()))
    )
    # It waits although the signal is put, as it looked for it before.
    consumed: list[Any] = []
    world.jobs._store.table.get, get = (
        (lambda *args, **names: None if args[0].part else get(*args, **names)),
        (world.jobs._store.table.get),
    )

    assert signaling.signal(run_id, "go", "late")
    assert [result.reason for result in consumed] == ["waiting"]
    del world.jobs._store.table.get
    world.deliver()

    assert world.jobs.get_status(run_id).output == "late"


def test_a_timeout_and_a_signal_in_the_same_instant_agree_on_who_was_first(world: World):
    for first in ("signal", "timeout"):
        run_ids: list[str] = []
        answers: list[bool] = []

        def is_giving_up(operation: str, parameters: dict[str, Any], first: str = first) -> bool:
            puts = operation == "put_item" and "#signal#" in parameters["Item"]["sk"]["S"]
            return puts if first == "signal" else (operation == "update_item" and "output" in str(parameters))

        jobs = world.another(
            dynamodb=Between(
                world.aws.dynamodb,
                is_giving_up,
                lambda ids=run_ids, said=answers: said.append(world.jobs.signal(ids[0], "go", "signal")),  # type: ignore[misc]
            )
        )
        waits(jobs, timeout=0, default="timeout")
        run_ids.append(jobs.create("order"))
        [run_id] = world.queue.due()

        assert jobs.consume(message(run_id)).outcome == "succeeded"

        assert (world.jobs.get_status(run_id).output, answers) == (first, [first == "signal"])


def test_a_waiting_run_can_be_canceled_and_the_signal_then_comes_too_late(world: World):
    run_id = a_waiting_run(world)

    assert world.jobs.cancel(run_id)

    assert not world.jobs.signal(run_id, "go")
    assert world.jobs.get_status(run_id).waiting_for is None
    assert world.jobs.retry(run_id)
    world.deliver()
    assert world.jobs.get_status(run_id).waiting_for == "go"


def test_a_waiting_run_of_a_paused_job_goes_on_when_it_is_resumed(world: World):
    run_id = a_waiting_run(world)
    world.jobs.pause("order")
    world.clock.advance(minutes=1)

    assert world.jobs.signal(run_id, "go", 3)
    assert [result.reason for result in world.deliver()] == ["paused"]
    world.jobs.resume("order")
    world.clock.advance(minutes=1)
    world.settle()

    assert world.jobs.get_status(run_id).output == 3


def test_a_signal_reaches_a_run_that_was_put_aside(world: World):
    run_id = a_waiting_run(world)
    world.jobs.pause("order")
    world.clock.advance(minutes=1)
    world.jobs.run_now(run_id)
    assert [result.reason for result in world.deliver()] == ["paused"]
    assert world.jobs.get_status(run_id).waiting_for is None

    assert world.jobs.signal(run_id, "go", 3)
    world.jobs.resume("order")
    world.clock.advance(minutes=1)
    world.settle()

    assert world.jobs.get_status(run_id).output == 3


def test_a_run_that_a_person_moved_still_waits_and_is_woken(world: World):
    run_id = a_waiting_run(world)

    assert world.jobs.reschedule(run_id, NOW + timedelta(days=9))
    assert world.jobs.get_status(run_id).waiting_for == "go"
    assert world.jobs.signal(run_id, "go", 4)
    world.deliver()

    assert world.jobs.get_status(run_id).output == 4


def test_a_signal_to_a_run_that_is_deleted_meanwhile_leaves_no_orphan(world: World):
    waits(world.jobs)
    run_id = world.jobs.create("order", delay=60)

    def end_and_delete() -> None:
        world.jobs.cancel(run_id)
        world.jobs.delete(run_id)

    def is_put(operation: str, parameters: dict[str, Any]) -> bool:
        return operation == "put_item"

    signaling = world.another(dynamodb=Between(world.aws.dynamodb, is_put, end_and_delete))

    assert not signaling.signal(run_id, "go", 1)
    assert world.aws.items() == []


def test_signals_of_a_run_that_starts_over_are_forgotten(world: World):
    run_id = a_waiting_run(world)
    assert world.jobs.signal(run_id, "other", 1)
    world.jobs.cancel(run_id)

    assert world.jobs.retry(run_id, from_start=True)

    assert kept(world.aws, run_id) == {}
    world.deliver()
    assert world.jobs.signal(run_id, "go", 2)
    world.deliver()
    assert world.jobs.get_status(run_id).output == 2


def test_a_signal_that_expired_fails_the_run_rather_than_changing_what_it_got(jobs: Jobs, aws: Aws, clock: Clock):
    @jobs.handler("order")
    def order(ctx: JobContext) -> None:
        ctx.wait_for("go")
        raise ConnectionError

    run_id = jobs.create("order")
    jobs.signal(run_id, "go", 1)
    jobs.consume(message(run_id))
    item = kept(aws, run_id)["signal#go"]
    aws.dynamodb.client.delete_item(TableName=aws.table, Key={name: {"S": item[name]} for name in ("pk", "sk")})
    clock.advance(hours=1)

    jobs.consume(message(run_id))

    assert jobs.get_status(run_id).error_type == "StepsLostError"


def test_a_signal_that_comes_while_the_run_sleeps_for_a_year_is_there_afterwards(world: World):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> Any:
        ctx.sleep(365 * DAY)
        return ctx.wait_for("go")

    run_id = world.jobs.create("order")
    world.deliver()
    world.clock.advance(days=1)

    assert world.jobs.signal(run_id, "go", 1)

    run = world.aws.item(run_id)
    assert kept(world.aws, run_id)["signal#go"]["expires_at"] * 1000 > run["scheduled_for"] + 30 * 86_400_000


def test_a_signal_to_a_run_that_is_due_in_many_years_is_kept_until_then(world: World):
    waits(world.jobs)
    run_id = world.jobs.create("order", delay=3_000 * DAY)

    assert world.jobs.signal(run_id, "go", 1)

    run = world.aws.item(run_id)
    assert kept(world.aws, run_id)["signal#go"]["expires_at"] * 1000 > run["scheduled_for"] + 30 * 86_400_000


def test_a_signal_that_raised_and_is_given_again_says_that_its_payload_is_the_one(world: World):
    run_id = a_waiting_run(world)
    failing = world.another(dynamodb=Outage(3, applied=False).wrap(world.aws.dynamodb))
    with pytest.raises(ConnectionClosedError):
        failing.signal(run_id, "go", {"a": 1, "b": [2]})

    assert not world.jobs.signal(run_id, "go", "another")
    assert world.jobs.signal(run_id, "go", {"b": [2], "a": 1})
    world.deliver()

    assert world.jobs.get_status(run_id).output == {"a": 1, "b": [2]}


def test_an_encrypted_signal_that_is_given_again_is_known(world: World):
    world.settings["cipher"] = Reversing()
    world.jobs = world.another()
    run_id = a_waiting_run(world)

    assert [world.jobs.signal(run_id, "go", payload) for payload in ("a", "b", "a")] == [True, False, True]
    assert not world.another(cipher=None).signal(run_id, "go", "a")


def is_told(operation: str, parameters: dict[str, Any]) -> bool:
    return operation == "update_item" and "signals" in str(parameters["ExpressionAttributeNames"].values())


@pytest.mark.parametrize("waiting", [False, True])
def test_a_signal_is_none_to_a_run_that_starts_over_meanwhile(world: World, waiting: bool):
    run_id = a_waiting_run(world) if waiting else a_new_run(world)

    def start_over() -> None:
        assert world.jobs.cancel(run_id)
        assert world.jobs.retry(run_id, from_start=True)
        if waiting:
            world.deliver()

    jobs = world.another(dynamodb=Between(world.aws.dynamodb, is_told, start_over))

    assert not jobs.signal(run_id, "go", "for the earlier one")
    world.deliver()
    assert world.jobs.get_status(run_id).waiting_for == "go"
    assert not [name for name in kept(world.aws, run_id) if name.startswith("signal#")]
    assert world.jobs.signal(run_id, "go", "for this one")
    world.settle()
    assert world.jobs.get_status(run_id).output == "for this one"


def a_new_run(world: World) -> str:
    waits(world.jobs)
    return world.jobs.create("order")


def test_a_signal_is_none_to_a_run_that_was_deleted_and_created_again_meanwhile(world: World):
    waits(world.jobs)
    run_id = world.jobs.create("order", dedupe_key="k")

    def create_again() -> None:
        assert world.jobs.cancel(run_id)
        assert world.jobs.delete(run_id)
        assert world.jobs.create("order", dedupe_key="k") == run_id

    jobs = world.another(dynamodb=Between(world.aws.dynamodb, is_told, create_again))

    assert not jobs.signal(run_id, "go", "for the earlier one")
    world.deliver()
    assert world.jobs.get_status(run_id).waiting_for == "go"
