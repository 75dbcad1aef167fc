"""Replies that get lost: the SDK repeats the request, and a write must know its own first copy again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from kumofire_core import DedupeKeyConflictError, JobContext, Jobs, RetryPolicy
from tests.builders import NOW_MS, Aws, Clock, message, raises
from tests.faults import Outage, Repeated


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    """A ``Jobs`` whose every write to table and queue is made twice, of which it sees the second answer."""
    return aws.jobs(clock=clock, dynamodb=Repeated(aws.dynamodb), sqs=Repeated(aws.sqs))


def test_a_create_whose_reply_was_lost_is_a_success_and_sends_its_message(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", {"n": 1})

    assert jobs.get_status(run_id).status == "queued"
    assert (run_id, 0) in aws.sent()


def test_a_keyed_create_whose_reply_was_lost_is_a_success_and_sends_its_message(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", {"n": 1}, dedupe_key="k")

    assert (run_id, 0) in aws.sent()


def test_a_second_create_of_the_key_is_told_apart_from_a_repeat_of_the_first(jobs: Jobs, aws: Aws):
    first = jobs.create("email", {"n": 1}, dedupe_key="k")
    sent = len(aws.sent())
    second = jobs.create("email", {"n": 2}, dedupe_key="k")

    assert first == second
    assert jobs.get_status(first).payload == {"n": 1}
    assert len(aws.sent()) == sent


def test_a_key_of_another_job_s_run_is_told_although_the_reply_was_lost(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", dedupe_key="k")

    with pytest.raises(DedupeKeyConflictError, match=run_id):
        jobs.create("invoice", dedupe_key="k")

    assert [item["job_name"] for item in aws.items()] == ["email"]


def test_an_attempt_whose_replies_were_all_lost_succeeds_once(jobs: Jobs):
    called = []
    jobs.handler("email")(lambda ctx: called.append((ctx.attempt, ctx.fencing_token)) or {"n": 1})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert called == [(1, 1)]
    run = jobs.get_status(run_id)
    assert (run.status, run.output, run.attempt) == ("succeeded", {"n": 1}, 0)


def test_a_retry_whose_replies_were_all_lost_counts_one_attempt_and_is_sent(jobs: Jobs, aws: Aws):
    jobs.handler("email")(raises(ValueError("boom")))
    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "retried"
    assert aws.item(run_id)["attempt"] == 1
    assert (run_id, 1) in aws.sent()


def test_a_failure_for_good_whose_replies_were_all_lost_is_reported_as_one(aws: Aws):
    jobs = aws.jobs(dynamodb=Repeated(aws.dynamodb), retry=RetryPolicy(1), handlers={"email": raises(ValueError())})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "failed"
    assert aws.item(run_id)["attempt"] == 1


def test_a_missing_handler_whose_replies_were_all_lost_is_reported_as_one(jobs: Jobs, aws: Aws):
    assert jobs.consume(message(aws.a_run())).outcome == "failed"


def test_a_takeover_whose_replies_were_all_lost_counts_the_lost_attempt_once(jobs: Jobs, aws: Aws):
    called = []
    jobs.handler("email")(lambda ctx: called.append((ctx.attempt, ctx.fencing_token)))
    run_id = aws.a_running_run(lease_until=NOW_MS)

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert called == [(2, 2)]
    assert aws.item(run_id)["attempt"] == 1


def test_the_end_of_a_lost_last_attempt_whose_replies_were_all_lost_is_reported_as_one(jobs: Jobs, aws: Aws):
    run_id = aws.a_running_run(lease_until=NOW_MS, attempt=2, max_attempts=3)

    assert jobs.consume(message(run_id)).outcome == "failed"
    assert aws.item(run_id)["attempt"] == 3


def test_a_cancellation_whose_replies_were_all_lost_is_reported_as_one(jobs: Jobs, aws: Aws):
    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        aws.change(ctx.run.id, cancel_requested_at=NOW_MS)
        raise ValueError

    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "canceled"
    assert aws.item(run_id)["attempt"] == 1


def test_an_attempt_can_not_take_another_s_end_for_its_own(aws: Aws, clock: Clock):
    """The successor ended the run; the late first worker's write is refused, and must not look like its own copy."""

    def slow(ctx: JobContext) -> str:
        if ctx.attempt == 1:
            clock.advance(seconds=36)
            assert jobs.consume(message(ctx.run.id)).outcome == "succeeded"
        return f"attempt {ctx.attempt}"

    jobs = aws.jobs(clock=clock, dynamodb=Repeated(aws.dynamodb), handlers={"email": slow})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "ignored"
    assert jobs.get_status(run_id).output == "attempt 2"


def test_the_token_of_an_earlier_attempt_is_no_evidence_for_a_later_one(jobs: Jobs, clock: Clock):
    jobs.handler("email", max_attempts=9)(raises(ValueError()))
    run_id = jobs.create("email")

    for attempt in range(1, 6):
        assert jobs.consume(message(run_id)).outcome == "retried"
        assert jobs.get_status(run_id).attempt == attempt
        clock.advance(seconds=60)


