"""What limits and rates cost a run, and how near to them a load of runs comes, on DynamoDB Local and in a model.

It needs Java and DynamoDB Local (``tools.dynamodb_local``); without them only the model is measured. The queue is one
of this process, which hands out a message at once or after its delay.
"""

from __future__ import annotations

import heapq
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from benchmarks.counted import CountingClient, bench_table
from benchmarks.endpoint import Endpoint
from benchmarks.measure import Row
from tools.dynamodb_local import NotThereError, beside_dynamodb_local

PLAIN = 5
SLOTS = 5
HANDLER_SECONDS = 1.0
RATE = 20
LEAST_SHARE = 0.9

MODEL_CONSUMERS = 1_000
MODEL_RUNS = 20_000
REQUEST_SECONDS = 0.005
HOP_SECONDS = 0.03
"""From a message's sending until a consumer has received it, as SQS and Lambda take it."""


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure in a process of its own, without a network."""
    model = [
        Row(
            what=f"share of a limit of {slots}, {MODEL_CONSUMERS:,} consumers, handlers of {seconds:g} s (model)",
            value=round(share, 3),
            at_least=LEAST_SHARE if seconds >= 1 else None,
            detail=f"at most {at_once} at once",
        )
        for slots, seconds in ((5, 1.0), (5, 10.0), (20, 1.0), (5, 0.1))
        for share, at_once in [modelled(slots, seconds, MODEL_RUNS // (10 if quick else 1))]
    ]
    try:
        done = beside_dynamodb_local("benchmarks.limits", "quick" if quick else "full")
    except NotThereError as reason:
        return [Row(what="write units of a run with a limit", value=None, detail=str(reason)), *model]
    found: dict[str, Any] = json.loads(done)
    rows = [
        Row(what="write units of a run without a limit", value=found["plain"], at_most=PLAIN),
        Row(what="the same with a limit, where a slot is free", value=found["limit"], at_most=PLAIN + 2),
        Row(what="requests more than without", value=found["limit requests"] - found["plain requests"], at_most=2),
        Row(what="the same with a rate, where the moment is now", value=found["rate"], at_most=PLAIN + 1),
        Row(what="the same with a limit, where it has to wait", value=found["waits"]),
        Row(what="the same with a rate, where it is put back", value=found["put back"]),
    ]
    for consumers in (1, 10):
        limit, rate = found[f"limit of {consumers}"], found[f"rate of {consumers}"]
        rows += [
            Row(
                what=f"share of a limit of {SLOTS} that {consumers} consumers use, handlers of {HANDLER_SECONDS:g} s",
                value=limit["share"],
                at_least=LEAST_SHARE,
                detail=f"{limit['at once']} at once",
            ),
            Row(what="the most that were executing at once", value=limit["at once"], at_most=SLOTS),
            Row(
                what=f"share of a rate of {RATE} a second that {consumers} consumers reach",
                value=rate["share"],
                at_least=LEAST_SHARE,
            ),
            Row(what="the most starts in any second", value=rate["most"], at_most=RATE),
        ]
    return rows + model


def modelled(slots: int, seconds: float, runs: int) -> tuple[float, int]:
    """Play a limit with a thousand consumers in simulated time; return the share that is used, and the most at once.

    All runs are sent at once. Each claims, takes its place or waits; whoever ends frees its slot and sends the next
    one. Requests and hops take what the constants above say.
    """
    events: list[tuple[float, int, str]] = [
        (number / MODEL_CONSUMERS * REQUEST_SECONDS, number, "receive") for number in range(runs)
    ]
    heapq.heapify(events)
    waiting: list[int] = []
    free, at_once, most, busy, ended = slots, 0, 0, 0.0, 0.0
    has_slot: set[int] = set()
    while events:
        now, run, what = heapq.heappop(events)
        if what == "receive":
            heapq.heappush(events, (now + 2 * REQUEST_SECONDS, run, "enter"))  # claim; enter or renew
        elif what == "enter" and run not in has_slot:
            if free:
                free -= 1
                has_slot.add(run)
                heapq.heappush(events, (now, run, "start"))
            else:
                waiting.append(run)
        elif what in ("enter", "start"):
            at_once += 1
            most = max(most, at_once)
            busy += seconds
            heapq.heappush(events, (now + seconds, run, "end"))
        elif what == "end":
            at_once -= 1
            ended = now
            heapq.heappush(events, (now + 2 * REQUEST_SECONDS, run, "left"))  # succeed; leave
        elif waiting:
            following = waiting.pop(0)
            has_slot.add(following)
            heapq.heappush(events, (now + REQUEST_SECONDS + HOP_SECONDS, following, "receive"))  # admit; send
        else:
            free += 1
    return busy / (ended * slots), most


class _Queue:
    """A queue of this process, and a client for it."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, str]] = []
        self._changed = threading.Condition()
        self._number = 0

    def send_message(self, *, MessageBody: str, DelaySeconds: int = 0, **others: Any) -> dict[str, str]:
        with self._changed:
            self._number += 1
            heapq.heappush(self._entries, (time.monotonic() + DelaySeconds, self._number, MessageBody))
            self._changed.notify()
        return {}

    def receive(self) -> str:
        with self._changed:
            while True:
                left = self._entries[0][0] - time.monotonic() if self._entries else 1.0
                if left <= 0:
                    return heapq.heappop(self._entries)[2]
                self._changed.wait(left)


