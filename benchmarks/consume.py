"""CPU per record: ``Jobs.consume`` beside a loop that makes the same two requests, and beside the peer.

A typed job reads its payload by its type, and writes its output from one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.endpoint import Endpoint
from benchmarks.material import LambdaContext, consume_requests, event, make_jobs, own_clients, plain_client, run_ids
from benchmarks.measure import Row, cpu_ms, ratio, rounds
from kumofire_core import JobContext


@dataclass
class Email:
    """What the runs of the endpoint have as their payload."""

    to: str


@dataclass
class Sent:
    """What the typed job returns."""

    sent_to: str


def send(ctx: JobContext[Email]) -> Sent:
    """Do what the job without types does."""
    return Sent(ctx.payload.to)


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

    def ours(client: Any, **handler: Any) -> Callable[[], None]:
        jobs = make_jobs(dynamodb=client, **handler)

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
        "typed, our client": ours(None, email=send),
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
        ratio(samples, "typed, our client", "ours, our client", "a typed job, over one without types", at_most=1.05),
        ratio(samples, "raw, our client", "raw", "the raw loop on our client, over the raw loop"),
        ratio(samples, "peer", "raw", "the peer, over the raw loop"),
    ]
