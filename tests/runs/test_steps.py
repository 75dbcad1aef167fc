"""What steps promise: a kept result stays, nothing is done twice that was kept, and code that changed is found out."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError

from kumofire_core import (
    ENCRYPTED,
    NOT_READ,
    AttemptTimeoutError,
    Cancel,
    DecryptionError,
    DuplicateStepError,
    InvalidArgumentError,
    JobContext,
    Jobs,
    Limit,
    RetryAfter,
    RetryPolicy,
    Snooze,
    StepKind,
    StepMismatchError,
    StepResultError,
    WaitTimeoutError,
)
from kumofire_core.engine import consumer
from kumofire_core.engine import steps as engine_steps
from kumofire_core.model.steps import MAX_STEP_BYTES
from tests.builders import NOW, NOW_MS, Aws, Clock, message
from tests.faults import Outage
from tests.worlds import World, a_world

DAY = timedelta(days=1)


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as made:
        yield made


class Work:
    """Functions of steps that write down their calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def do(self, what: str, result: Any = None) -> Any:
        self.calls.append(what)
        return result

    def fail_once(self, what: str) -> str:
        self.calls.append(what)
        if self.calls.count(what) == 1:
            raise ConnectionError("not yet")
        return what


@pytest.fixture
def work() -> Work:
    return Work()


def kept(aws: Aws, run_id: str) -> dict[str, dict[str, Any]]:
    """Return the items of a run's steps and signals by ``step#name`` and ``signal#name``."""
    items = [item for item in aws.items() if item["pk"] == f"run#{run_id}" and item["sk"] != "run"]
    return {item["sk"].split("#", 2)[2]: item for item in items}


def retried(jobs: Jobs, run_id: str, clock: Clock) -> Any:
    """Consume a run until its attempts end, and return it."""
    for _ in range(5):
        jobs.consume(message(run_id))
        clock.advance(hours=1)
    return jobs.get_status(run_id)


def test_a_step_that_was_done_is_not_done_again_by_the_next_attempt(jobs: Jobs, clock: Clock, work: Work):
    @jobs.handler("order")
    def order(ctx: JobContext) -> list[Any]:
        charge = ctx.step("charge", work.do, "charge", {"id": 7})
        return [charge, ctx.step("mail", work.fail_once, "mail")]

    run = retried(jobs, jobs.create("order"), clock)

    assert (run.status, run.output, run.failed_attempts) == ("succeeded", [{"id": 7}, "mail"], 1)
    assert work.calls == ["charge", "mail", "mail"]


def test_a_step_passes_its_arguments_and_returns_what_json_makes_of_the_result_the_first_time_too(jobs: Jobs):
    seen: list[Any] = []

    @jobs.handler("order")
    def order(ctx: JobContext) -> None:
        seen.append(ctx.step("pair", lambda *args, **kwargs: (*args, kwargs), 1, 2, name="x", fn=3))

    jobs.consume(message(jobs.create("order")))

    assert seen == [[1, 2, {"name": "x", "fn": 3}]]


@pytest.mark.parametrize("result", [None, 0, "", [], False, {"a": [1, None]}, "é😀"], ids=repr)
def test_every_json_value_is_kept_as_it_is(jobs: Jobs, clock: Clock, result: Any):
    @jobs.handler("order")
    def order(ctx: JobContext) -> Any:
        value = ctx.step("value", lambda: result)
        if ctx.attempt == 1:
            raise ConnectionError
        return value

    run = retried(jobs, jobs.create("order"), clock)

    assert run.output == result
    assert jobs.steps(run.id)[0].result == result


def test_the_first_result_that_is_stored_is_the_one_that_every_attempt_gets(jobs: Jobs, aws: Aws, clock: Clock):
    """The lease of the first attempt expires while its function is executing; its successor is faster."""
    other = aws.jobs(clock=clock)
    results: list[str] = []

    def order(ctx: JobContext) -> str:
        results.append(ctx.step("charge", charge, ctx))
        return results[-1]

    def charge(ctx: JobContext) -> str:
        if not late:
            late.append(True)
            clock.advance(hours=1)
            assert other.consume(message(ctx.run.id)).outcome == "succeeded"
            return "of the first"
        return "of the second"

    late: list[bool] = []
    jobs.handler("order")(order)
    other.handler("order")(order)
    run_id = jobs.create("order")

    assert jobs.consume(message(run_id)).reason == "lost its lease"

    assert results == ["of the second", "of the second"]
    assert jobs.get_status(run_id).output == "of the second"


def test_a_step_costs_one_put_and_a_later_attempt_one_query(jobs: Jobs, aws: Aws, clock: Clock, work: Work):
    @jobs.handler("order")
    def order(ctx: JobContext) -> None:
        for number in range(3):
            ctx.step(f"step-{number}", work.do, "step")
        if ctx.attempt == 1:
            raise ConnectionError

    run_id = jobs.create("order")
    jobs.consume(message("nobody"))
    aws.dynamodb.requests.clear()
    jobs.consume(message(run_id))
    assert [operation for operation, _ in aws.dynamodb.requests] == ["update_item", *["put_item"] * 3, "update_item"]
    clock.advance(hours=1)
    jobs.consume(message("nobody"))
    aws.dynamodb.requests.clear()
    jobs.consume(message(run_id))
    assert [operation for operation, _ in aws.dynamodb.requests] == ["update_item", "query", "update_item"]
    assert aws.dynamodb.parameters("query")[0]["ConsistentRead"] is True
    assert work.calls == ["step"] * 3


def test_a_step_whose_put_is_repeated_because_its_reply_was_lost_is_kept_once(jobs: Jobs, aws: Aws, work: Work):
    class Repeating:
        def __getattr__(self, operation: str) -> Any:
            return getattr(aws.dynamodb, operation)

        def put_item(self, **parameters: Any) -> Any:
            if "#step#" in parameters["Item"]["sk"]["S"]:
                aws.dynamodb.put_item(**parameters)
            return aws.dynamodb.put_item(**parameters)

    jobs = aws.jobs(dynamodb=Repeating())
    jobs.handler("order")(lambda ctx: ctx.step("charge", work.do, "charge", 5))

    run_id = jobs.create("order")
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert jobs.get_status(run_id).output == 5


