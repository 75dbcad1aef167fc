"""``in_process``: an application's ``Jobs`` on an AWS in memory, and everything that works in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from kumofire_core import (
    CallNext,
    InvalidArgumentError,
    JobContext,
    JobGroup,
    Jobs,
    Limit,
    Rate,
    RetryPolicy,
    RunEvent,
    Snooze,
)
from kumofire_core.testing import InProcessAWS, InProcessError, NotImitatedError, in_process

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)


@dataclass
class Order:
    number: int
    gift: bool = False


@pytest.fixture
def jobs() -> Jobs:
    """An application's ``Jobs``, whose requests would go to an AWS that does not answer."""
    jobs = Jobs(
        table="the-real-table",
        queue_url="https://sqs.us-east-1.amazonaws.com/123456789012/the-real-queue",
        dynamodb=NoAnswer(),
        sqs=NoAnswer(),
        s3=NoAnswer(),
        bucket="the-real-bucket",
    )
    jobs.handler("email")(send_email)
    return jobs


class NoAnswer:
    """A client whose every request is a mistake of the test."""

    def __getattr__(self, operation: str) -> Any:
        def request(**parameters: Any) -> Any:
            raise AssertionError(f"{operation} left the process")

        return request


def send_email(ctx: JobContext) -> dict[str, str]:
    return {"sent_to": ctx.payload["to"]}


@pytest.fixture
def aws(jobs: Jobs) -> Iterator[InProcessAWS]:
    with in_process(jobs, now=NOON) as aws:
        yield aws


def status(jobs: Jobs, run_id: str) -> str:
    run = jobs.get_status(run_id)
    assert run is not None
    return run.status.value


# Time


def test_a_run_that_is_due_is_executed(jobs: Jobs, aws: InProcessAWS) -> None:
    run_id = jobs.create("email", {"to": "ada"})

    drained = aws.drain()

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.output, run.finished_at) == ("succeeded", {"sent_to": "ada"}, NOON)
    assert drained
    assert (len(drained), drained.succeeded, drained.counts) == (1, 1, {"succeeded": 1})
    assert [result.job_run_id for result in drained] == [run_id]
    assert not aws.drain()


@pytest.mark.parametrize("delay", [0.25, 60, 3_600.5, 90_000])
def test_a_run_starts_at_its_time_and_not_before(jobs: Jobs, aws: InProcessAWS, delay: float) -> None:
    run_id = jobs.create("email", {"to": "ada"}, delay=delay)

    assert not aws.drain()
    assert not aws.drain(until=timedelta(seconds=delay) - timedelta(milliseconds=1))
    assert status(jobs, run_id) in ("scheduled", "queued")
    assert aws.drain(until=timedelta(milliseconds=1)).succeeded == 1
    run = jobs.get_status(run_id)
    assert run is not None
    assert run.started_at == NOON + timedelta(seconds=delay) == aws.now


def test_the_clock_moves_only_when_the_test_moves_it(jobs: Jobs, aws: InProcessAWS) -> None:
    run_id = jobs.create("email", {"to": "ada"}, run_at=NOON + timedelta(days=2))

    assert aws.now == NOON
    assert aws.move(timedelta(days=1)) == NOON + timedelta(days=1)
    assert aws.move(hours=23) == NOON + timedelta(hours=47)
    assert not aws.drain()
    assert aws.move_to(NOON + timedelta(days=3)) == aws.now
    assert aws.drain().succeeded == 1
    run = jobs.get_status(run_id)
    assert run is not None
    assert run.started_at == NOON + timedelta(days=3)


def test_the_clock_begins_at_the_real_time_in_whole_milliseconds(jobs: Jobs) -> None:
    before = datetime.now(UTC)
    with in_process(jobs) as aws:
        assert abs(aws.now - before) < timedelta(minutes=1)
        assert aws.now.microsecond % 1000 == 0


def test_a_failed_attempt_is_retried_when_time_goes_on(jobs: Jobs, aws: InProcessAWS) -> None:
    attempts = []

    @jobs.handler("flaky", retry=RetryPolicy(4, base=timedelta(hours=1), cap=timedelta(hours=9)))
    def flaky(ctx: JobContext) -> None:
        attempts.append(aws.now - NOON)
        if ctx.attempt < 4:
            raise ConnectionError("not yet")

    flaky.create()

    assert aws.drain().counts == {"retried": 1}
    assert aws.drain(until=timedelta(days=1)).counts == {"retried": 2, "succeeded": 1}
    assert attempts == [timedelta(hours=hours) for hours in (0, 1, 3, 7)]
    assert aws.now == NOON + timedelta(days=1)


