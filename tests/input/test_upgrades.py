"""Two releases meet in one table during a deployment: each must read the other's items, or leave them to the other."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from kumofire_core import Jobs, NewerSchemaError
from kumofire_core.model.write import LATEST_SCHEMA
from tests.builders import Aws, Clock, event, failures, message, raises

STORED = Path(__file__).parent.with_name("stored_items")
"""One file per schema: items as a release that wrote it stored them. Never edited; a new schema adds a file."""

T0 = datetime(2026, 3, 14, 12, 0, 0, tzinfo=UTC)


def stored(aws: Aws, release: int, name: str, **changes: Any) -> str:
    """Put an item of a release, and return its id."""
    item = json.loads((STORED / f"schema_{release}.json").read_text(encoding="utf-8"))[name] | changes
    aws.dynamodb.client.put_item(TableName=aws.table, Item=item)
    return item["pk"]["S"].partition("#")[2]


def test_every_schema_has_items_of_a_release_that_wrote_it():
    assert sorted(path.name for path in STORED.iterdir()) == [
        f"schema_{number + 1}.json" for number in range(LATEST_SCHEMA)
    ]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("queued", {"status": "queued", "payload": {"ä": [1, None, 2**70]}, "dedupe_key": "k", "max_attempts": 2}),
        ("scheduled", {"status": "scheduled", "scheduled_for": T0 + timedelta(days=2)}),
        ("running", {"status": "running", "started_at": T0}),
        ("succeeded", {"status": "succeeded", "attempt": 0, "finished_at": T0, "output": {"sent": True, "n": 1.5}}),
        ("put back", {"status": "scheduled", "attempt": 1, "last_error": "ValueError: boom"}),
        ("failed", {"status": "failed", "attempt": 2, "finished_at": T0 + timedelta(seconds=5)}),
        ("canceled", {"status": "canceled", "cancel_reason": "asked", "cancel_requested": True}),
        ("of a creator without handlers", {"status": "queued", "max_attempts": 7}),
    ],
)
def test_a_run_of_schema_1_is_read(aws: Aws, name: str, fields: dict[str, Any]):
    jobs = aws.jobs()
    jobs.handler("email", max_attempts=7)(lambda ctx: None)

    run = jobs.get_status(stored(aws, 1, name))

    assert run is not None
    assert {field: getattr(run, field) for field in fields} == fields


def test_what_a_person_retried_in_schema_1_keeps_its_history(jobs: Jobs, aws: Aws):
    run = jobs.get_status(stored(aws, 1, "retried by a person"))

    assert run is not None
    assert [(past.status, past.attempt, past.last_error) for past in run.history] == [("failed", 2, "ValueError: boom")]


@pytest.mark.moto
def test_a_run_of_schema_2_has_its_values_in_s3(aws: Aws):
    s3 = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1").client("s3")
    s3.create_bucket(Bucket="large-values")
    jobs = aws.jobs(clock=Clock(T0 + timedelta(seconds=10)), bucket="large-values", s3=s3)
    jobs.handler("email")(lambda ctx: ctx.payload["to"])
    queued, succeeded = stored(aws, 2, "queued in S3"), stored(aws, 2, "succeeded in S3")
    bodies = {
        aws.item(queued)["payload"]: '{"to":["ä",1180591620717411303424],"name":"queued"}',
        aws.item(succeeded)["payload"]: '{"to":["ä",1180591620717411303424],"name":"succeeded"}',
        aws.item(succeeded)["output"]: '{"sent":[1.5,"ä",true]}',
    }
    for text, body in bodies.items():
        key = json.loads(text.removeprefix("object:"))[0]
        s3.put_object(Bucket="large-values", Key=key, Body=body.encode())

    assert jobs.consume(message(queued)).outcome == "succeeded"
    assert jobs.get_status(queued).output == ["ä", 2**70]
    done = jobs.get_status(succeeded)
    assert (done.payload["name"], done.output) == ("succeeded", {"sent": [1.5, "ä", True]})


@pytest.mark.parametrize("name", ["queued", "put back", "retried by a person", "of a creator without handlers"])
def test_a_waiting_run_of_schema_1_is_executed(aws: Aws, name: str):
    jobs = aws.jobs(clock=Clock(T0 + timedelta(seconds=10)), handlers={"email": lambda ctx: "done"})
    run_id = stored(aws, 1, name)

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert aws.item(run_id)["output"] == '"done"'


def test_a_worker_of_schema_1_that_was_lost_is_taken_over(aws: Aws):
    jobs = aws.jobs(clock=Clock(T0 + timedelta(minutes=1)), handlers={"email": lambda ctx: ctx.attempt})
    run_id = stored(aws, 1, "running")

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert (aws.item(run_id)["output"], aws.item(run_id)["attempt"]) == ("2", 1)


def test_a_schedule_of_schema_1_fires_and_can_be_changed(aws: Aws):
    clock = Clock(datetime(2026, 3, 16, 8, 0, 30, tzinfo=UTC))
    jobs = aws.jobs(clock=clock, handlers={"email": lambda ctx: None})
    schedule_id = stored(aws, 1, "schedule")

    assert jobs.dispatch().schedules == 1
    schedule = jobs.update_schedule(schedule_id, payload={"x": 2})

    assert schedule is not None
    assert schedule.next_run_at == datetime(2026, 3, 23, 8, 0, tzinfo=UTC)
    assert (schedule.payload, schedule.missed, schedule.overlap) == ({"x": 2}, "latest", "skip")
    assert schedule.timezone == "Europe/Berlin"


def test_a_disabled_schedule_of_schema_1_can_be_enabled(aws: Aws):
    jobs = aws.jobs(clock=Clock(T0 + timedelta(hours=1)))

    schedule = jobs.update_schedule(stored(aws, 1, "disabled schedule"), enabled=True)

    assert schedule is not None
    assert schedule.next_run_at == T0 + timedelta(hours=1, seconds=5)  # it still counts from its creation


@pytest.mark.parametrize("name", ["queued", "running", "succeeded"])
def test_a_run_of_a_later_release_is_left_to_it_and_comes_again(aws: Aws, name: str):
    jobs = aws.jobs(clock=Clock(T0 + timedelta(minutes=5)), handlers={"email": lambda ctx: None}, concurrency=1)
    newer = {"schema": {"N": str(LATEST_SCHEMA + 1)}, "status": {"S": "a status of tomorrow"}}
    run_id = stored(aws, 1, name, **newer)
    before, neighbour = aws.item(run_id), aws.a_run()

    with pytest.raises(NewerSchemaError, match=f"run#{run_id}"):
        jobs.consume(message(run_id))
    assert failures(jobs.consume_batch(event(run_id, neighbour))) == [f"m-{run_id}"]

    assert aws.item(run_id) == before
    assert aws.item(neighbour)["status"] == "succeeded"


def test_the_dispatcher_leaves_what_a_later_release_wrote_and_goes_on(aws: Aws):
    jobs = aws.jobs(clock=Clock(T0 + timedelta(days=30)))
    newer = {"schema": {"N": str(LATEST_SCHEMA + 1)}}
    run_id, schedule_id = stored(aws, 1, "queued", **newer), stored(aws, 1, "schedule", **newer)
    before, lost = aws.items(), aws.a_run()

    result = jobs.dispatch()

    assert (result.errors, result.resent) == (2, 1)
    assert [item for item in aws.items() if item["pk"] != f"run#{lost}"] == before
    for read in (lambda: jobs.cancel(run_id), lambda: jobs.retry(run_id), lambda: jobs.get_schedule(schedule_id)):
        with pytest.raises(NewerSchemaError):
            read()


def test_attributes_that_a_later_release_of_the_same_schema_added_stay(aws: Aws):
    jobs = aws.jobs(clock=Clock(T0 + timedelta(seconds=10)), handlers={"email": lambda ctx: None})
    run_id = stored(aws, 1, "queued", of_tomorrow={"S": "kept"}, a_flag={"BOOL": True})

    assert jobs.consume(message(run_id)).outcome == "succeeded"

    assert (aws.item(run_id)["of_tomorrow"], aws.item(run_id)["a_flag"]) == ("kept", True)


UNFINISHED = ("queued", "scheduled", "put back", "running", "of a creator without handlers")


def test_runs_of_the_release_before_the_listing_index_are_listed_while_they_are_unfinished(aws: Aws):
    jobs = aws.jobs(clock=Clock(T0 + timedelta(minutes=1)))
    # Some were the same run at different times.
    run_ids = {stored(aws, 1, name, pk={"S": f"run#{name}"}) for name in (*UNFINISHED, "failed", "canceled")}

    assert {run.id for run in jobs.list_runs().runs} == run_ids - {"failed", "canceled"}
    assert jobs.get_status("failed").error_type is None
    assert jobs.get_status("failed").attempts == ()


def test_a_failed_run_of_the_release_before_is_listed_once_it_has_ended_again(aws: Aws):
    clock = Clock(T0 + timedelta(minutes=1))
    jobs = aws.jobs(clock=clock, handlers={"email": raises(ValueError("again"))})
    run_id = stored(aws, 1, "failed")

    assert jobs.retry(run_id)
    for _ in range(2):
        jobs.consume(message(run_id))
        clock.advance(minutes=2)

    [run] = jobs.list_runs(status="failed").runs
    assert (run.id, run.retries, len(run.history)) == (run_id, 1, 1)
    assert [(attempt.retries, attempt.number) for attempt in run.attempts] == [(1, 1), (1, 2)]


def test_what_a_consumer_of_the_release_before_leaves_in_the_listing_is_not_listed_as_failed(aws: Aws):
    """It retries a run without taking it out of the index, which it does not know."""
    clock = Clock(T0)
    jobs = aws.jobs(clock=clock, handlers={"email": raises(ValueError("no"))})
    run_id = jobs.create("email", max_attempts=1)
    jobs.consume(message(run_id))
    entry = {name: aws.item(run_id)[name] for name in ("list_shard", "list_at")}
    jobs.retry(run_id)
    aws.change(run_id, **entry)

    assert jobs.list_runs(status="failed").runs == ()
    jobs.cancel(run_id)
    assert [run.id for run in jobs.list_runs(status="canceled").runs] == [run_id]
    assert jobs.list_runs(status="failed").runs == ()
