"""A run keeps its attempts: what each was called, how it ended, why, and where its log is."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from kumofire_core import Attempt, AttemptEnding, Cancel, JobContext, Jobs, Snooze
from kumofire_core.model.attempts import AttemptRecord, attempts_with, read_records
from kumofire_core.model.error_text import MAX_MESSAGE_BYTES, MAX_TRACEBACK_BYTES, attempt_message, attempt_traceback
from kumofire_core.model.run_item import ATTEMPTS_BYTES
from tests.builders import NOW, NOW_MS, Aws, Clock, LambdaContext, event, message, raises
from tests.faults import Repeated


def test_each_failed_attempt_is_kept_with_its_time_its_error_and_where_it_was_raised(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock)

    @jobs.handler("email")
    def send(ctx: JobContext) -> None:
        clock.advance(seconds=2)
        raise ValueError(f"no {ctx.attempt}")

    run_id = jobs.create("email")
    for _ in range(3):
        jobs.consume(message(run_id))
        clock.advance(minutes=1)

    first, second, third = jobs.get_status(run_id).attempts
    assert [each.number for each in (first, second, third)] == [1, 2, 3]
    assert [each.message for each in (first, second, third)] == ["no 1", "no 2", "no 3"]
    assert (first.started_at, first.ended_at) == (NOW, NOW + timedelta(seconds=2))
    assert (first.ended, first.error_type, first.retries) == (AttemptEnding.RAISED, "ValueError", 0)
    assert 'test_attempts.py", line' in first.traceback
    assert "in send" in first.traceback
    assert "consumer.py" not in first.traceback


def test_a_run_that_succeeds_at_once_has_its_attempt_and_nothing_of_it_is_stored(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    run_id = jobs.create("email")

    jobs.consume(message(run_id))

    assert "attempts" not in aws.item(run_id)
    assert jobs.get_status(run_id).attempts == (Attempt(1, NOW, NOW, AttemptEnding.SUCCEEDED),)


def test_the_attempt_that_is_under_way_is_the_last_one(jobs: Jobs, aws: Aws):
    run_id = aws.a_running_run(attempt=1)

    assert jobs.get_status(run_id).attempts == (Attempt(2, NOW, None, None),)


def test_the_attempts_before_a_persons_retry_stay_and_are_told_from_those_after_it(jobs: Jobs, aws: Aws):
    fails = [True]

    @jobs.handler("email", max_attempts=1)
    def send(ctx: JobContext) -> None:
        if fails.pop():
            raise ValueError("no")

    run_id = jobs.create("email")
    jobs.consume(message(run_id))
    fails.append(False)

    assert jobs.retry(run_id)
    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert run.retries == 1
    assert [(each.retries, each.number, each.ended) for each in run.attempts] == [
        (0, 1, "raised"),
        (1, 1, "succeeded"),
    ]
    assert [past.status for past in run.history] == ["failed"]


def test_the_last_ten_attempts_are_kept_and_counted_on(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, handlers={"email": raises(ValueError("no"))})
    run_id = jobs.create("email", max_attempts=14)

    for _ in range(14):
        jobs.consume(message(run_id))
        clock.advance(minutes=2)

    assert [each.number for each in jobs.get_status(run_id).attempts] == list(range(5, 15))


@pytest.mark.parametrize("text", ["x" * 9_000, "😀" * 9_000, "\x01" * 9_000, '"\\' * 5_000, "\ud83d" * 5_000])
def test_however_long_the_errors_are_the_attempts_keep_within_their_room_and_the_newest_has_its_text(
    aws: Aws, clock: Clock, text: str
):
    jobs = aws.jobs(clock=clock, handlers={"email": raises(ValueError(text))})
    run_id = jobs.create("email", max_attempts=20)

    for number in range(1, 13):
        jobs.consume(message(run_id))
        clock.advance(minutes=2)
        assert len(aws.item(run_id)["attempts"].encode()) <= ATTEMPTS_BYTES
        attempts = jobs.get_status(run_id).attempts
        assert attempts[-1].number == number
        assert attempts[-1].message
        assert len(attempts[-1].message.encode()) <= MAX_MESSAGE_BYTES
        assert len(attempts) >= min(number, 5)


def test_the_oldest_lose_their_texts_first_and_only_then_are_they_dropped():
    records: list[AttemptRecord] = []
    for number in range(1, 13):
        texts = json.dumps(["m" * 600, "t" * 1_000])
        new = AttemptRecord(0, number, NOW_MS, NOW_MS, "raised", "E" * 100, "l" * 200, texts)
        records = read_records(attempts_with(records, new, most_bytes=ATTEMPTS_BYTES))

    assert [record.number for record in records] == list(range(4, 13))  # the largest that there are
    has_texts = [record.texts is not None for record in records]
    assert has_texts == sorted(has_texts)
    assert has_texts[-1]


def test_an_attempt_without_room_for_its_texts_is_kept_without_them():
    new = AttemptRecord(0, 1, NOW_MS, NOW_MS, "raised", "E", None, "x" * 10_000)

    [kept] = read_records(attempts_with([], new, most_bytes=ATTEMPTS_BYTES))

    assert kept == new._replace(texts=None)


def test_a_lost_worker_s_attempt_says_so_and_where_its_log_is(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, handlers={"email": lambda ctx: None})
    log = "request-1 2026/03/14/[$LATEST]abc"
    run_id = aws.a_running_run(lease_until=NOW_MS - 1, wake_at=NOW_MS - 1, log=log)

    jobs.dispatch()

    [lost] = jobs.get_status(run_id).attempts
    assert (lost.ended, lost.error_type) == (AttemptEnding.WORKER_LOST, "LeaseExpiredError")
    assert (lost.request_id, lost.log_stream) == ("request-1", "2026/03/14/[$LATEST]abc")
    assert lost.traceback is None


def test_a_consumer_that_takes_a_run_over_records_the_lost_attempt_before_its_own(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, handlers={"email": lambda ctx: None})
    run_id = aws.a_running_run(lease_until=NOW_MS - 1, log="old stream")

    report = jobs.run_batch(event(run_id), LambdaContext(aws_request_id="new", log_stream_name="other"))

    assert report.records[0].result.outcome == "succeeded"
    lost, own = jobs.get_status(run_id).attempts
    assert (lost.number, lost.ended, lost.request_id, lost.log_stream) == (1, "worker_lost", "old", "stream")
    assert (own.number, own.ended, own.request_id, own.log_stream) == (2, "succeeded", "new", "other")


def test_each_attempt_in_lambda_says_where_its_log_is(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, handlers={"email": raises(ValueError("no"))})
    run_id = jobs.create("email")

    for number in (1, 2):
        jobs.run_batch(event(run_id), LambdaContext(aws_request_id=f"r{number}", log_stream_name=f"s{number}"))
        clock.advance(minutes=1)

    assert [(each.request_id, each.log_stream) for each in jobs.get_status(run_id).attempts] == [
        ("r1", "s1"),
        ("r2", "s2"),
    ]


@pytest.mark.parametrize("log", [("x" * 300, "s"), ("\u2028", "s"), (5, "s"), ("", "s"), (None, None)])
def test_a_context_without_a_usable_log_place_does_no_harm(aws: Aws, log: tuple[object, object]):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    run_id = jobs.create("email")

    jobs.run_batch(event(run_id), LambdaContext(aws_request_id=log[0], log_stream_name=log[1]))

    assert jobs.get_status(run_id).status == "succeeded"
    assert aws.item(run_id)["log"] == "", "and not where an earlier attempt logged"
    assert jobs.get_status(run_id).attempts[-1].request_id is None


def test_an_attempt_that_was_cut_is_told_from_one_that_raised(aws: Aws):
    jobs = aws.jobs()

    @jobs.handler("email", timeout=timedelta(milliseconds=20), max_attempts=1)
    async def waits(ctx: JobContext) -> None:
        import asyncio

        await asyncio.sleep(60)

    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    [attempt] = jobs.get_status(run_id).attempts
    assert (attempt.ended, attempt.error_type) == (AttemptEnding.TIMED_OUT, "AttemptTimeoutError")


def test_an_attempt_that_failed_after_a_cancellation_was_requested_is_canceled(aws: Aws):
    jobs = aws.jobs()

    @jobs.handler("email")
    def is_canceled(ctx: JobContext) -> None:
        jobs.cancel(ctx.run.id)
        raise ValueError("stopped")

    run_id = jobs.create("email")
    assert jobs.consume(message(run_id)).outcome == "canceled"

    [attempt] = jobs.get_status(run_id).attempts
    assert (attempt.ended, attempt.message) == (AttemptEnding.CANCELED, "stopped")


def test_snoozes_do_not_push_failures_out(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock)
    errors: list[Exception] = [ValueError("first"), *(Snooze(1) for _ in range(30)), Cancel("enough")]

    @jobs.handler("email")
    def waits(ctx: JobContext) -> None:
        raise errors.pop(0)

    run_id = jobs.create("email")
    for _ in range(32):
        jobs.consume(message(run_id))
        clock.advance(minutes=1)

    attempts = jobs.get_status(run_id).attempts
    assert [(each.number, each.ended) for each in attempts] == [(1, "raised"), (2, "snoozed"), (2, "canceled")]


def test_a_lost_reply_records_an_attempt_once(aws: Aws):
    jobs = aws.jobs(dynamodb=Repeated(aws.dynamodb), handlers={"email": raises(ValueError("no"))})
    run_id = jobs.create("email")

    jobs.consume(message(run_id))

    assert [each.number for each in jobs.get_status(run_id).attempts] == [1]


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "{}",
        "[1]",
        "[[]]",
        '[[0,1,0,"x","raised",null,null,null]]',
        '[[0,1,0,0,"odd",null,null,null]]',
        "[[0,1,0,0]]",
        '[[0,1,999999999999999999,0,"raised",null,null,null]]',
    ],
)
def test_attempts_that_can_not_be_read_make_a_corrupt_item_and_no_surprise(jobs: Jobs, aws: Aws, stored: str):
    from kumofire_core import CorruptItemError

    run_id = aws.a_run(attempts=stored)

    with pytest.raises(CorruptItemError):
        jobs.get_status(run_id)


@pytest.mark.parametrize("texts", ["", "5", "[1,2]", '["a"]', "sealed:x"])
def test_texts_that_can_not_be_read_are_left_out(jobs: Jobs, aws: Aws, texts: str):
    run_id = aws.a_run(attempts=json.dumps([[0, 1, NOW_MS, NOW_MS, "raised", "ValueError", None, texts]]))

    [attempt] = jobs.get_status(run_id).attempts
    assert (attempt.message, attempt.traceback, attempt.error_type) == (None, None, "ValueError")


def test_an_attempts_repr_shows_no_text():
    attempt = Attempt(1, NOW, NOW, AttemptEnding.RAISED, "ValueError", "the secret", "the secret line")

    assert "secret" not in repr(attempt)


def caught(function: object, *arguments: object) -> BaseException:
    try:
        function(*arguments)  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    json.loads("{")


def test_a_long_traceback_keeps_the_users_own_frames_and_those_next_to_the_error():
    text = attempt_traceback(caught(deep, 200))

    assert text is not None
    assert len(text.encode()) <= MAX_TRACEBACK_BYTES
    lines = text.splitlines()
    assert lines[0] == "  …"
    assert lines[-1] == "  …", "the library's frames went first"
    assert text.count("in deep") > 5


def test_a_short_traceback_is_whole_and_names_files_as_they_were_imported():
    text = attempt_traceback(caught(deep, 0))

    assert "…" not in text
    assert 'File "tests/runs/test_attempts.py"' in text
    assert "json.loads(" in text
    assert "decoder.py" in text


def test_a_message_leaves_the_type_out_and_keeps_what_led_to_the_error():
    def fails() -> None:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner

    assert attempt_message(caught(fails)) == "outer\n  caused by KeyError: 'inner'"
    assert attempt_message(ValueError()) == ""


@pytest.mark.parametrize("entry", [Path("src"), None, b"src", ["unhashable"]])
def test_an_entry_of_the_import_path_that_is_no_text_does_not_keep_a_failure_from_being_recorded(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, entry: object
):
    """Python itself passes over such an entry, so programs have them: ``sys.path.insert(0, Path(__file__).parent)``."""
    monkeypatch.setattr(sys, "path", [*sys.path, entry])
    jobs = aws.jobs(handlers={"email": raises(ValueError("no"))})
    run_id = jobs.create("email", max_attempts=1)

    assert jobs.consume(message(run_id)).outcome == "failed"
    assert "in " in jobs.get_status(run_id).attempts[0].traceback


class Unnameable(Exception):
    """Like errors of HTTP clients that have no response until there is one."""

    @property
    def response(self) -> object:
        raise RuntimeError("there is no response")


def test_a_cause_that_can_not_be_named_does_not_keep_the_next_attempt_from_being_sent(aws: Aws):
    error = ValueError("no")
    error.__cause__ = Unnameable()
    jobs = aws.jobs(handlers={"email": raises(error)})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "retried"
    assert aws.sent() == [(run_id, 0), (run_id, 1)]


class Sourceless:
    """A module's loader that can't give the source; Python's ``linecache`` lets its error through."""

    def get_source(self, name: str) -> str:
        raise ValueError("no source")


def test_a_traceback_that_can_not_be_made_does_not_keep_a_failure_from_being_recorded(aws: Aws):
    module: dict[str, object] = {"__name__": "generated", "__loader__": Sourceless()}
    exec(compile("def handler(ctx):\n    raise ValueError('no')\n", "generated.py", "exec"), module)
    jobs = aws.jobs(handlers={"email": module["handler"]})
    run_id = jobs.create("email", max_attempts=1)

    assert jobs.consume(message(run_id)).outcome == "failed"
    attempt = jobs.get_status(run_id).attempts[0]
    assert (attempt.message, attempt.traceback) == ("no", None)