@pytest.mark.parametrize("applied", [False, True], ids=["before it was done", "after it was done"])
@pytest.mark.parametrize("at", range(1, 11))
def test_a_run_survives_the_loss_of_any_one_request_of_its_life(aws: Aws, clock: Clock, at: int, applied: bool):
    """Create, fail once, succeed; whoever fails is called again, after the lease where it is held."""
    outage = Outage(at, applied=applied)
    executed: list[int] = []

    def email(ctx: JobContext) -> int:
        executed.append(ctx.attempt)
        if len(executed) == 1:
            raise ValueError("boom")
        return ctx.attempt

    jobs = aws.jobs(
        clock=clock,
        dynamodb=outage.wrap(aws.dynamodb),
        sqs=outage.wrap(aws.sqs),
        retry=RetryPolicy(5),
        handlers={"email": email},
    )
    run_id = until_it_works(lambda: jobs.create("email", dedupe_key="k"))
    for _ in range(5):
        until_it_works(lambda: jobs.consume(message(run_id)))
        clock.advance(seconds=61)

    run = aws.jobs().get_status(run_id)
    assert run.status == "succeeded"
    assert run.output == executed[-1] == run.attempt + 1
    assert executed == sorted(set(executed))
    assert len(aws.items()) == 1


def test_a_run_whose_end_could_not_be_recorded_is_executed_again_after_its_lease(aws: Aws, clock: Clock):
    called = []
    handlers = {"email": lambda ctx: called.append(ctx.attempt)}
    broken = aws.jobs(clock=clock, dynamodb=Outage(3, applied=False).wrap(aws.dynamodb), handlers=handlers)
    whole = aws.jobs(clock=clock, handlers=handlers)
    run_id = aws.a_run()

    with pytest.raises(ConnectionClosedError):
        broken.consume(message(run_id))
    soon = whole.consume(message(run_id))
    clock.now += timedelta(seconds=36)
    later = whole.consume(message(run_id))

    assert (soon.outcome, later.outcome) == ("ignored", "succeeded")
    assert called == [1, 2]


def until_it_works(call: Any) -> Any:
    try:
        return call()
    except ConnectionClosedError:
        return call()


@pytest.mark.parametrize("end", ["failed", "retried"])
def test_copies_of_a_claim_and_of_its_end_that_come_late_do_not_end_the_attempt_again(aws: Aws, clock: Clock, end: str):
    jobs = aws.jobs(clock=clock)
    jobs.handler("email", max_attempts=1 if end == "failed" else 3)(lambda ctx: 1 / 0)
    run_id = aws.a_run(max_attempts=1 if end == "failed" else 3)
    assert jobs.consume(message(run_id)).outcome == end
    copies = aws.dynamodb.parameters("update_item")
    if end == "failed":
        jobs.retry(run_id)
    else:
        clock.advance(minutes=1)

    for copy in copies:  # the claim takes the run for nobody; its end must not count
        with contextlib.suppress(ClientError):
            aws.dynamodb.client.update_item(**copy)

    item = aws.item(run_id)
    assert (item["status"], item["claims"]) == ("running", 2)
    clock.advance(minutes=10)
    jobs.dispatch()
    assert jobs.get_status(run_id).last_error.startswith("LeaseExpiredError")


@pytest.mark.parametrize("handler", [lambda ctx: "sent", lambda ctx: 1 / 0], ids=["succeeds", "fails"])
def test_copies_of_a_claim_and_of_its_end_do_not_end_a_later_run_under_the_id_of_a_deleted_one(
    aws: Aws, clock: Clock, handler: Callable[..., Any]
):
    jobs = aws.jobs(clock=clock)
    jobs.handler("email", max_attempts=1)(handler)
    run_id = jobs.create("email", {"order": 1}, dedupe_key="order")
    jobs.consume(message(run_id))
    copies = aws.dynamodb.parameters("update_item")
    assert jobs.delete(run_id)
    assert jobs.create("email", {"order": 2}, dedupe_key="order") == run_id

    for copy in copies:  # the claim takes the run for nobody; its end must not count
        with contextlib.suppress(ClientError):
            aws.dynamodb.client.update_item(**copy)

    item = aws.item(run_id)
    assert (item["status"], item["claims"]) == ("running", 1)
    assert item.keys() & {"output", "last_error"} == set()


def test_a_late_copy_of_a_retry_leaves_nothing_of_what_came_after_it(aws: Aws):
    run_id = aws.a_run(status="failed", attempt=3, finished_at=NOW_MS)
    assert aws.jobs().retry(run_id)
    [late] = [each for each in aws.dynamodb.parameters("update_item") if "retried_by" in str(each)]
    aws.a_run(run_id, status="canceled", finished_at=NOW_MS, suspensions=2, waits_for="approval")

    aws.dynamodb.client.update_item(**late)

    found = aws.item(run_id)
    assert found["status"] == "queued"
    assert found.keys() & {"suspensions", "waits_for"} == set()
