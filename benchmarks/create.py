"""Creating runs: one by one beside a raw put and send, and a thousand at once beside the same requests in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.endpoint import Endpoint
from benchmarks.material import Recorder, make_jobs, own_clients
from benchmarks.measure import Row, cpu_ms, ratio, rounds, wall_ms

PAYLOAD = {"to": "user@example.com"}
IN_THREADS = 16
"""As many chunks as ``create_many`` has under way."""


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure, on one core."""
    clients = own_clients()
    raw = {"dynamodb": clients.dynamodb(), "sqs": clients.sqs()}
    count, many = (10, 50) if quick else (40, 1000)
    requests: list[tuple[str, dict[str, Any]]] = []
    recorded = make_jobs(Recorder(raw["dynamodb"], requests), Recorder(raw["sqs"], requests))
    for _ in range(count):
        recorded.create("email", PAYLOAD)
    single = list(requests)
    requests.clear()
    recorded.create_many({"name": "email", "payload": PAYLOAD} for _ in range(many))
    puts = [parameters for operation, parameters in requests if operation == "put_item"]
    sends = [parameters for operation, parameters in requests if operation == "send_message_batch"]

    jobs, pool = make_jobs(), ThreadPoolExecutor(IN_THREADS)

    def create() -> None:
        for _ in range(count):
            jobs.create("email", PAYLOAD)

    def put_and_send() -> None:
        for operation, parameters in single:
            getattr(raw["dynamodb" if operation == "put_item" else "sqs"], operation)(**parameters)

    def chunk(index: int) -> None:
        for parameters in puts[index * 10 : index * 10 + 10]:
            raw["dynamodb"].put_item(**parameters)
        raw["sqs"].send_message_batch(**sends[index])

    one = rounds({"ours": cpu_ms(create, count), "raw": cpu_ms(put_and_send, count)}, 3 if quick else 31)
    endpoint.set(latency_ms=4)
    endpoint.counts()
    jobs.create_many({"name": "email", "payload": PAYLOAD} for _ in range(many))
    counts = endpoint.counts()
    thousand = rounds(
        {
            "ours": wall_ms(lambda: jobs.create_many({"name": "email", "payload": PAYLOAD} for _ in range(many))),
            "raw": wall_ms(lambda: list(pool.map(chunk, range(len(sends))))),
        },
        2 if quick else 21,
    )
    return [
        ratio(one, "ours", "raw", "create, over a raw put and send", at_most=1.05),
        ratio(thousand, "raw", "ours", f"create_many of {many:,}: raw time over ours", at_least=0.9),
        Row(what="create_many: SQS requests a run", value=counts["SendMessageBatch"] / many, at_most=0.1),
    ]