def test_a_step_whose_result_could_not_be_stored_fails_the_attempt_and_is_done_again(
    jobs: Jobs, aws: Aws, clock: Clock, work: Work
):
    jobs = aws.jobs(clock=clock, dynamodb=Outage(3, applied=False).wrap(aws.dynamodb))
    jobs.handler("order")(lambda ctx: ctx.step("charge", work.do, "charge", 5))
    run_id = aws.a_run(job_name="order")

    assert jobs.consume(message(run_id)).reason == "ConnectionClosedError"
    run = retried(jobs, run_id, clock)

    assert (run.status, run.output) == ("succeeded", 5)
    assert work.calls == ["charge", "charge"]


@pytest.mark.parametrize("applied", [False, True])
def test_no_handler_takes_an_error_of_the_table_for_the_error_of_its_step(
    aws: Aws, clock: Clock, work: Work, applied: bool
):
    jobs = aws.jobs(clock=clock, dynamodb=Outage(3, applied=applied).wrap(aws.dynamodb))

    @jobs.handler("order")
    def order(ctx: JobContext) -> Any:
        try:
            return ctx.step("charge", work.do, "charge", 5)
        except Exception:
            raise Cancel("card declined") from None

    run_id = aws.a_run(job_name="order")
    assert jobs.consume(message(run_id)).reason == "ConnectionClosedError"
    assert jobs.get_status(run_id).status == "scheduled"

    run = retried(jobs, run_id, clock)

    assert (run.status, run.output, run.failed_attempts) == ("succeeded", 5, 1)
    assert work.calls == ["charge"] * (1 if applied else 2)


def test_a_step_whose_put_was_not_answered_is_not_executed_again_in_the_same_attempt(
    aws: Aws, clock: Clock, work: Work
):
    jobs = aws.jobs(clock=clock, dynamodb=Outage(3, applied=True).wrap(aws.dynamodb))

    @jobs.handler("order")
    def order(ctx: JobContext) -> Any:
        for _ in range(2):
            with contextlib.suppress(BaseException):
                return ctx.step("charge", work.do, "charge", 5)
        return "gave up"

    run_id = aws.a_run(job_name="order")

    assert jobs.consume(message(run_id)).reason == "ConnectionClosedError"
    assert work.calls == ["charge"]


def test_a_handler_that_swallows_a_mismatch_fails_all_the_same_and_executes_nothing_more(
    aws: Aws, clock: Clock, work: Work
):
    def handler(name: str) -> Any:
        def order(ctx: JobContext) -> str:
            with contextlib.suppress(Exception):
                ctx.step(name, work.do, name)
            with contextlib.suppress(Exception):
                ctx.step("pack", work.do, "pack")
            if name == "charge":
                raise ConnectionError
            return "ok"

        return order

    earlier, later = (aws.jobs(clock=clock, handlers={"order": handler(name)}) for name in ("charge", "bill"))
    run_id = earlier.create("order")
    earlier.consume(message(run_id))
    clock.advance(hours=1)

    assert later.consume(message(run_id)).outcome == "failed"
    assert later.get_status(run_id).error_type == "StepMismatchError"
    assert work.calls == ["charge", "pack"]


def test_a_handler_that_swallows_the_end_of_a_wait_goes_on(world: World, work: Work):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> str:
        try:
            ctx.wait_for("go", timeout=60)
        except WaitTimeoutError:
            return ctx.step("refund", work.do, "refund", "refunded")
        return "shipped"

    run_id = world.jobs.create("order")
    world.settle()

    assert world.jobs.get_status(run_id).output == "refunded"


def test_a_handler_that_goes_on_after_a_step_has_failed_is_told_what_to_do(world: World, work: Work):
    """The next invocation would call the failed step again, and the steps behind it would not fit."""

    @world.jobs.handler("order", max_attempts=5)
    def order(ctx: JobContext) -> None:
        try:
            ctx.step("charge", work.fail_once, "charge")
        except ConnectionError:
            ctx.step("tell", work.do, "tell")
        ctx.sleep(60)

    run_id = world.jobs.create("order")

    assert world.deliver()[0].outcome == "failed"
    run = world.jobs.get_status(run_id)
    assert run.error_type == "StepFailedError"
    assert "step 'charge' failed in this attempt, and 'tell' was called after it" in run.last_error
    assert work.calls == ["charge"]


@pytest.mark.parametrize("call", ["sleep", "wait_for"])
def test_a_handler_that_swallows_the_refusal_after_a_failed_step_fails_all_the_same(
    world: World, work: Work, call: str
):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> str:
        with contextlib.suppress(Exception):
            ctx.step("charge", work.fail_once, "charge")
        with contextlib.suppress(Exception):
            ctx.sleep(60) if call == "sleep" else ctx.wait_for("go")
        return "ok"

    run_id = world.jobs.create("order")

    assert world.deliver()[0].outcome == "failed"
    assert world.jobs.get_status(run_id).error_type == "StepFailedError"
    assert kept(world.aws, run_id) == {}


def test_a_failure_that_is_returned_as_a_value_is_the_same_in_every_attempt(world: World, work: Work):
    def charge() -> str | None:
        try:
            return work.fail_once("charge")
        except ConnectionError:
            return None

    @world.jobs.handler("order")
    def order(ctx: JobContext) -> str:
        if ctx.step("charge", charge) is None:
            ctx.step("tell", work.do, "tell")
            ctx.sleep(60)
            return "told"
        return "charged"

    run_id = world.jobs.create("order")
    world.settle()

    assert world.jobs.get_status(run_id).output == "told"
    assert work.calls == ["charge", "tell"]


def test_a_step_inside_one_that_is_kept_may_have_failed(jobs: Jobs, work: Work):
    @jobs.handler("order")
    def order(ctx: JobContext) -> str:
        def outer() -> str:
            with contextlib.suppress(ConnectionError):
                ctx.step("inner", work.fail_once, "inner")
            return "outer"

        return ctx.step("outer", outer) + ctx.step("last", work.do, "last", "!")

    run_id = jobs.create("order")
    jobs.consume(message(run_id))

    assert jobs.get_status(run_id).output == "outer!"


def test_a_result_that_is_not_json_fails_the_run_at_once(jobs: Jobs, work: Work):
    jobs.handler("order", max_attempts=5)(lambda ctx: ctx.step("charge", work.do, "charge", {1, 2}))

    run_id = jobs.create("order")
    assert jobs.consume(message(run_id)).outcome == "failed"

    run = jobs.get_status(run_id)
    assert (run.error_type, work.calls) == ("StepResultError", ["charge"])
    assert "the result of step 'charge' is not JSON: value is of type set; the function has had its effect" in (
        run.last_error
    )


