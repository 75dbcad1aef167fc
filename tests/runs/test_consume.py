"""What consuming a message promises: which runs start, what their handlers get, and how each attempt is recorded."""

from __future__ import annotations

import inspect
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from kumofire_core import (
    ConsumeResult,
    CorruptItemError,
    Fail,
    JobContext,
    Jobs,
    MalformedMessageError,
    NewerSchemaError,
    Outcome,
    RetryPolicy,
    RunStatus,
    Snooze,
    UnsupportedMessageVersionError,
)
from kumofire_core.model.error_text import MAX_ERROR_BYTES
from tests.builders import NOW, NOW_MS, Aws, Clock, message, raises
from tests.faults import Outage, Refused


@pytest.fixture
def calls(jobs: Jobs) -> list[JobContext]:
    """The contexts that the handler of ``email`` was called with."""
    contexts: list[JobContext] = []

    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        contexts.append(ctx)

    return contexts


def test_a_handler_that_returns_makes_its_run_succeed(jobs: Jobs, clock: Clock):
    @jobs.handler("email")
    def email(ctx: JobContext) -> dict[str, Any]:
        clock.advance(seconds=2)
        return {"sent": True}

    run_id = jobs.create("email")
    clock.advance(seconds=1)
    result = jobs.consume(message(run_id))

    assert result == ConsumeResult(outcome=Outcome.SUCCEEDED, job_run_id=run_id)
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.output, run.last_error) == ("succeeded", 0, {"sent": True}, None)
    assert run.started_at == NOW + timedelta(seconds=1)
    assert run.finished_at == run.updated_at == NOW + timedelta(seconds=3)


def test_outcomes_and_statuses_compare_with_plain_text(jobs: Jobs, calls: list[JobContext]):
    run_id = jobs.create("email")

    result = jobs.consume(message(run_id))

    assert result.outcome == "succeeded"
    assert f"{result.outcome}" == "succeeded"
    assert result == ConsumeResult(outcome="succeeded", job_run_id=run_id)  # type: ignore[arg-type]
    assert [str(status) for status in RunStatus] == [
        "scheduled",
        "queued",
        "running",
        "succeeded",
        "failed",
        "canceled",
    ]
    assert [str(outcome) for outcome in Outcome] == ["ignored", "succeeded", "retried", "failed", "canceled"]


def test_a_result_tells_job_attempt_and_duration(jobs: Jobs, calls: list[JobContext], aws: Aws):
    result = jobs.consume(message(aws.a_run(attempt=1)))

    assert (result.job_name, result.attempt, result.reason) == ("email", 2, None)
    assert timedelta(0) <= result.duration < timedelta(seconds=5)


def test_a_handler_gets_its_run_its_payload_and_its_attempt(jobs: Jobs, calls: list[JobContext], clock: Clock):
    run_id = jobs.create("email", {"to": "user@example.com"}, dedupe_key="k", max_attempts=4)
    clock.advance(seconds=1)

    jobs.consume(message(run_id))

    [ctx] = calls
    assert ctx.payload == ctx.run.payload == {"to": "user@example.com"}
    assert (ctx.attempt, ctx.fencing_token, ctx.now) == (1, 1, NOW + timedelta(seconds=1))
    run = ctx.run
    assert (run.id, run.job_name, run.status, run.attempt, run.max_attempts) == (run_id, "email", "running", 0, 4)
    assert (run.scheduled_for, run.created_at, run.started_at, run.updated_at) == (NOW, NOW, ctx.now, ctx.now)
    assert (run.finished_at, run.last_error, run.schedule_id, run.dedupe_key) == (None, None, None, "k")


def test_all_times_that_an_application_sees_are_aware_and_in_utc(jobs: Jobs, calls: list[JobContext]):
    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    times = [run.scheduled_for, run.created_at, run.updated_at, run.started_at, run.finished_at, calls[0].now]
    assert all(isinstance(moment, datetime) and moment.tzinfo is UTC for moment in times)


