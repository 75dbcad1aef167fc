"""A record that is given back comes again when it makes sense; a message that came early comes again when it is due."""

from __future__ import annotations

import logging
import random
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import Jobs
from kumofire_core.rules.redelivery import AT_ONCE, LONGEST_SECONDS, seconds_until_redelivery
from tests.builders import NOW, NOW_MS, Aws, Clock, LambdaContext, body, event, failures, message, record
from tests.faults import Outage, Refused


def received(aws: Aws, count: int = 10) -> list[dict[str, Any]]:
    """Return the records of messages that are received now, as Lambda hands them over."""
    found = aws.sqs.client.receive_message(
        QueueUrl=aws.queue_url, MaxNumberOfMessages=count, AttributeNames=["All"], VisibilityTimeout=360
    )
    return [
        record(each["Body"], each["MessageId"])
        | {"receiptHandle": each["ReceiptHandle"], "attributes": each["Attributes"]}
        for each in found.get("Messages", ())
    ]


def hidden(aws: Aws) -> list[int]:
    """Return the seconds of every change of a visibility, request after request."""
    return [
        entry["VisibilityTimeout"]
        for request in aws.sqs.parameters("change_message_visibility_batch")
        for entry in request["Entries"]
    ]


def receive_count(count: int, *run_ids: str) -> dict[str, Any]:
    batch = event(*run_ids)
    for index, each in enumerate(batch["Records"]):
        each["attributes"]["ApproximateReceiveCount"] = str(count)
        each["receiptHandle"] = f"receipt-{index}"
    return batch


@pytest.mark.parametrize("context", [LambdaContext(), None], ids=["in Lambda", "direct"])
def test_records_that_are_given_back_come_again_soon_by_one_request_for_all_of_them(
    aws: Aws, context: LambdaContext | None
):
    jobs = aws.jobs(dynamodb=Refused("ThrottlingException"), handlers={"email": lambda ctx: None})
    for number in range(3):
        aws.sqs.client.send_message(QueueUrl=aws.queue_url, MessageBody=body(f"r{number}"))
    records = received(aws)
    assert len(records) == 3

    response = jobs.consume_batch({"Records": records}, context)

    assert len(failures(response)) == 3
    assert aws.sqs.count() == {"change_message_visibility_batch": 1}
    assert hidden(aws) == [1, 1, 1]


def test_a_batch_without_a_failure_makes_no_request_to_the_queue_and_no_client_for_it(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})

    jobs.consume_batch(event(aws.a_run(), aws.a_run(status="canceled")), LambdaContext())

    assert aws.sqs.requests == []


def test_the_wait_grows_with_each_receive_to_some_minutes_and_is_spread():
    random.seed(1)
    for receives in range(1, 1000):
        waits = {seconds_until_redelivery(f"m{random.random()}", receives=receives) for _ in range(20)}
        longest = min(LONGEST_SECONDS, 2 ** (receives - 1))
        assert longest / 2 <= min(waits) <= max(waits) <= longest
        assert longest < 8 or len(waits) > 3
    assert seconds_until_redelivery("m", receives=10**9) <= LONGEST_SECONDS
    assert seconds_until_redelivery("m", receives=0) == 1


def test_a_record_that_failed_often_waits_longer(aws: Aws):
    jobs = aws.jobs(dynamodb=Refused("ThrottlingException"), handlers={"email": lambda ctx: None})

    jobs.consume_batch(receive_count(30, "a", "b"), LambdaContext())

    assert all(LONGEST_SECONDS / 2 <= seconds <= LONGEST_SECONDS for seconds in hidden(aws))
    assert len(hidden(aws)) == 2


def test_more_records_than_sqs_takes_in_one_request_are_given_back_in_several(aws: Aws):
    jobs = aws.jobs(dynamodb=Refused("ThrottlingException"), handlers={"email": lambda ctx: None})

    jobs.consume_batch(receive_count(1, *(f"r{number}" for number in range(23))), LambdaContext())

    requests = aws.sqs.parameters("change_message_visibility_batch")
    assert sorted(len(request["Entries"]) for request in requests) == [3, 10, 10]
    assert len({entry["ReceiptHandle"] for request in requests for entry in request["Entries"]}) == 23


def test_a_record_for_which_only_the_time_was_short_comes_again_at_once_but_not_for_ever(jobs: Jobs, aws: Aws):
    for count, expected in ((1, [0]), (AT_ONCE, [0]), (AT_ONCE + 1, [1])):
        aws.sqs.requests.clear()
        response = jobs.consume_batch(receive_count(count, "r"), LambdaContext(remaining_ms=700))
        assert failures(response) == ["m-r"]
        assert hidden(aws) == expected


@pytest.mark.parametrize("error", ["AccessDenied", "ServiceUnavailable", "outage", "bug"])
def test_a_batch_is_answered_although_the_visibility_can_not_be_set(
    aws: Aws, caplog: pytest.LogCaptureFixture, error: str
):
    class Bug:
        def __getattr__(self, operation: str) -> Any:
            raise ZeroDivisionError

    sqs: Any = Refused(error)
    if error == "outage":
        sqs = Outage(applied=False, lasting=True).wrap(aws.sqs)
    elif error == "bug":
        sqs = Bug()
    jobs = aws.jobs(dynamodb=Refused("ThrottlingException"), sqs=sqs)

    assert failures(jobs.consume_batch(receive_count(1, "a", "b"), LambdaContext())) == ["m-a", "m-b"]
    [line] = [line for line in caplog.records if "come again after the queue's" in line.getMessage()]
    assert line.getMessage().startswith("2 records")
    assert line.permanent == (error == "AccessDenied")


