"""One pass of the dispatcher over 10,000 due runs, beside the same reads, updates and sends in as many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.endpoint import Endpoint
from benchmarks.material import Recorder, make_jobs, own_clients
from benchmarks.measure import Row, ratio, rounds, wall_ms

SHARDS = 8
IN_THREADS = 16
"""As many chunks as the dispatcher has under way."""


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure, on one core."""
    due_in_a_shard = 20 if quick else 1250
    due = due_in_a_shard * SHARDS
    endpoint.set(due_in_a_shard=due_in_a_shard)
    clients = own_clients()
    dynamodb, sqs = clients.dynamodb(), clients.sqs()
    requests: list[tuple[str, dict[str, Any]]] = []
    make_jobs(Recorder(dynamodb, requests), Recorder(sqs, requests), wake_shards=SHARDS).dispatch()
    queries = [parameters for operation, parameters in requests if operation == "query"]
    reads = [parameters for operation, parameters in requests if operation == "get_item"]
    updates = [parameters for operation, parameters in requests if operation == "update_item"]
    sends = [parameters for operation, parameters in requests if operation == "send_message_batch"]
    jobs, pool = make_jobs(wake_shards=SHARDS), ThreadPoolExecutor(IN_THREADS)
    endpoint.set(latency_ms=4, due_in_a_shard=due_in_a_shard)
    endpoint.counts()
    dispatched = jobs.dispatch().dispatched
    counts = endpoint.counts()

    def chunk(index: int) -> None:
        for parameters in updates[index * 10 : index * 10 + 10]:
            dynamodb.update_item(**parameters)
        sqs.send_message_batch(**sends[index])

    def raw() -> None:
        for parameters in reads:
            dynamodb.get_item(**parameters)
        for parameters in queries:
            dynamodb.query(**parameters)
        list(pool.map(chunk, range(len(sends))))

    samples = rounds({"ours": wall_ms(jobs.dispatch), "raw": wall_ms(raw)}, 1 if quick else 3, warm=True)
    per_run = sum(count for name, count in counts.items() if name != "SendMessageBatch") / dispatched
    return [
        Row(what="due runs that one pass dispatched", value=dispatched, at_least=due, at_most=due),
        ratio(samples, "raw", "ours", f"a pass over {due:,} due runs: raw time over ours", at_least=0.9),
        Row(what="the pass: SQS requests a run", value=counts["SendMessageBatch"] / dispatched, at_most=0.1),
        Row(what="the pass: DynamoDB requests a run", value=per_run),
    ]
