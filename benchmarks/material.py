"""What every benchmark needs: events, a Lambda context, clients, and the very requests that this project makes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.config import Config
from botocore.session import get_session

from kumofire_core import Jobs
from kumofire_core.aws.clients import Clients

CONNECTIONS = 20


@dataclass
class LambdaContext:
    """The part of Lambda's context that is read."""

    function_name: str = "bench"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:bench"
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def get_remaining_time_in_millis(self) -> int:
        """Return a minute."""
        return 60_000


def run_ids(count: int) -> list[str]:
    """Return ids as ``create`` makes them."""
    return [uuid.uuid4().hex for _ in range(count)]


def event(ids: Sequence[str]) -> dict[str, Any]:
    """Return the SQS event with a message for each run."""
    return {
        "Records": [
            {
                "messageId": str(uuid.uuid4()),
                "receiptHandle": "receipt",
                "body": f'{{"version":1,"kumofireJobRunId":"{run_id}"}}',
                "attributes": {"ApproximateReceiveCount": "1"},
                "messageAttributes": {},
                "md5OfBody": "",
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:bench",
                "awsRegion": "us-east-1",
            }
            for run_id in ids
        ]
    }


def plain_client(service: str = "dynamodb") -> Any:
    """Return a client as botocore makes it, with enough connections for the threads."""
    return get_session().create_client(service, config=Config(max_pool_connections=CONNECTIONS))


def own_clients() -> Clients:
    """Return the clients as this project makes them."""
    return Clients(dynamodb=None, sqs=None, connections=CONNECTIONS)


def make_jobs(dynamodb: Any = None, sqs: Any = None, email: Any = None, **settings: Any) -> Jobs:
    """Return a ``Jobs`` with the job that is measured, on its own clients unless others are given.

    ``email`` is another handler for the job: the endpoint answers each claim with a run of it.
    """
    given: dict[str, Any] = {"table": os.environ["KUMOFIRE_TABLE"], "queue_url": os.environ["KUMOFIRE_QUEUE_URL"]}
    jobs = Jobs(dynamodb=dynamodb, sqs=sqs, concurrency=10, **given, **settings)
    jobs.handler("email")(email or (lambda ctx: {"sent_to": ctx.payload["to"]}))
    return jobs


class Recorder:
    """A client that keeps the requests it passes on, in order: the floor makes the very same ones."""

    def __init__(self, client: Any, requests: list[tuple[str, dict[str, Any]]]) -> None:
        self._client = client
        self._requests = requests

    def __getattr__(self, operation: str) -> Any:
        def call(**parameters: Any) -> Any:
            self._requests.append((operation, parameters))
            return getattr(self._client, operation)(**parameters)

        return call


Requests = list[tuple[str, dict[str, Any]]]
"""Operations of a client, with their parameters."""


def first_batch_requests(ids: Sequence[str]) -> Requests:
    """Return the requests to the table that a new process makes for its first batch.

    Beside the two updates for each run these are a read of what is paused, and a write of what was counted.
    """
    requests: Requests = []
    make_jobs(dynamodb=Recorder(plain_client(), requests)).run_batch(event(ids), LambdaContext())
    return requests


def consume_requests(ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the parameters of the two updates for each run."""
    requests: Requests = []
    jobs = make_jobs(dynamodb=Recorder(plain_client(), requests))
    for run_id in ids:
        jobs.consume({"version": 1, "kumofireJobRunId": run_id})
    return [parameters for operation, parameters in requests if operation == "update_item"]
