"""What a handler tells of its progress: seen by people, written rarely, and never in the way of the attempt."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest

from kumofire_core import JobContext, Jobs, RunProgress
from kumofire_core.engine import attempt_progress
from kumofire_core.model.run_item import PROGRESS_BYTES
from tests.builders import NOW, Aws, Clock, message
from tests.faults import Refused

PATIENCE_SECONDS = 20.0


def until(what: Callable[[], bool]) -> None:
    """Wait until the thread that writes has come as far as this."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < give_up, "it was never written"
        time.sleep(0.002)


def told(aws: Aws) -> list[str]:
    """The progress of every write that has one, as it was stored."""
    return [
        value["S"]
        for request in aws.dynamodb.parameters("update_item")
        if "progress" in request["ExpressionAttributeNames"].values()
        for value in request["ExpressionAttributeValues"].values()
        if value.get("S", "").startswith("[")
    ]


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second between two writes never be over."""
    monkeypatch.setattr(attempt_progress, "WRITE_SECONDS", 10_000)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second between two writes be over at once."""
    monkeypatch.setattr(attempt_progress, "WRITE_SECONDS", 0)


def test_progress_is_seen_while_the_run_executes_and_kept_when_it_has_succeeded(jobs: Jobs, aws: Aws):
    seen: list[RunProgress | None] = []

    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        ctx.progress(0.4, "page 40 of 100")
        until(lambda: bool(told(aws)))
        seen.append(jobs.get_status(ctx.run.id).progress)
        [listed] = jobs.list_runs(status="running").runs
        seen.append(listed.progress)

    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "succeeded"

    expected = RunProgress(0.4, "page 40 of 100", NOW)
    assert seen == [expected, expected]
    assert jobs.get_status(run_id).progress == expected


@pytest.mark.usefixtures("unhurried")
def test_within_a_second_one_write_is_made(jobs: Jobs, aws: Aws):
    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        ctx.progress(0)
        until(lambda: bool(told(aws)))
        for number in range(100):
            ctx.progress(number / 100, str(number))
        writer = jobs._consumer._progress_writer
        assert writer is not None
        assert [at > time.monotonic() + 1_000 for at, _, _ in writer._due] == [True], "the next one comes later"

    assert jobs.consume(message(aws.a_run())).outcome == "succeeded"

    assert [json.loads(text)[1] for text in told(aws)] == [0]
    assert aws.dynamodb.count()["update_item"] == 3


def test_what_is_told_last_within_the_second_is_written_when_it_is_over(
    jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attempt_progress, "WRITE_SECONDS", 0.3)

    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        ctx.progress(0)
        until(lambda: bool(told(aws)))
        for number in range(1, 10):
            ctx.progress(number / 10)
        until(lambda: len(told(aws)) == 2)

    run_id = aws.a_run()
    assert jobs.consume(message(run_id)).outcome == "succeeded"

    assert [json.loads(text)[1] for text in told(aws)] == [0, 900]
    assert jobs.get_status(run_id).progress == RunProgress(0.9, None, NOW)


@pytest.mark.usefixtures("unhurried")
def test_nothing_is_written_after_the_attempt_has_ended_and_no_thread_waits_for_it(jobs: Jobs, aws: Aws):
    contexts: list[JobContext] = []

    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        contexts.append(ctx)
        ctx.progress(0.1)
        until(lambda: bool(told(aws)))
        ctx.progress(0.2)

    run_id = aws.a_run()
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    contexts[0].progress(0.3)

    writer = jobs._consumer._progress_writer
    assert writer is not None
    until(lambda: not writer._at_work)
    assert (writer._due, len(told(aws))) == ([], 1)
    assert jobs.get_status(run_id).progress == RunProgress(0.1, None, NOW)


def test_an_attempt_that_was_cut_tells_nothing_more(jobs: Jobs, aws: Aws):
    release, late = threading.Event(), threading.Event()

    @jobs.handler("email", timeout=timedelta(milliseconds=100))
    def handler(ctx: JobContext) -> None:
        release.wait()
        ctx.progress(0.5)
        late.set()

    assert jobs.consume(message(run_id := aws.a_run())).outcome == "retried"
    release.set()

    assert late.wait(PATIENCE_SECONDS)
    assert jobs._consumer._progress_writer is None
    assert jobs.get_status(run_id).progress is None


