"""Batches: malformed records are acknowledged, runtime failures come again, and no record disturbs another."""

from __future__ import annotations

import contextvars
import json
import logging
import threading
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kumofire_core import JobContext, Jobs
from tests.builders import Aws, Clock, LambdaContext, body, event, failures, message, raises, record
from tests.faults import Outage, Refused
from tests.input.test_message import ANY_JSON

MALFORMED = {
    "not JSON": record("not json"),
    "empty": record(""),
    "no object": record("[1]"),
    "text": record('"text"'),
    "null text": record("null"),
    "null": record(None),
    "a number": record(5),
    "an object": record(message("r1")),
    "another version": record(body("r1", version=2)),
    "a version of another type": record(body("r1", version="1")),
    "no version": record('{"kumofireJobRunId": "r1"}'),
    "a boolean version": record(body("r1", version=True)),
    "no id": record('{"version": 1}'),
    "a null id": record('{"version": 1, "kumofireJobRunId": null}'),
    "an id of another type": record('{"version": 1, "kumofireJobRunId": 5}'),
    "an empty id": record(body("")),
    "an over-long id": record(body("x" * 129)),
    "half a surrogate pair": record(body("\ud800")),
    "nested deeply": record("[" * 100_000),
    "no body": {"messageId": "m"},
    "no message id": {"body": body("r1")},
    "an empty message id": {"messageId": "", "body": body("r1")},
    "a null message id": {"messageId": None, "body": body("r1")},
    "an empty record": {},
    "a null record": None,
    "a record that is text": "record",
    "a record that is a list": [1],
}


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    """A ``Jobs`` with handlers that return and that raise, whose batches run one record after the other."""
    jobs = aws.jobs(clock=clock, concurrency=1)
    jobs.handler("email")(lambda ctx: {"done": True})
    jobs.handler("broken")(raises(ValueError("boom")))
    return jobs


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_record_is_acknowledged_counted_and_logged_and_disturbs_no_neighbour(
    jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture, malformed: Any
):
    first, second = aws.a_run(), aws.a_run()
    batch = event(first, second)
    batch["Records"].insert(1, malformed)

    with caplog.at_level(logging.WARNING, "kumofire_core"):
        report = jobs.run_batch(batch)

    assert failures(report.response()) == []
    assert [entry.malformed is not None for entry in report.records] == [False, True, False]
    assert [jobs.get_status(run_id).status for run_id in (first, second)] == ["succeeded", "succeeded"]
    [line] = caplog.records
    assert line.getMessage().startswith("malformed record acknowledged: ")
    assert line.message_id == (malformed.get("messageId") or None if isinstance(malformed, dict) else None)
    assert len(line.excerpt) < 120


def test_the_excerpt_of_a_malformed_body_is_its_beginning_in_printable_ascii(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
):
    jobs.consume_batch({"Records": [record("\x1b[31m\né" + "x" * 100_000)]})

    [line] = caplog.records
    assert line.excerpt.startswith("'\\x1b[31m\\n\\xe9xxx")
    assert len(line.excerpt) < 120
    assert line.excerpt.isascii()


@pytest.mark.parametrize("value", [None, [], "text", 5, {}, {"Records": None}, {"Records": {}}, {"records": []}])
def test_an_event_that_is_no_batch_is_answered_and_logged(jobs: Jobs, caplog: pytest.LogCaptureFixture, value: Any):
    assert jobs.consume_batch(value) == {"batchItemFailures": []}
    assert "not a batch of SQS records" in caplog.text


def test_an_empty_batch_is_answered(jobs: Jobs):
    assert jobs.consume_batch({"Records": []}, LambdaContext()) == {"batchItemFailures": []}


def test_runs_that_succeed_retry_fail_or_are_ignored_are_all_acknowledged(jobs: Jobs, aws: Aws):
    done, again, failed = aws.a_run(), aws.a_run(job_name="broken"), aws.a_run(job_name="broken", max_attempts=1)
    missing, over = aws.a_run(job_name="unknown"), aws.a_run(status="canceled")

    report = jobs.run_batch(event(done, again, failed, missing, over, "nobody"), LambdaContext())

    assert failures(report.response()) == []
    outcomes = [str(entry.result.outcome) for entry in report.records]
    assert outcomes == ["succeeded", "retried", "failed", "failed", "ignored", "ignored"]


def test_only_what_the_runtime_could_not_do_is_reported(aws: Aws):
    outage = Outage(at=4, applied=False)  # the second run's claim
    jobs = aws.jobs(concurrency=1, dynamodb=outage.wrap(aws.dynamodb), handlers={"email": lambda ctx: None})
    runs = [aws.a_run() for _ in range(3)]

    response = jobs.consume_batch(event(*runs), LambdaContext())

    assert failures(response) == [f"m-{runs[1]}"]
    assert [aws.item(run_id)["status"] for run_id in runs] == ["succeeded", "queued", "succeeded"]


