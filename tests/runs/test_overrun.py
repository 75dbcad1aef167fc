"""Handlers that overrun: they are cut in time, their runs are put back, and what they do later changes nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import DeadlineTooCloseError, InvalidArgumentError, JobContext, Jobs
from kumofire_core.handlers.handler_pool import HandlerPool, HandlerTimeoutError
from tests.builders import NOW, NOW_MS, Aws, Clock, LambdaContext, event, failures, message

pytestmark = pytest.mark.long

# The shortest times a batch still starts in; a fifth of them is kept to record how the attempts ended.
SHORT_MS = 2_600
LONG_SECONDS = 20.0


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets handlers that wait for it end; set in any case when the test is over."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    # Without counts, so that every request is one for a run: they would be written by the next batch with time for it.
    return aws.jobs(clock=clock, concurrency=4, counts=False)


def sleeping(seconds: float) -> None:
    """Sleep in small steps, as Python code that can be interrupted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


def still_running(jobs: Jobs) -> int:
    """Return how many handlers that were cut do not stop in the time that a later batch gives them."""
    return jobs.run_batch({"Records": []}, LambdaContext()).stray_handlers


def test_a_handler_still_running_near_the_deadline_has_its_run_put_back_in_time(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: sleeping(LONG_SECONDS))
    run_id = aws.a_run()
    begun = time.monotonic()

    report = jobs.run_batch(event(run_id), LambdaContext(remaining_ms=SHORT_MS))

    assert time.monotonic() - begun < LONG_SECONDS / 2
    assert failures(report.response()) == []
    assert str(report.records[0].result.outcome) == "retried"
    run = jobs.get_status(run_id)
    assert (run.status, run.attempt, run.scheduled_for) == ("scheduled", 1, NOW + timedelta(seconds=1))
    assert run.last_error.startswith("AttemptTimeoutError: attempt 1 overran: cut after ")
    assert "near its deadline" in run.last_error
    assert aws.sent() == [(run_id, 1)]


def test_a_handler_that_overruns_in_its_last_attempt_has_failed(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: sleeping(LONG_SECONDS))
    run_id = aws.a_run(max_attempts=1)

    jobs.consume_batch(event(run_id), LambdaContext(remaining_ms=SHORT_MS))

    run = jobs.get_status(run_id)
    assert (run.status, run.attempt) == ("failed", 1)
    assert "overran" in run.last_error


def test_an_overrunning_handler_disturbs_no_neighbour(jobs: Jobs, aws: Aws):
    jobs.handler("slow")(lambda ctx: sleeping(LONG_SECONDS))
    jobs.handler("email")(lambda ctx: None)
    slow, others = aws.a_run(job_name="slow"), [aws.a_run() for _ in range(5)]

    response = jobs.consume_batch(event(slow, *others), LambdaContext(remaining_ms=SHORT_MS))

    assert failures(response) == []
    assert aws.item(slow)["status"] == "scheduled"
    assert [aws.item(run_id)["status"] for run_id in others] == ["succeeded"] * 5


def test_what_is_not_begun_when_the_time_is_up_comes_again_unclaimed(aws: Aws):
    jobs = aws.jobs(concurrency=1, handlers={"email": lambda ctx: sleeping(LONG_SECONDS)})
    first, second = aws.a_run(), aws.a_run()

    response = jobs.consume_batch(event(first, second), LambdaContext(remaining_ms=SHORT_MS))

    assert failures(response) == [f"m-{second}"]
    assert (aws.item(second)["status"], aws.item(second)["claims"]) == ("queued", 0)


def test_a_plain_handler_that_overruns_is_left_alone_and_counted_until_it_ends(
    jobs: Jobs, aws: Aws, release: threading.Event
):
    reached = []

    def email(ctx: JobContext) -> None:
        release.wait(LONG_SECONDS)
        reached.append("the end")

    jobs.handler("email")(email)

    report = jobs.run_batch(event(aws.a_run()), LambdaContext(remaining_ms=SHORT_MS))

    assert report.stray_handlers == 1
    assert reached == []
    release.set()
    assert still_running(jobs) == 0
    assert reached == ["the end"]


def test_a_cut_leaves_no_lock_behind_that_its_handler_had_taken(jobs: Jobs, aws: Aws, release: threading.Event):
    """An exception from outside can strike between taking a lock and the code that gives it back."""
    lock = threading.Lock()

    def email(ctx: JobContext) -> None:
        while not release.is_set():
            lock.acquire()
            lock.release()

    jobs.handler("email", timeout=timedelta(milliseconds=5))(email)

    for _ in range(20):
        jobs.consume(message(aws.a_run()))
    release.set()

    assert still_running(jobs) == 0
    assert lock.acquire(timeout=5)


