"""The stats: right, honest about what they leave out, at a bounded price that several askers share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from kumofire_core import (
    ConsumerProgress,
    DueRun,
    FailureCount,
    Jobs,
    OutcomeCounts,
    QueueLengths,
    RunStatus,
    StatusCount,
    UnfinishedCount,
)
from kumofire_core.engine import stats as engine
from kumofire_core.rules.listing import listed
from tests.builders import NOW, NOW_MS, Aws, Clock, event, raises

pytestmark = pytest.mark.usefixtures("counts_awaited")

MINUTE = NOW_MS // 60_000
ONE_ANSWER = {"get_item": 4, "query": 40, "batch_get_item": 1, "put_item": 1}
"""Without unfinished runs: settings, pauses, progress and the shared answer; 8 partitions of 4 statuses and 8 of
wake-ups; the counts of 5 minutes; the shared answer again."""


class Client:
    """A client of which some operations are the test's own; all others go on to the emulator."""

    def __init__(self, client: Any, **operations: Callable[..., Any]) -> None:
        self._client = client
        self._operations = operations

    def __getattr__(self, operation: str) -> Any:
        return self._operations.get(operation) or getattr(self._client, operation)


def denied(**parameters: Any) -> Any:
    raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "SomeRequest")


def requests(aws: Aws) -> dict[str, int]:
    """Return the requests to the table since the last look."""
    counts = aws.dynamodb.count()
    aws.dynamodb.requests.clear()
    return counts


def ended(aws: Aws, status: str, *, at_ms: int = NOW_MS, run_id: str | None = None, **fields: Any) -> str:
    """Store a run that has ended and is listed."""
    run_id = run_id or f"{status}-{at_ms}-{len(aws.dynamodb.requests)}-{ended.number}"
    ended.number += 1
    unindexed = ("wake_shard", "wake_at")
    given = {"status": status, "finished_at": at_ms, **listed(status, run_id, at_ms=at_ms), **fields}
    return aws.a_run(run_id, without=unindexed, **given)


ended.number = 0


def many(aws: Aws, number: int, **fields: Callable[[int], Any]) -> None:
    """Store many queued runs with few requests."""
    for start in range(0, number, 25):
        puts = []
        for index in range(start, min(number, start + 25)):
            found = {
                "schema": 1,
                "status": "queued",
                "job_name": "email",
                "scheduled_for": NOW_MS,
                "wake_shard": index % 8,
            }
            found |= {"wake_at": NOW_MS + index} | {name: of(index) for name, of in fields.items()}
            item = {name: {"S": each} if isinstance(each, str) else {"N": str(each)} for name, each in found.items()}
            puts.append({"PutRequest": {"Item": item | {"pk": {"S": f"run#n{index}"}, "sk": {"S": "run"}}}})
        aws.dynamodb.client.batch_write_item(RequestItems={aws.table: puts})


def a_minute(aws: Aws, minute: int, shard: int = 0, **counts: Any) -> None:
    item = {"pk": {"S": f"counts#{minute}-{shard}"}, "sk": {"S": "counts"}, "schema": {"N": "1"}}
    item |= {name: {"N": str(each)} if isinstance(each, int) else {"S": each} for name, each in counts.items()}
    aws.dynamodb.client.put_item(TableName=aws.table, Item=item)


def test_an_empty_system_has_counts_of_nothing(jobs: Jobs):
    found = jobs.stats()

    nothing = StatusCount(0, {}, True)
    statuses = ("scheduled", "queued", "running", "failed", "canceled")
    assert found.by_status == dict.fromkeys(statuses, nothing)
    assert (found.as_of, found.unfinished, found.paused) == (NOW, UnfinishedCount(0, True, 0), nothing)
    assert (found.oldest_due, found.consumers, found.dead_letters) == (None, None, None)
    assert found.queue == QueueLengths(0, 0, 0)
    assert [(minute.start, minute.by_job) for minute in found.minutes] == [
        (NOW - timedelta(minutes=back), {}) for back in (4, 3, 2, 1, 0)
    ]
    assert found.minutes[0].total == OutcomeCounts()


def test_runs_are_counted_by_status_and_job(jobs: Jobs, aws: Aws):
    for name in ("email", "email", "report"):
        ended(aws, "failed", job_name=name)
        aws.a_run(job_name=name)
        aws.a_running_run(job_name=name, wake_shard=7)
    ended(aws, "canceled")
    aws.a_run(status="scheduled", scheduled_for=NOW_MS + 5, wake_shard=3)

    found = jobs.stats()

    both = StatusCount(3, {"email": 2, "report": 1}, True)
    one = StatusCount(1, {"email": 1}, True)
    assert found.by_status == {"failed": both, "queued": both, "running": both, "canceled": one, "scheduled": one}
    assert found.unfinished == UnfinishedCount(total=7, complete=True, examined=7)


