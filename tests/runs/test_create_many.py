"""Many runs at once: all are checked before the first is written, and what was stored is known."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kumofire_core import (
    DedupeKeyConflictError,
    InvalidArgumentError,
    InvalidJSONError,
    Jobs,
    PartlyCreatedError,
    UnknownJobError,
)
from tests.builders import NOW, Aws, message


def sent_in_batches(aws: Aws) -> list[list[tuple[str, int]]]:
    return [
        [(entry["MessageBody"].split('"')[-2], entry["DelaySeconds"]) for entry in request["Entries"]]
        for request in aws.sqs.parameters("send_message_batch")
    ]


def test_each_run_is_stored_with_one_request_and_ten_are_sent_with_one(jobs: Jobs, aws: Aws):
    run_ids = jobs.create_many({"name": "email", "payload": {"n": number}} for number in range(25))

    assert [jobs.get_status(run_id).payload for run_id in run_ids] == [{"n": number} for number in range(25)]
    assert aws.dynamodb.count()["put_item"] == 25
    assert aws.sqs.count() == {"send_message_batch": 3}
    assert sorted(run_id for batch in sent_in_batches(aws) for run_id, _ in batch) == sorted(run_ids)


def test_each_has_its_own_time_limit_and_key(jobs: Jobs, aws: Aws):
    first, second, third, fourth = jobs.create_many(
        [
            {"name": "email", "delay": 30},
            {"name": "email", "run_at": NOW + timedelta(days=2), "max_attempts": 7},
            {"name": "email", "dedupe_key": "k"},
            {"name": "email", "dedupe_key": "k", "payload": "not stored"},
        ]
    )

    assert jobs.get_status(first).scheduled_for == NOW + timedelta(seconds=30)
    assert (jobs.get_status(second).status, jobs.get_status(second).max_attempts) == ("scheduled", 7)
    assert third == fourth
    assert jobs.get_status(third).payload is None
    assert sent_in_batches(aws) == [[(first, 30), (third, 0)]]


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"name": "email", "payload": {1: 2}}, InvalidJSONError, "run 1 of create_many: the payload is not JSON"),
        ({"name": ""}, InvalidArgumentError, "run 1 of create_many: a job's name must have"),
        ({"payload": 1}, InvalidArgumentError, "run 1 of create_many: it has no 'name', which says which job to run"),
        ({"name": "email", "when": 1}, InvalidArgumentError, "create takes no 'when'; it takes name, payload, run_at"),
        (
            {"name": "email", "delya": 1},
            InvalidArgumentError,
            r"run 1 of create_many: create takes no 'delya' \(did you mean 'delay'\?\); it takes name, payload",
        ),
        ({"name": "email", 5: 1}, InvalidArgumentError, "run 1 of create_many: create takes no 5; it takes"),
        ({"name": "email", "self": 1}, InvalidArgumentError, "run 1 of create_many: create takes no 'self'"),
        ({"name": "email", "delay": -1}, InvalidArgumentError, "run 1 of create_many: delay must not .* and is -1"),
        ("email", InvalidArgumentError, "run 1 of create_many: "),
        ({"name": "mail"}, UnknownJobError, "run 1 of create_many: no handler for job 'mail'"),
    ],
)
def test_one_that_can_not_be_made_is_named_and_nothing_is_written(aws: Aws, wrong, error, text: str):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})

    with pytest.raises(error, match=text):
        jobs.create_many([{"name": "email"}, wrong])

    assert aws.items() == []


@pytest.mark.parametrize("requests", [None, 5, "email", b"email", {"name": "email"}, {}])
def test_what_is_no_list_of_requests_is_refused_with_what_is_one(jobs: Jobs, aws: Aws, requests: Any):
    with pytest.raises(
        InvalidArgumentError, match=r"create_many takes a list \(or another iterable\) of requests"
    ) as found:
        jobs.create_many(requests)

    assert f"not {type(requests).__name__}" in str(found.value)
    assert ("create(**request)" in str(found.value)) is isinstance(requests, dict)
    assert aws.dynamodb.requests == []


def test_what_the_table_refused_is_known_and_the_others_run(aws: Aws):
    class Throttled:
        def __getattr__(self, operation: str):
            return getattr(aws.dynamodb, operation)

        def put_item(self, **parameters):
            if parameters["Item"]["payload"] == {"S": "3"}:
                raise ClientError({"Error": {"Code": "ThrottlingException"}}, "PutItem")
            return aws.dynamodb.put_item(**parameters)

    jobs = aws.jobs(dynamodb=Throttled(), handlers={"email": lambda ctx: None})

    with pytest.raises(PartlyCreatedError, match="1 of 12 runs could not be stored") as caught:
        jobs.create_many({"name": "email", "payload": number} for number in range(12))

    stored = [run_id for run_id in caught.value.run_ids if run_id is not None]
    assert caught.value.run_ids[3] is None
    assert list(caught.value.failures) == [3]
    assert sorted(run_id for batch in sent_in_batches(aws) for run_id, _ in batch) == sorted(stored)
    assert {jobs.consume(message(run_id)).outcome for run_id in stored} == {"succeeded"}


def test_one_whose_key_is_another_job_s_fails_alone(jobs: Jobs, aws: Aws):
    taken = jobs.create("invoice", dedupe_key="k")

    with pytest.raises(PartlyCreatedError, match=r"1 of 3 .*DedupeKeyConflictError") as caught:
        jobs.create_many([{"name": "email"}, {"name": "email", "dedupe_key": "k"}, {"name": "email"}])

    first, second, third = caught.value.run_ids
    assert second is None
    assert isinstance(caught.value.failures[1], DedupeKeyConflictError)
    assert caught.value.failures[1].run_id == taken
    assert [jobs.get_status(run_id).job_name for run_id in (taken, first, third)] == ["invoice", "email", "email"]
    assert sent_in_batches(aws) == [[(first, 0), (third, 0)]]


def test_none_is_a_number_too(jobs: Jobs, aws: Aws):
    assert jobs.create_many([]) == []
    assert (aws.items(), aws.sqs.count()) == ([], {})