def test_an_overrunning_async_handler_is_canceled_where_it_awaits(jobs: Jobs, aws: Aws):
    cleaned = threading.Event()

    @jobs.handler("email")
    async def email(ctx: JobContext) -> None:
        try:
            await asyncio.sleep(LONG_SECONDS)
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    run_id = aws.a_run()
    jobs.consume_batch(event(run_id), LambdaContext(remaining_ms=SHORT_MS))

    assert cleaned.wait(LONG_SECONDS / 2)
    assert still_running(jobs) == 0
    assert jobs.get_status(run_id).status == "scheduled"


def test_a_handler_that_can_not_be_stopped_is_counted_until_it_ends(jobs: Jobs, aws: Aws, release: threading.Event):
    jobs.handler("email")(lambda ctx: release.wait(LONG_SECONDS))
    jobs.handler("quick")(lambda ctx: None)

    cut = jobs.run_batch(event(aws.a_run()), LambdaContext(remaining_ms=SHORT_MS))
    while_it_runs = jobs.run_batch(event(aws.a_run(job_name="quick")), LambdaContext(remaining_ms=SHORT_MS))
    release.set()
    afterwards = jobs.run_batch(event(aws.a_run(job_name="quick")), LambdaContext())

    assert [report.stray_handlers for report in (cut, while_it_runs, afterwards)] == [1, 1, 0]


def test_what_an_overrunning_handler_returns_later_is_dropped(jobs: Jobs, aws: Aws, release: threading.Event):
    ended = threading.Event()

    def email(ctx: JobContext) -> str:
        try:
            release.wait(LONG_SECONDS)
        finally:
            ended.set()
        return "late"

    jobs.handler("email")(email)
    run_id = aws.a_run()
    jobs.consume_batch(event(run_id), LambdaContext(remaining_ms=SHORT_MS))
    before, requests = aws.item(run_id), len(aws.dynamodb.requests)

    release.set()
    assert ended.wait(LONG_SECONDS)
    assert still_running(jobs) == 0

    assert aws.item(run_id) == before
    assert len(aws.dynamodb.requests) == requests


def test_a_batch_is_answered_in_time_although_its_table_hangs(aws: Aws, release: threading.Event):
    class Hanging:
        def update_item(self, **parameters: Any) -> Any:
            release.wait(LONG_SECONDS)
            return aws.dynamodb.update_item(**parameters)

    jobs = aws.jobs(dynamodb=Hanging(), handlers={"email": lambda ctx: None})
    run_id = aws.a_run()
    begun = time.monotonic()

    response = jobs.consume_batch(event(run_id), LambdaContext(remaining_ms=SHORT_MS))

    assert time.monotonic() - begun < LONG_SECONDS / 2
    assert failures(response) == [f"m-{run_id}"]


def test_a_direct_deadline_cuts_a_handler_as_well(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: sleeping(LONG_SECONDS))
    run_id = aws.a_run()

    result = jobs.consume(message(run_id), deadline=NOW + timedelta(milliseconds=SHORT_MS))

    assert (result.outcome, result.reason) == ("retried", "AttemptTimeoutError")
    assert jobs.get_status(run_id).status == "scheduled"


def test_a_direct_deadline_that_is_too_close_starts_nothing(jobs: Jobs, aws: Aws):
    run_id = aws.a_run()

    with pytest.raises(DeadlineTooCloseError, match=r"only 0\.[45] s are left before the deadline"):
        jobs.consume(message(run_id), deadline=NOW + timedelta(milliseconds=500))
    assert aws.dynamodb.requests == []


def test_a_direct_deadline_must_be_aware(jobs: Jobs, aws: Aws):
    with pytest.raises(InvalidArgumentError, match=r"deadline is .* which has no time zone"):
        jobs.consume(message("r1"), deadline=NOW.replace(tzinfo=None))
    assert aws.dynamodb.requests == []


@pytest.mark.parametrize("batch", [False, True], ids=["direct", "batch"])
def test_a_job_s_own_timeout_cuts_its_attempt(jobs: Jobs, aws: Aws, batch: bool):
    jobs.handler("email", timeout=timedelta(milliseconds=50))(lambda ctx: sleeping(LONG_SECONDS))
    run_id = jobs.create("email")

    if batch:
        jobs.consume_batch(event(run_id), LambdaContext())
    else:
        jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert (run.status, run.attempt) == ("scheduled", 1)
    assert run.last_error == "AttemptTimeoutError: attempt 1 overran its job's timeout of 0.05 s and was cut"