def test_what_is_told_in_the_instant_in_which_the_attempt_is_cut_is_not_written(jobs: Jobs, aws: Aws):
    release, late = threading.Event(), threading.Event()

    class Slow:
        """A number that is there only when the attempt has ended."""

        def __float__(self) -> float:
            release.wait()
            return 0.5

    @jobs.handler("email", timeout=timedelta(milliseconds=100))
    def handler(ctx: JobContext) -> None:
        ctx.progress(Slow())  # type: ignore[arg-type]
        late.set()

    assert jobs.consume(message(aws.a_run())).outcome == "retried"
    release.set()

    assert late.wait(PATIENCE_SECONDS)
    writer = jobs._consumer._progress_writer
    assert writer is not None
    assert (writer._due, writer._at_work, told(aws)) == ([], False, [])


def test_a_handler_that_tells_nothing_costs_no_request_and_no_thread(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)

    assert jobs.consume(message(aws.a_run())).outcome == "succeeded"

    assert jobs._consumer._progress_writer is None
    assert aws.dynamodb.count()["update_item"] == 2


@pytest.mark.usefixtures("at_once")
def test_an_attempt_that_lost_its_lease_does_not_write_over_its_successor(jobs: Jobs, aws: Aws):
    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        aws.change(ctx.run.id, lease_token="successor", claims=2, progress='[2,900,"of the successor",5]')
        ctx.progress(0.1)
        until(lambda: bool(told(aws)))
        ctx.progress(0.2)

    run_id = aws.a_run()
    assert jobs.consume(message(run_id)).reason == "lost its lease"

    assert len(told(aws)) == 1
    assert aws.item(run_id)["progress"] == '[2,900,"of the successor",5]'


@pytest.mark.usefixtures("at_once")
def test_a_run_does_not_show_what_an_earlier_attempt_told(jobs: Jobs, aws: Aws, clock: Clock):
    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        if ctx.attempt == 1:
            ctx.progress(0.9)
            until(lambda: bool(told(aws)))
            raise ConnectionError
        assert jobs.get_status(ctx.run.id).progress is None

    run_id = aws.a_run()
    jobs.consume(message(run_id))
    assert jobs.get_status(run_id).progress == RunProgress(0.9, None, NOW)
    clock.advance(hours=1)

    assert jobs.consume(message(run_id)).outcome == "succeeded"


class SlowProgress:
    """Lets the writes of progress hang, or refuses them."""

    def __init__(self, client: Any, hang: threading.Event | None) -> None:
        self.client = client
        self.hang = hang
        self.begun = threading.Event()

    def __getattr__(self, operation: str) -> Any:
        return getattr(self.client, operation)

    def update_item(self, **parameters: Any) -> Any:
        if "progress" in parameters["ExpressionAttributeNames"].values():
            self.begun.set()
            if self.hang is None:
                return Refused("ProvisionedThroughputExceededException").update_item(**parameters)
            self.hang.wait(PATIENCE_SECONDS)
        return self.client.update_item(**parameters)


@pytest.mark.usefixtures("at_once")
def test_writes_that_fail_are_told_once_and_the_attempt_goes_on(aws: Aws, caplog: pytest.LogCaptureFixture):
    table = SlowProgress(aws.dynamodb, hang=None)
    jobs = aws.jobs(dynamodb=table)

    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        for number in range(3):
            table.begun.clear()
            ctx.progress(number / 3)
            assert table.begun.wait(PATIENCE_SECONDS)

    assert jobs.consume(message(run_id := aws.a_run())).outcome == "succeeded"
    until(lambda: not jobs._consumer._progress_writer._at_work)

    lines = [record for record in caplog.records if "progress" in record.getMessage()]
    assert [record.getMessage() for record in lines] == [
        "the progress of an attempt could not be written (ClientError ProvisionedThroughputExceededException)"
    ]
    assert lines[0].__dict__["job_run_id"] == run_id


def test_a_coroutine_is_not_kept_waiting_by_a_write_that_hangs(aws: Aws):
    hang = threading.Event()
    table = SlowProgress(aws.dynamodb, hang)
    jobs = aws.jobs(dynamodb=table)
    ticks: list[int] = []

    @jobs.handler("email")
    async def handler(ctx: JobContext) -> None:
        ctx.progress(0.5)
        for number in range(5):
            await asyncio.sleep(0)
            ticks.append(number)
        assert not hang.is_set()

    try:
        assert jobs.consume(message(aws.a_run())).outcome == "succeeded"
    finally:
        hang.set()
    assert len(ticks) == 5