def test_failed_runs_are_counted_by_job_and_error_with_most_first_and_no_further_request(jobs: Jobs, aws: Aws):
    for job_name, error_type in [
        *[("email", "ConnectionError")] * 3,
        *[("report", "ValueError")] * 2,
        *[("email", "ValueError")] * 2,
        ("email", "ValueError2"),
    ]:
        ended(aws, "failed", job_name=job_name, error_type=error_type)
    ended(aws, "failed", job_name="old")  # of a release that stored no type
    ended(aws, "canceled", error_type="ConnectionError")
    requests(aws)

    found = jobs.stats()

    assert found.failures == (
        FailureCount("email", "ConnectionError", 3),
        FailureCount("email", "ValueError", 2),
        FailureCount("report", "ValueError", 2),
        FailureCount("email", "ValueError2", 1),
        FailureCount("old", None, 1),
    )
    assert found.by_status["failed"] == StatusCount(9, {"email": 6, "report": 2, "old": 1}, True)
    assert requests(aws)["query"] == 40


def test_the_hundred_errors_with_most_runs_are_told(jobs: Jobs, aws: Aws):
    for number in range(101):
        ended(aws, "failed", error_type=f"Error{number:03}")
    ended(aws, "failed", error_type="Error100")

    found = jobs.stats()

    assert len(found.failures) == 100
    assert found.failures[0] == FailureCount("email", "Error100", 2)
    assert found.failures[-1].error_type == "Error098"
    assert found.by_status["failed"].total == 102


def test_succeeded_runs_are_counted_where_they_are_listed(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, list_succeeded=True, handlers={"email": lambda ctx: None})
    assert RunStatus.SUCCEEDED not in jobs.stats().by_status

    jobs.consume_batch(event(aws.a_run(), aws.a_run()))

    assert jobs.stats(fresh=True).by_status[RunStatus.SUCCEEDED] == StatusCount(2, {"email": 2}, True)


def test_runs_of_a_paused_job_are_counted_and_are_not_overdue(jobs: Jobs, aws: Aws):
    aws.a_run(
        "put-aside", status="scheduled", parked="pause", scheduled_for=1, **listed("parked", "put-aside", at_ms=1)
    )

    found = jobs.stats()

    assert found.paused == found.by_status[RunStatus.SCHEDULED] == StatusCount(1, {"email": 1}, True)
    assert found.oldest_due is None


def test_the_pauses_that_hold_are_told(jobs: Jobs, clock: Clock):
    jobs.pause("report", reason="the service is down", until=NOW + timedelta(hours=1))
    jobs.pause()
    jobs.pause("email", until=NOW + timedelta(seconds=1))
    clock.advance(seconds=2)

    assert [pause.job_name for pause in jobs.stats().pauses] == [None, "report"]
    assert jobs.stats().pauses == jobs.pauses()


@pytest.mark.long
def test_more_unfinished_runs_than_are_examined_are_counted_and_said_to_be_incomplete(jobs: Jobs, aws: Aws):
    many(aws, 1_500, job_name=lambda index: "early" if index < 1_000 else "late")

    found = jobs.stats()

    assert found.unfinished == UnfinishedCount(total=1_500, complete=True, examined=1_000)
    assert found.by_status["queued"] == StatusCount(1_000, {"early": 1_000}, complete=False)
    assert not found.by_status["running"].complete
    assert found.by_status["failed"].complete
    requests(aws)
    jobs.stats(fresh=True)
    assert requests(aws) == {**ONE_ANSWER, "get_item": 3, "batch_get_item": 11}


def test_more_unfinished_runs_than_are_counted_are_said_to_be_at_least_so_many(
    jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "MOST_UNFINISHED", 40)
    many(aws, 100)

    found = jobs.stats()

    assert found.unfinished == UnfinishedCount(total=40, complete=False, examined=40)
    assert not found.by_status["queued"].complete


def test_the_latest_of_many_failed_runs_are_counted_and_said_to_be_at_least_so_many(
    jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "MOST_LISTED", 16)
    for number in range(64):  # 2 of each partition are among the 16, so that the oldest of the 64 can't be
        ended(aws, "failed", at_ms=NOW_MS - number, run_id=f"f{number}", job_name="old" if number >= 48 else "email")

    count = jobs.stats().by_status["failed"]

    assert (count.total, count.by_job, count.complete) == (16, {"email": 16}, False)


