"""Write units from ``create`` to ``succeeded``, as DynamoDB Local reports them for puts, updates and a transaction.

It needs Java and DynamoDB Local (``dynamodb_local.py``). Without them nothing is measured.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.dynamodb_local import NotMeasured, beside_dynamodb_local, running
from benchmarks.endpoint import Endpoint
from benchmarks.measure import Row

SMALL = 5
IN_A_TRANSACTION = 7
PAYLOAD_KB = (1, 10, 100, 350)


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure in a process of its own, without a network; the canned endpoint has no capacity to report."""
    what = "write units from create to succeeded, small payload"
    try:
        done = beside_dynamodb_local("benchmarks.write_units")
    except NotMeasured as reason:
        return [Row(what=what, value=None, detail=str(reason))]
    units: dict[str, float] = json.loads(done)
    return [
        Row(what=what, value=units["small"], at_most=SMALL, at_least=SMALL),
        Row(what="the same after one failed attempt", value=units["retried"]),
        Row(
            what="the same, created in a transaction",
            value=units["in a transaction"],
            at_most=IN_A_TRANSACTION,
            at_least=IN_A_TRANSACTION,
            detail="without the application's own items",
        ),
        *(Row(what=f"the same with a payload of {size} KB", value=units[f"{size} KB"]) for size in PAYLOAD_KB),
        *(
            Row(
                what=f"a payload of {size} KB in an item beside (not done)",
                value=units[f"{size} KB beside"],
                detail=f"and {units[f'{size} KB read']:g} read units",
            )
            for size in PAYLOAD_KB
        ),
    ]


class _Counting:
    """A client that asks each write what it consumed, and adds it up."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.units = 0.0

    def put_item(self, **parameters: Any) -> Any:
        return self._add(self._client.put_item(ReturnConsumedCapacity="INDEXES", **parameters))

    def update_item(self, **parameters: Any) -> Any:
        return self._add(self._client.update_item(ReturnConsumedCapacity="INDEXES", **parameters))

    def transact_write_items(self, **parameters: Any) -> Any:
        reply = self._client.transact_write_items(ReturnConsumedCapacity="INDEXES", **parameters)
        self.units += sum(each["CapacityUnits"] for each in reply["ConsumedCapacity"])
        return reply

    def _add(self, reply: Any) -> Any:
        self.units += reply["ConsumedCapacity"]["CapacityUnits"]
        return reply


class _Queue:
    def send_message(self, **parameters: Any) -> dict[str, str]:
        return {}


def main() -> None:
    """Run DynamoDB Local, measure, and print the units as JSON."""
    from benchmarks.material import plain_client
    from examples.deployment import table_definition
    from kumofire_core import Jobs, RetryPolicy

    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with running(sys.argv[1], Path(sys.argv[2])) as url:
        os.environ["AWS_ENDPOINT_URL"] = url
        client = plain_client()
        client.create_table(TableName="bench", **table_definition())
        counting = _Counting(client)
        jobs = Jobs(
            table="bench",
            queue_url="queue",
            dynamodb=counting,  # type: ignore[arg-type]  # it makes the requests that are measured
            sqs=_Queue(),  # type: ignore[arg-type]  # it takes any message
            retry=RetryPolicy(next_run_at=lambda run, error, now: now),
        )
        jobs.handler("email")(lambda ctx: {"sent": True})
        jobs.handler("second time")(lambda ctx: 1 // (ctx.attempt - 1))

        def in_a_transaction(job: str, payload: Any) -> str:
            pending = jobs.create_in_transaction(job, payload)
            with pending:
                counting.transact_write_items(TransactItems=[pending.entry])
            return pending.run_id

        def units(
            payload: Any, job: str = "email", attempts: int = 1, create: Callable[[str, Any], str] = jobs.create
        ) -> float:
            counting.units = 0
            run_id = create(job, payload)
            for _ in range(attempts):
                jobs.consume({"version": 1, "kumofireJobRunId": run_id})
            run = jobs.get_status(run_id)
            assert run is not None
            assert run.status == "succeeded", run
            return counting.units

        # get_status reads through the same client, and its reads are not counted.
        counting.get_item = client.get_item  # type: ignore[attr-defined]
        measured = {"small": units({"to": "user@example.com"}), "retried": units(None, "second time", attempts=2)}
        measured["in a transaction"] = units({"to": "user@example.com"}, create=in_a_transaction)
        measured |= {f"{size} KB": units("x" * (size * 1024)) for size in PAYLOAD_KB}
        for size in PAYLOAD_KB:
            key = {"pk": {"S": f"run#payload of {size} KB in an item of its own"}, "sk": {"S": "payload"}}
            item = {**key, "payload": {"S": "x" * (size * 1024)}, "expires_at": {"N": "1790000000"}}
            run = units(None)
            counting.units = 0
            counting.put_item(TableName="bench", Item=item, ConditionExpression="attribute_not_exists(pk)")
            measured[f"{size} KB beside"] = run + counting.units
            read = client.get_item(TableName="bench", Key=key, ConsistentRead=True, ReturnConsumedCapacity="TOTAL")
            measured[f"{size} KB read"] = read["ConsumedCapacity"]["CapacityUnits"]
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