def test_the_time_left_without_a_deadline_is_the_lease_s(aws: Aws):
    left = []
    jobs = aws.jobs(lease=timedelta(seconds=90), handlers={"email": lambda ctx: left.append(ctx.time_left())})

    jobs.consume(message(jobs.create("email")))

    assert timedelta(seconds=85) < left[0] <= timedelta(seconds=90)


def test_the_time_left_with_a_deadline_ends_before_it(jobs: Jobs, calls: list[JobContext]):
    jobs.consume(message(jobs.create("email")), deadline=NOW + timedelta(seconds=20))

    left = calls[0].time_left()
    assert timedelta(seconds=10) < left < timedelta(seconds=20)


def test_the_logger_of_a_handler_adds_run_job_and_attempt_to_its_own_fields(
    jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture
):
    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        ctx.logger.info("sending", extra={"provider": "ses"})

    run_id = aws.a_run(attempt=1)
    with caplog.at_level(logging.INFO):
        jobs.consume(message(run_id))

    [line] = [line for line in caplog.records if line.getMessage() == "sending"]
    assert (line.job_run_id, line.job_name, line.attempt, line.provider) == (run_id, "email", 2, "ses")


def test_an_async_handler_is_run_to_its_end(jobs: Jobs):
    @jobs.handler("email")
    async def email(ctx: JobContext) -> dict[str, Any]:
        import asyncio

        await asyncio.sleep(0)
        return {"attempt": ctx.attempt}

    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert jobs.get_status(run_id).output == {"attempt": 1}


def test_an_async_handler_that_raises_is_retried(jobs: Jobs):
    @jobs.handler("email")
    async def email(ctx: JobContext) -> None:
        raise ValueError("boom")

    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "retried"
    assert jobs.get_status(run_id).last_error == "ValueError: boom"


def test_an_async_handler_runs_also_where_the_caller_is_in_an_event_loop(jobs: Jobs):
    import asyncio

    @jobs.handler("email")
    async def email(ctx: JobContext) -> str:
        await asyncio.sleep(0)
        return "done"

    run_id = jobs.create("email")

    async def main() -> ConsumeResult:
        return jobs.consume(message(run_id))

    assert asyncio.run(main()).outcome == "succeeded"
    assert jobs.get_status(run_id).output == "done"


def test_a_callable_object_and_a_mapping_of_handlers_serve_as_well(aws: Aws):
    class Email:
        async def __call__(self, ctx: JobContext) -> int:
            return 5

    jobs = aws.jobs(handlers={"email": Email()})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert jobs.get_status(run_id).output == 5


def test_the_decorator_leaves_the_function_as_it_was(jobs: Jobs):
    def email(ctx: JobContext) -> None: ...

    job = jobs.handler("email")(email)

    assert inspect.unwrap(job) is email
    assert not vars(email)


@pytest.mark.parametrize("output", [None, 0, False, "", [], {}, {"a": [1.5, "é", None]}], ids=repr)
def test_a_return_value_that_is_json_is_the_output(aws: Aws, output: Any):
    jobs = aws.jobs(handlers={"email": lambda ctx: output})
    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    assert jobs.get_status(run_id).output == output
    assert type(jobs.get_status(run_id).output) is type(output)


@pytest.mark.parametrize(
    "output", [{1, 2}, b"x", float("nan"), {1: 2}, object()], ids=lambda value: type(value).__name__
)
def test_a_return_value_that_is_not_json_fails_its_run_at_once_so_that_no_effect_is_repeated(aws: Aws, output: Any):
    jobs = aws.jobs(handlers={"email": lambda ctx: output}, retry=RetryPolicy(5))
    run_id = jobs.create("email")

    result = jobs.consume(message(run_id))
    assert (result.outcome, result.attempt, result.reason) == ("failed", 1, "InvalidJSONError")
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.max_attempts, run.output) == ("failed", 1, 5, None)
    assert run.last_error.startswith("InvalidJSONError: the handler's return value is not JSON: value ")