@pytest.mark.moto
def test_a_receipt_that_sqs_does_not_know_is_logged_and_stops_nothing(aws: Aws, caplog: pytest.LogCaptureFixture):
    jobs = aws.jobs(dynamodb=Refused("ThrottlingException"))

    assert failures(jobs.consume_batch(event("a"), LambdaContext())) == ["m-a"]
    assert "1 records come again after the queue's visibility timeout only (ReceiptHandleIsInvalid)" in caplog.text


@pytest.mark.parametrize(
    "changed",
    [{"receiptHandle": None}, {"receiptHandle": 5}, {"attributes": None}, {"attributes": {}},
     {"attributes": {"ApproximateReceiveCount": "many"}}, {"attributes": {"ApproximateReceiveCount": "9" * 5000}}],
    ids=str,
)  # fmt: skip
def test_an_event_without_receipts_or_counts_is_answered(jobs: Jobs, changed: dict[str, Any]):
    batch = event("a")
    batch["Records"][0] |= changed

    assert failures(jobs.consume_batch(batch, LambdaContext(remaining_ms=0))) == ["m-a"]


# A message that came early


@pytest.mark.parametrize("status", ["scheduled", "queued"])
def test_a_message_that_comes_some_seconds_early_is_kept_until_its_run_is_due(
    jobs: Jobs, aws: Aws, clock: Clock, caplog: pytest.LogCaptureFixture, status: str
):
    jobs.handler("email")(lambda ctx: "done")
    run_id = aws.a_run(status=status, scheduled_for=NOW_MS + 1_500)

    with caplog.at_level(logging.INFO, "kumofire_core"):
        report = jobs.run_batch(event(run_id), LambdaContext())

    assert failures(report.response()) == [f"m-{run_id}"]
    assert hidden(aws) == [2]
    [kept] = report.records
    assert (kept.failure, str(kept.result.outcome), kept.result.reason) == (None, "ignored", "not yet due")
    assert not [line for line in caplog.records if line.levelname == "ERROR"]

    clock.advance(seconds=2)
    assert failures(jobs.consume_batch(event(run_id), LambdaContext())) == []
    assert jobs.get_status(run_id).output == "done"


def test_a_creator_whose_clock_is_ahead_costs_its_run_no_more_than_that(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, handlers={"email": lambda ctx: "done"})
    run_id = aws.jobs(clock=Clock(NOW + timedelta(seconds=20)), allow_unknown_jobs=True).create("email")
    [first] = received(aws)

    assert failures(jobs.consume_batch({"Records": [first]}, LambdaContext())) == [first["messageId"]]
    assert hidden(aws) == [20]
    clock.advance(seconds=20)
    assert failures(jobs.consume_batch({"Records": [first]}, LambdaContext())) == []
    assert jobs.get_status(run_id).status == "succeeded"


def test_a_message_that_is_kept_is_never_sent_again_so_that_copies_do_not_multiply(jobs: Jobs, aws: Aws):
    run_id = aws.a_run(status="scheduled", scheduled_for=NOW_MS + 60_000)

    for _ in range(3):
        jobs.consume_batch(event(run_id), LambdaContext())

    assert aws.sqs.count() == {"change_message_visibility_batch": 3}


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "scheduled", "scheduled_for": NOW_MS + 301_000},
        {"status": "succeeded", "scheduled_for": NOW_MS + 60_000},
        {"status": "canceled", "scheduled_for": NOW_MS + 60_000},
    ],
    ids=str,
)
def test_a_message_is_acknowledged_that_comes_far_too_early_or_whose_run_has_ended(
    jobs: Jobs, aws: Aws, fields: dict[str, Any]
):
    assert failures(jobs.consume_batch(event(aws.a_run(**fields)), LambdaContext())) == []
    assert aws.sqs.requests == []


def test_a_message_of_a_run_that_another_executes_is_acknowledged(jobs: Jobs, aws: Aws):
    assert failures(jobs.consume_batch(event(aws.a_running_run()), LambdaContext())) == []
    assert aws.sqs.requests == []


def test_an_early_message_without_a_receipt_is_acknowledged_and_the_wake_up_stands_behind_it(jobs: Jobs, aws: Aws):
    batch = event(aws.a_run(scheduled_for=NOW_MS + 2_000))
    del batch["Records"][0]["receiptHandle"]

    assert failures(jobs.consume_batch(batch, LambdaContext())) == []


def test_an_early_message_that_is_consumed_by_itself_is_ignored_and_says_how_early_it_is(jobs: Jobs, aws: Aws):
    result = jobs.consume(message(aws.a_run(scheduled_for=NOW_MS + 1_500)))

    assert (str(result.outcome), result.reason, result.early_seconds) == ("ignored", "not yet due", 2)
    assert aws.sqs.requests == []
