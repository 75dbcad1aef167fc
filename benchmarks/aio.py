"""``jobs.aio`` in an event loop: how many runs a second, and how long the loop stands still, beside ``to_thread``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks.endpoint import Endpoint
from benchmarks.material import make_jobs
from benchmarks.measure import Row, ratio, rounds

PAYLOAD = {"to": "user@example.com"}
LATENCY_MS = 4
TICK_SECONDS = 0.001


async def longest_stop(work: Awaitable[object]) -> tuple[float, float]:
    """Await ``work``; return how long that took, and by how much a tick of a millisecond was late at most, in ms."""
    late = 0.0
    done = False

    async def tick() -> None:
        nonlocal late
        while not done:
            before = time.perf_counter()
            await asyncio.sleep(TICK_SECONDS)
            late = max(late, time.perf_counter() - before - TICK_SECONDS)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    began = time.perf_counter()
    await work
    taken = time.perf_counter() - began
    done = True
    await ticking
    return taken * 1000, late * 1000


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure, on one core."""
    jobs, count = make_jobs(), 20 if quick else 200
    jobs.create("email", PAYLOAD)
    endpoint.set(latency_ms=LATENCY_MS)
    stops: dict[str, list[float]] = {}

    def case(name: str, create: Callable[[], Awaitable[object]]) -> Callable[[], float]:
        async def all_at_once() -> None:
            await asyncio.gather(*(create() for _ in range(count)))

        def run() -> float:
            taken, late = asyncio.run(longest_stop(all_at_once()))
            stops.setdefault(name, []).append(late)
            return taken

        return run

    async def blocking() -> None:
        jobs.create("email", PAYLOAD)

    samples = rounds(
        {
            "aio": case("aio", lambda: jobs.aio.create("email", PAYLOAD)),
            "to_thread": case("to_thread", lambda: asyncio.to_thread(jobs.create, "email", PAYLOAD)),
            "blocking": case("blocking", blocking),
        },
        2 if quick else 5,
    )
    return [
        ratio(samples, "aio", "to_thread", f"{count} creates at once: jobs.aio, over asyncio.to_thread", at_most=1.1),
        ratio(samples, "blocking", "aio", f"{count} creates at once: one after the other, over jobs.aio", at_least=1.5),
        ratio(
            stops,
            "blocking",
            "aio",
            "how long the event loop stands still: without jobs.aio, over with it",
            at_least=10,
        ),
    ]
