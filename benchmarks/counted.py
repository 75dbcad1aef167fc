"""What requests consume: a table in DynamoDB Local, a client that adds it up, and a queue that takes any message."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.dynamodb_local import running

READS = ("get_item", "batch_get_item", "query")


@contextmanager
def bench_client() -> Iterator[Any]:
    """Run DynamoDB Local as ``beside_dynamodb_local`` asks this process to, and give a client of it."""
    from benchmarks.material import plain_client

    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with running(sys.argv[1], Path(sys.argv[2])) as url:
        os.environ["AWS_ENDPOINT_URL"] = url
        yield plain_client()


@contextmanager
def bench_table() -> Iterator[Any]:
    """Do the same, with the table ``bench``."""
    from examples.deployment import table_definition

    with bench_client() as client:
        client.create_table(TableName="bench", **table_definition())
        yield client


class CountingClient:
    """A client that asks each request what it consumed, and adds it up since ``begin``.

    Of a table in memory, which does not say, only requests are counted.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.begin()

    def begin(self) -> None:
        """Count from zero."""
        self.requests = 0
        self.writes = self.reads = 0.0
        """The units of each kind, those of the indexes included."""
        self.items: Counter[str] = Counter()
        """How often each item was written, by its ``pk``; what a transaction writes is not among it."""

    def __getattr__(self, operation: str) -> Any:
        method = getattr(self._client, operation)

        def request(**parameters: Any) -> Any:
            reply = method(**{**parameters, "ReturnConsumedCapacity": "INDEXES"})
            self.requests += 1
            consumed = reply.get("ConsumedCapacity", [])
            units = sum(each["CapacityUnits"] for each in (consumed if isinstance(consumed, list) else (consumed,)))
            if operation in READS:
                self.reads += units
            else:
                self.writes += units
            if operation in ("put_item", "update_item"):
                self.items[(parameters.get("Key") or parameters["Item"])["pk"]["S"]] += 1
            return reply

        return request


class AnyQueue:
    """An SQS that takes any message, and forgets it."""

    def send_message(self, **parameters: Any) -> dict[str, str]:
        """Take one message."""
        return {}

    def send_message_batch(self, **parameters: Any) -> dict[str, Any]:
        """Take some messages."""
        return {}

    def get_queue_attributes(self, **parameters: Any) -> dict[str, Any]:
        """Say that one message waits."""
        return {"Attributes": {name: "1" for name in parameters["AttributeNames"] if name.startswith("Approximate")}}