class _Starts:
    """What handlers did: how many at once, and when they started."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self.times: list[float] = []
        self.ended: list[float] = []
        self.now = self.most = 0

    def handle(self, ctx: object) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.times.append(time.time())
        time.sleep(self._seconds)
        with self._lock:
            self.now -= 1
            self.ended.append(time.time())


def _load(client: Any, name: str, consumers: int, runs: int, options: dict[str, Any], seconds: float) -> _Starts:
    """Create runs of a job, and let so many consumers, of six threads each, execute them all."""
    from kumofire_core import Jobs

    queue, starts = _Queue(), _Starts(seconds)

    def process() -> Jobs:
        jobs = Jobs(table="bench", queue_url="queue", dynamodb=client, sqs=queue, counts=False)  # type: ignore[arg-type]
        jobs.handler(name, **options)(starts.handle)
        return jobs

    def consume(jobs: Jobs) -> None:
        while True:
            jobs.consume(json.loads(queue.receive()))

    for jobs in [process() for _ in range(consumers)]:
        for _ in range(12 if consumers == 1 else 3):
            threading.Thread(target=consume, args=(jobs,), daemon=True).start()
    creator = process()
    for _ in range(runs):
        creator.create(name)
    give_up = time.monotonic() + 120
    while len(starts.ended) < runs and time.monotonic() < give_up:
        time.sleep(0.05)
    assert len(starts.ended) == runs, f"{name}: {len(starts.ended)} of {runs} ended"
    return starts


def _throughput(client: Any, *, quick: bool) -> dict[str, Any]:
    from kumofire_core import Limit, Rate

    found: dict[str, Any] = {}
    _load(client, "warm", 1, 50, {"concurrency": Limit(SLOTS)}, 0.0)  # DynamoDB Local is slow at first
    for consumers in (1, 10):
        name = f"limit of {consumers}"
        starts = _load(client, name, consumers, 20 if quick else 75, {"concurrency": Limit(SLOTS)}, HANDLER_SECONDS)
        length = max(starts.ended) - min(starts.times)
        used = len(starts.times) * HANDLER_SECONDS / (length * SLOTS)
        found[name] = {"share": round(used, 3), "at once": starts.most}
        name = f"rate of {consumers}"
        rate = Rate(RATE, per=timedelta(seconds=1))
        times = sorted(_load(client, name, consumers, 60 if quick else 200, {"rate": rate}, 0.0).times)
        share = (len(times) - 1) / (times[-1] - times[0]) / RATE
        most = max(sum(begin <= each < begin + 1 for each in times) for begin in times)
        found[name] = {"share": round(share, 3), "most": most}
    return found


def _units(client: Any) -> dict[str, Any]:
    from kumofire_core import Jobs, Limit, Rate

    counting, queue = CountingClient(client), _Queue()
    jobs = Jobs(table="bench", queue_url="queue", dynamodb=counting, sqs=queue, counts=False)  # type: ignore[arg-type]
    meanwhile: list[Callable[[], object]] = []
    jobs.handler("plain")(lambda ctx: None)
    jobs.handler("limit", concurrency=Limit(SLOTS))(lambda ctx: None)
    jobs.handler("rate", rate=Rate(1, per=timedelta(seconds=5)))(lambda ctx: None)
    jobs.handler("waits", concurrency=Limit(1))(lambda ctx: [each() for each in meanwhile[:1]])

    def consume(run_id: str) -> object:
        return jobs.consume({"version": 1, "kumofireJobRunId": run_id})

    consume(jobs.create("plain"))  # reads what is paused
    found: dict[str, Any] = {}
    for name in ("plain", "limit", "rate"):
        counting.begin()
        consume(jobs.create(name))
        found |= {name: counting.writes, f"{name} requests": counting.requests}
    waiting: list[str] = []
    spent: list[float] = []

    def another_comes() -> None:
        meanwhile.clear()
        counting.begin()
        waiting.append(jobs.create("waits"))
        consume(waiting[0])
        spent.append(counting.writes)

    holder = jobs.create("waits")
    meanwhile.append(another_comes)
    consume(holder)
    counting.begin()
    consume(waiting[0])
    found["waits"] = spent[0] + counting.writes + 1 + 2  # and its ``admit`` by the one before, with the index
    counting.begin()
    late = jobs.create("rate")
    consume(late)
    run = jobs.get_status(late)
    assert run is not None
    assert run.waiting_for_limit, run
    time.sleep(max(0.0, run.scheduled_for.timestamp() - time.time()))
    consume(late)
    found["put back"] = counting.writes
    return found


def main() -> None:
    """Run DynamoDB Local, measure, and print what was found as JSON."""

    with bench_table() as client:
        print(json.dumps(_units(client) | _throughput(client, quick=sys.argv[3] == "quick")))
        sys.stdout.flush()
    os._exit(0)  # consumers' threads wait for messages still


if __name__ == "__main__":
    main()
