"""CPU per record: ``Jobs.consume`` beside a loop that makes the same two requests, and beside the peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.endpoint import Endpoint
from benchmarks.material import LambdaContext, consume_requests, event, make_jobs, own_clients, plain_client, run_ids
from benchmarks.measure import Row, cpu_ms, ratio, rounds


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure, on one core."""
    from benchmarks import peer

    ids = run_ids(10 if quick else 20)
    updates = consume_requests(ids)
    own = own_clients().dynamodb()

    def loop(client: Any) -> Callable[[], None]:
        def work() -> None:
            for parameters in updates:
                client.update_item(**parameters)

        return work

    def ours(client: Any) -> Callable[[], None]:
        jobs = make_jobs(dynamodb=client)

        def work() -> None:
            for run_id in ids:
                jobs.consume({"version": 1, "kumofireJobRunId": run_id})

        return work

    records, context = event(ids), LambdaContext()

    works = {
        "raw": loop(plain_client()),
        "ours": ours(plain_client()),
        "raw, our client": loop(own),
        "ours, our client": ours(None),
        "peer": lambda: peer.handler(records, context),
    }
    works["ours"]()  # its first run also reads what is paused, as once in 15 seconds
    endpoint.counts()
    works["ours"]()
    requests = sum(endpoint.counts().values())
    samples = rounds({name: cpu_ms(work, len(ids)) for name, work in works.items()}, 3 if quick else 81)
    return [
        Row(what="requests to DynamoDB for a run that succeeds", value=requests / len(ids), at_most=2, at_least=2),
        ratio(samples, "ours", "raw", "consume, on boto3's default client, over the raw loop on one", at_most=1.10),
        ratio(samples, "ours, our client", "raw", "consume as shipped, over the raw loop", at_most=0.90),
        ratio(samples, "ours, our client", "raw, our client", "consume as shipped, over the raw loop on its client"),
        ratio(samples, "raw, our client", "raw", "the raw loop on our client, over the raw loop"),
        ratio(samples, "peer", "raw", "the peer, over the raw loop"),
    ]