def test_drain_run_returns_the_run_when_it_has_ended(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("long", max_attempts=2)
    def long(ctx: JobContext) -> str:
        ctx.sleep(timedelta(days=3))
        if ctx.attempt == 1:
            raise ConnectionError
        return "done"

    run = aws.drain_run(long.create())

    assert (run.status, run.output) == ("succeeded", "done")
    assert aws.now == NOON + timedelta(days=3, seconds=1)


def test_drain_run_says_why_a_run_does_not_end(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("waits")
    def waits(ctx: JobContext) -> Any:
        return ctx.wait_for("approved")

    jobs.create_schedule("email", {"to": "ada"}, schedule_type="interval", schedule_expr=timedelta(days=1))
    run_id = waits.create()
    with pytest.raises(InProcessError, match=r"of 'waits' does not end: it waits for the signal 'approved'; call jobs"):
        aws.drain_run(run_id)
    assert aws.now == NOON
    jobs.signal(run_id, "approved", {"by": "bob"})
    assert aws.drain_run(run_id).output == {"by": "bob"}

    jobs.pause("email")
    with pytest.raises(InProcessError, match=r"its job is paused; call jobs\.resume\('email'\)"):
        aws.drain_run(jobs.create("email", {"to": "ada"}))
    with pytest.raises(InProcessError, match="there is no run 'unknown'"):
        aws.drain_run("unknown")


def test_drain_run_does_not_walk_on_for_ever(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("snoozes")
    def snoozes(ctx: JobContext) -> None:
        raise Snooze(timedelta(days=20))

    aws.drain_run(jobs.create("email", {"to": "ada"}, delay=timedelta(days=60)))
    with pytest.raises(InProcessError, match=r"more than 10 messages were delivered \(11 of 'snoozes'\)"):
        aws.drain_run(snoozes.create(), most=10)


def test_a_run_that_creates_itself_for_ever_is_an_error(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("again")
    def again(ctx: JobContext) -> None:
        jobs.create("again")

    again.create()
    with pytest.raises(InProcessError, match=r"'again'.*does a run create, or wait for, another one of its kind"):
        aws.drain(most=20)


def test_an_error_of_a_handler_can_be_let_out(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("wrong")
    def wrong(ctx: JobContext) -> None:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("my mistake") from first

    run_id = wrong.create()
    with pytest.raises(ValueError, match="my mistake") as raised:
        aws.drain(raise_errors=True)
    assert raised.traceback[-1].name == "wrong"
    assert raised.value.__cause__ is not None
    assert raised.value.__cause__.__traceback__ is not None
    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.error_type) == ("scheduled", "ValueError")
    assert aws.drain(until=timedelta(hours=1)).counts == {"retried": 1, "failed": 1}


def test_an_output_that_is_not_json_is_let_out_as_its_error(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("unusable")
    def unusable(ctx: JobContext) -> Any:
        return object()

    unusable.create()
    with pytest.raises(Exception, match="return value"):
        aws.drain(raise_errors=True)


def test_a_schedule_makes_its_runs_at_their_times(jobs: Jobs, aws: InProcessAWS) -> None:
    jobs.create_schedule("email", {"to": "ada"}, schedule_type="cron", schedule_expr="30 7 * * MON-FRI")

    assert not aws.drain()
    assert aws.drain(until=timedelta(days=7)).succeeded == 5
    starts = [run.started_at for run in aws.runs("email")]
    assert starts == [datetime(2026, 3, day, 7, 30, tzinfo=UTC) for day in (16, 17, 18, 19, 20)]


def test_a_wait_ends_at_its_timeout(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("waits")
    def waits(ctx: JobContext) -> bool:
        try:
            ctx.wait_for("approved", timeout=timedelta(days=2))
        except TimeoutError:
            return False
        return True

    run = aws.drain_run(waits.create())

    assert (run.output, run.finished_at) == (False, NOON + timedelta(days=2))


def test_a_rate_spreads_its_runs_by_the_clock_of_the_test(jobs: Jobs, aws: InProcessAWS) -> None:
    starts = []

    @jobs.handler("slowly", rate=Rate(1, per=timedelta(milliseconds=300)))
    def slowly(ctx: JobContext) -> None:
        starts.append(aws.now - NOON)

    slowly.create_many([None] * 4)

    assert aws.drain().succeeded == 1
    assert aws.drain(until=timedelta(seconds=2)).succeeded == 3
    assert starts[0] == timedelta(0)
    gaps = [(after - before) / timedelta(milliseconds=1) for before, after in pairwise(starts)]
    assert all(300 <= gap < 330 for gap in gaps)


# What works


def test_a_limit_lets_the_others_wait_and_follow(jobs: Jobs, aws: InProcessAWS) -> None:
    seen = []

    @jobs.handler("one", concurrency=Limit(1))
    def one(ctx: JobContext) -> None:
        use = jobs.get_limit("one")
        seen.append(len(use.holders))

    one.create_many([None] * 5)
    assert aws.drain().succeeded == 5
    assert seen == [1] * 5


def test_a_typed_async_handler_of_a_group_in_a_middleware_is_executed(jobs: Jobs, aws: InProcessAWS) -> None:
    group, seen = JobGroup(), []

    @group.handler("receipt")
    async def receipt(ctx: JobContext[Order]) -> int:
        await asyncio.sleep(0)
        assert isinstance(ctx.payload, Order)
        return await ctx.aio.step("double", lambda: ctx.payload.number * 2)

    @jobs.middleware
    def around(ctx: JobContext, call_next: CallNext) -> Any:
        seen.append(ctx.run.job_name)
        return call_next(ctx)

    jobs.include(group)
    run_id = receipt.create(Order(21))
    assert aws.drain().succeeded == 1
    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.output, seen) == (42, ["receipt"])


def test_hooks_are_told_before_drain_returns(jobs: Jobs, aws: InProcessAWS) -> None:
    told = []

    @jobs.on("created", "succeeded")
    def tell(event: RunEvent) -> None:
        told.append((event.event, event.run_id))

    run_id = jobs.create("email", {"to": "ada"})
    assert jobs.wait_for_hooks(timedelta(seconds=30))  # several threads tell of events: a later one may come first
    aws.drain()
    assert told == [("created", run_id), ("succeeded", run_id)]


def test_children_batches_and_chains_are_gathered(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("parent")
    def parent(ctx: JobContext) -> list[Any]:
        ctx.create_children([{"name": "email", "payload": {"to": name}} for name in "abc"])
        return [child.output["sent_to"] for child in ctx.wait_for_children()]

    @jobs.handler("gather")
    def gather(ctx: JobContext) -> int:
        assert ctx.batch is not None
        return ctx.batch.succeeded

    run_id = parent.create()
    batch_id = jobs.create_batch([{"name": "email", "payload": {"to": "x"}}] * 3, then="gather")
    first, second = jobs.create_chain([{"name": "email", "payload": {"to": each}} for each in "pq"])
    aws.drain()
    run, batch = jobs.get_status(run_id), jobs.get_batch(batch_id)
    assert run is not None
    assert batch is not None
    assert run.output == ["a", "b", "c"]
    assert [each.output for each in aws.runs("gather")] == [3]
    assert (status(jobs, first), status(jobs, second)) == ("succeeded", "succeeded")


def test_a_run_in_a_transaction_exists_with_the_item_or_not_at_all(jobs: Jobs, aws: InProcessAWS) -> None:
    aws.create_table("orders", key="number")
    order: Any = {"Put": {"TableName": "orders", "Item": {"number": {"S": "1"}, "paid": {"BOOL": True}}}}
    with jobs.create_in_transaction("email", {"to": "ada"}) as pending:
        aws.dynamodb.transact_write_items(TransactItems=[order, pending.entry])
    order["Put"]["ConditionExpression"] = "attribute_not_exists(#n)"
    order["Put"]["ExpressionAttributeNames"] = {"#n": "number"}
    refused = aws.dynamodb.exceptions.TransactionCanceledException
    with pytest.raises(refused), jobs.create_in_transaction("email", {"to": "bob"}) as pending:
        aws.dynamodb.transact_write_items(TransactItems=[order, pending.entry])

    aws.drain()

    assert aws.assert_created("email", count=1).payload == {"to": "ada"}
    assert aws.dynamodb.get_item(TableName="orders", Key={"number": {"S": "1"}})["Item"]["paid"] == {"BOOL": True}


def test_a_large_payload_is_in_the_bucket(jobs: Jobs, aws: InProcessAWS) -> None:
    text = "x" * 1_000_000
    jobs.create("email", {"to": text})

    run = aws.drain_run(aws.assert_created("email", to=text).id)

    assert run.output == {"sent_to": text}
    assert len(aws.s3.objects["the-real-bucket"]) == 2


def test_a_paused_job_does_nothing_until_it_is_resumed(jobs: Jobs, aws: InProcessAWS) -> None:
    jobs.create("email", {"to": "a"})
    aws.drain()
    jobs.pause("email", until=NOON + timedelta(hours=5))
    first = jobs.create("email", {"to": "b"})
    assert not aws.drain()
    assert status(jobs, first) == "scheduled"
    assert aws.drain(until=timedelta(hours=4, minutes=59)).counts == {}
    assert aws.drain(until=timedelta(minutes=1)).succeeded == 1
    jobs.pause()
    jobs.create("email", {"to": "c"})
    assert not aws.drain()
    jobs.resume()
    assert aws.drain().succeeded == 1


def test_people_steer_and_list_runs(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("fails", max_attempts=1)
    def fails(ctx: JobContext) -> None:
        raise RuntimeError

    failed = fails.create_many([None] * 3)
    later = jobs.create("email", {"to": "a"}, delay=timedelta(days=1))
    assert aws.drain().counts == {"failed": 3}
    assert jobs.run_now(later)
    assert aws.drain().succeeded == 1
    assert {run.id for run in jobs.list_runs(status="failed").runs} == set(failed)
    assert jobs.retry_many(status="failed").changed == 3
    assert aws.drain().failed == 3
    assert jobs.delete_many(status="failed").changed == 3
    assert aws.runs("fails") == []
    canceled = jobs.create("email", {"to": "b"}, delay=5)
    assert jobs.cancel(canceled)
    assert not aws.drain(until=timedelta(minutes=1))
    assert [run.id for run in aws.runs(status="canceled")] == [canceled]


def test_the_calls_of_async_programs_work(jobs: Jobs, aws: InProcessAWS) -> None:
    async def create() -> str:
        run_id: str = await jobs.aio.create("email", {"to": "ada"}, dedupe_key="once")
        assert await jobs.aio.create("email", {"to": "bob"}, dedupe_key="once") == run_id
        return run_id

    run_id = asyncio.run(create())
    assert aws.drain().succeeded == 1
    assert jobs.find_run(dedupe_key="once") == jobs.get_status(run_id)


def test_a_job_without_a_handler_fails_as_it_does_on_aws(jobs: Jobs, aws: InProcessAWS) -> None:
    web = Jobs(table=jobs.table_name, queue_url=jobs.queue_url, dynamodb=NoAnswer(), sqs=NoAnswer())
    with pytest.raises(AssertionError, match="put_item left the process"):
        web.create("sms")
    other = Jobs(table="t", queue_url="https://sqs.us-east-1.amazonaws.com/1/q", handlers={"email": send_email})
    with in_process(other, web) as both:
        pass
    web = Jobs(table="t", queue_url="https://sqs.us-east-1.amazonaws.com/1/q")
    with in_process(other, web) as both:
        unknown, known = web.create("sms"), web.create("email", {"to": "ada"})
        assert both.drain().counts == {"failed": 1, "succeeded": 1}
        assert other.get_status(unknown) == web.get_status(unknown)
        assert status(other, known) == "succeeded"


def test_a_handler_runs_in_the_thread_of_the_test(jobs: Jobs, aws: InProcessAWS) -> None:
    threads = []

    @jobs.handler("where")
    def where(ctx: JobContext) -> None:
        threads.append(threading.current_thread())

    where.create()
    aws.drain()
    assert threads == [threading.current_thread()]


# In place


def test_two_tests_share_nothing_and_the_jobs_are_as_before(jobs: Jobs) -> None:
    before = dict(jobs.__dict__)
    with in_process(jobs) as first:
        run_id = jobs.create("email", {"to": "ada"})
        jobs.pause("email")
        schedule = jobs.create_schedule("email", schedule_type="interval", schedule_expr=timedelta(hours=1))
        assert len(first.runs()) == 1
    assert jobs.__dict__ == before
    with in_process(jobs) as second:
        assert jobs.get_status(run_id) is None
        assert jobs.get_schedule(schedule) is None
        assert (second.runs(), jobs.pauses()) == ([], ())
    with pytest.raises(AssertionError, match="left the process"):
        jobs.create("email", {"to": "ada"})


def test_what_holds_the_jobs_works_inside_and_outside(jobs: Jobs) -> None:
    handled = jobs.handler("held")(send_email)
    aio, create = jobs.aio, jobs.create
    with in_process(jobs) as aws:
        ids = [handled.create({"to": "a"}), create("held", {"to": "b"}), asyncio.run(aio.create("held", {"to": "c"}))]
        assert [run.id for run in aws.runs("held")] == ids
        assert aws.drain().succeeded == 3
    assert jobs.aio is aio


def test_what_a_test_registers_is_forgotten_and_what_a_module_registers_is_not(jobs: Jobs) -> None:
    told = []
    with in_process(jobs):
        jobs.handler("of a module")(send_email)
        jobs.on("created")(told_by_a_module)

        @jobs.handler("of the test")
        def of_the_test(ctx: JobContext) -> None: ...

        @jobs.on("created", "failed")
        def of_the_test_too(event: RunEvent) -> None:
            told.append(event.run_id)

        @jobs.middleware
        def around(ctx: JobContext, call_next: CallNext) -> Any:
            raise AssertionError("the middleware of an earlier test")

        jobs.create("of a module")
        jobs.wait_for_hooks()
    assert jobs._registry.names() == ["email", "of a module"]
    with in_process(jobs) as aws:
        jobs.create("of a module", {"to": "ada"})
        aws.drain(raise_errors=True)
    assert len(told) == 1
    assert len(TOLD) == 2


TOLD: list[str] = []


def told_by_a_module(event: RunEvent) -> None:
    TOLD.append(event.run_id)


def test_one_jobs_is_in_one_world_at_a_time(jobs: Jobs, aws: InProcessAWS) -> None:
    problems = []

    def in_another_thread() -> None:
        try:
            with in_process(jobs):
                raise AssertionError
        except InProcessError as problem:
            problems.append(str(problem))

    thread = threading.Thread(target=in_another_thread)
    thread.start()
    thread.join()
    assert "the Jobs of table 'the-real-table' is in a test's AWS already" in problems[0]
    with pytest.raises(InProcessError, match="can't be nested"), in_process(jobs):
        raise AssertionError
    assert jobs.create("email", {"to": "ada"}), "the first world is as it was"


def test_the_settings_of_the_jobs_hold(jobs: Jobs) -> None:
    settings: dict[str, Any] = {"table": "t", "queue_url": "https://sqs.us-east-1.amazonaws.com/123456789012/q"}
    strict = Jobs(**settings, retry=RetryPolicy(1), creator="web", batch_writes=True, list_succeeded=True)

    @strict.handler("fails")
    def fails(ctx: JobContext) -> None:
        raise RuntimeError

    with in_process(strict) as aws:
        run = aws.drain_run(fails.create())
        assert (run.status, run.created_by, run.max_attempts) == ("failed", "web", 1)


# What was created


def test_what_was_created_is_found_by_some_of_its_fields(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("receipt")
    def receipt(ctx: JobContext[Order]) -> None: ...

    jobs.create("email", {"to": "ada", "options": {"html": True, "cc": ["bob"]}, "count": 3}, delay=60)
    jobs.create("email", {"to": "bob"})
    jobs.create("email", ["not", "a", "mapping"], run_at=NOON + timedelta(days=1))
    receipt.create(Order(42, gift=True))

    assert aws.assert_created("email").payload["to"] == "ada"
    aws.assert_created("email", to="ada", options={"html": True}, delay=60, count=1)
    aws.assert_created("email", {"count": 3}, options={"cc": ("bob",)}, delay=timedelta(minutes=1))
    aws.assert_created("email", payload={"to": "bob"}, run_at=NOON)
    aws.assert_created("email", payload=["not", "a", "mapping"], run_at=NOON + timedelta(days=1))
    aws.assert_created(receipt, number=42, gift=True)
    aws.assert_created(receipt, payload=Order(42, gift=True))
    aws.assert_created("receipt", payload={"number": 42, "gift": True})
    aws.assert_not_created("email", to="carl")
    aws.assert_not_created("email", to="ada", delay=61)
    aws.assert_not_created("email", options={"html": 1})
    aws.assert_not_created(receipt, payload=Order(42))


def test_what_was_not_created_is_told_with_what_was(jobs: Jobs, aws: InProcessAWS) -> None:
    with pytest.raises(AssertionError, match=r"no run of 'email' was created\. No run was created\."):
        aws.assert_created("email")
    run_id = jobs.create("email", {"to": "bob"}, delay=60)
    with pytest.raises(AssertionError) as problem:
        aws.assert_created("email", to="ada")
    assert str(problem.value) == (
        "no run of 'email' with to='ada' was created. Created were:\n"
        f"  'email' with {{'to': 'bob'}}, to start after 0:01:00 (run {run_id})"
    )
    with pytest.raises(AssertionError, match="1 runs of 'email' were created, and not 2"):
        aws.assert_created("email", count=2)
    with pytest.raises(AssertionError, match="1 runs of 'email' with to='bob' were created"):
        aws.assert_not_created("email", to="bob")


def test_a_run_is_found_as_it_was_created_whatever_became_of_it(jobs: Jobs, aws: InProcessAWS) -> None:
    @jobs.handler("flaky")
    def flaky(ctx: JobContext) -> None:
        if ctx.attempt < 3:
            raise RuntimeError

    run_id = flaky.create({"n": 1}, delay=60)
    jobs.update(run_id, payload={"n": 2})
    aws.drain_run(run_id)
    aws.assert_created(flaky, n=2, delay=60)
    jobs.delete(run_id)
    aws.assert_created(flaky, n=2, delay=60)


def test_an_unknown_job_is_a_mistake_of_the_test(jobs: Jobs, aws: InProcessAWS) -> None:
    with pytest.raises(InvalidArgumentError, match=r"there is no job 'emial' \(registered: email\)"):
        aws.assert_not_created("emial")


# Mistakes


def test_wrong_arguments_are_told(jobs: Jobs, aws: InProcessAWS) -> None:
    wrong: Any = None
    for call, told in (
        (lambda: aws.drain("a-run-id"), "until must be an aware datetime, a timedelta or None.*drain_run"),
        (lambda: aws.drain(datetime(2026, 1, 1)), "until is .* which has no time zone"),
        (lambda: aws.drain(NOON - timedelta(seconds=1)), "the clock is at"),
        (lambda: aws.drain(timedelta(seconds=-1)), "the clock can't go back"),
        (lambda: aws.drain(raise_errors=wrong), "raise_errors must be True or False"),
        (lambda: aws.move(5), "move takes a timedelta"),
        (lambda: aws.move(seconds=-5), "the clock can't go back"),
        (lambda: aws.move_to(NOON - timedelta(1)), "the clock can't go back"),
        (lambda: aws.runs(status="done"), "status must be one of"),
        (lambda: aws.assert_created("email", count=0), "count must be a whole number of at least 1"),
        (lambda: aws.assert_created("email", "ada"), "the fields must be a mapping"),
        (lambda: aws.assert_created(wrong), "the job must be its name, or its handler"),
        (lambda: in_process().__enter__(), "in_process takes the Jobs of the application"),
        (lambda: in_process(wrong).__enter__(), "in_process takes a Jobs, not NoneType"),
        (lambda: in_process(jobs, chaos=wrong).__enter__(), "chaos must be True or False"),
        (lambda: in_process(jobs, seed=1.5).__enter__(), "seed must be a whole number or a text"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidArgumentError, match=told):
            call()  # type: ignore[no-untyped-call]


def test_what_is_not_imitated_is_named(aws: InProcessAWS) -> None:
    for call, named in (
        (lambda: aws.dynamodb.restore_table_from_backup(), "DynamoDB's operation 'restore_table_from_backup'"),
        (lambda: aws.dynamodb.scan(TableName="the-real-table", Segment=1, TotalSegments=2), "parameters of scan"),
        (lambda: aws.dynamodb.put_item(TableName="the-real-table", Expected={}, Item={}), "parameters of put_item"),
        (lambda: aws.sqs.start_message_move_task(), "SQS's operation 'start_message_move_task'"),
        (lambda: aws.s3.copy_object(), "S3's operation 'copy_object'"),
    ):
        with pytest.raises(NotImitatedError, match=named):
            call()
