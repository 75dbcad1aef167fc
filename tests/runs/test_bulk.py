"""Operations over many runs: each run once, whatever is interrupted, doubled, lost or throttled."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from kumofire_core import (
    BulkOperation,
    CorruptItemError,
    InvalidArgumentError,
    JobContext,
    Jobs,
    NewerSchemaError,
    RunFilter,
    RunStatus,
)
from kumofire_core.engine import bulk
from kumofire_core.model.run import derived_run_id
from kumofire_core.rules.bulk_writes import spread_delay_ms
from kumofire_core.rules.listing import listed
from tests.builders import NOW, NOW_MS, Aws, Clock, message, raises
from tests.faults import READS, Outage, Repeated, WriteUnits
from tests.worlds import Death, Died

_numbers = itertools.count(1)


def an_ended_run(aws: Aws, status: str = "failed", run_id: str | None = None, **fields: Any) -> str:
    """Store a run that has ended a minute ago, as it is listed."""
    ended_ms = fields.pop("ended_ms", NOW_MS - 60_000)
    run_id = run_id or f"ended-{next(_numbers):06}"  # in the order of their ids
    end = {"attempt": 3, "error_type": "OSError"} if status == "failed" else {}
    times = {"finished_at": ended_ms, "updated_at": ended_ms, "created_at": ended_ms - 1, "scheduled_for": ended_ms - 1}
    all_fields = {**end, **times, **listed(status, run_id, at_ms=ended_ms), **fields}
    return aws.a_run(run_id, status=status, without=("wake_shard", "wake_at"), **all_fields)


def retries_of(aws: Aws, run_ids: list[str]) -> list[int]:
    """Return how often each run was retried."""
    return [(aws.item(run_id) or {}).get("retries", 0) for run_id in run_ids]


def messages(aws: Aws) -> dict[str, int]:
    """Return run and delay of each message that was sent in a batch."""
    return {
        json.loads(entry["MessageBody"])["kumofireJobRunId"]: entry["DelaySeconds"]
        for request in aws.sqs.parameters("send_message_batch")
        for entry in request["Entries"]
    }


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PAGE_LIMIT", 3)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of the code under test, which do not take any time."""
    seconds: list[float] = []
    monkeypatch.setattr(bulk.time, "sleep", seconds.append)
    return seconds


# What is meant


def test_retrying_many_queues_all_that_fit_and_leaves_the_others(jobs: Jobs, aws: Aws):
    fitting = [an_ended_run(aws) for _ in range(12)]
    fitting.append(an_ended_run(aws, "canceled", error_type="OSError"))
    others = [
        an_ended_run(aws, job_name="invoice"),
        an_ended_run(aws, error_type="ValueError"),
        an_ended_run(aws, ended_ms=NOW_MS - 3_600_000),
        an_ended_run(aws, "succeeded", error_type="OSError"),
        aws.a_run(),
    ]
    before = [aws.item(run_id) for run_id in others]

    done = jobs.retry_many(job_name="email", error_type="OSError", since=NOW - timedelta(minutes=5))

    assert (done.matched, done.changed, done.skipped, done.failed) == (13, 13, 0, 0)
    assert (done.done, done.aborted, done.action, done.created_at) == (True, False, "retry", NOW)
    assert {jobs.get_status(run_id).status for run_id in fitting} == {"queued"}
    assert retries_of(aws, fitting) == [1] * 13
    assert messages(aws) == dict.fromkeys(fitting, 0)
    assert [aws.item(run_id) for run_id in others] == before


@pytest.mark.parametrize("call", ["cancel_many", "retry_many", "delete_many"])
def test_a_text_narrows_what_is_changed(jobs: Jobs, aws: Aws, call: str):
    make = aws.a_run if call == "cancel_many" else partial(an_ended_run, aws)
    fitting, other = make(run_id="order-7"), make(run_id="order-8")
    before = aws.item(other)

    done = getattr(jobs, call)(text="r-7")

    assert (done.changed, done.filter.text, done.done) == (1, "r-7", True)
    assert jobs.get_bulk(done.id) == done
    now = aws.item(fitting)
    assert now is None or now["status"] in ("canceled", "queued")
    assert aws.item(other) == before


def test_an_interrupted_operation_goes_on_with_its_text(jobs: Jobs, aws: Aws, small_pages: None):
    fitting = [an_ended_run(aws, run_id=f"order-{number}") for number in range(5)]
    others = [an_ended_run(aws) for _ in range(5)]

    def interrupted(operation: BulkOperation) -> None:
        if operation.matched:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.retry_many(text="order-", on_progress=interrupted)
    [bulk_id] = operations(aws)
    done = jobs.resume_bulk(bulk_id)

    assert done is not None
    assert (done.done, done.matched) == (True, 5)
    assert retries_of(aws, fitting) == [1] * 5
    assert {aws.item(run_id)["status"] for run_id in others} == {"failed"}


