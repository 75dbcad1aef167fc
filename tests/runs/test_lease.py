"""Leases: one holder at a time, takeovers from lost workers, and what a worker that came too late can't do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from examples.deployment import PROJECT
from kumofire_core import JobContext, Jobs
from tests.builders import NOW, NOW_MS, Aws, Clock, LambdaContext, event, message, raises
from tests.faults import Interrupted

MARGIN_MS = 5_000


def test_a_claim_without_a_deadline_lasts_as_long_as_the_lease_and_its_margin(aws: Aws):
    leases = []
    jobs = aws.jobs(lease=timedelta(seconds=90))
    jobs.handler("email")(lambda ctx: leases.append(aws.item(ctx.run.id)["lease_until"]))

    jobs.consume(message(aws.a_run()))

    assert leases == [NOW_MS + 90_000 + MARGIN_MS]


def test_the_default_lease_is_30_seconds(jobs: Jobs, aws: Aws):
    leases = []
    jobs.handler("email")(lambda ctx: leases.append(aws.item(ctx.run.id)["lease_until"]))

    jobs.consume(message(aws.a_run()))

    assert leases == [NOW_MS + 30_000 + MARGIN_MS]


@pytest.mark.parametrize(
    ("page", "name"), [("docs/settings.md", "| `KUMOFIRE_LEASE_SECONDS` |"), ("docs/deploy.md", "| `LeaseSeconds` |")]
)
def test_the_pages_that_say_how_long_a_claim_lasts_say_its_margin(page: str, name: str):
    [row] = [line for line in (PROJECT / page).read_text().splitlines() if line.startswith(name)]

    assert f"; {MARGIN_MS // 1000} s are added" in row


def test_a_claim_lasts_longer_than_the_deadline_that_is_known(jobs: Jobs, aws: Aws):
    leases = []
    jobs.handler("email")(lambda ctx: leases.append(aws.item(ctx.run.id)["lease_until"] - NOW_MS))

    jobs.consume(message(aws.a_run()), deadline=NOW + timedelta(seconds=600))
    jobs.consume_batch(event(aws.a_run()), LambdaContext(remaining_ms=900_000))

    # Real time passes between the deadline's reading and the claim, a little of it.
    assert 600_000 < leases[0] <= 600_000 + MARGIN_MS
    assert 900_000 < leases[1] <= 900_000 + MARGIN_MS


def test_a_job_s_timeout_makes_its_lease_shorter(jobs: Jobs, aws: Aws):
    leases = []

    @jobs.handler("email", timeout=timedelta(seconds=10))
    def email(ctx: JobContext) -> None:
        leases.append(aws.item(ctx.run.id)["lease_until"])

    jobs.consume(message(jobs.create("email")), deadline=NOW + timedelta(seconds=600))

    assert leases == [NOW_MS + 10_000 + MARGIN_MS]


def test_a_claim_leaves_the_wake_up_alone(jobs: Jobs, aws: Aws):
    seen = []
    jobs.handler("email")(lambda ctx: seen.append(aws.item(ctx.run.id)))
    run_id = aws.a_run(wake_at=NOW_MS + 77, wake_shard=5)

    jobs.consume(message(run_id))

    assert (seen[0]["wake_at"], seen[0]["wake_shard"]) == (NOW_MS + 77, 5)


@pytest.mark.parametrize("another", [None, timedelta(seconds=5)], ids=["alone", "beside a short one"])
def test_a_timeout_longer_than_its_process_makes_no_lease_that_outlasts_it(
    jobs: Jobs, aws: Aws, another: timedelta | None
):
    leases = []
    if another is not None:
        jobs.handler("another", timeout=another)(lambda ctx: None)

    @jobs.handler("email", timeout=timedelta(hours=1))
    def email(ctx: JobContext) -> None:
        leases.append(aws.item(ctx.run.id)["lease_until"])

    jobs.consume(message(jobs.create("email")), deadline=NOW + timedelta(seconds=60))

    assert leases == [pytest.approx(NOW_MS + 60_000 + MARGIN_MS, abs=1_000)]


@pytest.mark.parametrize("deadline", [None, NOW + timedelta(seconds=60)])
@pytest.mark.parametrize("another", [None, timedelta(seconds=5)])
def test_a_timeout_or_a_lease_without_an_end_is_none_that_strands_the_run(aws: Aws, deadline: Any, another: Any):
    jobs = aws.jobs(lease=timedelta.max)
    jobs.handler("email", timeout=timedelta.max)(lambda ctx: None)
    if another is not None:
        jobs.handler("another", timeout=another)(lambda ctx: None)
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id), deadline=deadline).outcome == "succeeded"
    assert jobs.get_status(run_id).status == "succeeded"


def test_a_run_is_not_started_while_another_s_lease_lasts_and_is_taken_over_when_it_ends(
    jobs: Jobs, aws: Aws, clock: Clock
):
    called = []
    jobs.handler("email")(lambda ctx: called.append(ctx.attempt))
    run_id = aws.a_running_run(lease_until=NOW_MS + 30_000)

    clock.advance(milliseconds=29_999)
    before = jobs.consume(message(run_id))
    clock.advance(milliseconds=1)
    after = jobs.consume(message(run_id))

    assert (before.outcome, after.outcome) == ("ignored", "succeeded")
    assert called == [2]


def test_a_takeover_counts_the_lost_attempt_and_says_so(jobs: Jobs, aws: Aws, clock: Clock):
    seen = []
    jobs.handler("email")(lambda ctx: seen.append((ctx, aws.item(ctx.run.id))))
    run_id = aws.a_running_run(lease_until=NOW_MS, attempt=0, claims=1)
    clock.advance(seconds=1)

    jobs.consume(message(run_id))

    [(ctx, item)] = seen
    assert (ctx.attempt, ctx.run.attempt, ctx.fencing_token) == (2, 1, 2)
    assert ctx.run.last_error.startswith("LeaseExpiredError: attempt 1 was lost: its lease expired at 2026-03-14T12:00")
    assert (item["status"], item["started_at"]) == ("running", NOW_MS + 1000)
    assert item["lease_token"] != "another"
    assert item["lease_until"] == NOW_MS + 1000 + 30_000 + MARGIN_MS
    assert jobs.get_status(run_id).attempt == 1


def test_a_takeover_keeps_to_the_run_s_own_timeout(jobs: Jobs, aws: Aws):
    seen = []
    jobs.handler("email")(lambda ctx: seen.append(aws.item(ctx.run.id)["lease_until"]))

    jobs.consume(message(aws.a_running_run(lease_until=NOW_MS, timeout_ms=10_000)))

    assert seen == [NOW_MS + 10_000 + MARGIN_MS]


def test_a_run_whose_worker_was_lost_in_its_last_attempt_has_failed_and_says_so(jobs: Jobs, aws: Aws):
    called = []
    jobs.handler("email")(called.append)
    run_id = aws.a_running_run(lease_until=NOW_MS, attempt=2, max_attempts=3)

    result = jobs.consume(message(run_id))

    assert (result.outcome, result.reason) == ("failed", "LeaseExpiredError")
    assert called == []
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.finished_at) == ("failed", 3, NOW)
    assert "attempt 3 was lost" in run.last_error
    assert not {"wake_at", "wake_shard", "lease_token", "lease_until"} & set(aws.item(run_id))
    assert "expires_at" in aws.item(run_id)


def test_a_run_that_kills_its_worker_every_time_ends_failed(jobs: Jobs, aws: Aws, clock: Clock):
    called = []

    @jobs.handler("email", max_attempts=3)
    def email(ctx: JobContext) -> None:
        called.append(ctx.attempt)
        raise KeyboardInterrupt  # what leaves consume without a record, as a kill does

    run_id = jobs.create("email")
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            jobs.consume(message(run_id))
        clock.advance(seconds=36)

    assert jobs.consume(message(run_id)).outcome == "failed"
    assert called == [1, 2, 3]
    assert jobs.get_status(run_id).attempt == 3


def test_a_run_to_be_canceled_whose_worker_was_lost_is_canceled(jobs: Jobs, aws: Aws):
    jobs.handler("email")(raises(AssertionError("called")))
    run_id = aws.a_running_run(lease_until=NOW_MS, cancel_requested_at=NOW_MS)

    assert jobs.consume(message(run_id)).outcome == "canceled"
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt) == ("canceled", 1)


def test_the_limit_of_a_taken_over_run_that_has_none_is_its_job_s(jobs: Jobs, aws: Aws):
    jobs.handler("email", max_attempts=1)(raises(AssertionError("called")))
    run_id = aws.a_running_run(lease_until=NOW_MS, without=("max_attempts",))

    assert jobs.consume(message(run_id)).outcome == "failed"
    assert aws.item(run_id)["max_attempts"] == 1


@pytest.mark.parametrize("ending", ["returns", "raises", "raises in its last attempt"])
def test_a_consumer_that_lost_its_lease_changes_nothing_and_says_so(
    aws: Aws, clock: Clock, caplog: pytest.LogCaptureFixture, ending: str
):
    stored = []

    def slow(ctx: JobContext) -> str:
        clock.advance(seconds=36)
        successor = aws.jobs(clock=clock, handlers={"email": lambda ctx: "the successor's"})
        assert successor.consume(message(ctx.run.id)).outcome == "succeeded"
        stored.append(aws.item(ctx.run.id))
        if ending != "returns":
            raise ValueError("late")
        return "late"

    jobs = aws.jobs(clock=clock, handlers={"email": slow})
    run_id = aws.a_run(max_attempts=2 if ending != "raises" else 9)

    result = jobs.consume(message(run_id))

    assert (result.outcome, result.reason) == ("ignored", "lost its lease")
    assert aws.item(run_id) == stored[0]
    assert aws.item(run_id)["output"] == '"the successor\'s"'
    assert "lost the lease" in caplog.text
    assert aws.sent() == []


def test_a_consumer_that_lost_its_lease_can_not_end_its_successor_s_attempt(aws: Aws, clock: Clock):
    stored = []

    def slow(ctx: JobContext) -> None:
        if ctx.attempt == 1:
            clock.advance(seconds=36)
            with pytest.raises(KeyboardInterrupt):
                jobs.consume(message(ctx.run.id))  # the successor, killed while it holds the lease
            stored.append(aws.item(ctx.run.id))
        else:
            raise KeyboardInterrupt

    jobs = aws.jobs(clock=clock, handlers={"email": slow})
    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "ignored"
    assert stored[0]["status"] == "running"
    assert aws.item(run_id) == stored[0]


def test_a_consumer_that_outlived_its_lease_unnoticed_still_records_its_end(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock)
    jobs.handler("email")(lambda ctx: clock.advance(hours=1))
    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "succeeded"


def test_a_worker_that_was_only_slow_can_not_be_failed_after_it_has_ended(aws: Aws, clock: Clock):
    """Between the look at the expired lease and the takeover, its third request, the slow worker ends its attempt."""
    run_id = aws.a_running_run(lease_until=NOW_MS, attempt=2, max_attempts=3)

    dynamodb = Interrupted(aws.dynamodb, lambda: aws.change(run_id, status="succeeded"), at=3)
    jobs = aws.jobs(clock=clock, dynamodb=dynamodb, handlers={"email": raises(AssertionError("called"))})

    assert jobs.consume(message(run_id)).outcome == "ignored"
    assert aws.item(run_id)["status"] == "succeeded"


@pytest.mark.parametrize("attempt", [0, 2], ids=["taking over", "failing"])
def test_of_two_that_find_an_expired_lease_one_gets_it(aws: Aws, clock: Clock, attempt: int):
    called = []
    run_id = aws.a_running_run(lease_until=NOW_MS, attempt=attempt, max_attempts=3)
    outcomes = []

    def another() -> None:
        other = aws.jobs(clock=clock, handlers={"email": lambda ctx: called.append("other")})
        outcomes.append(str(other.consume(message(run_id)).outcome))

    dynamodb = Interrupted(aws.dynamodb, another, at=3)
    jobs = aws.jobs(clock=clock, dynamodb=dynamodb, handlers={"email": lambda ctx: called.append("first")})
    outcomes.append(str(jobs.consume(message(run_id)).outcome))

    assert outcomes == ["succeeded" if attempt == 0 else "failed", "ignored"]
    assert called == (["other"] if attempt == 0 else [])


@pytest.mark.parametrize("attempt", [0, 2], ids=["taking over", "failing"])
def test_an_expired_lease_that_another_just_replaced_by_its_own_is_let_be(aws: Aws, clock: Clock, attempt: int):
    run_id = aws.a_running_run(lease_until=NOW_MS, attempt=attempt, max_attempts=3)

    def another_takes_over() -> None:
        aws.change(run_id, lease_token="successor", lease_until=NOW_MS + 30_000, attempt=attempt + 1, claims=2)

    dynamodb = Interrupted(aws.dynamodb, another_takes_over, at=3)
    jobs = aws.jobs(clock=clock, dynamodb=dynamodb, handlers={"email": raises(AssertionError("called"))})

    assert jobs.consume(message(run_id)).outcome == "ignored"
    item = aws.item(run_id)
    assert (item["status"], item["lease_token"], item["attempt"]) == ("running", "successor", attempt + 1)


def test_fencing_tokens_grow_with_every_claim(jobs: Jobs, clock: Clock):
    tokens = []

    @jobs.handler("email", max_attempts=4)
    def email(ctx: JobContext) -> None:
        tokens.append(ctx.fencing_token)
        raise KeyboardInterrupt if ctx.attempt == 2 else ValueError

    run_id = jobs.create("email")
    jobs.consume(message(run_id))
    clock.advance(seconds=1)
    with pytest.raises(KeyboardInterrupt):
        jobs.consume(message(run_id))
    clock.advance(seconds=36)
    jobs.consume(message(run_id))
    clock.advance(seconds=60)
    jobs.consume(message(run_id))

    assert tokens == [1, 2, 3, 4]