def test_a_result_of_the_largest_size_is_kept_and_a_larger_one_fails_the_run_at_once(jobs: Jobs, aws: Aws):
    sizes = iter([MAX_STEP_BYTES - 2, MAX_STEP_BYTES - 1])
    jobs.handler("order")(lambda ctx: ctx.step("s" * 100, lambda: "x" * next(sizes)) and None)
    fits, too_large = jobs.create("order"), jobs.create("order")

    assert jobs.consume(message(fits)).outcome == "succeeded"
    assert len(jobs.steps(fits)[0].result) == MAX_STEP_BYTES - 2
    assert jobs.consume(message(too_large)).outcome == "failed"
    assert jobs.get_status(too_large).error_type == "StepResultError"
    assert jobs.steps(too_large) == ()


def test_a_failed_step_may_be_called_again_under_its_name_in_the_same_attempt(jobs: Jobs, work: Work):
    @jobs.handler("order")
    def order(ctx: JobContext) -> str:
        try:
            ctx.step("mail", work.fail_once, "mail")
        except ConnectionError:
            ctx.step("mail", work.fail_once, "mail")
        return ctx.step("last", work.do, "last", "end")

    run_id = jobs.create("order")
    jobs.consume(message(run_id))

    assert [(step.name, step.position) for step in jobs.steps(run_id)] == [("mail", 1), ("last", 2)]


def test_the_same_name_twice_fails_the_run_at_once(jobs: Jobs, work: Work):
    @jobs.handler("order", max_attempts=5)
    def order(ctx: JobContext) -> None:
        for _ in range(2):
            ctx.step("mail", work.do, "mail")

    run_id = jobs.create("order")
    assert jobs.consume(message(run_id)).outcome == "failed"

    run = jobs.get_status(run_id)
    assert run.error_type == "DuplicateStepError"
    assert 'number it in a loop: f"mail-{number}"' in run.last_error
    assert work.calls == ["mail"]


def test_sleeps_waits_and_steps_share_their_names(jobs: Jobs):
    errors: list[Exception] = []

    @jobs.handler("order")
    def order(ctx: JobContext) -> None:
        ctx.sleep(0, "pause")
        for call in (lambda: ctx.step("pause", str), lambda: ctx.sleep(0, "pause"), lambda: ctx.wait_for("pause", 0)):
            try:
                call()
            except DuplicateStepError as error:
                errors.append(error)

    jobs.consume(message(jobs.create("order")))

    assert [error.name for error in errors] == ["pause"] * 3


def of_names(*names: str) -> Any:
    """Return a handler with a step for each name; the run of one that ends with ``fail`` fails at its end."""

    def handler(ctx: JobContext) -> None:
        for name in names:
            if name == "fail":
                raise ConnectionError
            if name.startswith("sleep"):
                ctx.sleep(0, name)
            else:
                ctx.step(name, str)

    return handler


@pytest.mark.parametrize(
    ("later", "text"),
    [
        (("a", "x", "c"), "call 2 of this handler is step 'x', and the run has kept step 'b' as call 2"),
        (("a", "c"), "call 2 of this handler is step 'c', and the run has kept step 'c' as call 3"),
        (("a", "x", "b", "c"), "call 2 of this handler is step 'x', and the run has kept step 'b' as call 2"),
        (("b", "a", "c"), "call 1 of this handler is step 'b', and the run has kept step 'b' as call 2"),
        (("a", "sleep-1", "c"), "call 2 of this handler is sleep 'sleep-1', and the run has kept step 'b' as call 2"),
    ],
    ids=["renamed", "removed", "inserted", "moved", "of another kind"],
)
def test_steps_that_changed_under_a_run_fail_it_at_once_and_it_goes_on_when_they_are_restored(
    aws: Aws, clock: Clock, later: tuple[str, ...], text: str
):
    earlier = aws.jobs(clock=clock, handlers={"order": of_names("a", "b", "c", "fail")})
    changed = aws.jobs(clock=clock, handlers={"order": of_names(*later)})
    restored = aws.jobs(clock=clock, handlers={"order": of_names("a", "b", "c", "d")})
    run_id = earlier.create("order")
    earlier.consume(message(run_id))
    clock.advance(hours=1)

    assert changed.consume(message(run_id)).outcome == "failed"
    run = changed.get_status(run_id)
    assert (run.error_type, text in run.last_error) == ("StepMismatchError", True)
    assert [step.name for step in changed.steps(run_id)] == ["a", "b", "c"]

    assert restored.retry(run_id)
    assert restored.consume(message(run_id)).outcome == "succeeded"
    assert [step.name for step in restored.steps(run_id)] == ["a", "b", "c", "d"]


def test_steps_behind_all_others_may_be_added_under_a_run(aws: Aws, clock: Clock):
    earlier = aws.jobs(clock=clock, handlers={"order": of_names("a", "b", "fail")})
    later = aws.jobs(clock=clock, handlers={"order": of_names("a", "b", "c")})
    run_id = earlier.create("order")
    earlier.consume(message(run_id))
    clock.advance(hours=1)

    assert later.consume(message(run_id)).outcome == "succeeded"


def test_a_mismatch_says_what_was_expected_and_found():
    error = StepMismatchError(2, expected="step 'b' as call 2", found="sleep 'b'")

    assert (error.position, error.expected, error.found) == (2, "step 'b' as call 2", "sleep 'b'")
    assert "deploy the earlier code and retry the run, or retry it from_start=True" in str(error)


def test_steps_side_by_side_have_no_order(jobs: Jobs, aws: Aws, clock: Clock):
    """A step inside a step: after the outer one is kept, the inner one is not called, and takes no position."""

    @jobs.handler("order")
    def order(ctx: JobContext) -> None:
        ctx.step("outer", lambda: ctx.step("inner", str))
        ctx.step("last", str)
        if ctx.attempt == 1:
            raise ConnectionError

    run = retried(jobs, jobs.create("order"), clock)

    assert (run.status, run.failed_attempts) == ("succeeded", 1)