def test_the_stored_filter_without_a_text_is_the_one_that_the_release_before_texts_reads(jobs: Jobs, aws: Aws):
    """That release must refuse what it does not know, instead of changing more runs than were meant."""
    plain, narrowed = jobs.retry_many(status="failed"), jobs.retry_many(status="failed", text="x")

    stored = {item["pk"].removeprefix("bulk#"): json.loads(item["wanted"]) for item in aws.items()}
    assert stored[plain.id] == ["failed", None, None, None, None]
    assert stored[narrowed.id] == ["failed", None, None, None, None, "x"]
    found = jobs.get_bulk(plain.id)
    assert found is not None
    assert found.filter == RunFilter(status=RunStatus.FAILED)


def test_canceling_many_ends_what_waits_and_asks_what_executes(jobs: Jobs, aws: Aws):
    waiting = [aws.a_run() for _ in range(4)] + [aws.a_run(status="scheduled", scheduled_for=NOW_MS + 10**9)]
    running = aws.a_running_run()
    others = [an_ended_run(aws), aws.a_run(job_name="invoice")]
    before = [aws.item(run_id) for run_id in others]

    done = jobs.cancel_many(job_name="email", reason="wrong addresses")

    assert (done.matched, done.changed, done.skipped) == (6, 6, 0)
    assert {jobs.get_status(run_id).status for run_id in waiting} == {"canceled"}
    assert {jobs.get_status(run_id).cancel_reason for run_id in [*waiting, running]} == {"wrong addresses"}
    assert jobs.get_status(running).cancel_requested
    assert [aws.item(run_id) for run_id in others] == before


def test_hooks_are_told_of_each_run_that_is_canceled(jobs: Jobs, aws: Aws):
    told: list[str] = []
    jobs.on("canceled")(lambda event: told.append(event.run.id))
    waiting = [aws.a_run() for _ in range(3)]
    aws.a_running_run()

    jobs.cancel_many(job_name="email")

    assert jobs.wait_for_hooks(timedelta(seconds=30))
    assert sorted(told) == sorted(waiting)


def test_deleting_many_takes_what_has_ended_and_leaves_what_holds_a_key(jobs: Jobs, aws: Aws):
    ended = [an_ended_run(aws), an_ended_run(aws, "canceled"), an_ended_run(aws, "succeeded")]
    keyed = an_ended_run(aws, run_id=derived_run_id("dedupe_key", "k"), dedupe_key="k")
    waiting = aws.a_run()

    done = jobs.delete_many(job_name="email")

    assert (done.matched, done.changed, done.skipped) == (4, 3, 1)
    assert [aws.item(run_id) for run_id in ended] == [None] * 3
    assert jobs.create("email", dedupe_key="k") == keyed
    assert jobs.get_status(keyed).status == "failed"

    freed = jobs.delete_many(job_name="email", free_dedupe_keys=True)

    assert (freed.matched, freed.changed, freed.skipped) == (1, 1, 0)
    assert aws.item(keyed) is None
    assert aws.item(waiting) is not None


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_status_narrows_what_is_retried(jobs: Jobs, aws: Aws, status: str):
    runs = {status: an_ended_run(aws, status) for status in ("failed", "canceled", "succeeded")}

    assert jobs.retry_many(status=status).changed == 1
    assert {each for each, run_id in runs.items() if jobs.get_status(run_id).status == "queued"} == {status}


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ("cancel_many", "failed"),
        ("cancel_many", "succeeded"),
        ("retry_many", "queued"),
        ("retry_many", "succeeded"),
        ("delete_many", "running"),
        ("delete_many", "scheduled"),
    ],
)
def test_a_status_that_an_action_can_not_change_is_refused_with_those_that_it_can(
    jobs: Jobs, aws: Aws, call: str, status: str
):
    with pytest.raises(InvalidArgumentError, match=rf"status must be one of .* for {call}, not '{status}'"):
        getattr(jobs, call)(status=status)
    assert aws.dynamodb.requests == []


@pytest.mark.parametrize("call", ["cancel_many", "retry_many", "delete_many"])
def test_an_empty_filter_is_refused_and_changes_nothing(jobs: Jobs, aws: Aws, call: str):
    an_ended_run(aws)
    aws.a_run()
    before = aws.items()

    with pytest.raises(InvalidArgumentError, match=rf"{call} must be told which runs it is for: give status, job_name"):
        getattr(jobs, call)()
    with pytest.raises(InvalidArgumentError, match="give either run_ids or a filter"):
        getattr(jobs, call)(run_ids=["x"], job_name="email")

    assert aws.items() == before


