"""Large payloads in the item and in S3: requests, write units and bytes from ``create`` to ``succeeded``.

DynamoDB Local reports the units of the real requests (``tools.dynamodb_local``). The bucket is a dictionary, because
what is counted is the same for any.
"""

from __future__ import annotations

import io
import json
from typing import Any

from benchmarks.counted import AnyQueue, bench_table
from benchmarks.endpoint import Endpoint
from benchmarks.measure import Row
from tools.dynamodb_local import NotThereError, beside_dynamodb_local

PAYLOAD_KB = (1, 2, 3, 10, 100, 300)
SMALL_UNITS = 5


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure in a process of its own, without a network; the canned endpoint has no capacity to report."""
    try:
        done = beside_dynamodb_local("benchmarks.large")
    except NotThereError as reason:
        return [Row(what="write units of a run with a payload in S3", value=None, detail=str(reason))]
    measured: dict[str, dict[str, float]] = json.loads(done)
    rows = []
    for size in PAYLOAD_KB:
        inline, large = measured[f"{size} KB inline"], measured[f"{size} KB with a bucket"]
        is_apart = large["s3_requests"] > 0
        rows.append(Row(what=f"write units, {size} KB in the item", value=inline["units"], detail=_detail(inline)))
        rows.append(
            Row(
                what=f"write units, {size} KB with a bucket",
                value=large["units"],
                at_most=SMALL_UNITS if is_apart else None,
                detail=_detail(large),
            )
        )
    return rows


def _detail(counts: dict[str, float]) -> str:
    return (
        f"{counts['requests']:g} requests to the table with {counts['bytes'] / 1024:,.1f} KB, "
        f"{counts['s3_requests']:g} to S3 with {counts['s3_bytes'] / 1024:,.1f} KB"
    )


class _Table:
    """A client that counts requests, what they move both ways, and what they consume."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.counts = {"requests": 0.0, "bytes": 0.0, "units": 0.0}

    def __getattr__(self, operation: str) -> Any:
        if operation not in ("put_item", "update_item"):
            return getattr(self._client, operation)

        def write(**parameters: Any) -> Any:
            reply = getattr(self._client, operation)(ReturnConsumedCapacity="INDEXES", **parameters)
            self.counts["requests"] += 1
            self.counts["bytes"] += len(json.dumps(parameters)) + len(json.dumps(reply.get("Attributes", {})))
            self.counts["units"] += reply["ConsumedCapacity"]["CapacityUnits"]
            return reply

        return write


class _Bucket:
    """S3, in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.counts = {"s3_requests": 0.0, "s3_bytes": 0.0}

    def put_object(self, *, Key: str, Body: bytes, **parameters: Any) -> dict[str, Any]:
        self._count(Body)
        self.objects[Key] = Body
        return {}

    def get_object(self, *, Key: str, **parameters: Any) -> dict[str, Any]:
        self._count(self.objects[Key])
        return {"Body": io.BytesIO(self.objects[Key])}

    def _count(self, body: bytes) -> None:
        self.counts["s3_requests"] += 1
        self.counts["s3_bytes"] += len(body)


def main() -> None:
    """Run DynamoDB Local, measure, and print what was counted as JSON."""
    from kumofire_core import Jobs

    with bench_table() as client:

        def counted(payload: Any, **settings: Any) -> dict[str, float]:
            table, bucket = _Table(client), _Bucket()
            if settings:
                settings["s3"] = bucket
            jobs = Jobs(
                table="bench",
                queue_url="queue",
                dynamodb=table,  # type: ignore[arg-type]  # it counts, and passes on
                sqs=AnyQueue(),  # type: ignore[arg-type]  # it takes any message
                handlers={"email": lambda ctx: {"sent": len(ctx.payload)}},
                **settings,
            )
            run_id = jobs.create("email", payload)
            jobs.consume({"version": 1, "kumofireJobRunId": run_id})
            counts = table.counts | bucket.counts
            run = jobs.get_status(run_id)
            assert run is not None
            assert (run.status, run.payload) == ("succeeded", payload), run
            return counts

        measured = {}
        for size in PAYLOAD_KB:
            payload = "x" * (size * 1024)
            measured[f"{size} KB inline"] = counted(payload)
            measured[f"{size} KB with a bucket"] = counted(payload, bucket="bucket")
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
