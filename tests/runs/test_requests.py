"""What each step costs: requests by operation, and for each which fields are sent."""

from __future__ import annotations

from typing import Any

import pytest

from kumofire_core import Jobs
from tests.builders import NOW_MS, Aws, Clock, event, message, raises


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    """A process that has read which jobs are paused: each does so before its first run, and then once in 15 seconds."""
    jobs = aws.jobs(clock=clock, concurrency=1)
    jobs.consume(message("nobody"))
    aws.dynamodb.requests.clear()
    return jobs


def written(aws: Aws) -> dict[str, int]:
    """The requests to the table and to the queue since the last look."""
    counts = aws.dynamodb.count() | aws.sqs.count()
    aws.dynamodb.requests.clear()
    aws.sqs.requests.clear()
    return counts


def test_creating_is_one_put_and_one_send(jobs: Jobs, aws: Aws):
    jobs.create("email", {"n": 1})
    assert written(aws) == {"put_item": 1, "send_message": 1}

    jobs.create("email", {"n": 1}, dedupe_key="k", delay=900)
    assert written(aws) == {"put_item": 1, "send_message": 1}


def test_creating_for_later_than_sqs_can_delay_is_one_put(jobs: Jobs, aws: Aws):
    jobs.create("email", delay=901)

    assert written(aws) == {"put_item": 1}


def test_creating_what_exists_is_one_put(jobs: Jobs, aws: Aws):
    jobs.create("email", dedupe_key="k")
    written(aws)

    jobs.create("email", dedupe_key="k")
    assert written(aws) == {"put_item": 1}


def test_a_process_reads_once_which_jobs_are_paused_before_its_first_run(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})

    jobs.consume(message(aws.a_run()))
    jobs.consume(message(aws.a_run()))

    assert [operation for operation, _ in aws.dynamodb.requests] == ["get_item", *["update_item"] * 4]


def test_executing_is_two_updates(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: {"n": 1})
    jobs.consume(message(aws.a_run()))

    assert written(aws) == {"update_item": 2}


def test_failing_for_good_is_two_updates(jobs: Jobs, aws: Aws):
    jobs.handler("email")(raises(ValueError()))
    jobs.consume(message(aws.a_run(max_attempts=1)))

    assert written(aws) == {"update_item": 2}


def test_retrying_is_two_updates_and_one_send(jobs: Jobs, aws: Aws):
    jobs.handler("email")(raises(ValueError()))
    jobs.consume(message(aws.a_run()))

    assert written(aws) == {"update_item": 2, "send_message": 1}


def test_a_missing_handler_is_two_updates(jobs: Jobs, aws: Aws):
    jobs.consume(message(aws.a_run()))

    assert written(aws) == {"update_item": 2}


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "succeeded"},
        {"status": "failed"},
        {"status": "canceled"},
        {"status": "scheduled", "scheduled_for": NOW_MS + 60_000},
        {"status": "running", "lease_token": "x", "lease_until": NOW_MS + 1},
    ],
    ids=str,
)
def test_ignoring_is_one_update(jobs: Jobs, aws: Aws, fields: dict[str, Any]):
    jobs.consume(message(aws.a_run(**fields)))

    assert written(aws) == {"update_item": 1}


def test_ignoring_a_run_that_does_not_exist_is_one_update(jobs: Jobs, aws: Aws):
    jobs.consume(message("nobody"))

    assert written(aws) == {"update_item": 1}


def test_taking_over_and_executing_is_three_updates(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    jobs.consume(message(aws.a_running_run(lease_until=NOW_MS)))

    assert written(aws) == {"update_item": 3}


def test_failing_a_run_whose_last_worker_was_lost_is_two_updates(jobs: Jobs, aws: Aws):
    jobs.consume(message(aws.a_running_run(lease_until=NOW_MS, attempt=2)))

    assert written(aws) == {"update_item": 2}


def test_reading_a_status_is_one_consistent_read(jobs: Jobs, aws: Aws):
    jobs.get_status("nobody")

    assert [parameters["ConsistentRead"] for parameters in aws.dynamodb.parameters("get_item")] == [True]
    assert written(aws) == {"get_item": 1}


@pytest.mark.usefixtures("counts_awaited")
def test_a_batch_is_two_updates_for_each_run_and_none_for_a_malformed_record(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    jobs.consume_batch(a_batch(aws))
    assert written(aws) == {"update_item": 6 + 1}  # and one for the counts, from a process's first batch

    jobs.consume_batch(a_batch(aws))
    assert written(aws) == {"update_item": 6}


def a_batch(aws: Aws) -> dict[str, Any]:
    batch = event(*(aws.a_run() for _ in range(3)))
    batch["Records"].append({"messageId": "m", "body": "malformed"})
    return batch


def test_a_put_writes_the_run_s_fields_and_no_more(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    jobs.create("email", {"n": 1})

    [put] = aws.dynamodb.parameters("put_item")
    assert set(put["Item"]) == {
        "pk",
        "sk",
        "schema",
        "status",
        "job_name",
        "payload",
        "attempt",
        "claims",
        "max_attempts",
        "scheduled_for",
        "created_at",
        "updated_at",
        "create_token",
        "wake_shard",
        "wake_at",
    }


def test_a_claim_and_an_end_change_these_fields_alone(jobs: Jobs, aws: Aws):
    during: dict[str, Any] = {}
    jobs.handler("email")(lambda ctx: during.update(aws.item(ctx.run.id)) or {"n": 1})
    run_id = aws.a_run(created_at=1, updated_at=1, scheduled_for=1)
    before = aws.item(run_id)

    jobs.consume(message(run_id))

    after = aws.item(run_id)
    claim = {"status", "lease_token", "lease_until", "started_at", "updated_at", "claims", "log"}
    assert changed(before, during) == claim
    assert changed(during, after) == {
        "status",
        "output",
        "finished_at",
        "expires_at",
        "settled_by",
        "lease_token",
        "lease_until",
        "wake_shard",
        "wake_at",
    }


def test_only_the_claim_asks_for_the_item(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    jobs.consume(message(aws.a_run()))

    claim, end = aws.dynamodb.parameters("update_item")
    assert (claim["ReturnValues"], end["ReturnValues"]) == ("ALL_NEW", "NONE")


def test_a_send_carries_the_message_and_its_delay_alone(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", {"n": 1}, delay=5)

    [send] = aws.sqs.parameters("send_message")
    assert send == {
        "QueueUrl": aws.queue_url,
        "MessageBody": f'{{"version":1,"kumofireJobRunId":"{run_id}"}}',
        "DelaySeconds": 5,
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