def test_records_that_are_missing_fail_the_run_rather_than_being_done_again(
    jobs: Jobs, aws: Aws, clock: Clock, work: Work
):
    @jobs.handler("order", max_attempts=5)
    def order(ctx: JobContext) -> None:
        ctx.step("charge", work.do, "charge")
        ctx.step("mail", work.do, "mail")
        raise ConnectionError

    run_id = jobs.create("order")
    jobs.consume(message(run_id))
    [key] = [
        {name: item[name] for name in ("pk", "sk")} for item in kept(aws, run_id).values() if "charge" in item["sk"]
    ]
    aws.dynamodb.client.delete_item(TableName=aws.table, Key={name: {"S": value} for name, value in key.items()})
    clock.advance(hours=1)

    assert jobs.consume(message(run_id)).outcome == "failed"

    run = jobs.get_status(run_id)
    assert run.error_type == "StepsLostError"
    assert "had kept 2 steps and signals, and 1 are there" in run.last_error
    assert work.calls == ["charge", "mail"]


def test_a_retry_goes_on_behind_the_kept_steps_and_one_from_the_start_does_not(jobs: Jobs, aws: Aws, work: Work):
    fails = [True]

    @jobs.handler("order", max_attempts=1)
    def order(ctx: JobContext) -> None:
        ctx.step("charge", work.do, "charge")
        if fails[0]:
            raise ValueError

    run_id = jobs.create("order")
    jobs.consume(message(run_id))
    assert jobs.retry(run_id)
    jobs.consume(message(run_id))
    assert work.calls == ["charge"]
    assert jobs.get_status(run_id).status == "failed"

    assert jobs.retry(run_id, from_start=True)
    assert jobs.steps(run_id) == ()
    assert kept(aws, run_id) == {}
    fails[0] = False
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert work.calls == ["charge", "charge"]
    assert [step.name for step in jobs.steps(run_id)] == ["charge"]


def test_a_retry_from_the_start_is_sent_although_the_earlier_steps_can_not_be_deleted(
    world: World, work: Work, caplog: pytest.LogCaptureFixture
):
    class Failing:
        def __getattr__(self, operation: str) -> Any:
            if operation == "delete_item":
                raise ConnectionClosedError(endpoint_url="https://dynamodb.invalid")
            return getattr(world.aws.dynamodb, operation)

    @world.jobs.handler("order", max_attempts=1)
    def order(ctx: JobContext) -> None:
        ctx.step("charge", work.do, "charge")
        if len(work.calls) == 1:
            raise ValueError

    run_id = world.jobs.create("order")
    world.deliver()

    assert world.another(dynamodb=Failing()).retry(run_id, from_start=True)

    assert "the steps of a run could not all be deleted (ConnectionClosedError)" in caplog.text
    assert [result.outcome for result in world.deliver()] == ["succeeded"]
    assert work.calls == ["charge", "charge"]


def test_many_steps_are_deleted_several_at_a_time(world: World, work: Work):
    together = threading.Barrier(4, timeout=20)

    class Together:
        def __getattr__(self, operation: str) -> Any:
            if operation == "delete_item":
                together.wait()
            return getattr(world.aws.dynamodb, operation)

    @world.jobs.handler("order", max_attempts=1)
    def order(ctx: JobContext) -> None:
        for number in range(8):
            ctx.step(f"step-{number}", work.do, "step")
        raise ValueError

    run_id = world.jobs.create("order")
    world.deliver()
    assert world.another(dynamodb=Together()).retry(run_id, from_start=True)

    assert kept(world.aws, run_id) == {}