def test_named_runs_are_changed_and_those_in_another_status_or_unknown_are_left(
    jobs: Jobs, aws: Aws, small_pages: None
):
    runs = [an_ended_run(aws) for _ in range(7)]
    waiting = aws.a_run()
    unnamed = an_ended_run(aws)

    done = jobs.retry_many(run_ids=[*runs, waiting, "unknown", "x" * 200, runs[0]])

    assert (done.matched, done.changed, done.skipped, done.failed) == (7, 7, 0, 0)
    assert done.run_ids == (*runs, waiting, "unknown")
    assert retries_of(aws, [*runs, waiting, unnamed]) == [1] * 7 + [0, 0]
    assert jobs.get_bulk(done.id) == done


def test_no_named_runs_are_none_and_not_all(jobs: Jobs, aws: Aws):
    run_id = an_ended_run(aws)

    done = jobs.retry_many(run_ids=[])

    assert (done.done, done.matched) == (True, 0)
    assert jobs.get_status(run_id).status == "failed"


def test_more_ids_than_an_operation_keeps_are_refused(jobs: Jobs, aws: Aws):
    with pytest.raises(InvalidArgumentError, match="run_ids may have 1000 ids, and has 1001"):
        jobs.retry_many(run_ids=map(str, range(1_001)))
    assert aws.dynamodb.requests == []


def test_runs_that_end_or_are_created_after_the_operation_began_are_left(aws: Aws, clock: Clock, small_pages: None):
    jobs = aws.jobs(clock=clock)
    before = [an_ended_run(aws) for _ in range(4)]
    waiting = [aws.a_run() for _ in range(4)]
    later: list[str] = []

    def meanwhile(operation: BulkOperation) -> None:
        if not later:
            clock.advance(seconds=1)
            later.append(an_ended_run(aws, ended_ms=NOW_MS + 1_000))
            later.append(aws.a_run(created_at=NOW_MS + 1_000))

    assert jobs.retry_many(job_name="email", on_progress=meanwhile).changed == 4
    assert retries_of(aws, [*before, *later]) == [1] * 4 + [0, 0]

    later.clear()
    jobs.cancel_many(run_ids=waiting, on_progress=meanwhile)
    assert {aws.item(run_id)["status"] for run_id in waiting} == {"canceled"}
    assert aws.item(later[1])["status"] == "queued"


# Counting


def test_a_dry_run_counts_and_writes_nothing(jobs: Jobs, aws: Aws, small_pages: None):
    for _ in range(5):
        an_ended_run(aws)
    an_ended_run(aws, dedupe_key="k")
    before = aws.items()
    counted: list[int] = []

    found = jobs.delete_many(
        job_name="email", dry_run=True, on_progress=lambda operation: counted.append(operation.matched)
    )

    assert (found.id, found.matched, found.skipped, found.changed, found.at_least) == (None, 6, 1, 0, False)
    assert found.filter == RunFilter(job_name="email")
    assert counted[0] == 3
    assert aws.items() == before
    assert set(aws.dynamodb.count()) <= {"query", "batch_get_item", "get_item"}
    assert aws.sqs.count() == {}


def test_a_dry_run_says_where_it_has_stopped_counting(
    jobs: Jobs, aws: Aws, small_pages: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk, "MOST_COUNTED", 3)
    for _ in range(4):
        an_ended_run(aws)

    found = jobs.retry_many(status="failed", dry_run=True)

    assert (found.matched, found.at_least) == (3, True)


# Progress, aborting, reading


def test_each_page_is_told_and_can_be_read_by_others(jobs: Jobs, aws: Aws, small_pages: None):
    for _ in range(7):
        an_ended_run(aws)
    told: list[BulkOperation] = []
    read: list[BulkOperation | None] = []

    def on_progress(operation: BulkOperation) -> None:
        told.append(operation)
        read.append(aws.jobs().get_bulk(str(operation.id)))

    done = jobs.retry_many(status="failed", on_progress=on_progress)

    assert [operation.changed for operation in told] == [0, 3, 6, 7]
    assert [operation.done for operation in told] == [False, False, False, True]
    assert read == told
    assert told[-1] == done == jobs.get_bulk(done.id)
    assert done.filter == RunFilter(status="failed")  # type: ignore[arg-type]
    item = next(item for item in aws.items() if item["pk"] == f"bulk#{done.id}")
    assert item["expires_at"] == NOW_MS // 1000 + 7 * 86_400