def test_a_write_that_hangs_past_the_attempt_s_end_is_refused(aws: Aws):
    hang = threading.Event()
    table = SlowProgress(aws.dynamodb, hang)
    jobs = aws.jobs(dynamodb=table)

    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        ctx.progress(0.5)
        assert table.begun.wait(PATIENCE_SECONDS)

    run_id = aws.a_run()
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    before = aws.item(run_id)
    hang.set()
    until(lambda: not jobs._consumer._progress_writer._at_work)

    assert aws.item(run_id) == before


def test_without_another_thread_the_attempt_goes_on(jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch):
    start, tried = jobs._consumer.pool.start, []

    def no_thread_at_first(function: Callable[[], object]) -> object:
        tried.append(function)
        if len(tried) == 1:
            raise RuntimeError("can't start new thread")
        return start(function)

    @jobs.handler("email")
    def handler(ctx: JobContext) -> None:
        ctx.progress(0.1)
        assert told(aws) == []
        ctx.progress(0.2)
        until(lambda: bool(told(aws)))

    monkeypatch.setattr(jobs._consumer.pool, "start", no_thread_at_first)

    assert jobs.consume(message(run_id := aws.a_run())).outcome == "succeeded", "the later one was written"
    assert jobs.get_status(run_id).progress == RunProgress(0.2, None, NOW)


def written(jobs: Jobs, aws: Aws, *arguments: Any) -> RunProgress | None:
    """What is seen of a run whose handler tells this alone."""

    def handler(ctx: JobContext) -> None:
        ctx.progress(*arguments)
        writer = jobs._consumer._progress_writer
        assert writer is not None
        until(lambda: not writer._at_work)

    jobs.handler("telling")(handler)
    run_id = aws.a_run(job_name="telling")
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    item = aws.item(run_id)
    assert len(item.get("progress", "").encode()) <= PROGRESS_BYTES
    return jobs.get_status(run_id).progress


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0, 0.0),
        (1, 1.0),
        (0.12345, 0.123),
        (-0.5, 0.0),
        (1.5, 1.0),
        (10**400, 1.0),
        (-(10**400), 0.0),
        (float("inf"), 1.0),
        (float("-inf"), 0.0),
        (float("nan"), 0.0),
        (Fraction(1, 4), 0.25),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_fraction_out_of_bounds_is_taken_for_the_nearer_bound(jobs: Jobs, aws: Aws, fraction: Any, expected: float):
    assert written(jobs, aws, fraction) == RunProgress(expected, None, NOW)


class Hostile:
    def __float__(self) -> float:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "arguments",
    [("0.5",), (None,), (True,), ([],), (Hostile(),), (1j,), (0.5, 5), (0.5, b"x")],
    ids=["text", "None", "bool", "list", "hostile", "complex", "number for a note", "bytes for a note"],
)
def test_a_wrong_argument_is_logged_once_and_does_not_fail_the_attempt(
    jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture, arguments: tuple[Any, ...]
):
    jobs.handler("email")(lambda ctx: [ctx.progress(*arguments) for _ in range(3)] and None)

    assert jobs.consume(message(aws.a_run())).outcome == "succeeded"

    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.startswith("ctx.progress takes a number from 0 to 1 and a string, not ")
    assert told(aws) == []


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("", ""),
        ("x" * 200, "x" * 200),
        ("x" * 1_000_000, "x" * 200),
        ("é" * 300, "é" * 200),
        ("界" * 300, "界" * 132 + "…"),
        ("\ud800", "\\ud800"),
        ('"' * 200, '"' * 200),
        ("\0" * 200, "\0" * 200),
    ],
    ids=["empty", "whole", "long", "two bytes", "three bytes", "half a pair", "escaped", "escaped at length"],
)
def test_a_note_is_cut_to_what_has_room(jobs: Jobs, aws: Aws, note: str, expected: str | None):
    assert written(jobs, aws, 0.5, note) == RunProgress(0.5, expected, NOW)
