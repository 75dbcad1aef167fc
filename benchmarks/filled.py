"""A table with many failed runs, for what reads them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

FEW, MANY = 100, 100_000
SHARDS = 8


def fill(client: Any, table: str, count: int) -> None:
    """Make a table with so many failed runs of seven jobs, 37 ms apart, the last of them of now."""
    from examples.deployment import table_definition

    client.create_table(TableName=table, **table_definition())
    now_ms = int(datetime.now(UTC).timestamp() * 1000)

    def put(start: int) -> None:
        items = [_failed_run(number, now_ms) for number in range(start, min(start + 25, count))]
        unwritten = {table: [{"PutRequest": {"Item": item}} for item in items]}
        while unwritten:
            unwritten = client.batch_write_item(RequestItems=unwritten).get("UnprocessedItems")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(0, count, 25)))


def _failed_run(number: int, now_ms: int) -> dict[str, Any]:
    at_ms = now_ms - number * 37
    texts = {
        "pk": f"run#failed-{number}",
        "sk": "run",
        "status": "failed",
        "job_name": f"job-{number % 7}",
        "payload": '{"to": "user@example.com"}',
        "last_error": "ValueError: no such address",
        "error_type": "ValueError",
        "list_shard": f"failed#{number % SHARDS}",
    }
    numbers = {
        "schema": 1,
        "attempt": 3,
        "max_attempts": 3,
        "claims": 3,
        "scheduled_for": at_ms,
        "created_at": at_ms,
        "updated_at": at_ms,
        "started_at": at_ms,
        "finished_at": at_ms,
        "list_at": at_ms,
    }
    return {
        **{name: {"S": value} for name, value in texts.items()},
        **{name: {"N": str(value)} for name, value in numbers.items()},
    }