def test_the_timeout_stored_with_a_run_is_kept_to_where_its_job_has_none_any_more(jobs: Jobs, aws: Aws):
    """Its lease is as short as that, so nobody may execute it for longer."""
    jobs.handler("email")(lambda ctx: sleeping(LONG_SECONDS))

    assert jobs.consume(message(aws.a_run(timeout_ms=50))).outcome == "retried"


def test_the_shorter_of_the_stored_and_the_registered_timeout_counts(jobs: Jobs, aws: Aws):
    left = []
    jobs.handler("email", timeout=timedelta(seconds=50))(lambda ctx: left.append(ctx.time_left().total_seconds()))

    jobs.consume(message(aws.a_run(timeout_ms=10_000)))
    jobs.consume(message(aws.a_run(timeout_ms=100_000)))

    assert 5 < left[0] <= 10
    assert 45 < left[1] <= 50


def test_the_time_left_shrinks_to_zero_and_not_below(jobs: Jobs, aws: Aws):
    left = []

    @jobs.handler("email", timeout=timedelta(milliseconds=30))
    def email(ctx: JobContext) -> None:
        while ctx.time_left():
            time.sleep(0.001)
        left.append(ctx.time_left())

    jobs.consume(message(aws.a_run()))

    assert still_running(jobs) == 0
    assert left == [timedelta(0)]


def test_a_handler_that_raises_a_timeout_of_its_own_was_not_cut(jobs: Jobs, aws: Aws):
    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        raise TimeoutError("the mail server's")

    run_id = aws.a_run()
    jobs.consume_batch(event(run_id), LambdaContext())

    assert jobs.get_status(run_id).last_error == "TimeoutError: the mail server's"


def test_a_cut_run_can_be_executed_while_its_first_handler_still_hangs(
    jobs: Jobs, aws: Aws, clock: Clock, release: threading.Event
):
    @jobs.handler("email")
    def email(ctx: JobContext) -> str:
        if ctx.attempt == 1:
            release.wait(LONG_SECONDS)
        return f"attempt {ctx.attempt}"

    run_id = aws.a_run()
    jobs.consume_batch(event(run_id), LambdaContext(remaining_ms=SHORT_MS))
    clock.advance(seconds=1)
    jobs.consume_batch(event(run_id), LambdaContext())
    release.set()

    assert jobs.get_status(run_id).output == "attempt 2"
    assert aws.item(run_id)["finished_at"] == NOW_MS + 1000


def test_a_call_within_its_time_returns_or_raises_what_its_function_does():
    threads = HandlerPool()

    assert threads.run(lambda: 5, seconds=10) == 5
    with pytest.raises(ZeroDivisionError):
        threads.run(lambda: 1 / 0, seconds=10)
    with pytest.raises(SystemExit):
        threads.run(lambda: exit(1), seconds=10)


def test_a_thread_whose_call_was_cut_is_never_used_again(release: threading.Event):
    threads, used = HandlerPool(), []

    def note() -> None:
        used.append(threading.current_thread())
        release.wait(LONG_SECONDS)

    for _ in range(3):
        with pytest.raises(HandlerTimeoutError):
            threads.run(note, seconds=0.02)
    release.set()
    assert threads.stray(patience_seconds=5) == 0
    threads.run(lambda: used.append(threading.current_thread()), seconds=10)

    assert len(set(used)) == len(used)


def test_a_call_s_cut_never_hits_the_next_call():
    """Calls that end just when their time does: whatever wins, the threads stay fit for others."""
    threads, ends = HandlerPool(), []

    for number in range(150):
        seconds = 0.001 + (number % 10) / 10_000
        try:
            threads.run(lambda seconds=seconds: sleeping(seconds), seconds=0.0015)
            ends.append("returned")
        except HandlerTimeoutError:
            ends.append("cut")
        assert threads.run(lambda: sum(range(1000)), seconds=10) == 499_500

    assert threads.stray(patience_seconds=5) == 0


def test_threads_of_handlers_do_not_keep_a_process_alive():
    threads = HandlerPool()
    with pytest.raises(HandlerTimeoutError):
        threads.run(lambda: sleeping(0.3), seconds=0.01)

    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "kumofire-handler")