def test_an_aborted_operation_stops_after_its_page_and_is_not_resumed(jobs: Jobs, aws: Aws, small_pages: None):
    runs = [an_ended_run(aws) for _ in range(7)]
    aborted: list[bool] = []

    def on_progress(operation: BulkOperation) -> None:
        if operation.changed == 3:
            aborted.append(aws.jobs().abort_bulk(str(operation.id)))

    stopped = jobs.retry_many(status="failed", on_progress=on_progress)

    assert aborted == [True]
    assert (stopped.aborted, stopped.done, stopped.changed) == (True, False, 6)
    assert sorted(retries_of(aws, runs)) == [0] + [1] * 6
    assert jobs.resume_bulk(stopped.id) == stopped
    assert sorted(retries_of(aws, runs)) == [0] + [1] * 6
    assert jobs.abort_bulk(stopped.id) is False


def test_an_operation_that_is_done_or_unknown_is_neither_aborted_nor_gone_on_with(jobs: Jobs, aws: Aws):
    an_ended_run(aws)
    done = jobs.retry_many(status="failed")
    aws.dynamodb.requests.clear()

    assert jobs.abort_bulk(done.id) is False
    assert jobs.resume_bulk(done.id) == done
    assert aws.dynamodb.count() == {"update_item": 1, "get_item": 1}
    assert (jobs.get_bulk("unknown"), jobs.resume_bulk("unknown"), jobs.abort_bulk("unknown")) == (None, None, False)
    assert jobs.get_bulk("x" * 200) is None


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"schema": 3}, NewerSchemaError),
        ({"action": "burn"}, CorruptItemError),
        ({"wanted": "no JSON"}, CorruptItemError),
        ({"wanted": '["lost",null,null,null,null]'}, CorruptItemError),
        ({"wanted": '["failed",null,null,null,null,5]'}, CorruptItemError),
        ({"wanted": '["failed",null,null,null,null,"x","of a later release"]'}, CorruptItemError),
        ({"cursor": "[1]"}, CorruptItemError),
        ({"matched": "many"}, CorruptItemError),
        ({"errors": "[[]"}, CorruptItemError),
    ],
)
def test_an_operation_that_can_not_be_read_is_named(jobs: Jobs, aws: Aws, changes: dict[str, Any], error: type):
    done = jobs.retry_many(status="failed")
    item = next(item for item in aws.items() if item["pk"] == f"bulk#{done.id}") | changes
    stored = {name: {"S": value} if isinstance(value, str) else {"N": str(value)} for name, value in item.items()}
    aws.dynamodb.client.put_item(TableName=aws.table, Item=stored)

    with pytest.raises(error, match=f"bulk#{done.id}"):
        jobs.resume_bulk(done.id)


# Each run at most once


def operations(aws: Aws) -> list[str]:
    return [item["pk"].removeprefix("bulk#") for item in aws.items() if item["pk"].startswith("bulk#")]


def some_runs(aws: Aws, action: str) -> list[str]:
    """Store four runs, and nothing else, that an action is for."""
    for item in aws.items():
        aws.dynamodb.client.delete_item(TableName=aws.table, Key={name: {"S": item[name]} for name in ("pk", "sk")})
    return [aws.a_run() if action == "cancel" else an_ended_run(aws) for _ in range(4)]


def states(aws: Aws, action: str, run_ids: list[str]) -> set[Any]:
    """Return what became of the runs, in the terms of the action; one value where all are alike."""
    items = [aws.item(run_id) for run_id in run_ids]
    if action == "retry":
        return {(item["status"], item.get("retries", 0)) for item in items if item is not None}
    return {None if item is None else item["status"] for item in items}


EVERY_RUN = {"retry": {("queued", 1)}, "cancel": {"canceled"}, "delete": {None}}
STATUS = {"retry": "failed", "cancel": "queued", "delete": "failed"}


@pytest.mark.long
@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
@pytest.mark.parametrize("action", ["retry", "cancel", "delete"])
def test_an_operation_killed_at_any_write_and_resumed_changes_each_run_once(
    aws: Aws, small_pages: None, action: str, applied: bool
):
    """A process that dies at a read has made the same writes as one that dies at the next write, not applied."""
    for at in itertools.count(1):
        runs = some_runs(aws, action)
        death = Death(at, applied=applied, beside=tuple(READS))
        mortal = aws.jobs(dynamodb=death.wrap(aws.dynamodb), sqs=death.wrap(aws.sqs))
        with contextlib.suppress(Died):
            getattr(mortal, f"{action}_many")(status=STATUS[action])
        if not death.came:
            break
        stored = operations(aws)
        if not stored:
            assert (at, applied) == (1, False)
            continue
        resumed = aws.jobs().resume_bulk(stored[0])
        assert (resumed.done, resumed.failed) == (True, 0)
        assert resumed.changed == resumed.matched <= 4
        assert states(aws, action, runs) == EVERY_RUN[action], at
    assert at > 6


