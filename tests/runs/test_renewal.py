"""Leases that are renewed: an attempt goes on for as long as its worker holds the run, and is cut when it does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kumofire_core import JobContext, Jobs, Snooze
from kumofire_core.engine.renewal import Renewal, held_by_lease
from kumofire_core.handlers.handler_pool import HandlerCall, HandlerPool
from kumofire_core.model.times import to_ms
from kumofire_core.rules import run_writes
from tests.builders import Aws, Clock, message

LEASE_MS = 6_000


@pytest.fixture
def jobs(aws: Aws) -> Jobs:
    """A ``Jobs`` of a worker, on the real time, with leases of six seconds and the margin."""
    made = aws.jobs(clock=lambda: datetime.now(UTC), concurrency=1)
    made._consumer.renewal = Renewal(LEASE_MS)
    return made


def renewal_of(jobs: Jobs) -> Renewal:
    found = jobs._consumer.renewal
    assert found is not None
    return found


def until(look: Callable[[], object]) -> None:
    give_up = time.monotonic() + 60
    while not look():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.01)


def item(aws: Aws, run_id: str) -> dict[str, Any]:
    found = aws.item(run_id)
    assert found is not None
    return found


def test_a_lease_is_renewed_with_its_wake_up_while_the_handler_runs(aws: Aws, jobs: Jobs) -> None:
    seen: list[dict[str, Any]] = []

    @jobs.handler("long")
    def long(ctx: JobContext) -> bool:
        seen.append(item(aws, ctx.run.id))
        until(lambda: item(aws, ctx.run.id)["lease_until"] > seen[0]["lease_until"])
        seen.append(item(aws, ctx.run.id))
        return ctx.time_left() == timedelta.max

    run_id = jobs.create("long")
    assert jobs.consume(message(run_id)).outcome == "succeeded"

    first, last = seen
    assert last["wake_at"] == last["lease_until"]
    assert (last["lease_token"], last["claims"]) == (first["lease_token"], first["claims"])
    assert item(aws, run_id)["output"] == "true"
    assert not {"lease_until", "lease_token", "wake_at"} & item(aws, run_id).keys()


def test_a_short_run_makes_the_requests_of_a_function_and_no_renewal(aws: Aws, jobs: Jobs) -> None:
    jobs.handler("short")(lambda ctx: None)
    run_id = jobs.create("short")
    jobs.consume(message(run_id))  # reads which jobs are paused
    run_id = jobs.create("short")
    before = len(aws.dynamodb.parameters("update_item"))

    jobs.consume(message(run_id))

    assert len(aws.dynamodb.parameters("update_item")) == before + 2
    assert "renewed_by" not in item(aws, run_id)


def test_the_first_renewal_tells_that_the_message_is_not_needed_any_more(jobs: Jobs) -> None:
    told: list[float] = []

    @jobs.handler("long")
    def long(ctx: JobContext) -> None:
        until(lambda: told)
        time.sleep(LEASE_MS / 2000)

    run_id = jobs.create("long")
    token = held_by_lease.set(lambda: told.append(time.monotonic()))
    try:
        assert jobs.consume(message(run_id)).outcome == "succeeded"
    finally:
        held_by_lease.reset(token)

    assert len(told) == 1


def test_an_attempt_whose_lease_is_lost_is_cut_and_nothing_of_it_is_recorded(aws: Aws, jobs: Jobs) -> None:
    stopped, told = threading.Event(), []

    @jobs.on("lease_lost")
    def note(event: Any) -> None:
        told.append(event.run_id)

    @jobs.handler("long")
    def long(ctx: JobContext) -> None:
        aws.change(ctx.run.id, lease_token="of another", claims=2)
        until(ctx.stop_requested)
        stopped.set()

    run_id = jobs.create("long")
    result = jobs.consume(message(run_id))

    assert (result.outcome, result.reason) == ("ignored", "lost its lease")
    found = item(aws, run_id)
    assert (found["status"], found["lease_token"], found["attempt"]) == ("running", "of another", 0)
    assert stopped.wait(60)
    jobs.wait_for_hooks()
    assert told == [run_id]


def test_an_attempt_whose_lease_can_not_be_renewed_is_put_back_and_does_not_count(
    aws: Aws, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew = run_writes.renew

    def refused(*given: Any, **named: Any) -> Any:
        write = renew(*given, **named)
        raise ConnectionError(write.target)

    monkeypatch.setattr(run_writes, "renew", refused)
    jobs._consumer.renewal = Renewal(1_000)
    jobs.handler("long", max_attempts=1)(lambda ctx: until(ctx.stop_requested))

    run_id = jobs.create("long")
    result = jobs.consume(message(run_id))

    assert (result.outcome, result.reason) == ("retried", "its lease could not be renewed in time")
    found = item(aws, run_id)
    assert (found["status"], found["attempt"], found["suspensions"]) == ("scheduled", 0, 1)


def test_a_handler_is_not_called_where_its_process_stood_still_until_the_lease_was_over(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal stops the process after it has looked at the lease, and before the handler's thread has begun."""
    stood_still, called = [timedelta()], []
    jobs = aws.jobs(clock=lambda: datetime.now(UTC) + stood_still[0], concurrency=1)
    jobs._consumer.renewal = Renewal(LEASE_MS)
    jobs.handler("long", max_attempts=1)(called.append)
    start = HandlerPool.start

    def stopped(self: HandlerPool, function: Callable[[], Any], **given: Any) -> HandlerCall:
        stood_still[0] = timedelta(seconds=7)
        return start(self, function, **given)

    run_id = jobs.create("long")
    monkeypatch.setattr(HandlerPool, "start", stopped)
    result = jobs.consume(message(run_id))

    assert (result.outcome, result.reason) == ("retried", "its lease could not be renewed in time")
    assert called == []
    assert item(aws, run_id)["attempt"] == 0