@pytest.mark.parametrize(("payload", "output"), [("x" * 300_000, "y" * 100_000), ("é" * 100_000, "ü" * 100_000)])
def test_a_return_value_too_large_beside_its_payload_fails_its_run_at_once(aws: Aws, payload: str, output: str):
    jobs = aws.jobs(handlers={"email": lambda ctx: output})
    run_id = jobs.create("email", payload)

    assert jobs.consume(message(run_id)).outcome == "failed"
    size = len(output.encode()) + 2
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt) == ("failed", 1)
    assert f"the handler's return value has {size} bytes as it would be stored" in run.last_error


@pytest.mark.parametrize("output", [object(), "x" * 400_000], ids=["not JSON", "too large"])
def test_a_run_whose_cancellation_came_before_its_useless_return_value_is_canceled(aws: Aws, output: Any):
    jobs = aws.jobs()

    @jobs.handler("email")
    def email(ctx: JobContext) -> Any:
        assert jobs.cancel(ctx.run.id, "wrong address")
        return output

    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "canceled"
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.cancel_reason) == ("canceled", 1, "wrong address")
    assert run.last_error.startswith("InvalidJSONError: ")


def test_an_invalid_json_error_of_the_handler_s_own_is_tried_again(aws: Aws):
    """It may be about what the handler read elsewhere, and has repeated nothing yet."""
    jobs = aws.jobs()

    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        jobs.create("email", object())

    assert jobs.consume(message(jobs.create("email"))).outcome == "retried"


def test_a_large_return_value_beside_a_small_payload_is_stored(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: "é" * 180_000})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert jobs.get_status(run_id).output == "é" * 180_000


def test_a_handler_that_raises_has_its_run_put_back_to_the_policy_s_time(jobs: Jobs, aws: Aws, clock: Clock):
    jobs.handler("email")(raises(ValueError("boom")))
    run_id = jobs.create("email")
    clock.advance(seconds=5)

    result = jobs.consume(message(run_id))

    assert (result.outcome, result.attempt, result.reason) == ("retried", 1, "ValueError")
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.last_error, run.finished_at) == ("scheduled", 1, "ValueError: boom", None)
    assert run.scheduled_for == NOW + timedelta(seconds=6)
    assert run.updated_at == NOW + timedelta(seconds=5)
    assert not {"lease_token", "lease_until"} & set(aws.item(run_id))


def test_a_retry_waits_from_when_the_attempt_ended(jobs: Jobs, clock: Clock):
    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        clock.advance(seconds=20)
        raise ValueError

    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    assert jobs.get_status(run_id).scheduled_for == NOW + timedelta(seconds=21)


@pytest.mark.parametrize(
    ("wait", "sent"),
    [
        (timedelta(0), [0]),
        (timedelta(seconds=1), [1]),
        (timedelta(milliseconds=1), [1]),
        (timedelta(seconds=1, milliseconds=1), [2]),
        (timedelta(minutes=15), [900]),
        (timedelta(minutes=15, milliseconds=1), []),
        (timedelta(days=1), []),
    ],
)
def test_a_retry_within_15_minutes_is_sent_at_once_and_a_later_one_waits_for_the_dispatcher(
    aws: Aws, wait: timedelta, sent: list[int]
):
    policy = RetryPolicy(3, lambda *, now, **_: now + wait)
    jobs = aws.jobs(retry=policy, handlers={"email": raises(ValueError())})
    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "retried"
    assert aws.sent() == [(run_id, seconds) for seconds in sent]
    item = aws.item(run_id)
    assert item["status"] == "scheduled"
    assert item["wake_at"] >= item["scheduled_for"]
    assert "wake_shard" in item


def test_a_wake_up_stands_behind_the_message_of_a_retry_and_is_the_time_itself_without_one(aws: Aws):
    waits = {"soon": timedelta(minutes=1), "late": timedelta(hours=1)}
    jobs = aws.jobs(retry=RetryPolicy(3, lambda *, run, now, **_: now + waits[run.id]))
    jobs.handler("email")(raises(ValueError()))
    for run_id in waits:
        jobs.consume(message(aws.a_run(run_id)))

    behind = {run_id: aws.item(run_id)["wake_at"] - aws.item(run_id)["scheduled_for"] for run_id in waits}
    assert behind["soon"] > 0
    assert behind["late"] == 0