def test_a_partition_that_holds_all_of_them_is_read_on_until_the_limit(
    jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "MOST_LISTED", 16)
    for number in range(12):
        ended(aws, "failed", run_id=f"f{number}", list_shard="failed#3")

    assert jobs.stats().by_status["failed"] == StatusCount(12, {"email": 12}, True)


def test_large_payloads_do_not_make_it_dear(aws: Aws, clock: Clock):
    many(aws, 300)

    def costly(**parameters: Any) -> Any:  # the emulator takes every item for a small one
        reply = aws.dynamodb.batch_get_item(**parameters)
        return reply | {"ConsumedCapacity": [{"TableName": aws.table, "CapacityUnits": 600.0}]}

    jobs = aws.jobs(clock=clock, dynamodb=Client(aws.dynamodb, batch_get_item=costly))

    found = jobs.stats()

    assert found.unfinished == UnfinishedCount(total=300, complete=True, examined=200)
    assert not found.by_status["queued"].complete


def test_a_run_that_ended_a_moment_ago_is_not_counted_as_waiting(jobs: Jobs, aws: Aws):
    aws.a_run(status="succeeded")  # the index is eventually consistent: its entry is still there

    found = jobs.stats()

    assert {status: count.total for status, count in found.by_status.items() if count.total} == {}
    assert found.unfinished.examined == 1


def test_the_run_that_is_due_for_longest_and_has_not_started_is_named(jobs: Jobs, aws: Aws):
    aws.a_running_run(scheduled_for=1)
    aws.a_run(status="scheduled", scheduled_for=NOW_MS + 1)
    aws.a_run(scheduled_for=NOW_MS - 5, job_name="report")
    late = aws.a_run(status="scheduled", scheduled_for=NOW_MS - 60_000, wake_shard=5)

    assert jobs.stats().oldest_due == DueRun(late, "email", NOW - timedelta(minutes=1))


def test_the_hundred_jobs_with_most_runs_are_named(jobs: Jobs, aws: Aws):
    many(aws, 104, job_name=lambda index: "most" if index < 3 else f"job {index}")

    count = jobs.stats().by_status["queued"]

    assert (len(count.by_job), count.by_job["most"], count.by_job["(other)"], count.total) == (101, 3, 2, 104)


@pytest.mark.moto
def test_messages_and_dead_letters_are_counted(jobs: Jobs, aws: Aws):
    sqs = aws.sqs.client
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 200})
    sqs.set_queue_attributes(QueueUrl=aws.queue_url, Attributes={"RedrivePolicy": policy})
    for _ in range(3):
        sqs.send_message(QueueUrl=aws.queue_url, MessageBody="x")
    sqs.send_message(QueueUrl=aws.queue_url, MessageBody="x", DelaySeconds=900)
    sqs.receive_message(QueueUrl=aws.queue_url, MaxNumberOfMessages=1)
    sqs.send_message(QueueUrl=dead, MessageBody="x")

    found = jobs.stats()

    assert found.queue == QueueLengths(waiting=2, in_flight=1, delayed=1)
    assert found.dead_letters == 1
    assert aws.sqs.count() == {"get_queue_attributes": 2}


def test_a_process_that_may_not_ask_the_queues_learns_the_rest(aws: Aws, clock: Clock):
    aws.a_run()
    jobs = aws.jobs(clock=clock, sqs=Client(aws.sqs, get_queue_attributes=denied))

    found = jobs.stats()

    assert (found.queue, found.dead_letters, found.unfinished.total) == (None, None, 1)


def test_a_process_that_may_ask_the_queue_alone_learns_that(aws: Aws, clock: Clock):
    policy = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:dead"})

    def own(*, QueueUrl: str, **parameters: Any) -> Any:
        if QueueUrl != aws.queue_url:
            assert QueueUrl == "https://sqs.us-east-1.amazonaws.com/123456789012/dead"
            denied()
        return {"Attributes": {"ApproximateNumberOfMessages": "7", "RedrivePolicy": policy}}

    jobs = aws.jobs(clock=clock, sqs=Client(aws.sqs, get_queue_attributes=own))

    found = jobs.stats()

    assert (found.queue, found.dead_letters) == (QueueLengths(7, 0, 0), None)