def test_a_run_that_failed_again_is_not_retried_twice_by_the_same_operation(jobs: Jobs, aws: Aws, small_pages: None):
    """The clock stands still, so only the run itself can tell that the operation has been there."""
    runs = [an_ended_run(aws, ended_ms=NOW_MS, max_attempts=1) for _ in range(3)]
    jobs.handler("email", max_attempts=1)(raises(OSError("again")))
    with pytest.raises(Died):
        aws.jobs(dynamodb=DyingAtSave(aws.dynamodb)).retry_many(status="failed")
    [bulk_id] = operations(aws)
    assert retries_of(aws, runs) == [1] * 3
    for run_id in runs:
        assert jobs.consume(message(run_id)).outcome == "failed"

    done = jobs.resume_bulk(bulk_id)

    assert (done.done, done.changed) == (True, 3)
    assert retries_of(aws, runs) == [1] * 3
    assert jobs.retry_many(status="failed").changed == 3
    assert retries_of(aws, runs) == [2] * 3


class DyingAtSave:
    """Kills the process when it is about to record a page."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def request(**parameters: Any) -> Any:
            if operation == "update_item" and parameters["Key"]["pk"]["S"].startswith("bulk#"):
                raise Died
            return getattr(self._client, operation)(**parameters)

        return request


def _die(operation: BulkOperation) -> None:
    raise Died


class Doubled:
    """Lets another process go on with the operation just before one request, the ``at``-th that is not a query."""

    def __init__(self, client: Any, action: Callable[[], object], *, at: int) -> None:
        self._client = client
        self._action = action
        self.left = at

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def request(**parameters: Any) -> Any:
            self.left -= operation != "query"
            if self.left == 0:
                self.left = -(10**9)
                self._action()
            return getattr(self._client, operation)(**parameters)

        return request


@pytest.mark.parametrize("action", ["retry", "cancel", "delete"])
@pytest.mark.long
def test_two_processes_that_resume_one_operation_change_each_run_once_and_one_stops(
    aws: Aws, small_pages: None, monkeypatch: pytest.MonkeyPatch, action: str
):
    monkeypatch.setattr(bulk, "CHANGES_IN_FLIGHT", 1)
    for at in itertools.count(1):
        runs = some_runs(aws, action)
        with pytest.raises(Died):
            getattr(aws.jobs(), f"{action}_many")(status=STATUS[action], on_progress=_die)
        [bulk_id] = operations(aws)
        others: list[BulkOperation] = []
        other = aws.jobs()
        doubled = Doubled(aws.dynamodb, lambda: others.append(other.resume_bulk(bulk_id)), at=at)  # noqa: B023

        mine = aws.jobs(dynamodb=doubled).resume_bulk(bulk_id)

        if not others:
            break
        assert mine == others[0], at
        assert (mine.done, mine.failed) == (True, 0)
        assert mine.changed <= 4
        assert states(aws, action, runs) == EVERY_RUN[action], at
    assert at > 6


def test_lost_replies_change_each_run_once_and_are_counted_once(aws: Aws, small_pages: None):
    failed = [an_ended_run(aws) for _ in range(5)]
    waiting = [aws.a_run() for _ in range(5)]
    jobs = aws.jobs(dynamodb=Repeated(aws.dynamodb))

    retried = jobs.retry_many(status="failed")
    canceled = jobs.cancel_many(run_ids=waiting)

    assert (retried.changed, retried.skipped, retried.done) == (5, 0, True)
    assert (canceled.changed, canceled.skipped, canceled.done) == (5, 0, True)
    assert retries_of(aws, failed) == [1] * 5
    assert jobs.delete_many(status="canceled").changed == 5


class LosesARetry:
    """Makes the first retry of a run, and loses its reply for good."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lost = False

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def request(**parameters: Any) -> Any:
            reply = getattr(self._client, operation)(**parameters)
            if "retried_by" in str(parameters) and not self._lost:
                self._lost = True
                raise ConnectionClosedError(endpoint_url="https://aws.invalid")
            return reply

        return request


def test_a_run_whose_retry_was_made_and_its_reply_lost_for_good_is_sent(aws: Aws):
    run_id = an_ended_run(aws)

    done = aws.jobs(dynamodb=LosesARetry(aws.dynamodb)).retry_many(status="failed")

    assert (done.changed, done.skipped, done.failed) == (1, 0, 0)
    assert retries_of(aws, [run_id]) == [1]
    assert messages(aws) == {run_id: 0}


def test_an_abort_whose_reply_was_lost_answers_yes(aws: Aws):
    with pytest.raises(Died):
        aws.jobs().retry_many(status="failed", on_progress=_die)
    [bulk_id] = operations(aws)

    assert aws.jobs(dynamodb=Repeated(aws.dynamodb)).abort_bulk(bulk_id) is True