def test_a_deleted_run_leaves_nothing_and_one_created_again_under_its_key_sees_none_of_its_steps(
    jobs: Jobs, aws: Aws, work: Work
):
    jobs.handler("order")(lambda ctx: ctx.step("charge", work.do, "charge"))
    run_id = jobs.create("order", dedupe_key="k")
    jobs.consume(message(run_id))
    left = next(iter(kept(aws, run_id).values()))
    assert jobs.delete(run_id)
    assert kept(aws, run_id) == {}

    typed = {name: {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in left.items()}
    aws.dynamodb.client.put_item(TableName=aws.table, Item=typed)  # a late copy of the put of a step
    assert jobs.create("order", dedupe_key="k") == run_id
    jobs.consume(message(run_id))

    assert work.calls == ["charge", "charge"]
    assert len(jobs.steps(run_id)) == 1


def test_deleting_many_runs_deletes_their_steps(jobs: Jobs, aws: Aws, work: Work):
    def order(ctx: JobContext) -> None:
        ctx.step("charge", work.do, "charge")
        raise ValueError

    jobs.handler("order", max_attempts=1)(order)
    for _ in range(3):
        jobs.consume(message(jobs.create("order")))

    assert jobs.delete_many(job_name="order").changed == 3

    assert [item["sk"] for item in aws.items() if item["pk"].startswith("run#")] == []


def test_the_steps_of_a_worker_that_was_lost_are_deleted_with_the_run(jobs: Jobs, aws: Aws, clock: Clock):
    class LostError(BaseException):
        pass

    class Dying:
        dead = False

        def __getattr__(self, operation: str) -> Any:
            if self.dead:
                raise LostError
            return getattr(aws.dynamodb, operation)

    dying = Dying()
    lost = aws.jobs(clock=clock, dynamodb=dying)

    @lost.handler("order", max_attempts=1)
    def order(ctx: JobContext) -> None:
        ctx.step("charge", str)
        dying.dead = True

    run_id = lost.create("order")
    with pytest.raises(LostError):
        lost.consume(message(run_id))
    clock.advance(hours=1)
    assert jobs.consume(message(run_id)).outcome == "failed"
    assert kept(aws, run_id) != {}

    assert jobs.delete(run_id)

    assert kept(aws, run_id) == {}


def test_a_run_without_steps_pays_nothing_for_them(jobs: Jobs, aws: Aws):
    jobs.handler("email", max_attempts=1)(lambda ctx: 1 / 0)
    run_id = jobs.create("email")
    jobs.consume(message(run_id))
    aws.dynamodb.requests.clear()

    assert jobs.delete(run_id)

    assert [operation for operation, _ in aws.dynamodb.requests] == ["get_item", "delete_item"]


def test_results_are_encrypted_where_there_is_a_cipher(aws: Aws, clock: Clock):
    cipher = Reversing()
    jobs = aws.jobs(clock=clock, cipher=cipher)
    seen: list[Any] = []

    @jobs.handler("order")
    def order(ctx: JobContext) -> None:
        seen.append(ctx.step("charge", lambda: {"card": "4242"}))
        seen.append(ctx.wait_for("approved"))
        if ctx.attempt == 1:
            raise ConnectionError

    run_id = jobs.create("order")
    assert jobs.signal(run_id, "approved", {"by": "Ann"})
    retried(jobs, run_id, clock)

    assert seen == [{"card": "4242"}, {"by": "Ann"}] * 2
    items = kept(aws, run_id)
    assert all(items[name]["value"].startswith("sealed:") for name in ("step#charge", "signal#approved"))
    assert [step.result for step in jobs.steps(run_id)] == [{"card": "4242"}, {"by": "Ann"}]
    assert [step.result for step in aws.jobs().steps(run_id)] == [ENCRYPTED, ENCRYPTED]


class Reversing:
    def encrypt(self, plaintext: bytes) -> bytes:
        return plaintext[::-1]

    decrypt = encrypt


def test_one_step_s_encrypted_result_is_not_read_as_another_s(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, cipher=Reversing())
    jobs.handler("order", max_attempts=2)(of_names("a", "b", "fail"))
    run_id = jobs.create("order")
    jobs.consume(message(run_id))
    items = kept(aws, run_id)
    swapped = items["step#a"] | {"value": items["step#b"]["value"]}
    typed = {name: {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in swapped.items()}
    aws.dynamodb.client.put_item(TableName=aws.table, Item=typed)
    clock.advance(hours=1)

    with pytest.raises(DecryptionError, match="it was encrypted for another item"):
        jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert (run.status, run.failed_attempts) == ("queued", 1)


def test_what_is_kept_is_told_in_the_order_of_the_calls(jobs: Jobs, clock: Clock):
    @jobs.handler("order")
    def order(ctx: JobContext) -> None:
        ctx.step("z", lambda: clock.advance(seconds=2))
        ctx.wait_for("a", timeout=timedelta(hours=2), default=1)
        ctx.sleep(DAY)

    run_id = jobs.create("order")
    jobs.signal(run_id, "early", 5)
    jobs.consume(message(run_id))
    step, wait, early = jobs.steps(run_id)
    assert (step.name, step.kind, step.position, step.at) == ("z", StepKind.STEP, 1, NOW + timedelta(seconds=2))
    assert step.duration >= timedelta(0)
    assert (wait.name, wait.kind, wait.until) == ("a", "wait", NOW + timedelta(hours=2, seconds=2))
    assert (wait.signaled_at, wait.timed_out) == (None, False)
    assert (early.name, early.kind, early.position, early.result) == ("early", "signal", None, 5)

    clock.advance(hours=3)
    jobs.consume(message(run_id))
    _, wait, sleep, _ = jobs.steps(run_id)
    assert (wait.timed_out, wait.result) == (True, None)
    assert (sleep.name, sleep.kind, sleep.until) == ("sleep-1", "sleep", clock() + DAY)
    assert "Step(name='z'" in repr(step)
    unread = jobs.steps(run_id, results=False)
    assert [each.result for each in unread] == [NOT_READ] * 4
    assert [each._replace(result=None) for each in unread] == [
        each._replace(result=None) for each in jobs.steps(run_id)
    ]
    assert jobs.steps("nobody") == ()


def test_a_handler_s_steps_end_with_its_attempt(jobs: Jobs, clock: Clock):
    contexts: list[JobContext] = []
    jobs.handler("order")(lambda ctx: contexts.append(ctx) or ctx.step("a", str))
    jobs.consume(message(jobs.create("order")))

    with pytest.raises(AttemptTimeoutError, match="the attempt has ended"):
        contexts[0].step("b", str)


def test_a_step_that_ends_after_its_attempt_was_cut_is_kept_all_the_same(aws: Aws):
    jobs = aws.jobs()
    done: list[bool] = []

    def slow() -> str:
        time.sleep(0.4)
        done.append(True)
        return "late"

    jobs.handler("order", timeout=timedelta(seconds=0.1))(lambda ctx: ctx.step("a", slow))
    run_id = jobs.create("order")
    assert jobs.consume(message(run_id)).reason == "AttemptTimeoutError"

    while not jobs.steps(run_id):
        assert len(done) < 2
        time.sleep(0.01)

    assert jobs.steps(run_id)[0].result == "late"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda ctx: ctx.step("a", 5), r"ctx.step takes a name and a function, not int"),
        (lambda ctx: ctx.step(5, str), "the name of a step must be a string, not int"),
        (lambda ctx: ctx.step("", str), "must have 1 to 100 characters, not 0"),
        (lambda ctx: ctx.step("x" * 101, str), "must have 1 to 100 characters, not 101"),
        (lambda ctx: ctx.step("😀" * 51, str), "must have at most 200 bytes in UTF-8, not 204"),
        (lambda ctx: ctx.step("a\n", str), "has characters that can't be printed"),
        (lambda ctx: ctx.sleep("1"), "delay must be a timedelta or a number of seconds, not str"),
        (lambda ctx: ctx.sleep(-1), "delay must not be negative"),
        (lambda ctx: ctx.sleep(366 * DAY), "delay must be at most 365 days"),
        (lambda ctx: ctx.sleep(1, ""), "must have 1 to 100 characters, not 0"),
        (lambda ctx: ctx.wait_for(None), "the name of a step must be a string, not NoneType"),
        (lambda ctx: ctx.wait_for("a", timeout=-1), "timeout must not be negative"),
        (lambda ctx: ctx.wait_for("a", timeout=366 * DAY), "timeout must be at most 365 days"),
    ],
)
def test_a_wrong_argument_is_refused_and_nothing_is_kept(jobs: Jobs, aws: Aws, call: Any, text: str):
    jobs.handler("order", max_attempts=1)(call)
    run_id = jobs.create("order")
    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert run.error_type == "InvalidArgumentError"
    assert text in run.last_error
    assert kept(aws, run_id) == {}


def test_a_name_of_the_greatest_length_in_the_largest_characters_is_kept(jobs: Jobs):
    name = "😀" * 50
    jobs.handler("order")(lambda ctx: ctx.step(name, str))
    run_id = jobs.create("order")

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert jobs.steps(run_id)[0].name == name