def test_a_retry_whose_message_could_not_be_sent_is_still_a_retry(aws: Aws):
    jobs = aws.jobs(sqs=Refused("ServiceUnavailable"), handlers={"email": raises(ValueError())})
    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "retried"
    assert aws.item(run_id)["status"] == "scheduled"


def test_a_run_that_fails_then_succeeds_has_counted_its_failures_and_kept_the_last_error(jobs: Jobs, clock: Clock):
    attempts = []

    @jobs.handler("email")
    def email(ctx: JobContext) -> str:
        attempts.append((ctx.attempt, ctx.fencing_token, ctx.run.attempt, ctx.run.last_error))
        if ctx.attempt < 3:
            raise ValueError(f"boom {ctx.attempt}")
        return "done"

    run_id = jobs.create("email")
    outcomes = []
    for _ in range(3):
        outcomes.append(str(jobs.consume(message(run_id)).outcome))
        clock.advance(seconds=5)

    assert outcomes == ["retried", "retried", "succeeded"]
    assert attempts == [(1, 1, 0, None), (2, 2, 1, "ValueError: boom 1"), (3, 3, 2, "ValueError: boom 2")]
    run = jobs.get_status(run_id)
    assert (run.attempt, run.output, run.last_error) == (2, "done", "ValueError: boom 2")


def test_a_run_whose_attempts_are_used_up_has_failed_for_good(jobs: Jobs, aws: Aws, clock: Clock):
    called = []

    @jobs.handler("email", max_attempts=2)
    def email(ctx: JobContext) -> None:
        called.append(ctx.attempt)
        raise ValueError(f"boom {ctx.attempt}")

    run_id = jobs.create("email")
    outcomes = []
    for _ in range(4):
        outcomes.append(str(jobs.consume(message(run_id)).outcome))
        clock.advance(seconds=60)

    assert outcomes == ["retried", "failed", "ignored", "ignored"]
    assert called == [1, 2]
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.max_attempts) == ("failed", 2, 2)
    assert run.last_error == "ValueError: boom 2"
    assert run.finished_at == NOW + timedelta(seconds=60)
    assert len(aws.sent()) == 2


@pytest.mark.parametrize(
    "error", [SystemExit(1), GeneratorExit(), BaseException("base"), StopIteration(), MemoryError()]
)
def test_whatever_a_handler_raises_is_its_attempt_s_failure(aws: Aws, error: BaseException):
    jobs = aws.jobs(handlers={"email": raises(error)})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "retried"
    assert jobs.get_status(run_id).last_error.startswith(type(error).__name__)


def test_a_person_who_ends_the_process_is_not_held_up_and_the_attempt_not_recorded(jobs: Jobs):
    jobs.handler("email")(raises(KeyboardInterrupt()))
    run_id = jobs.create("email")

    with pytest.raises(KeyboardInterrupt):
        jobs.consume(message(run_id))

    assert jobs.get_status(run_id).status == "running"


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError(), "ValueError"),
        (ValueError("é 🐎"), "ValueError: é 🐎"),
        (ValueError("\ud800"), "ValueError: \\ud800"),
        (KeyError("to"), "KeyError: 'to'"),
        (UnprintableError(), "UnprintableError: (its text can't be made)"),
    ],
    ids=["empty", "unicode", "half a pair", "key", "unprintable"],
)
def test_the_last_error_is_the_error_s_type_and_text(aws: Aws, error: Exception, text: str):
    jobs = aws.jobs(handlers={"email": raises(error)})
    run_id = jobs.create("email")

    jobs.consume(message(run_id))

    assert jobs.get_status(run_id).last_error == text