def test_a_run_whose_message_is_sent_again_meanwhile_is_canceled_all_the_same(aws: Aws, small_pages: None):
    """Its wake-up moves past the place that the operation has come to."""
    runs = [aws.a_run(f"run-{n}", wake_at=NOW_MS + n * 1_000) for n in range(8)]
    moved: list[int] = []

    def on_progress(operation: BulkOperation) -> None:
        if operation.changed == 3 and not moved:
            moved.append(1)
            aws.change("run-0", wake_at=NOW_MS + 10**6, sends=2, updated_at=NOW_MS + 5)

    done = aws.jobs().cancel_many(job_name="email", on_progress=on_progress)

    assert {aws.item(run_id)["status"] for run_id in runs} == {"canceled"}
    assert (done.matched, done.changed) == (8, 8)


def test_what_executes_is_asked_and_counted_once_over_all_passes(aws: Aws, small_pages: None):
    running = [aws.a_running_run() for _ in range(4)]
    asked_before = aws.a_running_run(cancel_requested_at=NOW_MS - 5)
    waiting = [aws.a_run() for _ in range(4)]

    done = aws.jobs().cancel_many(job_name="email")

    assert (done.matched, done.changed, done.skipped) == (9, 8, 1)
    assert all("cancel_requested_at" in aws.item(run_id) for run_id in [*running, asked_before])
    assert {aws.item(run_id)["status"] for run_id in waiting} == {"canceled"}


def test_a_run_that_a_person_retries_meanwhile_is_not_canceled_again(aws: Aws, clock: Clock, small_pages: None):
    runs = [aws.a_run(f"run-{n}", wake_at=NOW_MS + n * 1_000) for n in range(5)]
    retried: list[bool] = []
    jobs = aws.jobs(clock=clock)

    def on_progress(operation: BulkOperation) -> None:
        if operation.changed == 3 and not retried:
            clock.advance(milliseconds=1)
            retried.append(aws.jobs(clock=clock).retry("run-4"))

    done = jobs.cancel_many(job_name="email", on_progress=on_progress)

    assert retried == [True]
    assert aws.item("run-4")["status"] == "queued"
    assert {aws.item(run_id)["status"] for run_id in runs[:4]} == {"canceled"}
    assert (done.matched, done.changed) == (5, 5)


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_run_that_is_created_under_the_id_of_a_deleted_one_meanwhile_is_not_canceled(aws: Aws, status: str):
    run_id = aws.a_run() if status == "queued" else aws.a_running_run()
    stored = {name: value for name, value in aws.item(run_id).items() if name not in ("pk", "sk")}

    class OtherFirst:
        """Before the first write to the run, it ends, is deleted and created again, and comes as far again."""

        def __getattr__(self, operation: str) -> Callable[..., Any]:
            def request(**parameters: Any) -> Any:
                if operation == "update_item" and parameters["Key"]["pk"]["S"] == f"run#{run_id}":
                    aws.a_run(run_id, **{**stored, "create_token": "another", "updated_at": NOW_MS + 9})
                return getattr(aws.dynamodb, operation)(**parameters)

            return request

    done = aws.jobs(dynamodb=OtherFirst()).cancel_many(job_name="email")

    assert (done.matched, done.changed) == (1, 0)
    assert aws.item(run_id)["status"] == status
    assert aws.item(run_id).keys() & {"bulk", "cancel_requested_at"} == set()


def test_a_run_that_changes_between_being_read_and_changed_is_skipped(aws: Aws):
    run_id = an_ended_run(aws)

    class OtherFirst:
        def __getattr__(self, operation: str) -> Callable[..., Any]:
            def request(**parameters: Any) -> Any:
                if operation == "update_item" and parameters["Key"]["pk"]["S"] == f"run#{run_id}":
                    aws.jobs(clock=Clock(NOW + timedelta(seconds=1))).retry(run_id)
                return getattr(aws.dynamodb, operation)(**parameters)

            return request

    done = aws.jobs(dynamodb=OtherFirst()).retry_many(status="failed")

    assert (done.matched, done.changed, done.skipped) == (1, 0, 1)
    assert retries_of(aws, [run_id]) == [1]
    assert "bulk" not in aws.item(run_id)


# Spread