def test_an_item_that_can_not_be_read_is_reported_and_disturbs_no_neighbour(jobs: Jobs, aws: Aws):
    runs = [aws.a_run(), aws.a_run(attempt="two"), aws.a_run(schema=3), aws.a_run()]

    response = jobs.consume_batch(event(*runs), LambdaContext())

    assert failures(response) == [f"m-{runs[1]}", f"m-{runs[2]}"]
    assert [aws.item(run_id)["status"] for run_id in (runs[0], runs[3])] == ["succeeded", "succeeded"]


def test_a_batch_in_which_all_fail_returns_them_all_and_does_not_raise(aws: Aws, caplog: pytest.LogCaptureFixture):
    jobs = aws.jobs(dynamodb=Refused("InternalServerError"), handlers={"email": lambda ctx: None})

    response = jobs.consume_batch(event("a", "b", "c"), LambdaContext())

    assert failures(response) == ["m-a", "m-b", "m-c"]
    lines = [line for line in caplog.records if line.levelname == "ERROR"]
    assert sorted(line.message_id for line in lines) == ["m-a", "m-b", "m-c"]
    assert all("InternalServerError" in line.getMessage() for line in lines)


def test_a_bug_of_ours_becomes_a_failure_of_its_record(aws: Aws):
    class Bug:
        def __getattr__(self, operation: str) -> Any:
            raise ZeroDivisionError

    jobs = aws.jobs(dynamodb=Bug(), handlers={"email": lambda ctx: None})

    assert failures(jobs.consume_batch(event("a", "b"))) == ["m-a", "m-b"]


def test_two_records_of_one_run_execute_it_once(jobs: Jobs, aws: Aws):
    run_id = aws.a_run()
    batch = {"Records": [record(body(run_id), "m1"), record(body(run_id), "m2")]}

    report = jobs.run_batch(batch, LambdaContext())

    assert sorted(str(entry.result.outcome) for entry in report.records) == ["ignored", "succeeded"]
    assert failures(report.response()) == []


def test_the_report_is_in_the_event_s_order_whatever_ends_first(aws: Aws):
    last_ended = threading.Event()

    def email(ctx: JobContext) -> None:
        if ctx.payload == "first":
            assert last_ended.wait(10)
        else:
            last_ended.set()

    jobs = aws.jobs(concurrency=2, handlers={"email": email})
    runs = [aws.a_run(payload='"first"'), aws.a_run(payload='"last"')]

    report = jobs.run_batch(event(*runs), LambdaContext())

    assert [entry.job_run_id for entry in report.records] == runs
    assert [entry.message_id for entry in report.records] == [f"m-{run_id}" for run_id in runs]
    assert [str(entry.result.outcome) for entry in report.records] == ["succeeded", "succeeded"]


def test_the_records_of_a_batch_run_at_once(aws: Aws):
    barrier = threading.Barrier(10)
    jobs = aws.jobs(handlers={"email": lambda ctx: barrier.wait(10)})
    runs = [aws.a_run() for _ in range(10)]

    report = jobs.run_batch(event(*runs), LambdaContext())

    assert {str(entry.result.outcome) for entry in report.records} == {"succeeded"}


