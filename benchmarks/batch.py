"""A batch of ten through the Lambda edge with 4 ms to the services, beside the peer and beside raw calls in threads."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.endpoint import Endpoint
from benchmarks.material import LambdaContext, consume_requests, event, plain_client, run_ids
from benchmarks.measure import Row, ratio, rounds, wall_ms

LATENCY_MS = 4


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure, on as many cores as this process may use."""
    from benchmarks import peer

    ids = run_ids(10)
    records, context = event(ids), LambdaContext()
    edge, together = _edge("benchmarks.jobs:jobs"), _edge("benchmarks.jobs:together")
    client, updates, pool = plain_client(), consume_requests(ids), ThreadPoolExecutor(10)

    def pair(index: int) -> None:
        client.update_item(**updates[2 * index])
        client.update_item(**updates[2 * index + 1])

    works: dict[str, Callable[[], object]] = {
        "peer": lambda: peer.handler(records, context),
        "raw in ten threads": lambda: list(pool.map(pair, range(10))),
        "ours": lambda: edge(records, context),
        "ours, writes together": lambda: together(records, context),
    }
    counts = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for name, work in works.items():
            work()
            endpoint.counts()
            work()
            counts[name] = sum(endpoint.counts().values())
        endpoint.set(latency_ms=LATENCY_MS)
        samples = rounds({name: wall_ms(work) for name, work in works.items()}, 3 if quick else 41)
    on = len(os.sched_getaffinity(0))
    cores = "one core" if on == 1 else "two cores"
    return [
        Row(what=f"requests for a batch of ten, writes together ({cores})", value=counts["ours, writes together"]),
        Row(what=f"requests for a batch of ten ({cores})", value=counts["ours"], at_most=20, at_least=20),
        ratio(samples, "ours", "peer", f"a batch of ten, over the peer ({cores})", at_most=0.22 if on == 1 else 0.28),
        ratio(samples, "ours, writes together", "peer", f"the same with writes together ({cores})", at_most=0.13),
        ratio(samples, "raw in ten threads", "peer", f"raw calls in ten threads, over the peer ({cores})"),
        # The peer mostly waits for replies; our code and the raw calls mostly use the processor. So the ratio of these
        # two depends less on its speed.
        ratio(
            samples, "ours", "raw in ten threads", f"a batch of ten, over raw calls in ten threads ({cores})", at_most=1
        ),
    ]


def _edge(jobs: str) -> Callable[[Any, Any], Any]:
    """Return the consumer's function for these jobs, from a module of its own."""
    os.environ["KUMOFIRE_JOBS"] = jobs
    found = importlib.util.find_spec("handler.consumer")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    handler: Callable[[Any, Any], Any] = module.handler
    return handler
