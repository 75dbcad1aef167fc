"""How a handler, its job and a person decide how a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import (
    AttemptTimeoutError,
    Cancel,
    Fail,
    InvalidArgumentError,
    InvalidJSONError,
    JobContext,
    Jobs,
    LeaseExpiredError,
    RetryAfter,
    RetryPolicy,
    Snooze,
)
from tests.builders import NOW, NOW_MS, Aws, Clock, message, raises
from tests.faults import Interrupted, Outage, Repeated

DELAYS = [5, 5.0, timedelta(seconds=5)]


@pytest.mark.parametrize("delay", DELAYS)
def test_a_snoozed_run_waits_and_no_attempt_is_counted(aws: Aws, delay: Any):
    jobs = aws.jobs(handlers={"email": raises(Snooze(delay))})
    run_id = jobs.create("email", max_attempts=1)

    assert jobs.consume(message(run_id)).outcome == "retried"

    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.scheduled_for) == ("scheduled", 0, NOW + timedelta(seconds=5))
    assert (run.last_error, run.error_type) == (None, None)
    assert aws.sent() == [(run_id, 0), (run_id, 5)]


@pytest.mark.parametrize("delay", DELAYS)
def test_a_retry_after_counts_and_its_delay_wins_over_the_policy(aws: Aws, delay: Any):
    jobs = aws.jobs(handlers={"email": raises(RetryAfter(delay, "429"))}, retry=RetryPolicy(base=timedelta(hours=1)))
    run_id = jobs.create("email")

    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert (run.attempt, run.scheduled_for) == (1, NOW + timedelta(seconds=5))
    assert run.last_error == "RetryAfter: 429"


def test_a_retry_after_in_the_last_attempt_fails_the_run(aws: Aws):
    jobs = aws.jobs(handlers={"email": raises(RetryAfter(5))})
    run_id = jobs.create("email", max_attempts=1)

    assert jobs.consume(message(run_id)).outcome == "failed"


def test_fail_ends_the_run_whatever_attempts_remain(aws: Aws):
    jobs = aws.jobs(handlers={"email": raises(Fail("no such customer"))})
    run_id = jobs.create("email", max_attempts=9)

    assert jobs.consume(message(run_id)).outcome == "failed"

    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.last_error) == ("failed", 1, "Fail: no such customer")


@pytest.mark.parametrize(("reason", "kept"), [("gone", "gone"), (None, None), ("😀" * 2000, "😀" * 767 + "…")])
def test_cancel_ends_the_run_as_canceled_with_its_reason(aws: Aws, reason: str | None, kept: str | None):
    jobs = aws.jobs(handlers={"email": raises(Cancel(reason))})
    run_id = jobs.create("email", max_attempts=9)

    assert jobs.consume(message(run_id)).outcome == "canceled"

    run = jobs.get_status(run_id)
    assert (run.status, run.cancel_reason, run.attempts[-1].ended) == ("canceled", kept, "canceled")


def test_a_handler_that_cancels_its_run_is_not_logged_as_a_failure(aws: Aws, caplog: pytest.LogCaptureFixture):
    jobs = aws.jobs(handlers={"email": raises(Cancel("sold out to Ada"))})

    with caplog.at_level("INFO", "kumofire_core"):
        jobs.consume(message(jobs.create("email")))

    [line] = [record for record in caplog.records if hasattr(record, "outcome")]
    assert (line.levelname, line.getMessage(), vars(line)["outcome"]) == (
        "INFO",
        "the handler canceled the run",
        "canceled",
    )
    assert "Ada" not in caplog.text


@pytest.mark.parametrize("steering", [Snooze(5), RetryAfter(5), Fail("no"), ValueError("no"), Cancel("no")])
def test_a_person_s_cancellation_wins_over_what_the_handler_raises(aws: Aws, steering: Exception):
    jobs = aws.jobs()

    @jobs.handler("email")
    def is_canceled(ctx: JobContext) -> None:
        jobs.cancel(ctx.run.id, "a person")
        raise steering

    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "canceled"
    assert jobs.get_status(run_id).cancel_reason == "a person"


@pytest.mark.parametrize("wrong", [-1, "5", None, float("nan"), float("inf"), True, timedelta(-1)])
@pytest.mark.parametrize("kind", [Snooze, RetryAfter])
def test_a_wrong_delay_is_the_handler_s_own_error(kind: type[Snooze], wrong: Any):
    with pytest.raises(InvalidArgumentError, match="delay"):
        kind(wrong)


@pytest.mark.parametrize("kind", [Fail, Cancel])
def test_a_reason_that_is_no_text_is_refused(kind: type[Fail]):
    with pytest.raises(InvalidArgumentError, match="reason must be a string, not int"):
        kind(5)


def test_a_delay_past_the_year_9999_is_as_long_as_can_be(aws: Aws):
    jobs = aws.jobs(handlers={"email": raises(Snooze(timedelta(days=365 * 8_000)))})
    run_id = jobs.create("email")

    jobs.consume(message(run_id))

    assert jobs.get_status(run_id).scheduled_for.year == 9999


class NotFoundError(LookupError):
    pass


LEAVES = ExceptionGroup("two", [ConnectionError("a"), ExceptionGroup("one", [NotFoundError("b")])])


@pytest.mark.parametrize(
    ("options", "error", "outcome"),
    [
        ({"fail_on": LookupError}, NotFoundError("x"), "failed"),
        ({"fail_on": (TypeError, LookupError)}, NotFoundError("x"), "failed"),
        ({"fail_on": LookupError}, ValueError("x"), "retried"),
        ({"retry_on": ConnectionError}, ValueError("x"), "failed"),
        ({"retry_on": ConnectionError}, ConnectionResetError("x"), "retried"),
        ({"retry_on": (LookupError, OSError), "fail_on": NotFoundError}, NotFoundError("x"), "failed"),
        ({"retry_on": ConnectionError}, LEAVES, "failed"),
        ({"retry_on": (ConnectionError, LookupError)}, LEAVES, "retried"),
        ({"fail_on": LookupError}, LEAVES, "failed"),
        ({"fail_on": ExceptionGroup}, LEAVES, "failed"),
        ({"retry_on": ConnectionError}, RetryAfter(1), "retried"),
        ({"fail_on": Exception}, RetryAfter(1), "retried"),
        ({"retry_on": ConnectionError}, AttemptTimeoutError("x"), "retried"),
        ({"fail_on": AttemptTimeoutError}, AttemptTimeoutError("x"), "failed"),
    ],
)
def test_a_job_says_which_errors_are_retried(aws: Aws, options: dict[str, Any], error: Exception, outcome: str):
    jobs = aws.jobs()
    jobs.handler("email", **options)(raises(error))
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == outcome


@pytest.mark.parametrize(
    ("options", "status"), [({"retry_on": ValueError}, "scheduled"), ({"fail_on": LeaseExpiredError}, "failed")]
)
@pytest.mark.parametrize(
    "finder", [lambda jobs, run_id: jobs.dispatch(), lambda jobs, run_id: jobs.consume(message(run_id))]
)
def test_a_lost_worker_is_retried_unless_the_job_fails_on_it(
    aws: Aws, options: dict[str, Any], status: str, finder: Callable[[Jobs, str], object]
):
    jobs = aws.jobs()
    jobs.handler("email", **options)(raises(ValueError("again")))
    run_id = aws.a_running_run(lease_until=NOW_MS - 1, wake_at=NOW_MS - 1)

    finder(jobs, run_id)

    assert jobs.get_status(run_id).status == status


def test_a_run_that_is_too_late_is_canceled_without_an_attempt(aws: Aws, clock: Clock):
    jobs, called = aws.jobs(clock=clock), []
    jobs.handler("email", expires_after=timedelta(minutes=5))(called.append)
    run_id = jobs.create("email", delay=60)
    clock.advance(minutes=6, seconds=1)

    result = jobs.consume(message(run_id))

    assert (result.outcome, result.reason, called) == ("canceled", "expired", [])
    run = jobs.get_status(run_id)
    assert run.status == "canceled"
    assert (
        run.cancel_reason == "expired: it was due at 2026-03-14T12:01:00+00:00, and its job's runs are of use for 300 s"
    )
    assert run.attempts == ()


def test_a_run_that_is_just_in_time_or_has_started_once_does_not_expire(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock)
    jobs.handler("email", expires_after=timedelta(minutes=5))(raises(ValueError("no")))
    run_id = jobs.create("email")
    clock.advance(minutes=5)
    assert jobs.consume(message(run_id)).outcome == "retried"
    clock.advance(hours=1)

    assert jobs.consume(message(run_id)).outcome == "retried"


def test_a_person_s_cancellation_of_a_run_that_is_too_late_keeps_its_reason(aws: Aws, clock: Clock):
    between = Interrupted(aws.dynamodb, lambda: aws.jobs().cancel(run_id, "a person"), at=3)
    jobs = aws.jobs(clock=clock, dynamodb=between)
    jobs.handler("email", expires_after=timedelta(minutes=5))(lambda ctx: None)
    run_id = aws.a_run(scheduled_for=NOW_MS - 3_600_000)

    assert jobs.consume(message(run_id)).outcome == "canceled"
    assert jobs.get_status(run_id).cancel_reason == "a person"


def test_a_wait_for_a_handler_does_not_make_a_run_of_use_for_longer(aws: Aws, clock: Clock):
    old = aws.jobs(clock=clock, missing_handler="retry", allow_unknown_jobs=True)
    jobs = aws.jobs(clock=clock)
    jobs.handler("email", expires_after=timedelta(minutes=5))(lambda ctx: None)
    run_id, moved = old.create("email"), old.create("email")
    for _ in range(12):
        assert old.consume(message(run_id)).outcome == old.consume(message(moved)).outcome == "retried"
        clock.now = old.get_status(run_id).scheduled_for
    assert clock.now > NOW + timedelta(minutes=5)
    jobs.reschedule(moved, clock.now)

    assert jobs.consume(message(run_id)).reason == "expired"
    assert jobs.consume(message(moved)).outcome == "succeeded", "a person gave it another time"


def test_a_persons_retry_gives_an_expired_run_its_time_anew(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock)
    jobs.handler("email", expires_after=timedelta(minutes=5))(lambda ctx: None)
    run_id = jobs.create("email")
    clock.advance(hours=1)
    jobs.consume(message(run_id))

    assert jobs.retry(run_id)
    assert jobs.consume(message(run_id)).outcome == "succeeded"


def test_a_run_that_waits_is_run_now(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, handlers={"email": lambda ctx: None})
    run_id = jobs.create("email", delay=timedelta(days=3))

    assert jobs.run_now(run_id) is True

    run = jobs.get_status(run_id)
    assert (run.status, run.scheduled_for) == ("queued", NOW)
    assert aws.sent() == [(run_id, 0)]
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert jobs.run_now(run_id) is False


def test_a_run_that_waits_for_its_next_attempt_makes_it_now(aws: Aws):
    jobs = aws.jobs(handlers={"email": raises(RetryAfter(3600))})
    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    assert jobs.run_now(run_id) is True
    assert jobs.get_status(run_id).attempt == 1
    assert jobs.consume(message(run_id)).attempt == 2


@pytest.mark.parametrize(("delay", "sent"), [(60, 60), (900, 900), (901, None), (0, 0), (-60, 0)])
@pytest.mark.parametrize("status", ["queued", "scheduled"])
def test_a_run_that_waits_is_given_another_time(aws: Aws, status: str, delay: int, sent: int | None):
    jobs = aws.jobs()
    run_id = aws.a_run(status=status, scheduled_for=NOW_MS)

    assert jobs.reschedule(run_id, NOW + timedelta(seconds=delay)) is True

    run = jobs.get_status(run_id)
    assert run.scheduled_for == NOW + timedelta(seconds=max(0, delay))
    assert run.status == ("scheduled" if delay > 0 else "queued")
    assert aws.sent() == ([] if sent is None else [(run_id, sent)])
    expected = NOW_MS + 901_000 if sent is None else NOW_MS + 120_000 + max(0, delay) * 1000
    assert aws.item(run_id)["wake_at"] == expected


def test_the_message_of_the_old_time_changes_nothing(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, handlers={"email": lambda ctx: None})
    run_id = jobs.create("email")
    jobs.reschedule(run_id, NOW + timedelta(hours=1))

    assert jobs.consume(message(run_id)).outcome == "ignored"
    clock.advance(hours=1)
    assert jobs.consume(message(run_id)).outcome == "succeeded"


def test_a_run_that_waits_gets_another_payload(aws: Aws):
    seen: list[Any] = []
    jobs = aws.jobs(handlers={"email": lambda ctx: seen.append(ctx.payload)})
    run_id = jobs.create("email", {"to": "wrong"})

    assert jobs.update(run_id, payload={"to": "right"}) is True

    jobs.consume(message(run_id))
    assert seen == [{"to": "right"}]
    assert jobs.update(run_id, payload=1) is False


def test_a_payload_that_is_no_json_changes_nothing(aws: Aws):
    jobs = aws.jobs()
    run_id = jobs.create("email")

    with pytest.raises(InvalidJSONError):
        jobs.update(run_id, payload=object())
    assert jobs.get_status(run_id).payload is None


CHANGES: dict[str, Callable[[Jobs, str], bool]] = {
    "run_now": lambda jobs, run_id: jobs.run_now(run_id),
    "reschedule": lambda jobs, run_id: jobs.reschedule(run_id, NOW),
    "update": lambda jobs, run_id: jobs.update(run_id, payload=2),
}
OTHERS = {
    "running": {"status": "running", "lease_token": "l", "lease_until": NOW_MS + 9, "claims": 1},
    "succeeded": {"status": "succeeded", "finished_at": NOW_MS},
    "failed": {"status": "failed", "finished_at": NOW_MS},
    "canceled": {"status": "canceled", "finished_at": NOW_MS},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("status", OTHERS)
def test_a_run_that_executes_or_has_ended_is_left_alone(jobs: Jobs, aws: Aws, change: str, status: str):
    run_id = aws.a_run(**OTHERS[status])
    before = aws.item(run_id)

    assert CHANGES[change](jobs, run_id) is False
    assert CHANGES[change](jobs, "unknown") is False
    assert aws.item(run_id) == before


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_a_consumer_comes_before_is_refused(aws: Aws, change: str):
    consumer = aws.jobs(handlers={"email": lambda ctx: None})
    run_id = aws.a_run(status="scheduled")
    jobs = aws.jobs(dynamodb=Interrupted(aws.dynamodb, lambda: consumer.consume(message(run_id)), at=2))

    assert CHANGES[change](jobs, run_id) is False
    assert jobs.get_status(run_id).status == "succeeded"
    assert jobs.get_status(run_id).payload is None


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_tried_again_where_the_run_only_moved_between_two_waits(aws: Aws, change: str):
    run_id = aws.a_run(status="scheduled", scheduled_for=NOW_MS, wake_at=NOW_MS)
    dispatcher = aws.jobs()
    jobs = aws.jobs(dynamodb=Interrupted(aws.dynamodb, dispatcher.dispatch, at=2))

    assert CHANGES[change](jobs, run_id) is (change != "run_now")  # it is queued already: that is as much as now
    assert jobs.get_status(run_id).status == "queued"


@pytest.mark.parametrize("change", CHANGES)
def test_a_lost_reply_makes_one_change(aws: Aws, change: str):
    jobs = aws.jobs(dynamodb=Repeated(aws.dynamodb))
    run_id = aws.a_run(status="scheduled", scheduled_for=NOW_MS + 5_000)

    assert CHANGES[change](jobs, run_id) is True


@pytest.mark.parametrize("applied", [True, False])
def test_a_run_that_was_moved_and_whose_message_was_lost_is_found_by_the_dispatcher(
    aws: Aws, clock: Clock, applied: bool
):
    outage = Outage(applied=applied)
    jobs = aws.jobs(clock=clock, sqs=outage.wrap(aws.sqs))
    run_id = aws.a_run(status="scheduled", scheduled_for=NOW_MS + 10**9, wake_at=NOW_MS + 10**9)
    assert jobs.run_now(run_id) is True
    clock.advance(minutes=3)

    result = jobs.dispatch()

    assert result.resent == 1
    assert aws.item(run_id)["status"] == "queued"


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
def test_a_run_that_has_ended_is_deleted(jobs: Jobs, aws: Aws, status: str):
    run_id = aws.a_run(status=status, finished_at=NOW_MS)

    assert jobs.delete(run_id) is True
    assert aws.item(run_id) is None
    assert jobs.delete(run_id) is False


@pytest.mark.parametrize("status", ["scheduled", "queued", "running"])
def test_an_unfinished_run_is_not_deleted(jobs: Jobs, aws: Aws, status: str):
    run_id = aws.a_running_run() if status == "running" else aws.a_run(status=status)

    assert jobs.delete(run_id) is False
    assert aws.item(run_id) is not None


def test_a_run_that_is_retried_in_that_moment_is_not_deleted(aws: Aws):
    run_id = aws.a_run(status="failed", finished_at=NOW_MS, without=("wake_shard", "wake_at"))
    other = aws.jobs()
    jobs = aws.jobs(dynamodb=Interrupted(aws.dynamodb, lambda: other.retry(run_id), at=2))

    assert jobs.delete(run_id) is False
    assert jobs.get_status(run_id).status == "queued"


def in_group(error: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("of a task group", [ExceptionGroup("inner", [error])])


@pytest.mark.parametrize(
    ("error", "outcome", "attempt"),
    [
        (in_group(Snooze(5)), "retried", 0),
        (in_group(RetryAfter(5)), "retried", 1),
        (in_group(Fail("no")), "failed", 1),
        (in_group(Cancel("no")), "canceled", 1),
        (ExceptionGroup("two", [Snooze(5), ValueError("no")]), "retried", 1),
        (ExceptionGroup("two", [Fail("no"), ValueError("no")]), "retried", 1),
    ],
)
def test_what_steers_a_run_does_so_also_out_of_a_task_group_but_not_beside_other_errors(
    aws: Aws, error: Exception, outcome: str, attempt: int
):
    jobs = aws.jobs(handlers={"email": raises(error)})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == outcome
    assert jobs.get_status(run_id).attempt == attempt
