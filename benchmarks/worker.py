"""CPU a run of a worker process, beside a loop that receives, makes the same two requests to the table, and deletes.

The queue is in memory for both, so what SQS requests cost is not in it; they are counted. The worker executes ten runs
at once, each in a thread, and the loop one after the other.
"""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks.endpoint import Endpoint
from benchmarks.material import consume_requests, make_jobs, plain_client, run_ids
from benchmarks.measure import Row, cpu_ms, ratio, rounds
from kumofire_core.engine.renewal import Renewal
from kumofire_core.engine.worker import Worker

CONCURRENCY = 10


class MemoryQueue:
    """An SQS with messages for some runs, which counts what it is asked."""

    def __init__(self) -> None:
        self.requests = 0
        self._bodies: list[str] = []
        self._receipts = itertools.count()

    def fill(self, ids: list[str]) -> None:
        """Have a message for each run, and none besides."""
        self._bodies = [f'{{"version":1,"kumofireJobRunId":"{run_id}"}}' for run_id in ids]

    def receive_message(self, *, MaxNumberOfMessages: int, **parameters: Any) -> dict[str, Any]:
        """Return the next messages, at once. A look that finds nothing is not counted."""
        taken, self._bodies = self._bodies[:MaxNumberOfMessages], self._bodies[MaxNumberOfMessages:]
        self.requests += bool(taken)
        return {
            "Messages": [
                {
                    "MessageId": str(number := next(self._receipts)),
                    "ReceiptHandle": f"receipt-{number}",
                    "Body": body,
                    "Attributes": {"ApproximateReceiveCount": "1"},
                }
                for body in taken
            ]
        }

    def delete_message_batch(self, **parameters: Any) -> dict[str, Any]:
        """Delete messages."""
        self.requests += 1
        return {}

    def send_message(self, **parameters: Any) -> dict[str, Any]:
        """Take one message."""
        return {}

    send_message_batch = send_message


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure, on one core."""
    ids = run_ids(20 if quick else 100)
    updates = consume_requests(ids)
    client, queue = plain_client(), MemoryQueue()

    def loop() -> None:
        queue.fill(ids)
        requests = iter(updates)
        while messages := queue.receive_message(MaxNumberOfMessages=10)["Messages"]:
            for _ in messages:
                client.update_item(**next(requests))
                client.update_item(**next(requests))
            queue.delete_message_batch(Entries=[{"ReceiptHandle": each["ReceiptHandle"]} for each in messages])

    def worker_of(dynamodb: Any) -> Any:
        jobs = make_jobs(dynamodb=dynamodb, sqs=queue)
        jobs._consumer.renewal = Renewal(60_000)

        def work() -> None:
            queue.fill(ids)
            left = itertools.count(len(ids) - 1, -1)
            worker = Worker(
                jobs._consumer.queue,
                jobs._consumer.pool,
                jobs.run_batch,
                concurrency=CONCURRENCY,
                renewal=jobs._consumer.renewal,
                poll_seconds=0,
                idle_seconds=0.05,
                on_report=lambda report: next(left) or worker.stop(),
            )
            if worker.run(60).unfinished:
                raise RuntimeError("runs were left")

        return work

    works = {"raw": loop, "ours": worker_of(client), "ours, our client": worker_of(None)}
    works["ours"]()  # its first run also reads what is paused, as once in 15 seconds
    endpoint.counts()
    queue.requests = 0
    works["ours"]()
    table, messages = sum(endpoint.counts().values()), queue.requests
    samples = rounds({name: cpu_ms(work, len(ids)) for name, work in works.items()}, 3 if quick else 41)
    ours = sorted(samples["ours, our client"])[len(samples["ours, our client"]) // 2]
    # One of ten deletes, and a look for each places that became free together: how many do, the machine decides. Two
    # without any batching.
    return [
        Row(what="worker: requests to DynamoDB a run, counts and pauses included", value=table / len(ids), at_most=2.2),
        Row(what="worker: SQS requests a run, to receive and delete it", value=messages / len(ids), at_most=0.8),
        ratio(samples, "ours, our client", "raw", "a worker as shipped, over the raw loop"),
        ratio(samples, "ours", "raw", "a worker on boto3's default client, over the raw loop on one"),
        Row(what="worker: runs a second of one core", value=round(1000 / ours)),
    ]