def test_names_may_have_the_signs_of_keys(jobs: Jobs, clock: Clock, work: Work):
    names = ["#", "step#a", "signal#a", "a#", " "]

    @jobs.handler("order")
    def order(ctx: JobContext) -> None:
        for name in names:
            ctx.step(name, work.do, name)
        if ctx.attempt == 1:
            raise ConnectionError

    run = retried(jobs, jobs.create("order"), clock)

    assert (run.status, work.calls) == ("succeeded", names)
    assert [step.name for step in jobs.steps(run.id)] == names


def test_a_sleep_lets_the_run_wait_and_counts_no_attempt(world: World, work: Work):
    @world.jobs.handler("order", max_attempts=1)
    def order(ctx: JobContext) -> str:
        work.do(f"called {ctx.attempt}")
        ctx.sleep(timedelta(days=3))
        return ctx.step("mail", work.do, "mail", "sent")

    run_id = world.jobs.create("order")
    [result] = world.deliver()
    assert (result.outcome, result.reason, result.attempt) == ("retried", "sleeping", 1)
    run = world.jobs.get_status(run_id)
    assert (run.status, run.scheduled_for, run.attempts) == ("scheduled", NOW + timedelta(days=3), ())
    assert (run.last_error, run.failed_attempts) == (None, 0)

    world.settle()

    run = world.jobs.get_status(run_id)
    assert (run.status, run.output, run.failed_attempts) == ("succeeded", "sent", 0)
    assert run.finished_at >= NOW + timedelta(days=3)
    assert work.calls == ["called 1", "called 1", "mail"]


@pytest.mark.parametrize("seconds", [0.5, 1, 5, 600, 86_400, 365 * 86_400])
def test_a_sleep_is_as_long_as_it_was_asked_for(world: World, seconds: float):
    world.jobs.handler("order")(lambda ctx: ctx.sleep(seconds))
    run_id = world.jobs.create("order")

    world.settle()

    run = world.jobs.get_status(run_id)
    assert run.status == "succeeded"
    assert timedelta(seconds=seconds) <= run.finished_at - NOW <= timedelta(seconds=seconds + 1)


def test_the_end_of_a_sleep_is_fixed_by_the_first_call(world: World):
    @world.jobs.handler("order", retry=RetryPolicy(max_attempts=5))
    def order(ctx: JobContext) -> None:
        ctx.sleep(timedelta(hours=1))

    run_id = world.jobs.create("order")
    world.deliver()
    for _ in range(3):
        world.clock.advance(minutes=10)
        assert world.jobs.run_now(run_id)
        assert world.deliver()[0].reason == "sleeping"
    assert world.jobs.get_status(run_id).scheduled_for == NOW + timedelta(hours=1)

    world.settle()

    assert world.jobs.get_status(run_id).finished_at == NOW + timedelta(hours=1)


def test_a_sleep_of_no_length_goes_on_at_once(jobs: Jobs):
    jobs.handler("order")(lambda ctx: ctx.sleep(0))

    assert jobs.consume(message(jobs.create("order"))).outcome == "succeeded"


def test_a_failure_after_a_sleep_has_all_attempts_left(world: World):
    @world.jobs.handler("order", max_attempts=2)
    def order(ctx: JobContext) -> None:
        for _ in range(3):
            ctx.sleep(60)
        raise ValueError

    run_id = world.jobs.create("order")
    world.settle()

    run = world.jobs.get_status(run_id)
    assert (run.status, run.failed_attempts, len(run.attempts)) == ("failed", 2, 2)


def test_a_handler_that_swallows_its_suspension_is_suspended_all_the_same(world: World, work: Work):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> str:
        try:
            ctx.sleep(60)
        except BaseException:
            with pytest.raises(BaseException, match="the run is suspended: sleeping"):
                ctx.step("mail", work.do, "mail")
        return "swallowed"

    run_id = world.jobs.create("order")

    assert world.deliver()[0].reason == "sleeping"
    assert work.calls == []
    assert world.jobs.steps(run_id)[0].name == "sleep-1"
    assert len(world.jobs.steps(run_id)) == 1


@pytest.mark.parametrize("error", [ValueError(), Snooze(5)])
def test_a_handler_that_makes_another_error_of_its_suspension_is_suspended(world: World, error: Exception):
    @world.jobs.handler("order", max_attempts=1)
    def order(ctx: JobContext) -> None:
        try:
            ctx.sleep(60)
        except BaseException:
            raise error from None

    world.jobs.create("order")

    assert world.deliver()[0].reason == "sleeping"


def test_what_a_with_block_raises_because_of_a_suspension_is_logged_by_its_type(
    world: World, caplog: pytest.LogCaptureFixture
):
    @contextlib.contextmanager
    def transaction() -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("secret")

    @world.jobs.handler("order")
    def order(ctx: JobContext) -> None:
        with transaction():
            ctx.sleep(60)

    world.jobs.create("order")

    assert world.deliver()[0].reason == "sleeping"
    assert "the handler raised RuntimeError when its run was suspended" in caplog.text
    assert "secret" not in caplog.text


def test_a_middleware_that_calls_the_handler_again_goes_through_its_steps_again(world: World, work: Work):
    @world.jobs.middleware
    def twice(ctx: JobContext, call_next: Any) -> Any:
        try:
            return call_next(ctx)
        except ConnectionError:
            return call_next(ctx)

    @world.jobs.handler("order")
    def order(ctx: JobContext) -> list[Any]:
        done = [ctx.step("a", work.do, "a", 1), ctx.step("b", work.fail_once, "b")]
        ctx.sleep(0)
        return done

    run_id = world.jobs.create("order")
    world.deliver()

    run = world.jobs.get_status(run_id)
    assert (run.status, run.output, run.failed_attempts) == ("succeeded", [1, "b"], 0)
    assert work.calls == ["a", "b", "b"]
    assert [step.name for step in world.jobs.steps(run_id)] == ["a", "b", "sleep-1"]


def test_no_except_exception_catches_a_suspension_and_finally_is_executed(world: World, work: Work):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> None:
        try:
            ctx.sleep(60)
        except Exception:
            work.do("caught")
        finally:
            work.do("finally")

    world.jobs.create("order")
    world.deliver()

    assert work.calls == ["finally"]


