"""Hooks: what they are told, when, and that nothing a hook does reaches a run."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import (
    ENCRYPTED,
    Cancel,
    ConfigurationError,
    InvalidJSONError,
    JobContext,
    Jobs,
    Outcome,
    RetryPolicy,
    Run,
    RunEvent,
    Snooze,
)
from kumofire_core.engine import hooks as hooks_module
from kumofire_core.engine.hooks import EVENTS, Hooks
from kumofire_core.handlers import event_loop
from kumofire_core.handlers.deadline import Deadline
from tests.api.test_encryption import a_cipher
from tests.builders import NOW, NOW_MS, Aws, Clock, LambdaContext, event, message, raises
from tests.faults import Repeated

PATIENCE = timedelta(seconds=30)
EXPIRED = NOW_MS - 60_000


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets hooks that wait for it end; set in any case when the test is over."""
    gate = threading.Event()
    yield gate
    gate.set()


def told(jobs: Jobs, *names: str) -> list[RunEvent]:
    """Return the list that gets each event of these names, or of all."""
    events: list[RunEvent] = []
    jobs.on(*(names or EVENTS))(events.append)  # type: ignore[arg-type]
    return events


def settled(jobs: Jobs, events: list[RunEvent]) -> list[str]:
    """Wait for the hooks, and return the names of the events so far."""
    assert jobs.wait_for_hooks(PATIENCE)
    return sorted(each.event for each in events)


def test_a_run_that_succeeds_is_told_with_what_the_write_left(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: {"sent": ctx.payload}})
    events = told(jobs, "succeeded")
    run_id = aws.a_run(payload='"to"', attempt=1)

    jobs.consume(message(run_id))

    assert settled(jobs, events) == ["succeeded"]
    assert events[0] == RunEvent(
        event="succeeded",
        run_id=run_id,
        job_name="email",
        attempt=2,
        at=NOW,
        error_type=None,
        error=None,
        run=jobs.get_status(run_id),
    )
    assert events[0].run is not None
    assert (events[0].run.output, events[0].run.finished_at) == ({"sent": "to"}, NOW)


@pytest.mark.parametrize(("left", "name"), [(2, "retried"), (1, "failed")])
def test_an_attempt_that_raises_is_told_with_its_error_and_where_it_came_from(aws: Aws, left: int, name: str):
    places: list[str] = []
    error = ValueError("refused")
    jobs = aws.jobs(handlers={"email": raises(error)})

    @jobs.on("retried", "failed")
    def hook(told: RunEvent) -> None:
        traceback = told.error.__traceback__ if told.error is not None else None
        while traceback is not None:
            places.append(traceback.tb_frame.f_code.co_name)
            traceback = traceback.tb_next

    events = told(jobs)
    run_id = aws.a_run(max_attempts=left)
    jobs.consume(message(run_id))

    assert settled(jobs, events) == [name]
    assert (events[0].attempt, events[0].error_type, events[0].error) == (1, "ValueError", error)
    assert events[0].run == jobs.get_status(run_id)
    assert places[-1] == "handler"


@pytest.mark.parametrize("batch_writes", [False, True])
def test_each_run_of_a_batch_is_told_once(aws: Aws, batch_writes: bool):
    jobs = aws.jobs(concurrency=4, batch_writes=batch_writes)
    jobs.handler("email")(lambda ctx: ctx.payload)
    events = told(jobs)
    run_ids = [aws.a_run() for _ in range(4)]

    jobs.consume_batch(event(*run_ids), LambdaContext())

    assert settled(jobs, events) == ["succeeded"] * 4
    assert sorted(each.run_id for each in events) == sorted(run_ids)


def test_a_snooze_is_no_event_and_a_handler_s_own_cancellation_is_one(aws: Aws):
    jobs = aws.jobs(handlers={"snoozes": raises(Snooze(60)), "cancels": raises(Cancel("no longer needed"))})
    events = told(jobs)

    for name in ("snoozes", "cancels"):
        jobs.consume(message(aws.a_run(job_name=name)))

    assert settled(jobs, events) == ["canceled"]
    assert (events[0].job_name, events[0].error_type) == ("cancels", "Cancel")


