"""``kumofire dlq``: messages that no consumer could take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from examples.local_aws import LocalAws
from tests.builders import NOW_MS, Aws, body
from tests.cli.conftest import Kumofire
from tests.deployment.arranged import deployed

pytestmark = pytest.mark.long


@pytest.fixture
def dead_queue(aws: Aws) -> str:
    """A dead-letter queue of the jobs' queue."""
    sqs = aws.sqs.client
    url = str(sqs.create_queue(QueueName="dead")["QueueUrl"])
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "3"})
    sqs.set_queue_attributes(QueueUrl=aws.queue_url, Attributes={"RedrivePolicy": policy})
    return url


def waiting(sqs: Any, url: str) -> int:
    names = ["ApproximateNumberOfMessages"]
    return int(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"][names[0]])


def test_show_tells_which_runs_are_meant_and_leaves_the_messages(kumofire: Kumofire, aws: Aws, dead_queue: str) -> None:
    run_id = aws.a_run(status="failed", finished_at=NOW_MS)
    for text in (body(run_id), "not \x1b[2J ours"):
        aws.sqs.client.send_message(QueueUrl=dead_queue, MessageBody=text)

    shown = kumofire("dlq", "show")
    form = kumofire("dlq", "show", "--json").form

    assert shown.code == 0
    assert f"{run_id}" in shown.out
    assert "not of Kumofire" in shown.out
    assert "not \\x1b[2J ours" in shown.out
    assert form["count"] == 2
    by_run = {message["run_id"]: message for message in form["messages"]}
    assert by_run[run_id]["run_status"] == "failed"
    assert set(by_run[None]) == {"message_id", "run_id", "run_status", "receives", "sent_at", "body"}
    assert waiting(aws.sqs.client, dead_queue) == 2


def test_redrive_asks_and_sends_all_back(kumofire: Kumofire, ministack: LocalAws) -> None:
    stack = deployed(ministack)
    stack.bury(*[body("a")] * 3)
    where = ["--table", stack.deployment.table, "--queue-url", stack.deployment.queue_url]
    where += ["--endpoint-url", ministack.endpoint_url]

    refused = kumofire("dlq", "redrive", *where, typed="n\n", terminal=True)
    assert (refused.code, "3 dead letters" in refused.err) == (1, True)
    assert waiting(ministack.client("sqs"), stack.dead_letter_queue_url) == 3
    ended = kumofire("dlq", "redrive", "--yes", "--json", *where)

    assert (ended.code, ended.form) == (0, {"moved": 3, "found": 3, "finished": True})
    assert waiting(ministack.client("sqs"), stack.deployment.queue_url) == 3


def test_purge_asks_and_deletes_all(kumofire: Kumofire, aws: Aws, dead_queue: str) -> None:
    aws.sqs.client.send_message(QueueUrl=dead_queue, MessageBody=body("a"))

    assert kumofire("dlq", "purge").code == 2
    assert waiting(aws.sqs.client, dead_queue) == 1
    ended = kumofire("dlq", "purge", "--yes")

    assert (ended.code, ended.out) == (0, "1 message deleted (SQS takes up to a minute)\n")
    assert waiting(aws.sqs.client, dead_queue) == 0


def test_an_empty_queue_leaves_nothing_to_do(kumofire: Kumofire, dead_queue: str) -> None:
    assert kumofire("dlq", "show").code == 0
    assert kumofire("dlq", "show", "--json").form == {"count": 0, "messages": []}
    for command in ("redrive", "purge"):
        ended = kumofire("dlq", command, "--yes")
        assert (ended.code, ended.err) == (1, "kumofire: there are no dead letters\n")


def test_a_queue_without_a_dead_letter_queue_is_trouble(kumofire: Kumofire) -> None:
    ended = kumofire("dlq", "show")

    assert (ended.code, ended.out) == (3, "")
    assert "RedrivePolicy" in ended.err
