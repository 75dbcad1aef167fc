"""Lists and counts of many runs: requests, read units and CPU, on DynamoDB Local.

It needs Java and DynamoDB Local (``tools.dynamodb_local``). The CPU of a list stands beside that of the raw queries,
which read the index entries and the items of as many runs and make nothing of them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.counted import AnyQueue, CountingClient, bench_client
from benchmarks.endpoint import Endpoint
from benchmarks.filled import FEW, MANY, SHARDS, fill
from benchmarks.measure import Row, cpu_ms, ratio, rounds
from tools.dynamodb_local import NotThereError, beside_dynamodb_local

PAGE = 100


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure in a process of its own, without a network."""
    many, times = (1_000, 3) if quick else (MANY, 7)
    try:
        found = json.loads(beside_dynamodb_local("benchmarks.listing", str(many), str(times)))
    except NotThereError as reason:
        return [Row(what=f"requests for a list of {many:,} runs", value=None, detail=str(reason))]
    return [Row(**row) for row in found]


def main() -> None:
    """Fill a table for each size, list and count its runs, and print the rows as JSON."""
    many, times = int(sys.argv[3]), int(sys.argv[4])
    rows: list[Row] = []
    with bench_client() as client:
        for count in (FEW, many):
            fill(client, f"listing-{count}", count)
        rows += _first_pages(client, many)
        rows += _whole_list(client, many, times)
        rows += _stats(client, many)
    print(json.dumps([row.to_json() for row in rows]))


def _jobs(client: Any, count: int) -> Any:
    from kumofire_core import Jobs

    return Jobs(table=f"listing-{count}", queue_url="queue", dynamodb=client, sqs=AnyQueue(), allow_unknown_jobs=True)  # type: ignore[arg-type]


def _first_pages(client: Any, many: int) -> list[Row]:
    counted = {}
    for count in (FEW, many):
        counting = CountingClient(client)
        jobs = _jobs(counting, count)
        page = jobs.list_runs(status="failed", limit=PAGE // 2)
        assert len(page.runs) == PAGE // 2
        counted[count] = counting
    return [
        Row(
            what=f"requests for the newest {PAGE // 2} of {many:,} failed runs",
            value=counted[many].requests,
            at_most=counted[FEW].requests,
            detail=f"{counted[many].reads:g} read units; {counted[FEW].requests} requests where there are {FEW}",
        )
    ]


def _whole_list(client: Any, many: int, times: int) -> list[Row]:
    counting = CountingClient(client)
    assert sum(1 for _ in _all(_jobs(counting, many))) == many
    # The CPU of a hundred pages stands for all of them.
    jobs, some = _jobs(client, many), min(many, 100 * PAGE)

    def ours() -> None:
        runs = _all(jobs)
        for _ in range(some):
            next(runs)

    samples = rounds({"ours": cpu_ms(ours, some), "raw": cpu_ms(lambda: _raw(client, many, some), some)}, times)
    return [
        Row(
            what=f"requests for a list of all {many:,} runs, {PAGE} a page",
            value=counting.requests,
            detail=f"{counting.reads:g} read units",
        ),
        ratio(samples, "ours", "raw", "CPU of a listed run, over raw queries and reads of the items"),
    ]


def _all(jobs: Any) -> Any:
    page = None
    while True:
        found = jobs.list_runs(status="failed", limit=PAGE, page=page)
        yield from found.runs
        page = found.next_page
        if page is None:
            return


def _raw(client: Any, count: int, runs: int) -> None:
    """Read so many index entries, evenly from all partitions, and their items by batches of a hundred."""
    table, keys = f"listing-{count}", []
    for shard in range(SHARDS):
        given: dict[str, Any] = {
            "TableName": table,
            "IndexName": "listing",
            "KeyConditionExpression": "list_shard = :shard",
            "ExpressionAttributeValues": {":shard": {"S": f"failed#{shard}"}},
            "ScanIndexForward": False,
            "Limit": PAGE,
        }
        wanted = runs // SHARDS
        while wanted > 0:
            reply = client.query(**given)
            keys += [{"pk": item["pk"], "sk": item["sk"]} for item in reply["Items"]]
            wanted -= len(reply["Items"])
            if "LastEvaluatedKey" not in reply:
                break
            given["ExclusiveStartKey"] = reply["LastEvaluatedKey"]
    for start in range(0, len(keys), PAGE):
        client.batch_get_item(RequestItems={table: {"Keys": keys[start : start + PAGE]}})


def _stats(client: Any, many: int) -> list[Row]:
    rows = []
    for count in (FEW, many):
        counting = CountingClient(client)
        _jobs(counting, count).stats(fresh=True)
        rows.append(counting)
    few, most = rows
    return [
        Row(
            what=f"requests for stats(), {many:,} failed runs in the table",
            value=most.requests,
            detail=f"{most.reads:g} read units; {few.requests} requests and {few.reads:g} units where there are {FEW}",
        )
    ]


if __name__ == "__main__":
    main()