def test_the_last_error_is_bounded(aws: Aws):
    jobs = aws.jobs(handlers={"email": raises(ValueError("x" * 1_000_000))})
    run_id = jobs.create("email")

    jobs.consume(message(run_id))

    assert len(jobs.get_status(run_id).last_error.encode()) == MAX_ERROR_BYTES


def test_a_run_without_a_handler_has_failed(aws: Aws):
    jobs = aws.jobs(handlers={"other": lambda ctx: None})
    run_id = aws.a_run(job_name="email")

    result = jobs.consume(message(run_id))

    assert result.outcome == "failed"
    run = jobs.get_status(run_id)
    assert (run.status, run.last_error, run.finished_at) == ("failed", 'Missing handler for job "email"', NOW)
    assert aws.sent() == []


def test_a_run_whose_attempts_were_used_up_meanwhile_is_failed_and_its_handler_not_called(
    jobs: Jobs, aws: Aws, calls: list[JobContext]
):
    run_id = aws.a_run(attempt=3, max_attempts=3)

    assert jobs.consume(message(run_id)).outcome == "failed"
    assert calls == []
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt) == ("failed", 3)
    assert "no attempts left" in run.last_error


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "canceled", "finished_at": NOW_MS}, "canceled"),
        ({"status": "succeeded", "finished_at": NOW_MS}, "succeeded"),
        ({"status": "failed", "finished_at": NOW_MS, "attempt": 3}, "failed"),
        ({"status": "scheduled", "scheduled_for": NOW_MS + 1001}, "not yet due"),
        ({"status": "queued", "scheduled_for": NOW_MS + 1001}, "not yet due"),
        ({"status": "running", "lease_token": "x", "lease_until": NOW_MS + 1}, "leased"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_is_final_not_due_or_leased_is_ignored_with_nothing_changed(
    jobs: Jobs, aws: Aws, calls: list[JobContext], fields: dict[str, Any], reason: str
):
    run_id = aws.a_run(**fields)
    before = aws.item(run_id)

    result = jobs.consume(message(run_id))

    assert (result.outcome, result.job_run_id, result.reason) == ("ignored", run_id, reason)
    assert aws.item(run_id) == before
    assert calls == []
    assert aws.sent() == []


def test_a_run_that_does_not_exist_is_ignored_and_not_made(jobs: Jobs, aws: Aws):
    assert jobs.consume(message("nobody")) == ConsumeResult(outcome=Outcome.IGNORED, job_run_id="nobody")
    assert aws.items() == []


@pytest.mark.parametrize("status", ["scheduled", "queued"])
@pytest.mark.parametrize("ahead_ms", [0, 1000])
def test_a_due_run_is_started_whichever_way_it_waits_and_up_to_a_second_of_skew_before(
    jobs: Jobs, aws: Aws, calls: list[JobContext], status: str, ahead_ms: int
):
    run_id = aws.a_run(status=status, scheduled_for=NOW_MS + ahead_ms)

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert len(calls) == 1


def test_a_delayed_run_is_ignored_before_its_time_and_started_at_its_time(
    jobs: Jobs, calls: list[JobContext], clock: Clock
):
    run_id = jobs.create("email", delay=60)

    early = jobs.consume(message(run_id))
    clock.advance(seconds=60)
    due = jobs.consume(message(run_id))

    assert (early.outcome, due.outcome) == ("ignored", "succeeded")


def test_a_message_delivered_twice_executes_once(jobs: Jobs, calls: list[JobContext]):
    run_id = jobs.create("email")

    outcomes = [str(jobs.consume(message(run_id)).outcome) for _ in range(3)]

    assert outcomes == ["succeeded", "ignored", "ignored"]
    assert len(calls) == 1


@pytest.mark.parametrize("value", [{"version": 2, "kumofireJobRunId": "r1"}, {"kumofireJobRunId": "r1"}])
def test_an_unsupported_version_is_a_clear_error_and_nothing_is_looked_up(jobs: Jobs, aws: Aws, value: Any):
    with pytest.raises(UnsupportedMessageVersionError):
        jobs.consume(value)
    assert aws.dynamodb.requests == []


@pytest.mark.parametrize("value", [None, "text", [], {"version": 1}, {"version": 1, "kumofireJobRunId": ""}])
def test_a_malformed_message_is_a_clear_error_and_nothing_is_looked_up(jobs: Jobs, aws: Aws, value: Any):
    with pytest.raises(MalformedMessageError):
        jobs.consume(value)
    assert aws.dynamodb.requests == []


def test_storage_trouble_before_the_handler_starts_nothing(aws: Aws):
    called = []
    outage = Outage(at=2, applied=False)  # the claim, after the read of what is paused
    jobs = aws.jobs(dynamodb=outage.wrap(aws.dynamodb), handlers={"email": called.append})
    run_id = aws.a_run()
    before = aws.item(run_id)

    with pytest.raises(ConnectionClosedError):
        jobs.consume(message(run_id))

    assert called == []
    assert aws.item(run_id) == before


@pytest.mark.parametrize("handler", [lambda ctx: None, raises(ValueError("boom"))], ids=["returned", "raised"])
def test_storage_trouble_after_the_handler_is_a_runtime_failure_and_not_the_handler_s(aws: Aws, handler: Any):
    outage = Outage(at=3, applied=False)
    jobs = aws.jobs(dynamodb=outage.wrap(aws.dynamodb), handlers={"email": handler})
    run_id = aws.a_run()

    with pytest.raises(ConnectionClosedError):
        jobs.consume(message(run_id))

    item = aws.item(run_id)
    assert (item["status"], item["attempt"]) == ("running", 0)
    assert "last_error" not in item
    assert aws.sent() == []


def test_an_error_of_the_table_leaves_as_botocore_raised_it(aws: Aws):
    jobs = aws.jobs(dynamodb=Refused("ProvisionedThroughputExceededException"))

    with pytest.raises(ClientError, match="ProvisionedThroughputExceededException"):
        jobs.consume(message("r1"))
    with pytest.raises(ClientError, match="ProvisionedThroughputExceededException"):
        jobs.create("email")
    with pytest.raises(ClientError, match="ProvisionedThroughputExceededException"):
        jobs.get_status("r1")


def test_an_item_of_a_later_release_is_refused_and_not_touched(jobs: Jobs, aws: Aws, calls: list[JobContext]):
    run_id = aws.a_run(schema=3)
    before = aws.item(run_id)

    with pytest.raises(NewerSchemaError, match=f"run#{run_id} has schema 3, this release knows up to 2; deploy"):
        jobs.consume(message(run_id))
    with pytest.raises(NewerSchemaError):
        jobs.get_status(run_id)

    assert aws.item(run_id) == before
    assert calls == []


@pytest.mark.parametrize(
    "broken",
    [{"status": "lost"}, {"attempt": "two"}, {"created_at": 10**18}, {"without": ("job_name",)}],
    ids=str,
)
def test_an_item_that_can_not_be_read_fails_alone_and_is_named(
    jobs: Jobs, aws: Aws, calls: list[JobContext], broken: dict[str, Any]
):
    run_id = aws.a_run(**broken)

    with pytest.raises(CorruptItemError, match=f"run#{run_id}"):
        jobs.get_status(run_id)
    with pytest.raises(CorruptItemError, match=f"run#{run_id}"):
        jobs.consume(message(run_id))
    assert calls == []


def test_the_error_of_an_item_that_can_not_be_read_quotes_no_value(jobs: Jobs, aws: Aws):
    run_id = aws.a_run(payload='{"password": "hunter2"')

    with pytest.raises(CorruptItemError) as caught:
        jobs.get_status(run_id)

    assert "hunter2" not in str(caught.value)


def test_attributes_of_others_are_passed_over(jobs: Jobs, aws: Aws, calls: list[JobContext]):
    run_id = aws.a_run()
    aws.dynamodb.client.update_item(
        TableName=aws.table,
        Key={"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}},
        UpdateExpression="SET a = :a, b = :b",
        ExpressionAttributeValues={":a": {"L": [{"N": "1.5"}]}, ":b": {"N": "1.5"}},
    )

    assert jobs.consume(message(run_id)).outcome == "succeeded"


@pytest.mark.parametrize("handler", [lambda ctx: None, raises(ValueError())], ids=["succeeded", "failed"])
def test_a_finished_run_leaves_the_index_and_expires_after_its_retention(aws: Aws, handler: Any):
    jobs = aws.jobs(retention=timedelta(days=2), handlers={"email": handler})
    run_id = aws.a_run(max_attempts=1)

    jobs.consume(message(run_id))

    item = aws.item(run_id)
    assert not {"wake_at", "wake_shard", "lease_token", "lease_until"} & set(item)
    assert 0 <= item["expires_at"] - (NOW_MS // 1000 + 2 * 86_400) <= 1


def test_a_run_that_is_to_be_tried_again_does_not_expire(jobs: Jobs, aws: Aws):
    jobs.handler("email")(raises(ValueError()))
    run_id = aws.a_run()

    jobs.consume(message(run_id))

    assert "expires_at" not in aws.item(run_id)


def test_without_a_retention_a_finished_run_is_kept_for_ever(aws: Aws):
    jobs = aws.jobs(retention=None, handlers={"email": lambda ctx: None})
    run_id = aws.a_run()

    jobs.consume(message(run_id))

    assert "expires_at" not in aws.item(run_id)


def test_a_cancellation_asked_for_while_the_handler_runs_leaves_no_retry(jobs: Jobs, aws: Aws):
    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        aws.change(ctx.run.id, cancel_requested_at=NOW_MS)
        raise ValueError("boom")

    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "canceled"
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.last_error, run.finished_at) == ("canceled", 1, "ValueError: boom", NOW)
    assert aws.sent() == []


def test_a_handler_that_returns_in_spite_of_a_cancellation_has_succeeded(jobs: Jobs, aws: Aws):
    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        aws.change(ctx.run.id, cancel_requested_at=NOW_MS)

    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "succeeded"


def test_a_run_that_its_handler_snoozed_has_started_and_does_not_expire(jobs: Jobs, aws: Aws, clock: Clock):
    raised: list[BaseException] = [Snooze(timedelta(seconds=5))]

    @jobs.handler("email", expires_after=timedelta(minutes=1))
    def email(ctx: JobContext) -> None:
        if raised:
            raise raised.pop()

    run_id = aws.a_run()
    jobs.consume(message(run_id))
    clock.advance(minutes=10)

    assert jobs.consume(message(run_id)).outcome == "succeeded"


def test_a_retried_run_that_was_snoozed_before_expires_as_a_new_one_does(jobs: Jobs, aws: Aws, clock: Clock):
    raised: list[BaseException] = [Fail("no"), Snooze(timedelta(seconds=5))]

    @jobs.handler("email", expires_after=timedelta(minutes=1))
    def email(ctx: JobContext) -> None:
        raise raised.pop()

    run_id = aws.a_run()
    jobs.consume(message(run_id))
    clock.advance(seconds=5)
    assert jobs.consume(message(run_id)).outcome == "failed"
    jobs.retry(run_id)
    clock.advance(minutes=10)

    assert jobs.consume(message(run_id)).outcome == "canceled"


def test_an_attempt_is_not_told_with_the_log_of_an_earlier_one(jobs: Jobs, aws: Aws, clock: Clock):
    run_id = aws.a_run(log="request-1 stream-1")

    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        under_way.append(jobs.get_status(run_id).attempts[-1])
        clock.advance(minutes=10)  # this worker is lost
        jobs.dispatch()

    under_way: list[Any] = []
    jobs.consume(message(run_id))

    lost = jobs.get_status(run_id).attempts[0]
    assert lost.ended == "worker_lost"
    for attempt in (*under_way, lost):
        assert (attempt.request_id, attempt.log_stream) == (None, None)