def test_retries_are_spread_evenly_over_the_time_and_always_alike():
    delays = [spread_delay_ms("operation", str(number), spread_ms=60_000) for number in range(6_000)]

    assert min(delays) >= 0
    assert max(delays) < 60_000
    by_second = Counter(delay // 10_000 for delay in delays)
    assert all(850 < count < 1_150 for count in by_second.values())
    assert delays == [spread_delay_ms("operation", str(number), spread_ms=60_000) for number in range(6_000)]
    assert delays != [spread_delay_ms("another", str(number), spread_ms=60_000) for number in range(6_000)]


def test_spread_retries_wait_for_their_share_and_their_messages_with_them(jobs: Jobs, aws: Aws):
    runs = [an_ended_run(aws) for _ in range(12)]

    done = jobs.retry_many(status="failed", spread=timedelta(minutes=10))

    due = {run_id: aws.item(run_id)["scheduled_for"] - NOW_MS for run_id in runs}
    assert due == {run_id: spread_delay_ms(str(done.id), run_id, spread_ms=600_000) for run_id in runs}
    assert len(set(due.values())) == 12
    assert messages(aws) == {run_id: -(-delay // 1000) for run_id, delay in due.items()}
    assert {aws.item(run_id)["status"] for run_id in runs} == {"scheduled"}


def test_retries_further_off_than_sqs_can_delay_are_left_to_the_dispatcher(jobs: Jobs, aws: Aws):
    runs = [an_ended_run(aws) for _ in range(12)]

    jobs.retry_many(status="failed", spread=timedelta(hours=10))

    items = [aws.item(run_id) for run_id in runs]
    far = {item["pk"].removeprefix("run#") for item in items if item["scheduled_for"] - NOW_MS > 900_000}
    assert far
    assert set(messages(aws)) == set(runs) - far
    assert all(item["wake_at"] == item["scheduled_for"] for item in items if item["pk"].removeprefix("run#") in far)


# Errors


class Refusing:
    """Refuses the writes to some items, for the first ``times`` of each, or for ever."""

    def __init__(self, client: Any, code: str, *run_ids: str, times: int = 10**9) -> None:
        self._client = client
        self._code = code
        self._keys = {f"run#{run_id}" for run_id in run_ids}
        self._times = times
        self.refused: Counter[str] = Counter()

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def request(**parameters: Any) -> Any:
            key = parameters.get("Key", {}).get("pk", {}).get("S", "")
            if operation == "update_item" and key in self._keys and self.refused[key] < self._times:
                self.refused[key] += 1
                raise ClientError({"Error": {"Code": self._code, "Message": "no"}}, operation)
            return getattr(self._client, operation)(**parameters)

        return request


@pytest.mark.parametrize("code", ["ThrottlingException", "ValidationException", "InternalServerError"])
def test_a_run_that_can_not_be_changed_does_not_stop_the_others(aws: Aws, small_pages: None, code: str):
    runs = [an_ended_run(aws) for _ in range(7)]
    jobs = aws.jobs(dynamodb=Refusing(aws.dynamodb, code, runs[2]))

    done = jobs.retry_many(status="failed")

    assert (done.matched, done.changed, done.failed, done.done) == (7, 6, 1, True)
    assert retries_of(aws, runs) == [1, 1, 0, 1, 1, 1, 1]
    [error] = done.errors
    assert error.startswith(f"{runs[2]}: ")
    assert code in error
    assert error not in repr(done)


def test_a_few_errors_are_kept_of_many(aws: Aws):
    runs = [an_ended_run(aws) for _ in range(9)]
    jobs = aws.jobs(dynamodb=Refusing(aws.dynamodb, "ValidationException", *runs[1:]))

    done = jobs.retry_many(status="failed")

    assert (done.failed, done.changed, len(done.errors)) == (8, 1, 5)


def test_throttled_requests_are_made_again_after_growing_waits(aws: Aws, waits: list[float]):
    runs = [an_ended_run(aws) for _ in range(2)]
    jobs = aws.jobs(dynamodb=Refusing(aws.dynamodb, "ProvisionedThroughputExceededException", runs[0], times=5))

    done = jobs.retry_many(status="failed")

    assert (done.changed, done.failed) == (2, 0)
    assert len(waits) == 5
    assert all(0.1 * 2**n <= wait <= 0.2 * 2**n for n, wait in enumerate(waits))


@pytest.mark.parametrize("code", ["AccessDeniedException", "ProvisionedThroughputExceededException"])
def test_where_no_run_of_a_page_can_be_changed_the_operation_stops_and_can_be_resumed(
    aws: Aws, small_pages: None, code: str
):
    runs = [an_ended_run(aws) for _ in range(5)]
    jobs = aws.jobs(dynamodb=Refusing(aws.dynamodb, code, *runs))

    with pytest.raises(ClientError) as stopped:
        jobs.retry_many(status="failed")

    [bulk_id] = operations(aws)
    assert any(f"jobs.resume_bulk('{bulk_id}')" in note for note in stopped.value.__notes__)
    assert aws.jobs().resume_bulk(bulk_id).changed == 5
    assert retries_of(aws, runs) == [1] * 5


@pytest.mark.parametrize("applied", [True, False])
def test_an_outage_of_one_request_passes_unseen(aws: Aws, small_pages: None, applied: bool):
    for at in range(2, 60):
        runs = [an_ended_run(aws, run_id=f"ended-{at}-{n}") for n in range(4)]
        outage = Outage(at, applied=applied)
        done = aws.jobs(dynamodb=outage.wrap(aws.dynamodb)).retry_many(run_ids=runs)

        assert (done.done, done.changed, done.failed) == (True, 4, 0)
        assert retries_of(aws, runs) == [1] * 4
        if outage.made < at:
            return
    raise AssertionError("it never got through")


def test_messages_that_can_not_be_sent_leave_the_runs_retried(aws: Aws):
    runs = [an_ended_run(aws) for _ in range(3)]

    done = aws.jobs(sqs=Outage(applied=False, lasting=True).wrap(aws.sqs)).retry_many(status="failed")

    assert done.changed == 3
    assert [aws.item(run_id)["wake_at"] for run_id in runs] == [NOW_MS + 120_000] * 3


def test_a_caller_that_raises_leaves_an_operation_that_can_be_resumed(jobs: Jobs, aws: Aws, small_pages: None):
    runs = [an_ended_run(aws) for _ in range(7)]

    def on_progress(operation: BulkOperation) -> None:
        if operation.changed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.retry_many(status="failed", on_progress=on_progress)
    [bulk_id] = operations(aws)
    assert sum(retries_of(aws, runs)) == 3

    told: list[int] = []
    done = jobs.resume_bulk(bulk_id, on_progress=lambda operation: told.append(operation.changed))
    assert (done.changed, told) == (7, [6, 7])
    assert retries_of(aws, runs) == [1] * 7


def test_a_retry_does_not_write_in_plain_text_what_is_encrypted(aws: Aws):
    class Reversed:
        def encrypt(self, plaintext: bytes) -> bytes:
            return plaintext[::-1]

        def decrypt(self, ciphertext: bytes) -> bytes:
            return ciphertext[::-1]

    jobs = aws.jobs(cipher=Reversed())
    jobs.handler("email", max_attempts=1)(raises(OSError("the secret")))
    run_id = jobs.create("email")
    jobs.consume(message(run_id))
    assert "secret" in str(jobs.get_status(run_id).last_error)

    assert jobs.retry_many(status="failed").changed == 1

    assert "secret" not in json.dumps(aws.item(run_id))
    assert jobs.get_status(run_id).history[0].last_error == "OSError"


def test_a_retried_run_executes(jobs: Jobs, aws: Aws):
    executed: list[JobContext] = []
    jobs.handler("email")(executed.append)
    run_id = an_ended_run(aws)
    jobs.retry_many(status="failed")

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert [ctx.attempt for ctx in executed] == [1]


# What it costs


def test_retrying_many_is_a_write_for_each_run_and_three_requests_beside_the_queries(jobs: Jobs, aws: Aws):
    for _ in range(30):
        an_ended_run(aws)

    jobs.retry_many(status="failed")

    counts = aws.dynamodb.count()
    assert counts.pop("query") == 8
    assert counts == {"put_item": 1, "batch_get_item": 1, "update_item": 30 + 1}
    assert aws.sqs.count() == {"send_message_batch": 3}


def test_canceling_and_deleting_many_are_a_write_for_each_run(jobs: Jobs, aws: Aws):
    ended = [an_ended_run(aws) for _ in range(10)]
    waiting = [aws.a_run() for _ in range(10)]

    jobs.cancel_many(run_ids=waiting)
    assert aws.dynamodb.count() == {"put_item": 1, "batch_get_item": 1, "update_item": 10 + 1}

    aws.dynamodb.requests.clear()
    jobs.delete_many(run_ids=ended)
    assert aws.dynamodb.count() == {"put_item": 1, "batch_get_item": 1, "delete_item": 10, "update_item": 1}


def test_each_run_costs_the_write_units_that_the_documentation_says(aws: Aws):
    units = WriteUnits(aws.dynamodb, table=aws.table)
    jobs = aws.jobs(dynamodb=units)
    ended = [an_ended_run(aws) for _ in range(10)]

    jobs.retry_many(run_ids=ended)
    assert units.take() == 2 + 10 * 3
    jobs.cancel_many(run_ids=ended)
    assert units.take() == 2 + 10 * 3
    jobs.delete_many(run_ids=ended)
    assert units.take() == 2 + 10 * 2
    jobs.cancel_many(run_ids=[aws.a_running_run() for _ in range(10)])
    assert units.take() == 2 + 10 * 1