def test_a_run_that_was_suspended_has_started(world: World):
    """It neither expires nor is it replaced by a debouncing call."""
    world.jobs.handler("order", expires_after=timedelta(minutes=1))(lambda ctx: ctx.sleep(60))
    run_id = world.jobs.create("order", 1, dedupe_key="k", dedupe="debounce")
    world.deliver()

    other = world.jobs.create("order", 2, dedupe_key="k", dedupe="debounce", delay=timedelta(days=9))
    assert other != run_id
    assert world.jobs.get_status(run_id).payload == 1
    world.clock.advance(hours=2)
    world.tick()
    assert "succeeded" in [result.outcome for result in world.deliver()]


def test_a_sleeping_run_can_be_canceled_and_one_to_be_canceled_is_not_suspended(world: World, work: Work):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> None:
        if ctx.payload == "while it executes":
            world.jobs.cancel(ctx.run.id, "enough")
        ctx.sleep(60)

    sleeping, executing = world.jobs.create("order"), world.jobs.create("order", "while it executes")
    first, second = world.deliver()
    assert (first.outcome, second.outcome) == ("retried", "canceled")
    assert world.jobs.cancel(sleeping)

    run = world.jobs.get_status(executing)
    assert (run.status, run.cancel_reason, run.failed_attempts, run.attempts) == ("canceled", "enough", 0, ())
    assert world.jobs.get_status(sleeping).status == "canceled"
    world.settle()
    assert len(world.jobs.steps(sleeping)) == 1


def test_a_suspension_is_logged_and_no_hook_is_told(world: World, caplog: pytest.LogCaptureFixture):
    told: list[str] = []
    world.jobs.on("retried", "failed", "succeeded")(lambda event: told.append(event.event))
    world.jobs.handler("order")(lambda ctx: ctx.sleep(60))
    world.jobs.create("order")

    with caplog.at_level(logging.INFO, logger="kumofire_core"):
        world.deliver()

    assert "the run is suspended: sleeping" in caplog.messages
    world.jobs.wait_for_hooks()
    assert told == []


def test_a_process_near_its_deadline_goes_on_in_another_invocation_and_counts_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    seconds = Seconds()
    monkeypatch.setattr(engine_steps, "time", seconds)
    monkeypatch.setattr(consumer, "time", seconds)
    done: list[str] = []

    @world.jobs.handler("import", max_attempts=1)
    def import_rows(ctx: JobContext) -> int:
        for number in range(10):
            ctx.step(f"rows-{number}", rows, number)
        return len(done)

    def rows(number: int) -> None:
        seconds.now += 20
        done.append(f"{number} in {calls}")

    monkeypatch.setattr("kumofire_core.handlers.step_calls.time", seconds)
    run_id = world.jobs.create("import")
    calls = 0
    reasons = []
    while (run_ids := world.queue.due()) and calls < 20:
        assert run_ids == [run_id]
        calls += 1
        result = world.jobs.consume(message(run_id), deadline=world.clock() + timedelta(seconds=102))
        reasons.append(result.reason)

    # 100 s each: after three steps 40 s are left, after four 20 s, and the longest took 20 s.
    assert reasons == ["going on", "going on", None]
    assert [entry.split()[-1] for entry in done] == ["1"] * 4 + ["2"] * 4 + ["3"] * 2
    run = world.jobs.get_status(run_id)
    assert (run.status, run.output, run.failed_attempts) == ("succeeded", 10, 0)


def test_the_time_before_the_first_step_counts_too(world: World, monkeypatch: pytest.MonkeyPatch):
    seconds = Seconds()
    monkeypatch.setattr(engine_steps, "time", seconds)
    monkeypatch.setattr(consumer, "time", seconds)
    monkeypatch.setattr("kumofire_core.handlers.step_calls.time", seconds)
    done: list[int] = []

    @world.jobs.handler("import")
    def import_rows(ctx: JobContext) -> None:
        seconds.now += 70
        for number in range(3):
            ctx.step(f"rows-{number}", rows, number)

    def rows(number: int) -> None:
        seconds.now += 20
        done.append(number)

    run_id = world.jobs.create("import")
    result = world.jobs.consume(message(run_id), deadline=world.clock() + timedelta(seconds=102))

    assert (result.reason, done) == ("going on", [0])


def test_a_step_longer_than_the_whole_time_is_begun_once_an_invocation(world: World, monkeypatch: pytest.MonkeyPatch):
    """It would never get anywhere if it were put off for ever."""
    seconds = Seconds()
    monkeypatch.setattr(engine_steps, "time", seconds)
    monkeypatch.setattr(consumer, "time", seconds)
    monkeypatch.setattr("kumofire_core.handlers.step_calls.time", seconds)
    done: list[int] = []

    @world.jobs.handler("import")
    def import_rows(ctx: JobContext) -> None:
        for number in range(3):
            ctx.step(f"rows-{number}", rows, number)

    def rows(number: int) -> None:
        seconds.now += 500
        done.append(number)

    run_id = world.jobs.create("import")
    for _ in range(3):
        world.queue.due()
        world.jobs.consume(message(run_id), deadline=world.clock() + timedelta(seconds=102))

    assert done == [0, 1, 2]
    assert world.jobs.get_status(run_id).status == "succeeded"