@pytest.mark.parametrize("context", [None, LambdaContext()], ids=["direct", "in Lambda"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_records_run_at_once_than_the_concurrency_allows(
    aws: Aws, concurrency: int, context: LambdaContext | None
):
    lock, running, most = threading.Lock(), [], []

    def email(ctx: JobContext) -> None:
        with lock:
            running.append(ctx.run.id)
            most.append(len(running))
        threading.Event().wait(0.02)
        with lock:
            running.remove(ctx.run.id)

    jobs = aws.jobs(concurrency=concurrency, handlers={"email": email})
    report = jobs.run_batch(event(*(aws.a_run() for _ in range(9))), context)

    assert {str(entry.result.outcome) for entry in report.records} == {"succeeded"}
    assert max(most) <= concurrency


def test_a_concurrency_of_one_keeps_the_event_s_order(jobs: Jobs, aws: Aws):
    order = []
    jobs.handler("note")(lambda ctx: order.append(ctx.run.id))
    runs = [aws.a_run(job_name="note") for _ in range(5)]

    jobs.consume_batch(event(*runs), LambdaContext())

    assert order == runs


def test_threads_are_kept_for_the_next_batch(aws: Aws):
    used = []
    jobs = aws.jobs(concurrency=2, handlers={"email": lambda ctx: used.append(threading.current_thread())})

    for _ in range(5):
        jobs.consume_batch(event(*(aws.a_run() for _ in range(4))), LambdaContext())

    assert len(used) == 20
    assert len(set(used)) <= 4


@pytest.mark.parametrize(
    "context",
    [pytest.param(LambdaContext(), id="in Lambda"), pytest.param(None, id="direct")],
)
def test_each_handler_of_a_batch_runs_with_its_own_context(aws: Aws, context: LambdaContext | None):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen = []

    def email(ctx: JobContext) -> None:
        seen.append(variable.get())
        variable.set(ctx.run.id)

    jobs = aws.jobs(concurrency=1, handlers={"email": email})
    token = variable.set("the caller's")
    try:
        jobs.consume_batch(event(*(aws.a_run() for _ in range(3))), context)
        assert seen == ["the caller's"] * 3
        assert variable.get() == "the caller's"
    finally:
        variable.reset(token)


def test_async_and_plain_handlers_run_side_by_side(aws: Aws):
    import asyncio

    async def later(ctx: JobContext) -> str:
        await asyncio.sleep(0.01)
        return "later"

    jobs = aws.jobs(concurrency=4, handlers={"plain": lambda ctx: "plain", "later": later})
    runs = {aws.a_run(job_name=name): name for name in ("plain", "later") for _ in range(3)}

    jobs.consume_batch(event(*runs), LambdaContext())

    assert {run_id: jobs.get_status(run_id).output for run_id in runs} == runs


@pytest.mark.parametrize("remaining_ms", [0, 700, -5])
def test_a_record_that_would_start_too_close_to_the_deadline_is_returned_unclaimed(
    jobs: Jobs, aws: Aws, remaining_ms: int
):
    runs = [aws.a_run(), aws.a_run()]
    before = [aws.item(run_id) for run_id in runs]

    report = jobs.run_batch(event(*runs), LambdaContext(remaining_ms=remaining_ms))

    assert failures(report.response()) == [f"m-{run_id}" for run_id in runs]
    assert aws.dynamodb.requests == []
    assert [aws.item(run_id) for run_id in runs] == before


def test_malformed_records_are_acknowledged_even_too_close_to_the_deadline(jobs: Jobs, aws: Aws):
    run_id = aws.a_run()
    batch = event(run_id)
    batch["Records"].append(record("malformed"))

    assert failures(jobs.consume_batch(batch, LambdaContext(remaining_ms=0))) == [f"m-{run_id}"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    ANY_JSON
    | st.fixed_dictionaries({"Records": ANY_JSON})
    | st.fixed_dictionaries(
        {"Records": st.lists(ANY_JSON | st.fixed_dictionaries({}, optional={"messageId": ANY_JSON, "body": ANY_JSON}))}
    )
)
def test_no_shape_of_an_event_raises(jobs: Jobs, value: Any):
    response = jobs.consume_batch(value)

    assert set(response) == {"batchItemFailures"}
    json.dumps(response)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    st.lists(
        st.just("a run")
        | ANY_JSON
        | st.fixed_dictionaries(
            {"messageId": st.just("m-other")},
            optional={
                "body": ANY_JSON
                | st.text()
                | ANY_JSON.map(json.dumps)
                | st.builds(body, st.text(), version=st.sampled_from([1, 2, None])),
            },
        ),
        max_size=5,
    )
)
def test_whatever_the_neighbours_are_a_run_is_executed(jobs: Jobs, aws: Aws, records: list[Any]):
    runs = []
    for index, entry in enumerate(records):
        if entry == "a run":
            runs.append(aws.a_run())
            records[index] = record(body(runs[-1]))

    report = jobs.run_batch({"Records": records}, LambdaContext())

    assert len(report.records) == len(records)
    assert failures(report.response()) == []
    assert [jobs.get_status(run_id).status for run_id in runs] == ["succeeded"] * len(runs)


def test_a_lease_outlasts_the_batch_that_holds_it(jobs: Jobs, aws: Aws, clock: Clock):
    """A run of a batch whose process was killed is not taken over before the process's deadline."""
    jobs.handler("killed")(raises(AssertionError()))
    outage = Outage(at=3, applied=False)
    dying = aws.jobs(clock=clock, concurrency=1, dynamodb=outage.wrap(aws.dynamodb))
    dying.handler("email")(lambda ctx: None)
    run_id = aws.a_run()
    assert failures(dying.consume_batch(event(run_id), LambdaContext(remaining_ms=60_000))) == [f"m-{run_id}"]

    clock.now += timedelta(seconds=60)
    soon = jobs.consume(message(run_id))
    clock.now += timedelta(seconds=5)
    later = jobs.consume(message(run_id))

    assert (soon.outcome, later.outcome) == ("ignored", "succeeded")
