"""What consumers count: each outcome once, by minute and job, at a bounded price, and without harm to any run."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from kumofire_core import Jobs, Outcome
from kumofire_core.engine import counts
from kumofire_core.engine.consumer import ConsumeResult
from kumofire_core.engine.sqs_batch import run_batch
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.model.times import to_ms
from tests.builders import NOW_MS, Aws, Clock, LambdaContext, event, message, raises

pytestmark = pytest.mark.usefixtures("counts_awaited")

COUNTED = "counts#"


class Counting:
    """A client that does something of its own with the writes to counter items; all else goes on to the emulator."""

    def __init__(self, aws: Aws, write: Callable[[Callable[[], Any]], Any]) -> None:
        self._aws = aws
        self._write = write
        self.tried: list[dict[str, Any]] = []

    def __getattr__(self, operation: str) -> Any:
        return getattr(self._aws.dynamodb, operation)

    def update_item(self, **parameters: Any) -> Any:
        if not parameters["Key"]["pk"]["S"].startswith(COUNTED):
            return self._aws.dynamodb.update_item(**parameters)
        self.tried.append(parameters)
        return self._write(lambda: self._aws.dynamodb.update_item(**parameters))


def throttled(make: Callable[[], Any]) -> Any:
    raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "no"}}, "UpdateItem")


def counted(aws: Aws) -> Counter[str]:
    """Return the sums of all counter items, by attribute."""
    sums: Counter[str] = Counter()
    for item in items(aws):
        sums.update({name: value for name, value in item.items() if "|" in name and not name.startswith("ms|")})
    return sums


def items(aws: Aws) -> list[dict[str, Any]]:
    return [item for item in aws.items() if item["pk"].startswith(COUNTED) and item["pk"] != "counts#snapshot"]


def writes(aws: Aws) -> int:
    """Return how many requests to counter items were made."""
    made = aws.dynamodb.parameters("update_item")
    return sum(parameters["Key"]["pk"]["S"].startswith(COUNTED) for parameters in made)


def consume(jobs: Jobs, aws: Aws, size: int = 10, **fields: Any) -> None:
    jobs.consume_batch(event(*(aws.a_run(**fields) for _ in range(size))))


@pytest.fixture
def counting(aws: Aws, clock: Clock) -> Jobs:
    """A ``Jobs`` with a handler that succeeds and one that does not."""
    return aws.jobs(clock=clock, concurrency=1, handlers={"email": lambda ctx: None, "report": raises(ValueError())})


def test_each_outcome_is_counted_by_its_job(counting: Jobs, aws: Aws):
    runs = [aws.a_run(), aws.a_run(), aws.a_run(status="succeeded"), aws.a_run(job_name="report")]
    runs += [aws.a_run(job_name="report", max_attempts=1), aws.a_run(job_name="unheard of")]

    counting.consume_batch(event(*runs, "nobody"))

    assert counted(aws) == {
        "succeeded|email": 2,
        "ignored|email": 1,
        "retried|report": 1,
        "failed|report": 1,
        "failed|(other)": 1,
        "ignored|(other)": 1,
    }


def test_a_canceled_attempt_is_counted(counting: Jobs, aws: Aws):
    counting.handler("slow")(lambda ctx: counting.cancel(ctx.run.id) and raises(ValueError())(ctx))

    counting.consume_batch(event(aws.a_run(job_name="slow")))

    assert counted(aws) == {"canceled|slow": 1}


def test_what_handlers_took_is_added_in_milliseconds(counting: Jobs, aws: Aws):
    took = [timedelta(microseconds=400)] * 5 + [timedelta(days=1, seconds=1)]
    teller = counts.CountTeller(counting._store)

    teller.count([ConsumeResult(Outcome.SUCCEEDED, "x", "email", 1, each) for each in took])
    teller.tell()

    [item] = items(aws)
    assert (item["succeeded|email"], item["ms|email"]) == (6, 2 + 86_401_000)


def test_an_item_has_its_minute_in_its_key_and_ttl_deletes_it_two_days_later(counting: Jobs, aws: Aws):
    consume(counting, aws, 1)

    [item] = items(aws)
    minute, shard = map(int, item["pk"].removeprefix(COUNTED).split("-"))
    assert (item["sk"], minute, shard in range(4)) == ("counts", NOW_MS // 60_000, True)
    assert (item["schema"], item["expires_at"]) == (1, NOW_MS // 1000 + 2 * 86_400)


def test_the_first_batch_writes_and_full_ones_only_every_ten_seconds(counting: Jobs, aws: Aws, clock: Clock):
    consume(counting, aws)
    assert writes(aws) == 1

    for _ in range(3):
        clock.advance(seconds=3)
        consume(counting, aws)
    assert writes(aws) == 1

    clock.advance(seconds=1)
    consume(counting, aws)
    assert writes(aws) == 2
    assert counted(aws) == {"succeeded|email": 50}


def test_the_end_of_a_burst_is_counted(counting: Jobs, aws: Aws, clock: Clock):
    consume(counting, aws)
    clock.advance(seconds=0.5)
    consume(counting, aws)
    clock.advance(seconds=0.5)

    consume(counting, aws, 3)  # the queue has no ten messages any more: perhaps no further batch comes

    assert writes(aws) == 2
    assert counted(aws) == {"succeeded|email": 23}


def test_small_batches_write_once_a_second_at_most(counting: Jobs, aws: Aws, clock: Clock):
    for _ in range(10):
        consume(counting, aws, 1)
        clock.advance(milliseconds=500)

    assert writes(aws) == 5
    assert counted(aws) == {"succeeded|email": 9}


def test_counts_of_a_minute_that_is_over_go_to_that_minute(counting: Jobs, aws: Aws, clock: Clock):
    clock.advance(seconds=55)
    consume(counting, aws)
    clock.advance(seconds=4)
    consume(counting, aws)
    clock.advance(minutes=30)  # Lambda freezes a process between two batches

    consume(counting, aws, 2)

    by_minute: Counter[int] = Counter()
    for item in items(aws):
        by_minute[int(item["pk"].removeprefix(COUNTED).split("-")[0]) - NOW_MS // 60_000] += item["succeeded|email"]
    assert by_minute == {0: 20, 30: 2}
    assert writes(aws) == 3


def test_a_batch_without_an_outcome_writes_nothing(counting: Jobs, aws: Aws):
    counting.consume_batch({"Records": [{"messageId": "m", "body": "malformed"}]})
    counting.consume_batch({"Records": []})

    assert writes(aws) == 0


def test_a_run_that_is_consumed_without_a_batch_is_not_counted(counting: Jobs, aws: Aws):
    counting.consume(message(aws.a_run()))

    assert not items(aws)


def test_counting_can_be_switched_off(aws: Aws):
    jobs = aws.jobs(counts=False, handlers={"email": lambda ctx: None})

    consume(jobs, aws)

    assert writes(aws) == 0


def test_a_lost_reply_counts_once(aws: Aws, clock: Clock):
    def twice(make: Callable[[], Any]) -> Any:
        make()
        return make()  # the SDK repeats a request whose reply was lost

    client = Counting(aws, twice)
    jobs = aws.jobs(dynamodb=client, clock=clock, handlers={"email": lambda ctx: None})

    consume(jobs, aws)
    clock.advance(seconds=10)
    consume(jobs, aws)

    assert len(client.tried) == 2
    assert counted(aws) == {"succeeded|email": 20}


def test_a_write_that_was_made_but_never_answered_counts_once(aws: Aws, clock: Clock):
    answers = iter([False, True, True])

    def unanswered(make: Callable[[], Any]) -> Any:
        made = make()
        if not next(answers):
            raise ConnectionClosedError(endpoint_url="https://aws.invalid")
        return made

    client = Counting(aws, unanswered)
    jobs = aws.jobs(dynamodb=client, clock=clock, handlers={"email": lambda ctx: None})

    consume(jobs, aws)
    clock.advance(seconds=10)
    consume(jobs, aws, 5)

    assert len(client.tried) == 3
    assert counted(aws) == {"succeeded|email": 15}


def test_a_throttled_counter_keeps_its_counts_and_no_run_waits_for_it(
    aws: Aws, clock: Clock, caplog: pytest.LogCaptureFixture
):
    client = Counting(aws, throttled)
    jobs = aws.jobs(dynamodb=client, clock=clock, handlers={"email": lambda ctx: None})
    consume(jobs, aws)
    assert "the counts for the stats could not be written (ClientError ThrottlingException)" in caplog.text
    assert {item["status"] for item in aws.items()} == {"succeeded"}

    client._write = lambda make: make()
    clock.advance(seconds=10)
    consume(jobs, aws)

    assert counted(aws) == {"succeeded|email": 20}


@pytest.mark.long
def test_a_table_that_goes_on_throttling_is_asked_less_and_less_often(aws: Aws, clock: Clock):
    client = Counting(aws, throttled)
    jobs = aws.jobs(dynamodb=client, clock=clock, handlers={"email": lambda ctx: None})

    moments = []
    for second in range(200):
        before = len(client.tried)
        consume(jobs, aws, 1)
        moments += [second] * (len(client.tried) - before)
        clock.advance(seconds=1)

    assert moments == [0, 10, 30, 70, 130, 190]
    client._write = lambda make: make()
    clock.advance(seconds=60)
    consume(jobs, aws, 1)
    clock.advance(seconds=1)
    consume(jobs, aws, 1)
    clock.advance(seconds=1)
    consume(jobs, aws, 1)
    assert counted(aws) == {"succeeded|email": 203}


def test_counts_of_more_than_an_hour_ago_are_given_up(aws: Aws, clock: Clock):
    client = Counting(aws, throttled)
    jobs = aws.jobs(dynamodb=client, clock=clock, handlers={"email": lambda ctx: None})
    consume(jobs, aws)
    clock.advance(seconds=5)
    consume(jobs, aws)
    client._write = lambda make: make()
    clock.advance(minutes=62)

    consume(jobs, aws, 1)

    assert counted(aws) == {"succeeded|email": 1}


def test_a_process_that_may_not_write_counts_says_so_once_and_consumes_on(
    aws: Aws, clock: Clock, caplog: pytest.LogCaptureFixture
):
    def denied(make: Callable[[], Any]) -> Any:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "UpdateItem")

    client = Counting(aws, denied)
    jobs = aws.jobs(dynamodb=client, clock=clock, handlers={"email": lambda ctx: None})

    for _ in range(3):
        consume(jobs, aws)
        clock.advance(minutes=1)

    told = [record for record in caplog.records if "may not write its counts" in record.message]
    assert [record.levelno for record in told] == [logging.WARNING]
    assert len(client.tried) == 1


def test_near_the_deadline_nothing_is_written_and_the_counts_are_kept(aws: Aws, clock: Clock):
    deadline = Deadline(60.0)

    def handler(ctx: Any) -> None:
        deadline.ends = time.monotonic() + deadline.reserve + 0.3  # it took almost all of the time

    jobs = aws.jobs(clock=clock, handlers={"email": handler})
    batch = event(aws.a_run())
    run_batch(batch, jobs._consumer, deadline=deadline, concurrency=1, counts=jobs._count_teller)
    assert counted(aws) == {}

    jobs.run_batch(event(aws.a_run()), LambdaContext())

    assert counted(aws) == {"succeeded|email": 2}


def test_an_item_of_a_later_release_is_left_alone(counting: Jobs, aws: Aws):
    for shard in range(4):
        key = {"pk": {"S": f"counts#{NOW_MS // 60_000}-{shard}"}, "sk": {"S": "counts"}, "schema": {"N": "2"}}
        aws.dynamodb.client.put_item(TableName=aws.table, Item=key)

    consume(counting, aws)

    assert counted(aws) == {}


def test_at_most_a_hundred_jobs_are_counted_by_name_and_every_process_chooses_the_same(aws: Aws, clock: Clock):
    names = [f"job {number}" for number in range(102)]
    results = [ConsumeResult(Outcome.SUCCEEDED, "x", name) for name in names]
    for order in (results, results[::-1]):
        teller = counts.CountTeller(aws.jobs(clock=clock, handlers=dict.fromkeys(names, print))._store)
        teller.count(order)
        teller.tell()

    assert counted(aws) == {**{f"succeeded|{name}": 2 for name in names[:100]}, "succeeded|(other)": 4}


def test_long_names_do_not_make_an_item_too_large(aws: Aws):
    names = [chr(0x1F600 + number) * 255 for number in range(10)] + ["short"]  # 1,020 bytes each
    teller = counts.CountTeller(aws.jobs(handlers=dict.fromkeys(names, print))._store)

    teller.count([ConsumeResult(Outcome.SUCCEEDED, "x", name) for name in names])
    teller.tell()

    assert counted(aws) == {**{f"succeeded|{name}": 1 for name in [*names[:4], "short"]}, "succeeded|(other)": 6}


def test_a_job_that_is_registered_after_the_first_batch_is_counted_by_its_name(counting: Jobs, aws: Aws, clock: Clock):
    consume(counting, aws, 1)
    counting.handler("late")(lambda ctx: None)
    clock.advance(seconds=1)

    consume(counting, aws, 1, job_name="late")

    assert counted(aws) == {"succeeded|email": 1, "succeeded|late": 1}


def test_an_expression_stays_within_dynamodbs_limits(aws: Aws, clock: Clock):
    # 300 operators, and 4 KB: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
    names = [f"job {number}" for number in range(100)]
    teller = counts.CountTeller(aws.jobs(clock=clock, handlers=dict.fromkeys(names, print))._store)
    for outcome in Outcome:
        teller.count([ConsumeResult(outcome, "x", name, 1, timedelta(seconds=1)) for name in names])

    for _ in range(3):
        teller.tell()

    made = aws.dynamodb.parameters("update_item")
    assert max(len(parameters["UpdateExpression"].encode()) for parameters in made) <= 4096
    assert [parameters["UpdateExpression"].count(" :a") for parameters in made] == [100] * 6
    assert counted(aws) == {f"{outcome}|{name}": 1 for outcome in Outcome for name in names}
    assert sum(value for item in items(aws) for name, value in item.items() if name.startswith("ms|")) == 500_000


def test_a_clock_that_goes_back_does_not_stop_the_counting(counting: Jobs, aws: Aws, clock: Clock):
    consume(counting, aws, 1)
    clock.advance(hours=-1)

    consume(counting, aws, 1, scheduled_for=0)

    assert counted(aws) == {"succeeded|email": 2}
    assert {int(item["pk"].removeprefix(COUNTED).split("-")[0]) for item in items(aws)} == {
        to_ms(clock.now) // 60_000,
        NOW_MS // 60_000,
    }