def test_a_run_that_came_too_late_is_told_as_canceled_without_an_attempt(aws: Aws):
    jobs = aws.jobs()
    jobs.handler("email", expires_after=timedelta(seconds=30))(lambda ctx: None)
    events = told(jobs)
    run_id = aws.a_run(scheduled_for=NOW_MS - 60_000)

    jobs.consume(message(run_id))

    assert settled(jobs, events) == ["canceled"]
    assert (events[0].attempt, events[0].error_type) == (None, "expired")
    assert events[0].run == jobs.get_status(run_id)


def test_a_return_value_that_can_not_be_stored_is_told_as_a_failure(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: object()})
    events = told(jobs)

    jobs.consume(message(aws.a_run()))

    assert settled(jobs, events) == ["failed"]
    assert isinstance(events[0].error, InvalidJSONError)


def test_a_run_without_a_handler_is_told_without_an_attempt(aws: Aws):
    jobs = aws.jobs(handlers={"other": print})
    waiting = aws.jobs(handlers={"other": print}, missing_handler="retry")
    ended, put_back = told(jobs), told(waiting)

    jobs.consume(message(aws.a_run()))
    waiting.consume(message(aws.a_run()))

    assert (settled(jobs, ended), settled(waiting, put_back)) == (["failed"], ["retried"])
    assert [(each.attempt, each.error_type) for each in ended + put_back] == [(None, "missing handler")] * 2


def test_created_runs_are_told_wherever_they_come_from(aws: Aws):
    jobs = aws.jobs(handlers={"email": print})
    events = told(jobs)

    run_id = jobs.create("email", {"to": "x"}, dedupe_key="k")
    assert jobs.create("email", dedupe_key="k") == run_id  # which makes no run
    many = jobs.create_many([{"name": "email"}] * 12)
    schedule_id = jobs.create_schedule("email", schedule_type="interval", schedule_expr="rate(1 minute)")
    triggered = jobs.trigger_schedule(schedule_id)
    jobs.dispatch()

    assert set(settled(jobs, events)) == {"created"}
    by_id = {each.run_id: each for each in events}
    assert len(by_id) == len(events)
    assert {run_id, *many, triggered} < set(by_id)
    assert {each.run.schedule_id for each in events if each.run is not None} == {None, schedule_id}
    assert (by_id[run_id].attempt, by_id[run_id].run) == (None, jobs.get_status(run_id))


def test_a_run_that_is_canceled_while_it_waits_is_told_by_the_one_who_canceled_it(aws: Aws):
    jobs = aws.jobs()
    events = told(jobs)
    run_id = aws.a_run()

    assert jobs.cancel(run_id, reason="wrong address")
    assert not jobs.cancel(run_id)

    assert settled(jobs, events) == ["canceled"]
    assert (events[0].job_name, events[0].attempt, events[0].error_type) == ("email", None, None)
    assert events[0].run == jobs.get_status(run_id)


def test_canceling_a_running_run_is_told_when_its_attempt_has_ended(aws: Aws):
    jobs = aws.jobs()
    events = told(jobs)
    seen: list[list[str]] = []

    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        assert jobs.cancel(ctx.run.id)
        seen.append(settled(jobs, events))
        raise RuntimeError("stopped")

    jobs.consume(message(aws.a_run()))

    assert seen == [[]]
    assert settled(jobs, events) == ["canceled"]
    assert (events[0].attempt, events[0].error_type) == (1, "RuntimeError")


def test_an_attempt_whose_lease_was_lost_is_told_as_that_and_as_nothing_else(aws: Aws):
    jobs = aws.jobs()
    events = told(jobs)
    jobs.handler("email")(lambda ctx: aws.change(ctx.run.id, lease_token="another"))

    result = jobs.consume(message(aws.a_run()))

    assert result.outcome is Outcome.IGNORED
    assert settled(jobs, events) == ["lease_lost"]
    assert (events[0].attempt, events[0].run is not None) == (1, True)


