"""Write units from ``create`` to ``succeeded``, as DynamoDB Local reports them for puts, updates and a transaction.

It needs Java and DynamoDB Local (``tools.dynamodb_local``). Without them nothing is measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks.counted import AnyQueue, CountingClient, bench_table
from benchmarks.endpoint import Endpoint
from benchmarks.measure import Row
from tools.dynamodb_local import NotThereError, beside_dynamodb_local

SMALL = 5
IN_A_TRANSACTION = 7
PAYLOAD_KB = (1, 10, 100, 350)


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure in a process of its own, without a network; the canned endpoint has no capacity to report."""
    what = "write units from create to succeeded, small payload"
    try:
        done = beside_dynamodb_local("benchmarks.write_units")
    except NotThereError as reason:
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
        Row(
            what="the same, put aside while its job is paused",
            value=units["paused"],
            detail="without the pause itself",
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


def main() -> None:
    """Run DynamoDB Local, measure, and print the units as JSON."""
    from kumofire_core import Jobs, RetryPolicy

    with bench_table() as client:
        counting = CountingClient(client)
        jobs = Jobs(
            table="bench",
            queue_url="queue",
            dynamodb=counting,  # type: ignore[arg-type]  # it makes the requests that are measured
            sqs=AnyQueue(),  # type: ignore[arg-type]  # it takes any message
            retry=RetryPolicy(next_run_at=lambda *, now, **others: now),
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
            counting.begin()
            run_id = create(job, payload)
            for _ in range(attempts):
                jobs.consume({"version": 1, "kumofireJobRunId": run_id})
            run = jobs.get_status(run_id)
            assert run is not None
            assert run.status == "succeeded", run
            return counting.writes

        def paused() -> float:
            """Return the units of a run whose message comes while its job is paused."""
            jobs.pause("email")
            jobs._consumer._pauses._read_ms = None
            counting.begin()
            run_id = jobs.create("email", None)
            message = {"version": 1, "kumofireJobRunId": run_id}
            jobs.consume(message)
            written = counting.writes
            jobs.resume("email")
            jobs._consumer._pauses._read_ms = None
            counting.begin()
            jobs.dispatch()
            jobs.consume(message)
            assert str(jobs.get_status(run_id).status) == "succeeded"  # type: ignore[union-attr]
            return written + counting.writes

        measured = {"small": units({"to": "user@example.com"}), "retried": units(None, "second time", attempts=2)}
        measured["in a transaction"] = units({"to": "user@example.com"}, create=in_a_transaction)
        measured["paused"] = paused()
        measured |= {f"{size} KB": units("x" * (size * 1024)) for size in PAYLOAD_KB}
        for size in PAYLOAD_KB:
            key = {"pk": {"S": f"run#payload of {size} KB in an item of its own"}, "sk": {"S": "payload"}}
            item = {**key, "payload": {"S": "x" * (size * 1024)}, "expires_at": {"N": "1790000000"}}
            run = units(None)
            counting.begin()
            counting.put_item(TableName="bench", Item=item, ConditionExpression="attribute_not_exists(pk)")
            measured[f"{size} KB beside"] = run + counting.writes
            read = client.get_item(TableName="bench", Key=key, ConsistentRead=True, ReturnConsumedCapacity="TOTAL")
            measured[f"{size} KB read"] = read["ConsumedCapacity"]["CapacityUnits"]
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
