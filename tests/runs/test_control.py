"""Canceling and retrying by a person, in every status and at every moment of an attempt."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import InvalidArgumentError, JobContext, Jobs, RetriedRun, RetryPolicy
from kumofire_core.handlers import context
from kumofire_core.model.run_item import HISTORY_LENGTH
from tests.builders import NOW, NOW_MS, Aws, Clock, message
from tests.faults import Interrupted, Outage, Refused, Repeated

WAITING = {
    "queued": {},
    "scheduled": {"status": "scheduled", "scheduled_for": NOW_MS + 5_000},
    "scheduled far off": {"status": "scheduled", "scheduled_for": NOW_MS + 10**9, "wake_at": NOW_MS + 10**9},
    "scheduled and due": {"status": "scheduled", "attempt": 1},
}
ENDED = {"succeeded": {"output": "1"}, "failed": {"attempt": 3, "last_error": "no"}, "canceled": {"attempt": 1}}


def ended(aws: Aws, status: str, **fields: Any) -> str:
    """Store a run that has ended."""
    end = {"finished_at": NOW_MS - 5_000, "expires_at": NOW_MS // 1000, **ENDED[status], **fields}
    return aws.a_run(status=status, without=("wake_shard", "wake_at"), **end)


@pytest.mark.parametrize("status", WAITING)
def test_a_run_that_waits_is_canceled_at_once(jobs: Jobs, aws: Aws, clock: Clock, status: str):
    run_id = aws.a_run(**WAITING[status])
    clock.advance(seconds=1)

    assert jobs.cancel(run_id, "changed our mind") is True

    run = jobs.get_status(run_id)
    assert (run.status, run.cancel_reason, run.cancel_requested) == ("canceled", "changed our mind", False)
    assert run.finished_at == run.updated_at == NOW + timedelta(seconds=1)
    item = aws.item(run_id)
    assert not {"wake_shard", "wake_at"} & item.keys()
    assert item["expires_at"] >= (NOW + timedelta(days=30)).timestamp()


def test_canceling_is_one_request(jobs: Jobs, aws: Aws):
    jobs.cancel(aws.a_run())

    assert aws.dynamodb.count() == {"update_item": 1}
    assert aws.sqs.count() == {}


def test_a_canceled_run_is_never_executed(jobs: Jobs, aws: Aws):
    executed: list[JobContext] = []
    jobs.handler("email")(executed.append)
    run_id = jobs.create("email")
    jobs.cancel(run_id)

    assert jobs.consume(message(run_id)).outcome == "ignored"
    assert executed == []


@pytest.mark.parametrize("status", ENDED)
def test_a_run_that_has_ended_cannot_be_canceled_and_stays_as_it_is(jobs: Jobs, aws: Aws, status: str):
    run_id = ended(aws, status)
    before = aws.item(run_id)

    assert jobs.cancel(run_id, "too late") is False
    assert aws.item(run_id) == before


def test_a_run_that_does_not_exist_can_be_neither_canceled_nor_retried(jobs: Jobs, aws: Aws):
    assert jobs.cancel("unknown") is False
    assert jobs.retry("unknown") is False
    assert aws.items() == []


def test_a_run_that_is_executing_is_asked_and_its_attempt_goes_on(jobs: Jobs, aws: Aws):
    run_id = aws.a_running_run()
    before = aws.item(run_id)

    assert jobs.cancel(run_id, "stop") is True
    aws.dynamodb.requests.clear()
    assert jobs.cancel(run_id, "again") is False
    assert aws.dynamodb.count() == {"update_item": 2}

    run = jobs.get_status(run_id)
    assert (run.status, run.cancel_requested, run.cancel_reason) == ("running", True, "stop")
    after = aws.item(run_id)
    for name in ("lease_token", "lease_until", "wake_at", "wake_shard", "attempt", "updated_at"):
        assert after[name] == before[name]


@pytest.mark.parametrize("attempt", [0, 2], ids=["first attempt", "last attempt"])
def test_a_run_asked_to_stop_ends_canceled_when_its_attempt_fails(jobs: Jobs, aws: Aws, attempt: int):
    def handler(ctx: JobContext) -> None:
        assert jobs.cancel(ctx.run.id, "stop")
        raise ConnectionError("no answer")

    jobs.handler("email")(handler)
    run_id = aws.a_run(attempt=attempt)

    assert jobs.consume(message(run_id)).outcome == "canceled"

    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.last_error) == ("canceled", attempt + 1, "ConnectionError: no answer")
    assert run.cancel_reason == "stop"
    assert run.finished_at == NOW
    assert aws.sent() == []
    item = aws.item(run_id)
    assert not {"wake_shard", "wake_at", "lease_token", "lease_until"} & item.keys()
    assert "expires_at" in item


def test_a_run_asked_to_stop_that_overruns_its_timeout_ends_canceled(jobs: Jobs, aws: Aws):
    @jobs.handler("email", timeout=timedelta(milliseconds=100))
    def handler(ctx: JobContext) -> None:
        jobs.cancel(ctx.run.id)
        while True:
            time.sleep(0.01)

    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "canceled"
    assert "overran" in jobs.get_status(run_id).last_error


def test_a_run_asked_to_stop_that_succeeds_has_succeeded(jobs: Jobs, aws: Aws):
    @jobs.handler("email")
    def handler(ctx: JobContext) -> str:
        jobs.cancel(ctx.run.id)
        return "done"

    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    run = jobs.get_status(run_id)
    assert (run.status, run.output) == ("succeeded", "done")


def test_a_handler_can_see_that_it_shall_stop(jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(context, "CANCEL_CHECK_SECONDS", 0)
    seen = []

    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        seen.append(ctx.cancel_requested())
        jobs.cancel(ctx.run.id)
        seen.append(ctx.cancel_requested())
        raise RuntimeError("stopped")

    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "canceled"
    assert seen == [False, True]


def test_a_handler_that_asks_in_a_loop_reads_once_in_three_seconds(
    jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    now = time.monotonic()
    answers: list[list[bool]] = []

    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        nonlocal now
        monkeypatch.setattr(context.time, "monotonic", lambda: now)
        for _ in range(4):
            aws.dynamodb.requests.clear()
            answers.append([ctx.cancel_requested() for _ in range(100)])
            assert aws.dynamodb.count() == {"get_item": 1}
            now += 2.999
            aws.dynamodb.requests.clear()
            assert {ctx.cancel_requested() for _ in range(100)} == {answers[-1][-1]}
            assert aws.dynamodb.count() == {}
            now += 0.001
            if len(answers) == 3:
                jobs.cancel(ctx.run.id)
        for _ in range(3):
            # Once the answer is yes, it need not be asked for again.
            now += 3
            aws.dynamodb.requests.clear()
            assert ctx.cancel_requested()
            assert aws.dynamodb.count() == {}
        monkeypatch.undo()

    assert jobs.consume(message(aws.a_run())).outcome == "succeeded"
    assert [set(answer) for answer in answers] == [{False}, {False}, {False}, {True}]


def test_a_question_that_cannot_be_answered_does_not_fail_the_attempt(aws: Aws, monkeypatch: pytest.MonkeyPatch):
    jobs = aws.jobs()

    @jobs.handler("email")
    def handler(ctx: JobContext) -> bool:
        monkeypatch.setattr(jobs._store.table, "_client", lambda: Refused("ThrottlingException"))
        answer = ctx.cancel_requested()
        monkeypatch.undo()
        return answer

    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert jobs.get_status(run_id).output is False


def test_a_cancellation_between_the_claim_and_the_failing_attempts_end_is_not_lost(aws: Aws):
    other = aws.jobs()
    run_id = aws.a_run()
    asked: list[bool] = []
    # The third request, after the pauses and the claim, is the write that would put the run back.
    between = Interrupted(aws.dynamodb, lambda: asked.append(other.cancel(run_id, "stop")), at=3)
    jobs = aws.jobs(dynamodb=between)
    jobs.handler("email")(_failing)

    result = jobs.consume(message(run_id))

    assert asked == [True]
    assert result.outcome == "canceled"
    assert jobs.get_status(run_id).status == "canceled"
    assert aws.sent() == []


@pytest.mark.parametrize("why", ["no handler", "no key"])
def test_a_cancellation_between_the_claim_and_a_handler_that_can_not_be_called_ends_it_at_once(aws: Aws, why: str):
    other = aws.jobs()
    sealed = {"payload": "sealed:AAAA"} if why == "no key" else {"job_name": "unknown"}
    run_id = aws.a_run(**sealed)
    between = Interrupted(aws.dynamodb, lambda: other.cancel(run_id, "stop"), at=3)
    jobs = aws.jobs(dynamodb=between)
    called: list[JobContext] = []
    jobs.handler("email")(called.append)

    result = jobs.consume(message(run_id))

    assert (result.outcome, called) == ("canceled", [])
    item = aws.item(run_id)
    assert (item["status"], item["attempt"], item["finished_at"]) == ("canceled", 0, NOW_MS)
    assert not {"lease_token", "lease_until", "wake_at", "wake_shard"} & item.keys()
    assert jobs.retry(run_id) is True


def test_a_cancellation_that_meets_a_claim_asks_the_new_worker(aws: Aws):
    run_id = aws.a_run()

    def claim() -> None:
        aws.change(run_id, status="running", lease_token="t", lease_until=NOW_MS + 30_000)

    assert aws.jobs(dynamodb=Interrupted(aws.dynamodb, claim, at=1)).cancel(run_id) is True
    run = aws.jobs().get_status(run_id)
    assert (run.status, run.cancel_requested) == ("running", True)


def test_a_cancellation_that_meets_the_end_of_an_attempt_cancels_what_waits_again(aws: Aws):
    run_id = aws.a_running_run()

    def put_back() -> None:
        aws.change(run_id, status="scheduled", attempt=1)

    assert aws.jobs(dynamodb=Interrupted(aws.dynamodb, put_back, at=2)).cancel(run_id) is True
    assert aws.item(run_id)["status"] == "canceled"


def test_a_cancellation_that_meets_success_answers_no(aws: Aws):
    run_id = aws.a_running_run()

    def succeed() -> None:
        aws.change(run_id, status="succeeded")

    assert aws.jobs(dynamodb=Interrupted(aws.dynamodb, succeed, at=2)).cancel(run_id) is False
    assert aws.item(run_id)["status"] == "succeeded"


@pytest.mark.parametrize("build", ["a_run", "a_running_run"])
def test_a_cancellation_whose_reply_was_lost_answers_yes(aws: Aws, build: str):
    run_id = getattr(aws, build)()

    assert aws.jobs(dynamodb=Repeated(aws.dynamodb)).cancel(run_id) is True
    assert aws.jobs().cancel(run_id) is False


@pytest.mark.parametrize("reason", [7, "x" * 1001, "\ud800", b"no"])
def test_a_reason_that_cannot_be_kept_is_refused(jobs: Jobs, aws: Aws, reason: Any):
    run_id = aws.a_run()
    with pytest.raises(InvalidArgumentError, match="reason"):
        jobs.cancel(run_id, reason)
    assert aws.item(run_id)["status"] == "queued"


@pytest.mark.parametrize("run_id", ["", "x" * 129, "a\nb"])
def test_what_cannot_be_a_runs_id_is_an_unknown_one(jobs: Jobs, aws: Aws, run_id: str):
    assert jobs.cancel(run_id) is False
    assert jobs.retry(run_id) is False
    assert aws.dynamodb.requests == []


@pytest.mark.parametrize("run_id", [None, 7])
def test_a_runs_id_that_is_no_text_is_refused(jobs: Jobs, run_id: Any):
    with pytest.raises(InvalidArgumentError, match="a run id must be a string, not"):
        jobs.cancel(run_id)
    with pytest.raises(InvalidArgumentError, match="a run id must be a string, not"):
        jobs.retry(run_id)


def _failing(ctx: JobContext) -> None:
    raise ConnectionError("no answer")


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_retry_queues_the_run_again_with_all_its_attempts(jobs: Jobs, aws: Aws, clock: Clock, status: str):
    run_id = ended(aws, status, cancel_reason="stop", cancel_requested_at=NOW_MS)
    before = jobs.get_status(run_id)
    clock.advance(minutes=3)

    assert jobs.retry(run_id) is True

    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.scheduled_for) == ("queued", 0, clock.now)
    assert run.finished_at is run.cancel_reason is None
    assert run.cancel_requested is False
    assert run.history == (
        RetriedRun(
            status=before.status,
            attempt=before.attempt,
            finished_at=before.finished_at,
            last_error=before.last_error,
            cancel_reason="stop",
        ),
    )
    item = aws.item(run_id)
    assert item["wake_at"] == NOW_MS + 300_000
    assert "wake_shard" in item
    assert "expires_at" not in item
    assert aws.sent() == [(run_id, 0)]


@pytest.mark.parametrize(("wait", "sent_after"), [(timedelta(minutes=5), 300), (timedelta(days=3), None)])
def test_a_canceled_run_gets_its_time_back(aws: Aws, jobs: Jobs, clock: Clock, wait: timedelta, sent_after: int | None):
    done: list[str] = []
    jobs.handler("email")(lambda ctx: done.append(ctx.run.id))
    run_id = jobs.create("email", run_at=NOW + wait)
    jobs.cancel(run_id, "by mistake")
    clock.advance(minutes=1)
    aws.sqs.requests.clear()

    assert jobs.retry(run_id, run_at=NOW + wait) is True

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.scheduled_for, run.cancel_reason) == ("scheduled", NOW + wait, None)
    assert aws.sent() == ([] if sent_after is None else [(run_id, sent_after - 60)])
    assert jobs.consume(message(run_id)).outcome == "ignored", "it is not due yet"
    clock.now = NOW + wait
    jobs.dispatch()
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert done == [run_id]


def test_a_run_that_is_retried_for_a_time_in_the_past_is_due_now(jobs: Jobs, aws: Aws, clock: Clock):
    run_id = ended(aws, "canceled")
    clock.advance(hours=1)

    assert jobs.retry(run_id, run_at=NOW) is True

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.scheduled_for) == ("queued", clock.now)
    assert aws.sent() == [(run_id, 0)]


@pytest.mark.parametrize("status", [*WAITING, "running", "succeeded"])
def test_a_run_in_any_other_status_is_not_retried_and_stays_as_it_is(jobs: Jobs, aws: Aws, status: str):
    if status == "running":
        run_id = aws.a_running_run()
    else:
        run_id = aws.a_run(**WAITING[status]) if status in WAITING else ended(aws, status)
    before = aws.item(run_id)

    assert jobs.retry(run_id) is False
    assert aws.item(run_id) == before
    assert aws.dynamodb.count() == {"get_item": 1}
    assert aws.sent() == []


def test_a_retried_run_has_all_its_attempts_and_a_new_fencing_number(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, retry=RetryPolicy(2, base=timedelta(0)))
    seen: list[tuple[int, int]] = []

    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        seen.append((ctx.attempt, ctx.fencing_token))
        raise ConnectionError("no answer")

    run_id = jobs.create("email")
    for _ in range(2):
        assert jobs.consume(message(run_id)).outcome == "retried"
        assert jobs.consume(message(run_id)).outcome == "failed"
        assert jobs.retry(run_id)

    assert seen == [(1, 1), (2, 2), (1, 3), (2, 4)]
    assert [(past.status, past.attempt) for past in jobs.get_status(run_id).history] == [("failed", 2)] * 2


def test_a_canceled_run_that_is_retried_executes_and_is_not_canceled_again(jobs: Jobs, aws: Aws):
    attempts: list[int] = []

    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) == 1:
            jobs.cancel(ctx.run.id)
        raise ConnectionError("no answer")

    run_id = jobs.create("email")
    assert jobs.consume(message(run_id)).outcome == "canceled"
    assert jobs.retry(run_id)

    assert jobs.consume(message(run_id)).outcome == "retried"
    assert jobs.get_status(run_id).status == "scheduled"


def test_the_history_keeps_the_last_ten_ends_oldest_first(jobs: Jobs, aws: Aws, clock: Clock):
    run_id = ended(aws, "failed", last_error="0" * 1000)
    for number in range(1, 13):
        jobs.retry(run_id)
        clock.advance(seconds=1)
        jobs.cancel(run_id)
        aws.change(run_id, last_error=str(number))

    jobs.retry(run_id)

    history = jobs.get_status(run_id).history
    assert [past.last_error for past in history] == [str(number) for number in range(3, 13)]
    assert len(history) == HISTORY_LENGTH


def test_a_retry_never_touches_a_run_that_another_retry_has_started(aws: Aws, clock: Clock):
    run_id = ended(aws, "failed")
    other = aws.jobs(clock=Clock(NOW + timedelta(seconds=1)))
    jobs = aws.jobs(clock=clock, dynamodb=Interrupted(aws.dynamodb, lambda: other.retry(run_id), at=2))

    assert jobs.retry(run_id) is False

    assert len(other.get_status(run_id).history) == 1
    assert aws.sent() == [(run_id, 0)]


@pytest.mark.parametrize(
    "meanwhile",
    [
        {"status": "failed", "attempt": 1, "updated_at": NOW_MS + 9, "last_error": "another"},
        {"status": "queued", "attempt": 0},
        {"status": "running", "lease_token": "t", "lease_until": NOW_MS + 30_000},
        {"status": "succeeded", "output": "1"},
    ],
)
def test_a_retry_that_was_decided_on_an_end_before_the_last_changes_nothing(aws: Aws, meanwhile: dict[str, Any]):
    run_id = ended(aws, "failed")
    jobs = aws.jobs(dynamodb=Interrupted(aws.dynamodb, lambda: aws.change(run_id, **meanwhile), at=2))

    assert jobs.retry(run_id) is False

    assert meanwhile.items() <= aws.item(run_id).items()
    assert aws.sent() == []


def test_a_retry_whose_reply_was_lost_answers_yes_and_sends_one_message(aws: Aws):
    run_id = ended(aws, "failed")

    assert aws.jobs(dynamodb=Repeated(aws.dynamodb)).retry(run_id) is True
    assert aws.sent() == [(run_id, 0)]
    assert len(aws.jobs().get_status(run_id).history) == 1


def test_a_retry_whose_message_cannot_be_sent_has_retried_the_run(aws: Aws):
    run_id = ended(aws, "failed")

    assert aws.jobs(sqs=Outage(applied=False).wrap(aws.sqs)).retry(run_id) is True
    assert aws.item(run_id)["status"] == "queued"
    assert aws.item(run_id)["wake_at"] == NOW_MS + 120_000


def test_a_run_that_is_to_start_now_starts_now_where_its_creators_clock_is_ahead(jobs: Jobs, aws: Aws):
    ahead = NOW_MS + 240_000
    run_id = aws.a_run(status="scheduled", scheduled_for=ahead + 60_000, created_at=ahead, updated_at=ahead)
    jobs.handler("email")(lambda ctx: None)

    assert jobs.run_now(run_id) is True

    assert aws.item(run_id)["updated_at"] == ahead + 1, "the next change must see this one"
    assert jobs.consume(message(run_id)).outcome == "succeeded"