@pytest.mark.parametrize("by", ["consumer", "dispatcher"])
@pytest.mark.parametrize(
    ("fields", "name"),
    [({}, "retried"), ({"max_attempts": 1}, "failed"), ({"cancel_requested_at": NOW_MS}, "canceled")],
)
def test_a_lost_worker_is_told_by_whoever_finds_it(aws: Aws, by: str, fields: dict[str, Any], name: str):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    events = told(jobs, "retried", "failed", "canceled")
    run_id = aws.a_running_run(lease_until=EXPIRED, wake_at=EXPIRED, **fields)

    if by == "consumer":
        jobs.consume(message(run_id))
    else:
        jobs.dispatch()

    assert settled(jobs, events) == [name]
    assert (events[0].attempt, events[0].error_type, events[0].error) == (1, "LeaseExpiredError", None)
    assert events[0].run is not None
    assert events[0].run.failed_attempts == 1


def test_a_hook_is_told_after_the_write(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    stored: list[str] = []
    jobs.on("created", "succeeded")(lambda told: stored.append(str(aws.item(told.run_id)["status"])))

    run_id = jobs.create("email")
    assert jobs.wait_for_hooks(PATIENCE)
    jobs.consume(message(run_id))
    assert jobs.wait_for_hooks(PATIENCE)

    assert stored == ["queued", "succeeded"]


def test_a_write_whose_reply_was_lost_is_told_once(aws: Aws):
    jobs = aws.jobs(dynamodb=Repeated(aws.dynamodb), handlers={"email": lambda ctx: None})
    events = told(jobs)

    jobs.consume(message(jobs.create("email")))
    jobs.cancel(jobs.create("email"))

    assert settled(jobs, events) == ["canceled", "created", "created", "succeeded"]


def test_what_a_message_does_not_change_is_not_told(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    events = told(jobs)

    for run_id in (aws.a_run(status="succeeded"), aws.a_run(scheduled_for=NOW_MS + 60_000), "unknown"):
        jobs.consume(message(run_id))
    assert jobs.retry(aws.a_run(status="failed", finished_at=NOW_MS))  # a person's retry is none of the events

    assert settled(jobs, events) == []


def test_a_hook_gets_the_events_that_it_asked_for_each_once(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    one, both = told(jobs, "succeeded"), told(jobs, "created", "succeeded", "succeeded")

    jobs.consume(message(jobs.create("email")))

    assert settled(jobs, one) == ["succeeded"]
    assert settled(jobs, both) == ["created", "succeeded"]


def test_an_encrypted_run_is_told_readable_where_it_can_be_read(aws: Aws):
    jobs = aws.jobs(cipher=a_cipher(), handlers={"email": lambda ctx: "out"})
    others = aws.jobs(), aws.jobs(cipher=a_cipher())  # without a key, and with another one
    events, others_events = told(jobs, "succeeded"), [told(each, "canceled") for each in others]
    jobs.consume(message(jobs.create("email", "in")))
    for other in others:
        other.cancel(jobs.create("email", "in"))

    settled(jobs, events)
    for other, its in zip(others, others_events, strict=True):
        settled(other, its)

    assert [(each.run.payload, each.run.output) for each in events if each.run is not None] == [("in", "out")]
    assert [each.run.payload for its in others_events for each in its if each.run is not None] == [ENCRYPTED] * 2


def test_a_run_that_can_not_be_read_is_told_without_it(aws: Aws):
    jobs = aws.jobs(handlers={"email": print})
    events = told(jobs)
    run_id = aws.a_run(payload="not json")

    jobs.consume(message(run_id))

    assert settled(jobs, events) == ["failed"]
    assert (events[0].error_type, events[0].run) == ("unreadable payload", None)


def test_an_event_can_not_be_changed_and_its_text_quotes_no_data(aws: Aws):
    jobs = aws.jobs(handlers={"email": raises(ValueError("secret"))})
    events = told(jobs)
    jobs.consume(message(aws.a_run(payload='"secret"')))
    settled(jobs, events)

    assert "secret" not in repr(events[0])
    with pytest.raises(AttributeError):
        events[0].event = "created"  # type: ignore[misc]


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_hook_that_raises_leaves_the_run_succeeded_and_the_other_hooks_told(
    aws: Aws, error: BaseException, caplog: pytest.LogCaptureFixture
):
    jobs = aws.jobs(handlers={"email": lambda ctx: "sent"})

    @jobs.on("succeeded")
    def broken(told: RunEvent) -> None:
        raise error

    events = told(jobs)
    run_id = aws.a_run()
    report = jobs.run_batch(event(run_id), LambdaContext())

    assert report.response() == {"batchItemFailures": []}
    assert report.hook_failures == 1
    assert settled(jobs, events) == ["succeeded"]
    assert jobs.get_status(run_id).output == "sent"
    (line,) = [each for each in caplog.records if "the hook" in each.getMessage()]
    assert f"broken failed with {type(error).__name__}" in line.getMessage()
    assert line.job_run_id == run_id
    assert line.error_at[0].endswith("in broken")
    assert "secret" not in caplog.text


def test_a_hook_that_hangs_does_not_keep_a_batch(aws: Aws, release: threading.Event, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hooks_module, "FINISH_SECONDS", 0.05)
    jobs = aws.jobs(handlers={"email": lambda ctx: "sent"})
    ended = threading.Event()

    @jobs.on("succeeded")
    def hangs(told: RunEvent) -> None:
        release.wait(60)
        ended.set()

    run_id = aws.a_run()
    report = jobs.run_batch(event(run_id), LambdaContext())

    assert not ended.is_set()
    assert report.stray_handlers == 0  # which would end the process
    assert jobs.get_status(run_id).output == "sent"


@pytest.mark.parametrize(("seconds", "most"), [(-1.0, 0.0), (0.0, 0.0), (1.2, 0.8), (60.0, 1.0)])
def test_hooks_are_waited_for_briefly_and_never_in_the_time_that_recording_needs(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, seconds: float, most: float
):
    told(jobs)
    hooks = jobs._store.hooks
    assert hooks is not None
    waits: list[float] = []
    monkeypatch.setattr(hooks, "wait", waits.append)

    hooks.finish(Deadline(seconds))

    assert waits[0] <= most


def test_a_batch_and_a_pass_of_the_dispatcher_wait_until_hooks_were_told(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    names: list[str] = []
    begun = threading.Event()

    @jobs.on("succeeded", "retried")
    def slow(told: RunEvent) -> None:
        begun.wait(0.02)
        names.append(told.event)

    jobs.consume_batch(event(aws.a_run()), LambdaContext())
    assert names == ["succeeded"]

    aws.a_running_run(lease_until=EXPIRED, wake_at=EXPIRED)
    jobs.dispatch()
    assert names == ["succeeded", "retried"]


def test_a_hook_that_hangs_is_given_up_logged_once_and_told_again_when_it_has_ended(
    aws: Aws, release: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(hooks_module, "HOOK_SECONDS", 0.05)
    jobs = aws.jobs()
    names: list[str] = []
    calls = threading.Semaphore(0)

    @jobs.on("created")
    def hangs(told: RunEvent) -> None:
        names.append(told.job_name)
        release.wait(60)
        calls.release()

    events = told(jobs)
    jobs.create("first")
    assert settled(jobs, events) == ["created"]  # the second hook is told all the same
    for _ in range(3):
        jobs.create("skipped")
        settled(jobs, events)

    assert names == ["first"]
    assert len(events) == 4
    lines = [each.getMessage() for each in caplog.records]
    assert len([line for line in lines if "hangs did not end within 0.05 s" in line]) == 1
    assert jobs.run_batch({"Records": []}).hook_failures == 4

    release.set()
    assert calls.acquire(timeout=30)
    for _ in range(10_000):  # its thread has yet to say so
        if not jobs._store.hooks._hooks["created"][0].hangs:
            break
        threading.Event().wait(0.001)
    jobs.create("last")
    settled(jobs, events)
    assert names == ["first", "last"]


def test_an_async_hook_that_hangs_is_canceled(aws: Aws, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hooks_module, "HOOK_SECONDS", 0.05)
    jobs = aws.jobs()
    canceled = threading.Event()

    @jobs.on("created")
    async def hangs(told: RunEvent) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            canceled.set()
            raise

    jobs.create("email")

    assert canceled.wait(30)


def test_more_events_than_can_wait_are_dropped_and_the_runs_are_made(
    aws: Aws, release: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(hooks_module, "MOST_WAITING", 5)
    monkeypatch.setattr(hooks_module, "MOST_THREADS", 1)
    jobs = aws.jobs()
    inside, names = threading.Event(), []

    @jobs.on("created")
    def slow(told: RunEvent) -> None:
        inside.set()
        release.wait(60)
        names.append(told.job_name)

    jobs.create("first")
    assert inside.wait(30)
    run_ids = [jobs.create("more") for _ in range(8)]
    release.set()
    assert jobs.wait_for_hooks(PATIENCE)

    assert names == ["first"] + ["more"] * 5
    assert all(jobs.get_status(run_id) is not None for run_id in run_ids)
    lines = [each.getMessage() for each in caplog.records if "hooks" in each.getMessage()]
    assert lines[:1] == ["hooks are too slow: 5 events wait for them, and more are dropped"]
    assert jobs.run_batch({"Records": []}).hook_failures == 3


def test_events_with_large_payloads_do_not_fill_the_memory(
    aws: Aws, release: threading.Event, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hooks_module, "MOST_WAITING_BYTES", 1_000)
    monkeypatch.setattr(hooks_module, "MOST_THREADS", 1)
    jobs = aws.jobs()
    inside, sizes = threading.Event(), []

    @jobs.on("created")
    def slow(told: RunEvent) -> None:
        inside.set()
        release.wait(60)
        sizes.append(len(told.run.payload) if told.run is not None else 0)

    jobs.create("email", "")
    assert inside.wait(30)
    for size in (600, 600, 300):
        jobs.create("email", "x" * size)
    release.set()
    assert jobs.wait_for_hooks(PATIENCE)
    jobs.create("email", "x" * 900)
    assert jobs.wait_for_hooks(PATIENCE)

    assert sizes == [0, 600, 300, 900]


def test_hooks_run_in_a_few_threads_at_once_and_in_no_more(aws: Aws, release: threading.Event):
    jobs = aws.jobs()
    inside = threading.Semaphore(0)

    @jobs.on("created")
    def slow(told: RunEvent) -> None:
        inside.release()
        release.wait(60)

    jobs.create_many([{"name": "email"}] * 20)

    for _ in range(hooks_module.MOST_THREADS):
        assert inside.acquire(timeout=30)
    assert not inside.acquire(timeout=0.05)
    release.set()
    assert jobs.wait_for_hooks(PATIENCE)
    assert all(inside.acquire(timeout=0) for _ in range(20 - hooks_module.MOST_THREADS))


def test_async_hooks_share_a_loop_that_is_none_of_the_handlers(aws: Aws):
    loops: list[Any] = []
    jobs = aws.jobs()

    @jobs.on("succeeded")
    async def hook(told: RunEvent) -> None:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())

    @jobs.handler("email")
    async def email(ctx: JobContext) -> None:
        loops.append(asyncio.get_running_loop())

    for _ in range(2):
        jobs.consume(message(aws.a_run()))
        assert jobs.wait_for_hooks(PATIENCE)

    process = event_loop._process
    assert process.loop is not None
    assert process.hook_loop is not None
    assert loops == [process.loop.loop, process.hook_loop.loop] * 2


def test_an_async_hook_that_blocks_holds_up_no_async_handler(
    aws: Aws, release: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(hooks_module, "HOOK_SECONDS", 0.05)
    jobs = aws.jobs()
    inside, again = threading.Event(), threading.Event()

    @jobs.on("created")
    async def blocks(told: RunEvent) -> None:
        inside.set()
        release.wait(60)

    @jobs.handler("email")
    async def email(ctx: JobContext) -> bool:
        return release.is_set()

    run_id = jobs.create("email")
    assert inside.wait(30)
    jobs.consume(message(run_id))
    assert jobs.get_status(run_id).output is False

    @jobs.on("succeeded")
    async def later(told: RunEvent) -> None:
        again.set()

    assert jobs.wait_for_hooks(PATIENCE)  # the first one is given up
    jobs.consume(message(jobs.create("email")))
    assert again.wait(30)
    assert "a hook blocks the event loop: it does not await; later hooks get another loop" in caplog.text
    assert "the handler of job" not in caplog.text


def test_a_hook_sees_no_context_variable_of_a_run(aws: Aws):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []
    jobs = aws.jobs()
    jobs.on("created", "succeeded")(lambda told: seen.append(variable.get()))

    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        variable.set("the run's")
        jobs.create("email")

    jobs.consume(message(aws.a_run()))
    assert jobs.wait_for_hooks(PATIENCE)

    assert seen == ["none", "none"]


class Large:
    """Something in a local variable of a handler."""


@pytest.mark.parametrize("hooked", [(), ("failed",), ("created",)], ids=["no hook", "told", "another event"])
def test_a_handler_s_local_variables_are_let_go_when_its_hooks_were_told(aws: Aws, hooked: tuple[str, ...]):
    left: list[weakref.ref[Large]] = []
    jobs = aws.jobs()
    if hooked:
        jobs.on(*hooked)(lambda told: None)  # type: ignore[arg-type]

    @jobs.handler("email", max_attempts=1)
    def email(ctx: JobContext) -> None:
        large = Large()
        left.append(weakref.ref(large))
        try:
            raise ValueError
        except ValueError as error:
            kept = error  # a cycle: the frame holds the error, whose traceback holds the frame
            raise kept  # noqa: B904

    gc.disable()
    try:
        jobs.consume(message(aws.a_run(max_attempts=1)))
        assert jobs.wait_for_hooks(PATIENCE)
        assert [each() for each in left] == [None]
    finally:
        gc.enable()


def test_only_some_of_the_waiting_errors_keep_their_local_variables(
    aws: Aws, release: threading.Event, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hooks_module, "MOST_FRAMES", 2)
    monkeypatch.setattr(hooks_module, "MOST_THREADS", 1)
    jobs = aws.jobs()
    with_frames: list[bool] = []
    inside = threading.Event()

    @jobs.on("failed")
    def slow(told: RunEvent) -> None:
        with_frames.append(told.error is not None and told.error.__traceback__ is not None)
        inside.set()
        release.wait(60)

    @jobs.handler("email", max_attempts=1)
    def email(ctx: JobContext) -> None:
        raise ValueError

    for _ in range(5):
        jobs.consume(message(aws.a_run(max_attempts=1)))
        assert inside.wait(30)
    release.set()
    assert jobs.wait_for_hooks(PATIENCE)

    assert with_frames == [True, True, True, False, False]


def test_without_hooks_there_is_no_thread_no_import_and_nothing_to_wait_for(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    threads = set(threading.enumerate())

    jobs.consume(message(jobs.create("email")))

    assert jobs._store.hooks is None
    assert set(threading.enumerate()) <= threads
    assert jobs.wait_for_hooks(timedelta(0))
    code = "import sys, kumofire_core; kumofire_core.Jobs; print('kumofire_core.engine.hooks' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_hooks_cost_no_request(aws: Aws):
    def requests(*names: str) -> dict[str, int]:
        jobs = aws.jobs(handlers={"email": lambda ctx: None})
        if names:
            told(jobs, *names)
        aws.dynamodb.requests.clear()
        jobs.consume(message(jobs.create("email")))
        jobs.cancel(jobs.create("email"))
        assert jobs.wait_for_hooks(PATIENCE)
        return aws.dynamodb.count()

    assert requests(*EVENTS) == requests()


CHILD = """
    import atexit, datetime, os, sys, threading
    from kumofire_core.engine.hooks import Hooks

    def tell(hooks, name):
        now = datetime.datetime.now(datetime.UTC)
        hooks.tell("created", "1", name, at=now, find_run=lambda: None, size=0)

    hooks = Hooks()
"""


def run_child(code: str) -> str:
    program = textwrap.dedent(CHILD) + textwrap.dedent(code)
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return found.stdout


def test_a_process_that_ends_tells_what_it_knows_first():
    output = run_child(
        """
        inside = threading.Event()
        hooks.add(("created",), lambda told: (inside.wait(0.1), print(told.job_name, flush=True)))
        tell(hooks, "last")
        """
    )

    assert output == "last\n"


def test_a_process_that_ends_lets_an_async_hook_end_too():
    output = run_child(
        """
        import asyncio
        inside = threading.Event()

        async def hook(told):
            inside.set()
            await asyncio.sleep(0.1)
            print(told.job_name, flush=True)

        hooks.add(("created",), hook)
        tell(hooks, "last")
        inside.wait(30)
        """
    )

    assert output == "last\n"


def test_a_process_ends_although_a_hook_hangs():
    output = run_child(
        """
        hooks.add(("created",), lambda told: threading.Event().wait())
        tell(hooks, "last")
        print("done", flush=True)
        """
    )

    assert output == "done\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_tells_its_own_events():
    output = run_child(
        """
        release = threading.Event()
        hooks.add(("created",), lambda told: (release.wait(), print(os.getpid() == parent, told.job_name, flush=True)))
        parent = os.getpid()
        tell(hooks, "of the parent")
        hooks._lock.acquire()  # as another thread may have, in the instant of the fork
        child = os.fork()
        if child == 0:
            release.set()
            tell(hooks, "of the child")
            hooks.wait(30)
            sys.exit()
        os.waitpid(child, 0)
        hooks._lock.release()
        release.set()
        hooks.wait(30)
        """
    )

    assert output.splitlines() == ["False of the child", "True of the parent"]


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ((), "on needs the names of events"),
        (("fail",), "on has no event 'fail'"),
        (("failed", 5), "on has no event 5"),
        ((lambda told: None,), "on has no event <function"),
        ((["failed"],), r"on has no event \['failed'\]"),
    ],
)
def test_an_event_that_there_is_not_is_refused_with_those_that_there_are(
    jobs: Jobs, events: tuple[Any, ...], text: str
):
    with pytest.raises(ConfigurationError, match=text) as refusal:
        jobs.on(*events)

    assert "there are created, succeeded, retried, failed, canceled, lease_lost" in str(refusal.value)
    assert jobs._store.hooks is None


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (None, "a hook must be callable, not NoneType"),
        (lambda: None, r"the hook .*<lambda> must take \(event\), not \(\)"),
        (lambda event, more: None, r"the hook .*<lambda> must take \(event\), not \(event, more\)"),
    ],
)
def test_what_can_not_be_a_hook_is_refused_when_it_is_registered(jobs: Jobs, wrong: Any, text: str):
    with pytest.raises(ConfigurationError, match=text):
        jobs.on("failed")(wrong)

    assert jobs._store.hooks is None


def test_a_hook_that_can_not_have_a_thread_is_told_with_the_next_event(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    jobs = aws.jobs()
    events = told(jobs)
    hooks = jobs._store.hooks
    assert isinstance(hooks, Hooks)

    def no_thread(function: Callable[[], Any]) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(hooks._pool, "start", no_thread)
        run_id = jobs.create("email")
    jobs.create("email")

    assert settled(jobs, events) == ["created", "created"]
    assert events[0].run_id == run_id
    assert "a thread for hooks could not be started" in caplog.text


def test_a_retry_is_told_with_the_time_of_the_next_attempt(aws: Aws):
    jobs = aws.jobs(
        clock=Clock(), retry=RetryPolicy(max_attempts=5, base=timedelta(minutes=3), cap=timedelta(minutes=3))
    )
    jobs.handler("email")(raises(OSError()))
    events = told(jobs)
    run_id = aws.a_run(max_attempts=5)
    jobs.consume(message(run_id))
    settled(jobs, events)

    found = events[0].run
    assert isinstance(found, Run)
    assert found.scheduled_for == NOW + timedelta(minutes=3)
