"""What tests arrange: the template's own table and queue in an emulator, a clock that is moved, runs, messages, events.

Each builder takes only what matters to its test and fills in the rest.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from examples.deployment import table_definition
from kumofire_core import Jobs
from kumofire_core.model.times import to_ms
from tests.faults import Recorded

NOW = datetime(2026, 3, 14, 12, 0, 0, tzinfo=UTC)
NOW_MS = to_ms(NOW)

IN_MEMORY = os.environ.get("KUMOFIRE_TESTS_ON", "memory") != "moto"
"""Whether tests are made on the product's AWS in memory, which takes an eighth of the time, or on moto, to compare."""

_numbers = itertools.count(1)


def real_ms() -> int:
    """Return the time by which an AWS in memory goes on: an emulator's clock is not moved either."""
    return time.time_ns() // 1_000_000


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **length: float) -> None:
        """Move the clock by a timedelta's arguments."""
        self.now += timedelta(**length)


@dataclass(frozen=True, kw_only=True)
class Aws:
    """A table and a queue with the clients that every request of a test goes through."""

    dynamodb: Recorded
    sqs: Recorded
    table: str
    queue_url: str

    def jobs(self, **settings: Any) -> Jobs:
        """Return a ``Jobs`` on this table and queue, on a clock that stands still unless one is given."""
        given: dict[str, Any] = {
            "table": self.table,
            "queue_url": self.queue_url,
            "dynamodb": self.dynamodb,
            "sqs": self.sqs,
            "clock": Clock(),
        }
        return Jobs(**(given | settings))

    def item(self, run_id: str) -> dict[str, Any] | None:
        """Return a run as it is stored, past the code under test and past the list of requests."""
        found = self.dynamodb.client.get_item(TableName=self.table, Key=_key(run_id), ConsistentRead=True).get("Item")
        return _plain(found) if found else None

    def items(self) -> list[dict[str, Any]]:
        """Return all that is stored."""
        return [_plain(item) for item in self.dynamodb.client.scan(TableName=self.table)["Items"]]

    def a_run(self, run_id: str | None = None, *, without: tuple[str, ...] = (), **fields: Any) -> str:
        """Store a run, queued and due unless ``fields`` say otherwise, and return its id."""
        run_id = run_id or f"run-{next(_numbers)}"
        attributes = {
            "schema": 1,
            "status": "queued",
            "job_name": "email",
            "payload": "null",
            "attempt": 0,
            "claims": 0,
            "max_attempts": 3,
            "scheduled_for": NOW_MS,
            "created_at": NOW_MS,
            "updated_at": NOW_MS,
            "create_token": "of-the-create",
            "wake_shard": 0,
            "wake_at": NOW_MS + 120_000,
            **fields,
        }
        for name in without:
            del attributes[name]
        self.dynamodb.client.put_item(TableName=self.table, Item=_key(run_id) | _typed(attributes))
        return run_id

    def a_running_run(self, *, lease_token: str = "another", lease_until: int = NOW_MS + 30_000, **fields: Any) -> str:
        """Store a run that some other consumer holds the lease of."""
        lease = {"lease_token": lease_token, "lease_until": lease_until, "claims": 1, "started_at": NOW_MS}
        return self.a_run(**({"status": "running"} | lease | fields))

    def change(self, run_id: str, *, without: Sequence[str] = (), **fields: Any) -> None:
        """Change attributes of a stored run, or take them away, behind the code's back."""
        item = self.item(run_id)
        assert item is not None
        kept = {name: value for name, value in (item | fields).items() if name not in without}
        self.dynamodb.client.put_item(TableName=self.table, Item=_typed(kept))

    def sent(self) -> list[tuple[str, int]]:
        """Return run id and delay in seconds of every message that was sent, in order."""
        return [
            (json.loads(request["MessageBody"])["kumofireJobRunId"], request.get("DelaySeconds", 0))
            for request in self.sqs.parameters("send_message")
        ]


def make_aws(dynamodb: Any, sqs: Any, *, name: str = "kumofire-jobs") -> Aws:
    """Make a table as ``template.yaml`` describes it, and a queue."""
    dynamodb.create_table(TableName=name, **table_definition())
    queue_url = sqs.create_queue(QueueName=name)["QueueUrl"]
    return Aws(dynamodb=Recorded(dynamodb), sqs=Recorded(sqs), table=name, queue_url=queue_url)


@dataclass
class LambdaContext:
    """The part of Lambda's context object that Powertools and this project read."""

    remaining_ms: int = 60_000
    function_name: str = "consumer"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:consumer"
    aws_request_id: str = field(default_factory=lambda: f"request-{next(_numbers)}")
    log_stream_name: str = "2026/03/14/[$LATEST]0123456789abcdef0123456789abcdef"

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


def message(run_id: str, **fields: Any) -> dict[str, Any]:
    """Return the message for a run."""
    return {"version": 1, "kumofireJobRunId": run_id, **fields}


def body(run_id: str, **fields: Any) -> str:
    """Return the message for a run as text."""
    return json.dumps(message(run_id, **fields))


def record(text: Any, message_id: str | None = None) -> dict[str, Any]:
    """Return an SQS record as Lambda hands it over, with this body."""
    return {
        "messageId": message_id or f"message-{next(_numbers)}",
        "receiptHandle": "receipt",
        "body": text,
        "attributes": {"ApproximateReceiveCount": "1"},
        "messageAttributes": {},
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:kumofire-jobs",
        "awsRegion": "us-east-1",
    }


def event(*run_ids: str) -> dict[str, Any]:
    """Return an SQS event with a message for each run; a record's message id is ``m-`` and the run's id."""
    return {"Records": [record(body(run_id), f"m-{run_id}") for run_id in run_ids]}


def failures(response: dict[str, list[dict[str, str]]]) -> list[str]:
    """Return the message ids that a partial batch response reports."""
    assert set(response) == {"batchItemFailures"}
    return [failure["itemIdentifier"] for failure in response["batchItemFailures"]]


def raises(error: BaseException) -> Callable[[Any], Any]:
    """Return a handler that raises ``error``."""

    def handler(ctx: Any) -> None:
        raise error

    return handler


def _key(run_id: str) -> dict[str, Any]:
    return {"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}}


def _typed(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: {"S": value} if isinstance(value, str) else {"N": str(value)} for name, value in attributes.items()}


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    return {name: int(value["N"]) if "N" in value else next(iter(value.values())) for name, value in item.items()}
