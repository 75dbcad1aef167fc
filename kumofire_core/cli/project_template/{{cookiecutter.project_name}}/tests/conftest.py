"""Each test gets a table and a queue of its own in this process's memory (moto): no account, no network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import boto3
import pytest
from kumofire_core.deployment.table import make_table
from moto import mock_aws

if TYPE_CHECKING:
    from kumofire_core import Jobs

# What the stack sets in the functions. `handler.jobs` reads it when it is imported, so it comes before that.
os.environ.update(
    AWS_ACCESS_KEY_ID="test",
    AWS_SECRET_ACCESS_KEY="test",
    AWS_DEFAULT_REGION="us-east-1",
    KUMOFIRE_TABLE="jobs",
    KUMOFIRE_QUEUE_URL="https://sqs.us-east-1.amazonaws.com/123456789012/jobs",
)


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    """The application's ``Jobs``, on an empty table and an empty queue."""
    from handler.jobs import jobs

    with mock_aws():
        make_table(boto3.client("dynamodb"), jobs.table_name)
        boto3.client("sqs").create_queue(QueueName="jobs")
        yield jobs


@pytest.fixture
def work(jobs: Jobs) -> Callable[[], None]:
    """Return a function that executes every run that the queue delivers now, as the consumer does."""

    def work_off() -> None:
        sqs = boto3.client("sqs")
        while messages := sqs.receive_message(QueueUrl=jobs.queue_url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                jobs.consume(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=jobs.queue_url, ReceiptHandle=message["ReceiptHandle"])

    return work_off