def test_a_handler_that_is_slow_before_its_first_step_makes_one_in_each_invocation(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """Its process is near its deadline then. If the step were put off, the next invocation would come no further."""
    seconds = Seconds()
    monkeypatch.setattr(engine_steps, "time", seconds)
    monkeypatch.setattr("kumofire_core.handlers.step_calls.time", seconds)
    done: list[int] = []

    @world.jobs.handler("import")
    def import_rows(ctx: JobContext) -> None:
        ctx.step("first", str)
        seconds.now += 95
        for number in range(2):
            ctx.step(f"rows-{number}", done.append, number)

    run_id = world.jobs.create("import")
    for _ in range(4):
        world.queue.due()
        world.jobs.consume(message(run_id), deadline=world.clock() + timedelta(seconds=102))

    assert done == [0, 1]
    assert world.jobs.get_status(run_id).status == "succeeded"


def test_a_consumer_whose_clock_is_a_little_behind_goes_on_all_the_same(world: World):
    """A claim forgives a second. The sleep must do so as well, or the run would wait once more."""
    world.jobs.handler("order")(lambda ctx: ctx.sleep(60))
    run_id = world.jobs.create("order")
    world.deliver()

    world.clock.advance(seconds=59.2)

    assert world.jobs.consume(message(run_id)).outcome == "succeeded"


class Seconds:
    """The module ``time``, on a clock that is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_records_expire_after_the_run_and_a_run_that_goes_on_renews_them(world: World, work: Work):
    retention = timedelta(days=7)
    jobs = world.another(retention=retention)

    @jobs.handler("order")
    def order(ctx: JobContext) -> None:
        ctx.step("charge", work.do, "charge")
        for number in range(ctx.payload):
            ctx.sleep(timedelta(days=30), f"month-{number}")

    world.jobs = jobs
    run_id = jobs.create("order", 4)
    while jobs.get_status(run_id).status not in ("succeeded", "failed"):
        world.tick()
        world.deliver()
        for item in kept(world.aws, run_id).values():
            run = world.aws.item(run_id)
            assert item["expires_at"] * 1000 >= run["scheduled_for"] + 7 * 86_400_000
        world.clock.now = max(world.clock.now, jobs.get_status(run_id).scheduled_for)

    assert jobs.get_status(run_id).status == "succeeded"
    assert work.calls == ["charge"]
    finished = world.aws.item(run_id)["expires_at"]
    assert all(item["expires_at"] >= finished for item in kept(world.aws, run_id).values())


def test_records_of_runs_that_are_kept_for_ever_do_not_expire(aws: Aws):
    jobs = aws.jobs(retention=None)
    jobs.handler("order")(lambda ctx: ctx.step("a", str))
    run_id = jobs.create("order")
    jobs.consume(message(run_id))

    assert "expires_at" not in kept(aws, run_id)["step#a"]


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"position": "one"}, {"kind": None}, {"at": 10**16}, {"value": None}, {"value": 5}],
    ids=str,
)
def test_a_record_that_can_t_be_read_fails_the_attempt_and_says_which(jobs: Jobs, aws: Aws, clock: Clock, change: Any):
    jobs.handler("order", max_attempts=9)(of_names("a", "fail"))
    run_id = jobs.create("order")
    jobs.consume(message(run_id))
    item = {name: value for name, value in (kept(aws, run_id)["step#a"] | change).items() if value is not None}
    typed = {name: {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in item.items()}
    aws.dynamodb.client.put_item(TableName=aws.table, Item=typed)
    clock.advance(hours=1)

    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert run.error_type in ("CorruptItemError", "NewerSchemaError")
    assert f"run#{run_id} step 'a'" in run.last_error


def test_a_process_imports_the_code_of_steps_with_its_first_step():
    import subprocess

    script = (
        "import sys; from kumofire_core import Jobs; import kumofire_core.engine.consumer;"
        "print([name for name in sys.modules if 'steps' in name or 'step_calls' in name or 'suspending' in name])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_a_step_result_error_is_an_invalid_json_error():
    from kumofire_core import InvalidJSONError

    assert issubclass(StepResultError, InvalidJSONError)
    assert issubclass(DuplicateStepError, Exception)
    assert not issubclass(InvalidArgumentError, StepMismatchError)
    assert NOW_MS


def test_a_run_that_sleeps_holds_no_slot_of_a_limit(world: World):
    executed: list[str] = []

    @world.jobs.handler("order", concurrency=Limit(1))
    def order(ctx: JobContext) -> None:
        executed.append(ctx.payload)
        if ctx.payload == "sleeps":
            ctx.sleep(DAY)

    sleeps = world.jobs.create("order", "sleeps")
    assert world.deliver()[0].reason == "sleeping"
    other = world.jobs.create("order", "other")
    world.deliver()

    assert executed == ["sleeps", "other"]
    world.settle()
    assert {world.jobs.get_status(run_id).status for run_id in (sleeps, other)} == {"succeeded"}


def stays(aws: Aws, run_id: str) -> bool:
    """Say whether all that a run has kept stays for two weeks beyond the time at which it is due."""
    until = aws.item(run_id)["scheduled_for"] + 14 * 86_400_000
    return all(item["expires_at"] * 1000 >= until for item in kept(aws, run_id).values())


@pytest.mark.parametrize("error", [Snooze(200 * DAY), RetryAfter(200 * DAY)], ids=["snooze", "retry after"])
def test_what_is_kept_stays_where_a_handler_puts_its_run_off_for_long(world: World, work: Work, error: Exception):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> None:
        for number in range(6):
            ctx.step(f"step-{number}", work.do, number)
        if world.clock() == NOW:
            raise error

    run_id = world.jobs.create("order")
    assert world.deliver()[0].outcome == "retried"

    assert world.aws.item(run_id)["scheduled_for"] == NOW_MS + 200 * 86_400_000
    assert stays(world.aws, run_id)
    world.settle()
    assert (world.jobs.get_status(run_id).status, work.calls) == ("succeeded", [0, 1, 2, 3, 4, 5])


def test_what_is_kept_stays_where_a_policy_puts_the_next_attempt_off_for_long(world: World, work: Work):
    @world.jobs.handler("order", retry=RetryPolicy(2, base=100 * DAY, cap=100 * DAY))
    def order(ctx: JobContext) -> None:
        ctx.step("charge", work.do, "charge")
        raise ConnectionError

    run_id = world.jobs.create("order")
    world.deliver()

    assert stays(world.aws, run_id)


def test_what_is_kept_stays_where_a_person_gives_a_run_a_later_time(world: World, work: Work):
    @world.jobs.handler("order", max_attempts=1)
    def order(ctx: JobContext) -> None:
        ctx.step("charge", work.do, "charge")
        if ctx.payload == "fails":
            raise ValueError
        ctx.sleep(60)

    failed, sleeping = world.jobs.create("order", "fails"), world.jobs.create("order")
    world.deliver()

    assert world.jobs.retry(failed, run_at=NOW + 300 * DAY)
    assert world.jobs.reschedule(sleeping, run_at=NOW + 300 * DAY)

    assert stays(world.aws, failed)
    assert stays(world.aws, sleeping)


def test_an_attempt_that_is_due_again_soon_renews_nothing(world: World, work: Work):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> None:
        ctx.step("charge", work.do, "charge")
        raise Snooze(9 * DAY)

    world.jobs.create("order")
    world.aws.dynamodb.requests.clear()
    world.deliver()

    requests = world.aws.dynamodb.count()
    assert (requests["put_item"], requests["update_item"], "query" in requests) == (1, 2, False)