def test_a_run_that_is_interrupted_goes_on_later_and_counts_no_attempt(aws: Aws, jobs: Jobs) -> None:
    begun = threading.Event()

    @jobs.handler("long", max_attempts=1)
    def long(ctx: JobContext) -> None:
        begun.set()
        until(ctx.stop_requested)

    run_id = jobs.create("long")
    thread = threading.Thread(target=lambda: begun.wait(60) and renewal_of(jobs).interrupt())
    thread.start()
    result = jobs.consume(message(run_id))
    thread.join()

    found = item(aws, run_id)
    assert (result.outcome, result.reason) == ("retried", "its process ends")
    assert (found["status"], found["attempt"], found["suspensions"]) == ("scheduled", 0, 1)
    assert found["scheduled_for"] > to_ms(datetime.now(UTC)) + 3_000
    assert aws.sent()[-1][0] == run_id


def test_an_attempt_that_begins_after_the_interruption_is_cut_at_once(jobs: Jobs) -> None:
    jobs.handler("long", max_attempts=1)(lambda ctx: until(ctx.stop_requested))
    renewal_of(jobs).interrupt()

    assert jobs.consume(message(jobs.create("long"))).reason == "its process ends"


def test_a_run_that_is_to_be_canceled_is_canceled_by_its_interruption(aws: Aws, jobs: Jobs) -> None:
    @jobs.handler("long")
    def long(ctx: JobContext) -> None:
        jobs.cancel(ctx.run.id)
        renewal_of(jobs).interrupt()

    run_id = jobs.create("long")

    assert jobs.consume(message(run_id)).outcome == "canceled"
    assert item(aws, run_id)["attempt"] == 0


def test_no_further_step_begins_in_a_process_that_is_to_end(aws: Aws, jobs: Jobs) -> None:
    done: list[str] = []

    @jobs.handler("steps", max_attempts=1)
    def steps(ctx: JobContext) -> None:
        ctx.step("first", done.append, "first")
        renewal_of(jobs).stopping = ctx.fencing_token == 1
        ctx.step("second", done.append, "second")

    run_id = jobs.create("steps")
    assert jobs.consume(message(run_id)).reason == "going on"
    assert done == ["first"]
    assert item(aws, run_id)["attempt"] == 0

    renewal_of(jobs).stopping = False
    aws.change(run_id, scheduled_for=0)
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert done == ["first", "second"]


def test_the_timeout_of_a_job_ends_an_attempt_that_keeps_its_lease(aws: Aws, jobs: Jobs) -> None:
    @jobs.handler("timed", timeout=timedelta(milliseconds=LEASE_MS // 2), max_attempts=1)
    def timed(ctx: JobContext) -> None:
        time.sleep(600)

    run_id = jobs.create("timed")

    assert jobs.consume(message(run_id)).reason == "AttemptTimeoutError"
    assert item(aws, run_id)["status"] == "failed"
    assert "renewed_by" in item(aws, run_id)


def test_a_handler_that_asks_may_stop_by_itself(aws: Aws, jobs: Jobs) -> None:
    @jobs.handler("polite", max_attempts=1)
    def polite(ctx: JobContext) -> None:
        assert not ctx.stop_requested()
        renewal_of(jobs).stopping = True
        if ctx.stop_requested():
            raise Snooze(0)

    run_id = jobs.create("polite")

    assert jobs.consume(message(run_id)).outcome == "retried"
    assert item(aws, run_id)["attempt"] == 0


def test_a_function_is_never_told_to_stop(aws: Aws, clock: Clock) -> None:
    jobs = aws.jobs(clock=clock)
    told: list[bool] = []
    jobs.handler("email")(lambda ctx: told.append(ctx.stop_requested()))

    assert jobs.consume(message(jobs.create("email"))).outcome == "succeeded"
    assert told == [False]
    assert JobContext.for_test().stop_requested() is False


@pytest.mark.parametrize(
    "changes",
    [
        {"lease_token": "of another"},
        {"claims": 2},
        {"status": "queued"},
        {"status": "canceled"},
        {"lease_until": 10**13},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_a_renewal_changes_no_lease_but_its_own_and_makes_none_shorter(aws: Aws, changes: dict[str, Any]) -> None:
    jobs = aws.jobs()
    run_id = aws.a_running_run(lease_token="mine")
    claimed = jobs._store.find(run_id)
    assert claimed is not None
    aws.change(run_id, **changes)
    before = item(aws, run_id)

    renew = run_writes.renew(claimed, "token", now_ms=before["started_at"] + 60_000, lease_ms=60_000)
    answer = jobs._store.apply(run_id, renew)

    assert not answer.applied
    assert item(aws, run_id) == before
    assert run_writes.is_held(claimed, answer.item) == (changes.keys() <= {"lease_until", "status"})


def test_a_renewal_that_finds_a_longer_lease_lets_the_attempt_go_on(aws: Aws, jobs: Jobs) -> None:
    told: list[object] = []

    @jobs.handler("long", max_attempts=1)
    def long(ctx: JobContext) -> None:
        # As if this process's clock had gone back since its last renewal.
        aws.change(ctx.run.id, lease_until=item(aws, ctx.run.id)["lease_until"] + 60_000)
        until(lambda: told)

    run_id = jobs.create("long")
    token = held_by_lease.set(lambda: told.append(item(aws, run_id)))
    try:
        assert jobs.consume(message(run_id)).outcome == "succeeded"
    finally:
        held_by_lease.reset(token)

    assert "renewed_by" not in item(aws, run_id)
