"""Creating runs: what is stored and sent, what is refused before anything is written, one run for one key."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from kumofire_core import DedupeKeyConflictError, InvalidArgumentError, InvalidJSONError, Jobs, UnknownJobError
from tests.builders import NOW, NOW_MS, Aws, Clock, message
from tests.faults import Outage, Refused
from tests.input.test_json_codec import JSON


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    return aws.jobs(clock=clock, handlers={"email": lambda ctx: None})


def test_a_run_due_now_is_queued_and_its_message_sent(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", {"to": "user@example.com"})

    run = jobs.get_status(run_id)
    assert (run.id, run.job_name, run.payload) == (run_id, "email", {"to": "user@example.com"})
    assert (run.status, run.attempt, run.max_attempts) == ("queued", 0, 3)
    assert run.scheduled_for == run.created_at == run.updated_at == NOW
    assert run.started_at is run.finished_at is run.last_error is run.output is None
    assert aws.sent() == [(run_id, 0)]


def test_the_message_reaches_the_queue_as_version_and_run_id_alone(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", {"to": "user@example.com"})

    [received] = aws.sqs.client.receive_message(QueueUrl=aws.queue_url)["Messages"]
    assert received["Body"] == f'{{"version":1,"kumofireJobRunId":"{run_id}"}}'


def test_ids_are_unique(jobs: Jobs):
    assert len({jobs.create("email") for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [(90, 90), (timedelta(seconds=90), 90), (0.001, 1), (1.5, 2), (timedelta(minutes=15), 900), (899.999, 900)],
)
def test_a_delay_within_15_minutes_is_sent_at_once_with_its_seconds_rounded_up(
    jobs: Jobs, aws: Aws, delay: Any, seconds: int
):
    run_id = jobs.create("email", delay=delay)

    length = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
    run = jobs.get_status(run_id)
    assert (run.status, run.scheduled_for) == ("scheduled", NOW + length)
    assert aws.sent() == [(run_id, seconds)]


@pytest.mark.parametrize("delay", [timedelta(minutes=15, milliseconds=1), timedelta(days=400)])
def test_a_longer_delay_is_left_to_the_dispatcher(jobs: Jobs, aws: Aws, delay: timedelta):
    run_id = jobs.create("email", delay=delay)

    assert jobs.get_status(run_id).status == "scheduled"
    assert aws.sent() == []
    assert aws.item(run_id)["wake_at"] == aws.item(run_id)["scheduled_for"]


@pytest.mark.parametrize("delay", [0, 0.0, timedelta(0), None])
def test_no_delay_is_now(jobs: Jobs, aws: Aws, delay: Any):
    run_id = jobs.create("email", delay=delay)

    assert jobs.get_status(run_id).status == "queued"
    assert aws.sent() == [(run_id, 0)]


def test_run_at_may_be_in_any_time_zone_and_reads_back_in_utc(jobs: Jobs):
    run_at = datetime(2026, 3, 14, 15, 0, tzinfo=timezone(timedelta(hours=2)))

    run = jobs.get_status(jobs.create("email", run_at=run_at))

    assert run.scheduled_for == run_at
    assert run.scheduled_for.tzinfo is UTC


def test_run_at_in_the_past_is_due_now(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", run_at=NOW - timedelta(days=1))

    assert jobs.get_status(run_id).status == "queued"
    assert aws.sent() == [(run_id, 0)]


@pytest.mark.parametrize("arguments", [{}, {"delay": 60}, {"delay": 899}, {"delay": 86_400}])
def test_every_new_run_has_a_wake_up_in_the_index_not_before_it_is_due(jobs: Jobs, aws: Aws, arguments: dict[str, Any]):
    run_id = jobs.create("email", **arguments)

    item = aws.item(run_id)
    shard = {":shard": {"N": str(item["wake_shard"])}}
    [entry] = aws.dynamodb.client.query(
        TableName=aws.table,
        IndexName="wake",
        KeyConditionExpression="wake_shard = :shard",
        ExpressionAttributeValues=shard,
    )["Items"]
    assert entry["pk"]["S"] == f"run#{run_id}"
    assert int(entry["wake_at"]["N"]) >= item["scheduled_for"]


def test_wake_ups_are_spread_over_the_shards(aws: Aws):
    jobs = aws.jobs(wake_shards=4)

    shards = {aws.item(jobs.create("email"))["wake_shard"] for _ in range(60)}

    assert shards == {0, 1, 2, 3}


def test_a_new_run_does_not_expire(jobs: Jobs, aws: Aws):
    assert "expires_at" not in aws.item(jobs.create("email"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(JSON, JSON)
def test_any_json_value_comes_back_equal_from_create_consume_and_output(
    aws: Aws, clock: Clock, payload: Any, output: Any
):
    seen = []
    jobs = aws.jobs(clock=clock, handlers={"email": lambda ctx: seen.append(ctx.payload) or output})

    run_id = jobs.create("email", payload)
    result = jobs.consume(message(run_id))

    assert result.outcome == "succeeded"
    assert seen == [payload]
    run = jobs.get_status(run_id)
    assert (run.payload, run.output) == (payload, output)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name": "typo"}, UnknownJobError, "no handler for job 'typo' (registered: email)"),
        ({"name": ""}, InvalidArgumentError, "name must have 1 to 255 characters, not 0"),
        ({"name": "x" * 256}, InvalidArgumentError, "name must have 1 to 255 characters, not 256"),
        ({"name": 5}, InvalidArgumentError, "name must be a string, not int"),
        ({"name": "a\nb"}, InvalidArgumentError, "can't be printed"),
        ({"payload": float("nan")}, InvalidJSONError, "the payload is not JSON: value is NaN"),
        ({"payload": {"x": float("inf")}}, InvalidJSONError, "infinite"),
        ({"payload": b"bytes"}, InvalidJSONError, "value is of type bytes"),
        ({"payload": {1: 2}}, InvalidJSONError, "JSON keys are strings"),
        ({"payload": "x" * 400 * 1024}, InvalidJSONError, "DynamoDB's item limit"),
        ({"payload": "é" * 200 * 1024}, InvalidJSONError, "DynamoDB's item limit"),
        ({"run_at": datetime(2026, 3, 14)}, InvalidArgumentError, "run_at is 2026-03-14T00:00:00, which has no time"),
        ({"run_at": "tomorrow"}, InvalidArgumentError, "run_at must be a datetime with a time zone, not str"),
        ({"run_at": NOW, "delay": 5}, InvalidArgumentError, "either run_at or delay"),
        ({"delay": -1}, InvalidArgumentError, "delay must not be negative, and is -1"),
        ({"delay": -0.5}, InvalidArgumentError, "delay must not be negative, and is -0.5"),
        ({"delay": float("-inf")}, InvalidArgumentError, "delay must not be negative, and is -inf"),
        ({"delay": timedelta(seconds=-1)}, InvalidArgumentError, "and is -datetime.timedelta(seconds=1)"),
        ({"delay": True}, InvalidArgumentError, "delay must be a timedelta or a number of seconds, not bool"),
        ({"delay": "5"}, InvalidArgumentError, "delay must be a timedelta or a number of seconds, not str"),
        ({"delay": float("nan")}, InvalidArgumentError, "delay must be a number of seconds, and nan is not a number"),
        ({"delay": float("inf")}, InvalidArgumentError, "delay of inf seconds"),
        ({"max_attempts": 0}, InvalidArgumentError, "max_attempts must be a whole number of at least 1, not 0"),
        ({"max_attempts": -3}, InvalidArgumentError, "max_attempts must be"),
        ({"max_attempts": 1.5}, InvalidArgumentError, "max_attempts must be"),
        ({"max_attempts": True}, InvalidArgumentError, "max_attempts must be"),
        ({"max_attempts": "3"}, InvalidArgumentError, "max_attempts must be"),
        ({"dedupe_key": ""}, InvalidArgumentError, "dedupe_key must have 1 to 1024 characters, not 0"),
        ({"dedupe_key": "x" * 1025}, InvalidArgumentError, "dedupe_key must have 1 to 1024 characters, not 1025"),
        ({"dedupe_key": 7}, InvalidArgumentError, "dedupe_key must be a string, not int"),
        ({"dedupe_key": "\ud800"}, InvalidArgumentError, "dedupe_key holds half a surrogate pair"),
    ],
    ids=lambda value: None if isinstance(value, type) else ascii(value)[:40],
)
def test_what_can_not_be_used_is_refused_before_anything_is_written(
    jobs: Jobs, aws: Aws, arguments: dict[str, Any], error: type[Exception], text: str
):
    with pytest.raises(error, match=re.escape(text)):
        jobs.create(**({"name": "email"} | arguments))

    assert aws.dynamodb.requests == aws.sqs.requests == []


def test_the_largest_payload_fits_with_everything_else_at_its_largest(aws: Aws):
    name, key = "é" * 255, "é" * 1024
    jobs = aws.jobs()
    jobs.handler(name, max_attempts=2)(lambda ctx: (_ for _ in ()).throw(ValueError("é" * 5000)))
    room = 400 * 1024 - 24 * 1024 - 2

    run_id = jobs.create(name, "x" * room, dedupe_key=key)
    jobs.consume(message(run_id))

    item = aws.item(run_id)
    size = sum(len(attribute) + len(str(value).encode()) for attribute, value in item.items())
    assert size < 400 * 1024
    with pytest.raises(InvalidJSONError):
        jobs.create(name, "x" * (room + 1))


def test_any_name_may_be_created_where_no_handler_is_registered(aws: Aws):
    jobs = aws.jobs()

    assert jobs.get_status(jobs.create("anything")).job_name == "anything"


def test_a_process_that_only_creates_may_opt_out_of_the_check_of_names(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: None}, allow_unknown_jobs=True)

    assert jobs.get_status(jobs.create("elsewhere")).job_name == "elsewhere"


def test_the_limit_of_a_run_whose_creator_knows_no_handler_is_its_job_s(aws: Aws):
    run_id = aws.jobs().create("email")
    consumer = aws.jobs()
    consumer.handler("email", max_attempts=1)(lambda ctx: 1 / 0)

    assert "max_attempts" not in aws.item(run_id)
    assert consumer.consume(message(run_id)).outcome == "failed"
    assert aws.item(run_id)["max_attempts"] == 1


def test_a_dedupe_key_makes_one_run_and_sends_one_message(jobs: Jobs, aws: Aws):
    first = jobs.create("email", {"n": 1}, dedupe_key="order-7")
    second = jobs.create("email", {"n": 2}, dedupe_key="order-7", delay=60)

    assert first == second
    run = jobs.get_status(first)
    assert (run.payload, run.dedupe_key, run.scheduled_for) == ({"n": 1}, "order-7", NOW)
    assert len(aws.items()) == 1
    assert aws.sent() == [(first, 0)]


def test_a_dedupe_key_is_decided_by_one_conditional_put_and_no_read(jobs: Jobs, aws: Aws):
    jobs.create("email", dedupe_key="k")
    jobs.create("email", dedupe_key="k")

    assert aws.dynamodb.count() == {"put_item": 2}
    assert all("attribute_not_exists" in put["ConditionExpression"] for put in aws.dynamodb.parameters("put_item"))


def test_a_dedupe_key_finds_its_run_when_that_is_finished_and_does_not_start_it_again(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", dedupe_key="k")
    jobs.consume(message(run_id))

    assert jobs.create("email", dedupe_key="k") == run_id
    assert jobs.get_status(run_id).status == "succeeded"
    assert len(aws.sent()) == 1


def test_a_dedupe_key_of_another_job_s_run_is_refused_and_names_both_jobs_the_key_and_the_run(aws: Aws):
    jobs = aws.jobs()
    run_id = jobs.create("email", {"n": 1}, dedupe_key="order-7")
    stored = aws.item(run_id)

    with pytest.raises(DedupeKeyConflictError, match=f"'order-7' belongs to run {run_id} of job 'email'") as caught:
        jobs.create("invoice", dedupe_key="order-7")

    assert "job 'invoice'" in str(caught.value)
    assert isinstance(caught.value, InvalidArgumentError)
    error = caught.value
    assert (error.dedupe_key, error.job_name) == ("order-7", "invoice")
    assert (error.run_id, error.found_job_name) == (run_id, "email")
    assert aws.items() == [stored]
    assert aws.sent() == [(run_id, 0)]
    assert aws.dynamodb.count() == {"put_item": 2}


def test_the_run_of_a_dedupe_key_has_the_id_that_earlier_releases_gave_it(jobs: Jobs):
    assert jobs.create("email", dedupe_key="order-7") == "5bd3ae028531323622db2142fb5d53bc26370f26"


def test_different_dedupe_keys_make_different_runs(jobs: Jobs):
    keys = ["a", "A", "a ", "á", "x" * 1024, "x" * 1023, "😀", "run#a"]

    assert len({jobs.create("email", dedupe_key=key) for key in keys}) == len(keys)


def test_runs_without_a_dedupe_key_are_all_their_own(jobs: Jobs, aws: Aws):
    jobs.create("email")
    jobs.create("email")

    assert len(aws.items()) == 2


def test_a_run_whose_message_could_not_be_sent_is_stored_with_its_wake_up_and_logged(
    aws: Aws, caplog: pytest.LogCaptureFixture
):
    jobs = aws.jobs(sqs=Refused("ServiceUnavailable"))

    with caplog.at_level(logging.ERROR):
        run_id = jobs.create("email", {"password": "hunter2"})

    assert jobs.get_status(run_id).status == "queued"
    assert aws.item(run_id)["wake_at"] > NOW_MS
    [line] = caplog.records
    assert line.job_run_id == run_id
    assert "ServiceUnavailable" in line.getMessage()
    assert "hunter2" not in str(line.__dict__)


def test_a_table_that_can_not_be_reached_raises_and_sends_nothing(aws: Aws):
    jobs = aws.jobs(dynamodb=Outage(applied=False, lasting=True).wrap(aws.dynamodb))

    with pytest.raises(Exception, match="Connection was closed"):
        jobs.create("email")

    assert aws.sqs.requests == []
    assert aws.items() == []


def test_an_id_that_does_not_exist_has_no_status(jobs: Jobs):
    assert jobs.get_status("nobody") is None


@pytest.mark.parametrize("run_id", ["", "x" * 129, "a\nb", "\ud800"])
def test_what_can_not_be_a_run_id_is_an_unknown_one(jobs: Jobs, aws: Aws, run_id: str):
    assert jobs.get_status(run_id) is None
    assert aws.dynamodb.requests == []


@pytest.mark.parametrize("run_id", [None, 5, b"x"])
def test_a_run_id_that_is_no_text_is_refused(jobs: Jobs, run_id: Any):
    with pytest.raises(InvalidArgumentError, match="a run id must be a string, not"):
        jobs.get_status(run_id)


@pytest.mark.parametrize("delay", [timedelta.max, 8e13])
def test_a_delay_beyond_the_last_year_is_refused_before_anything_is_written(jobs: Jobs, aws: Aws, delay: Any):
    with pytest.raises(InvalidArgumentError, match="delay"):
        jobs.create("email", delay=delay)

    assert aws.dynamodb.requests == []


def test_a_run_at_that_has_no_utc_form_is_refused(jobs: Jobs):
    with pytest.raises(InvalidArgumentError, match="run_at"):
        jobs.create("email", run_at=datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))))