def test_how_far_consumers_are_is_told(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    batch = event(aws.a_run())
    batch["Records"][0]["attributes"] = {"SentTimestamp": str(NOW_MS - 90_000)}
    jobs.consume_batch(batch)

    assert jobs.stats().consumers == ConsumerProgress(sent_at=NOW - timedelta(seconds=90), moved_at=NOW)


def test_the_last_minutes_are_those_that_consumers_counted(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, handlers={"email": lambda ctx: None, "report": raises(ValueError())})
    jobs.consume_batch(event(aws.a_run(), aws.a_run(), aws.a_run(job_name="report", max_attempts=1)))
    clock.advance(minutes=2)
    jobs.consume_batch(event(aws.a_run()))

    first, between, last = jobs.stats(minutes=3).minutes

    assert {job: counts[:5] for job, counts in first.by_job.items()} == {
        "email": (2, 0, 0, 0, 0),
        "report": (0, 0, 1, 0, 0),
    }
    assert first.total[:5] == (2, 0, 1, 0, 0)
    assert (between.by_job, last.by_job["email"].succeeded) == ({}, 1)
    assert [minute.start for minute in (first, between, last)] == [NOW + timedelta(minutes=each) for each in range(3)]


def test_a_minute_is_the_sum_of_its_four_items(jobs: Jobs, aws: Aws):
    for shard in range(4):
        a_minute(aws, MINUTE - 59, shard, **{"failed|a|b": 2, "ms|a|b": 30, "told_by": "x"})

    assert jobs.stats(minutes=60).minutes[0].by_job == {"a|b": OutcomeCounts(failed=8, milliseconds=120)}


def test_what_is_none_of_our_counts_is_passed_over(jobs: Jobs, aws: Aws):
    a_minute(aws, MINUTE, **{"failed|email": "many", "exploded|email": 3, "failed": 4, "milliseconds|x": 1, "|x": 2})

    assert jobs.stats().minutes[-1].by_job == {}


def test_one_answer_is_a_bounded_number_of_requests_of_the_cheap_kind(jobs: Jobs, aws: Aws):
    jobs.stats()

    assert not [parameters for parameters in aws.dynamodb.parameters("query") if parameters.get("ConsistentRead")]
    assert [
        keys.get("ConsistentRead", False)
        for parameters in aws.dynamodb.parameters("batch_get_item")
        for keys in parameters["RequestItems"].values()
    ] == [False]
    assert requests(aws) == ONE_ANSWER


def test_an_answer_is_given_again_for_five_seconds(jobs: Jobs, aws: Aws, clock: Clock):
    first = jobs.stats()
    aws.a_run()
    requests(aws)

    clock.advance(seconds=4, milliseconds=999)
    assert jobs.stats() is first
    assert requests(aws) == {}

    clock.advance(milliseconds=1)
    assert (jobs.stats().as_of, jobs.stats().unfinished.total) == (clock.now, 1)


def test_a_fresh_answer_is_read_anew_and_given_to_later_askers(jobs: Jobs, aws: Aws):
    jobs.stats()
    aws.a_run()

    assert jobs.stats(fresh=True).unfinished.total == 1
    assert jobs.stats().unfinished.total == 1


@pytest.mark.parametrize("fresh", [False, True])
def test_several_askers_at_once_cost_one_computation(aws: Aws, clock: Clock, fresh: bool):
    askers = 6
    asked = threading.Semaphore(0)
    first = threading.Event()

    def slow(**parameters: Any) -> Any:
        if not first.is_set():
            first.set()
            for _ in range(askers):
                asked.acquire()
        return aws.dynamodb.query(**parameters)

    jobs = aws.jobs(clock=clock, dynamodb=Client(aws.dynamodb, query=slow))
    found = []

    def ask(count: int = 1) -> None:
        asked.release(count)
        found.append(jobs.stats(fresh=fresh))

    begun = threading.Thread(target=lambda: found.append(jobs.stats()))
    begun.start()
    assert first.wait(60)
    threads = [threading.Thread(target=ask) for _ in range(askers)]
    for thread in threads:
        thread.start()
    for thread in (begun, *threads):
        thread.join()

    assert len(found) == askers + 1
    # Who asks for a fresh answer does not take one that was begun before, but all of them share the next one.
    assert aws.dynamodb.count()["query"] == (80 if fresh else 40)


def test_processes_of_several_people_share_an_answer_through_the_table(aws: Aws, clock: Clock):
    aws.a_run(scheduled_for=NOW_MS - 1)
    ended(aws, "failed", error_type="ValueError")
    ended(aws, "failed")
    aws.jobs(clock=clock).pause("report", until=NOW + timedelta(hours=1), reason="down")
    aws.jobs(clock=clock).pause()
    a_minute(aws, MINUTE, **{"failed|email": 1, "ms|email": 5})
    aws.dynamodb.client.put_item(
        TableName=aws.table,
        Item={"pk": {"S": "progress#queue"}, "sk": {"S": "progress"}, "sent_ms": {"N": "5"}, "moved_ms": {"N": "6"}},
    )
    first = aws.jobs(clock=clock).stats()
    requests(aws)
    clock.advance(seconds=4)

    second = aws.jobs(clock=clock).stats()

    assert second == first
    assert len(second.failures) == 2
    assert requests(aws) == {"get_item": 1}
    clock.advance(seconds=1)
    assert aws.jobs(clock=clock).stats().as_of == clock.now


def test_more_minutes_than_the_shared_answer_has_are_read_alone(aws: Aws, clock: Clock):
    a_minute(aws, MINUTE - 59, **{"failed|email": 1})
    aws.jobs(clock=clock).stats()
    requests(aws)
    jobs = aws.jobs(clock=clock)

    assert jobs.stats(minutes=60).minutes[0].total.failed == 1
    assert requests(aws) == {"get_item": 1, "batch_get_item": 3}
    assert len(jobs.stats(minutes=60).minutes) == 60
    assert len(jobs.stats(minutes=1).minutes) == 1
    assert requests(aws) == {}


def test_a_process_that_may_not_write_the_shared_answer_answers_its_own_askers(
    aws: Aws, clock: Clock, caplog: pytest.LogCaptureFixture
):
    jobs = aws.jobs(clock=clock, dynamodb=Client(aws.dynamodb, put_item=denied))

    first = jobs.stats()

    assert jobs.stats() is first
    assert not caplog.records


def test_a_process_that_may_not_read_the_shared_answer_reads_for_itself(aws: Aws, clock: Clock):
    def read(**parameters: Any) -> Any:
        return denied() if parameters["Key"]["pk"]["S"].startswith("counts#") else aws.dynamodb.get_item(**parameters)

    aws.a_run()
    jobs = aws.jobs(clock=clock, dynamodb=Client(aws.dynamodb, get_item=read))

    assert jobs.stats().unfinished.total == 1


@pytest.mark.parametrize(
    "stored",
    [
        5,
        "",
        "null",
        "{}",
        "[1]",
        f'{{"form":2,"as_of":{NOW_MS}}}',
        f'{{"form":3,"as_of":{NOW_MS}}}',
        '{"form":2,"as_of":"now"}',
    ],
)
def test_a_shared_answer_that_cannot_be_read_is_replaced(jobs: Jobs, aws: Aws, stored: Any):
    value = {"N": str(stored)} if isinstance(stored, int) else {"S": stored}
    item = {"pk": {"S": "counts#snapshot"}, "sk": {"S": "counts"}, "stats": value}
    aws.dynamodb.client.put_item(TableName=aws.table, Item=item)

    jobs.stats()

    [item] = [item for item in aws.items() if item["pk"] == "counts#snapshot"]
    assert json.loads(item["stats"])["as_of"] == NOW_MS
    assert item["expires_at"] == NOW_MS // 1000 + 86_400


@pytest.mark.parametrize("form", [1, 3])
def test_a_shared_answer_of_another_release_is_not_given(aws: Aws, clock: Clock, form: int):
    aws.jobs(clock=clock).stats()
    ended(aws, "failed", error_type="ValueError")
    [item] = [item for item in aws.items() if item["pk"] == "counts#snapshot"]
    stored = json.loads(item["stats"]) | {"form": form}
    if form == 1:
        del stored["failures"]
    value = {"pk": {"S": "counts#snapshot"}, "sk": {"S": "counts"}, "stats": {"S": json.dumps(stored)}}
    aws.dynamodb.client.put_item(TableName=aws.table, Item=value)

    assert aws.jobs(clock=clock).stats().by_status["failed"].total == 1


def test_a_shared_answer_of_a_clock_that_is_far_ahead_is_not_given(aws: Aws, clock: Clock):
    aws.jobs(clock=Clock(NOW + timedelta(minutes=1))).stats()

    assert aws.jobs(clock=clock).stats().as_of == NOW


def test_an_answer_that_is_too_large_is_not_shared(jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "SNAPSHOT_BYTES", 100)

    jobs.stats()

    assert "put_item" not in requests(aws)


def test_an_error_of_the_table_is_raised_and_the_next_asker_is_answered(aws: Aws, clock: Clock):
    broken = [True]

    def query(**parameters: Any) -> Any:
        if broken:
            raise ConnectionClosedError(endpoint_url="https://aws.invalid")
        return aws.dynamodb.query(**parameters)

    jobs = aws.jobs(clock=clock, dynamodb=Client(aws.dynamodb, query=query))
    with pytest.raises(ConnectionClosedError) as failure:
        jobs.stats()
    assert "KUMOFIRE_TABLE" in str(failure.value.__notes__)

    broken.clear()
    assert jobs.stats().as_of == NOW
