"""A small world around the dispatcher: a queue whose delays follow the test's clock, ticks, deliveries, sudden death.

The table is moto's, so that conditions are judged by somebody else's code; only SQS is replaced, because no emulator's
clock can be moved.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import boto3
from botocore.exceptions import ConnectionClosedError
from moto import mock_aws

from kumofire_core import ConsumeResult, DispatchResult, JobContext, Jobs
from kumofire_core.model.message import decode_body
from kumofire_core.model.times import from_ms, to_ms
from kumofire_core.testing.dynamodb import MemoryDynamoDB
from tests.builders import IN_MEMORY, NOW, Aws, Clock, make_aws, message, real_ms

UNFINISHED = ("scheduled", "queued", "running")

_names = itertools.count(1)


@dataclass(kw_only=True)
class SlowQueue:
    """An SQS queue in memory; a message comes out when the clock says so. ``losing`` says what happens to sends:

    ``"refused"``: SQS takes none and says so. ``"silently"``: SQS takes it, and it never arrives.
    """

    clock: Clock
    losing: str | None = None
    eternal: int = 0
    """Messages of others that wait for good, and that nobody receives."""
    waiting: list[tuple[datetime, str]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    taken: list[tuple[str, int]] = field(default_factory=list)
    """Run id and delay of every message, also of those that never arrive."""

    def send_message(self, **request: Any) -> dict[str, Any]:
        """Take one message."""
        self.requests.append(("send_message", request))
        self._take(request)
        return {"MessageId": "of-a-message"}

    def send_message_batch(self, **request: Any) -> dict[str, Any]:
        """Take up to ten messages with ids of their own, as SQS does."""
        entries = request["Entries"]
        assert 1 <= len(entries) <= 10
        assert len({entry["Id"] for entry in entries}) == len(entries)
        self.requests.append(("send_message_batch", request))
        for entry in entries:
            self._take(entry)
        return {"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}

    def get_queue_attributes(self, **request: Any) -> dict[str, Any]:
        self.requests.append(("get_queue_attributes", request))
        visible = sum(visible_at <= self.clock.now for visible_at, _ in self.waiting)
        return {"Attributes": {"ApproximateNumberOfMessages": str(visible + self.eternal)}}

    def due(self) -> list[str]:
        """Take out the runs whose messages have become visible, in the order of their times."""
        self.waiting.sort(key=lambda entry: entry[0])
        here = [run_id for visible_at, run_id in self.waiting if visible_at <= self.clock.now]
        self.waiting = [entry for entry in self.waiting if entry[0] > self.clock.now]
        return here

    def _take(self, entry: dict[str, Any]) -> None:
        delay = entry.get("DelaySeconds", 0)
        assert isinstance(delay, int)
        assert 0 <= delay <= 900
        if self.losing == "refused":
            raise ConnectionClosedError(endpoint_url="https://sqs.invalid")
        run_id = decode_body(entry["MessageBody"])
        self.taken.append((run_id, delay))
        if self.losing is None:
            self.waiting.append((self.clock.now + timedelta(seconds=delay), run_id))


class World:
    """A table, a queue, a clock, and a ``Jobs`` whose jobs write down when they are executed.

    ``work`` succeeds. ``flaky`` fails its first attempt. ``hopeless`` fails every one of its two.
    """

    def __init__(self, dynamodb: Any, *, now: datetime = NOW, **settings: Any) -> None:
        self.clock = Clock(now)
        self.queue = SlowQueue(clock=self.clock)
        self.aws: Aws = make_aws(dynamodb, _NoQueue(), name=f"world-{next(_names)}")
        self.settings: dict[str, Any] = {"wake_shards": 2, **settings}
        self.executed: list[tuple[str, int, datetime]] = []
        self.jobs = self.another()

    def another(self, *, dynamodb: Any = None, sqs: Any = None, **settings: Any) -> Jobs:
        """Return a ``Jobs`` of another process in this world; its clients may be given, to go wrong."""
        jobs = self.aws.jobs(
            **{
                "clock": self.clock,
                "sqs": sqs or self.queue,
                "dynamodb": dynamodb or self.aws.dynamodb,
                **self.settings,
                **settings,
            }
        )
        jobs.handler("work")(self._work)
        jobs.handler("flaky")(self._flaky)
        jobs.handler("hopeless", max_attempts=2)(self._hopeless)
        return jobs

    def _note(self, ctx: JobContext) -> None:
        self.executed.append((ctx.run.id, ctx.attempt, self.clock.now))

    def _work(self, ctx: JobContext) -> str:
        self._note(ctx)
        return "done"

    def _flaky(self, ctx: JobContext) -> str:
        self._note(ctx)
        if ctx.attempt == 1:
            raise ConnectionError("not yet")
        return "done"

    def _hopeless(self, ctx: JobContext) -> None:
        self._note(ctx)
        raise ConnectionError("never")

    def tick(self, **arguments: Any) -> DispatchResult:
        """Call the dispatcher once."""
        return self.jobs.dispatch(**arguments)

    def deliver(self) -> list[ConsumeResult]:
        """Consume every message that is visible by now."""
        return [self.jobs.consume(message(run_id)) for run_id in self.queue.due()]

    def minutes(self, count: int, *, consuming: bool = True) -> Iterator[int]:
        """Let the minutes pass, a tick at the start of each; yields each minute's number after its tick."""
        for minute in range(count):
            end = self.clock.now + timedelta(minutes=1)
            self.tick()
            yield minute
            while consuming and self.queue.waiting and (first := min(self.queue.waiting)[0]) <= end:
                self.clock.now = max(self.clock.now, first)
                self.deliver()
            self.clock.now = end

    def settle(self, *, rounds: int = 40) -> None:
        """Tick and deliver, from one moment at which something happens to the next, until every run has ended."""
        for _ in range(rounds):
            self.check()
            self.tick()
            self.deliver()
            unfinished = [item for item in self.runs() if item["status"] in UNFINISHED]
            if not unfinished and not self.queue.waiting:
                return
            moments = [visible_at for visible_at, _ in self.queue.waiting]
            moments += [from_ms(item["wake_at"]) for item in unfinished]
            self.clock.now = max(self.clock.now + timedelta(milliseconds=1), min(moments))
        raise AssertionError(f"not settled after {rounds} rounds: {self.runs()}")

    def check(self) -> None:
        """Assert what holds at every moment: the unfinished have a wake-up that will come, the finished have none."""
        for item in self.aws.items():
            if item["pk"].startswith("settings#"):
                assert not {"wake_shard", "wake_at"} & item.keys(), item
            elif item["pk"].startswith("schedule#"):
                assert "wake_shard" in item
                assert item["wake_at"] == item.get("next_run_at", item["wake_at"]), item
                assert item["wake_at"] > to_ms(self.clock.now) or item["enabled"], item
            elif item["pk"].startswith(("progress#", "counts#", "limit#")) or item["sk"].startswith("steps#"):
                assert not {"wake_at", "wake_shard"} & item.keys(), item
            elif item["status"] in UNFINISHED:
                assert "wake_shard" in item, item
                latest = max(to_ms(self.clock.now), item["scheduled_for"], item.get("lease_until", 0))
                assert item["wake_at"] <= latest + (86_400_000 if "parked" in item else 3_600_000), item
                assert item["attempt"] < item["max_attempts"], item
            else:
                assert not {"wake_shard", "wake_at", "lease_token", "lease_until"} & item.keys(), item
        assert all(count == 1 for count in Counter((run, attempt) for run, attempt, _ in self.executed).values())

    def runs(self) -> list[dict[str, Any]]:
        """Return the stored runs."""
        return [item for item in self.aws.items() if item["sk"] == "run"]

    def statuses(self) -> dict[str, int]:
        """Return how many runs there are, by status."""
        return dict(Counter(item["status"] for item in self.runs()))

    def runs_of(self, *schedule_ids: str) -> list[str]:
        """Return the ids of the runs of schedules, by the times for which they are."""
        found = sorted(self.runs(), key=lambda item: item["scheduled_for"])
        return [item["pk"].removeprefix("run#") for item in found if item.get("schedule_id") in schedule_ids]

    def times_sent(self) -> dict[str, int]:
        """Return how many messages of each run the queue took."""
        return dict(Counter(run_id for run_id, _ in self.queue.taken))

    def times_executed(self) -> dict[str, int]:
        """Return how often each run's handler was called."""
        return dict(Counter(run_id for run_id, _, _ in self.executed))


@contextlib.contextmanager
def a_world(**settings: Any) -> Iterator[World]:
    """Give a world of its own, in a moto that nothing else is in."""
    if IN_MEMORY:
        yield World(MemoryDynamoDB(real_ms), **settings)
        return
    with mock_aws():
        yield World(_dynamodb(), **settings)


@cache
def _dynamodb() -> Any:
    # Made once, as it costs more than a test; moto takes its requests while it is on.
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    return session.client("dynamodb")


class Died(BaseException):
    """The process is no more. No ``Exception``, as nothing can handle its own death."""


class Death:
    """Kills a process at one of its requests, the ``at``-th over all wrapped clients; afterwards it makes none.

    ``applied`` says whether that last request still reached the service. Requests named in ``beside`` don't count:
    those that a process makes beside the others, in no fixed order.
    """

    def __init__(self, at: int, *, applied: bool, beside: Sequence[str] = ()) -> None:
        self.at = at
        self.applied = applied
        self.beside = beside
        self.made = 0
        self._lock = threading.Lock()

    @property
    def came(self) -> bool:
        """Whether the process got as far as that request."""
        return self.made >= self.at

    def wrap(self, client: Any) -> Any:
        """Return ``client`` for the process that is going to die."""
        return _Mortal(self, client)

    def request(self, operation: str, make: Callable[[], Any]) -> Any:
        """Make a request while the process is alive."""
        with self._lock:
            if self.came:
                raise Died
            if operation not in self.beside:
                self.made += 1
            if not self.came:
                return make()
            if self.applied:
                make()
            raise Died


class _Mortal:
    def __init__(self, death: Death, client: Any) -> None:
        self._death = death
        self._client = client

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        method = getattr(self._client, operation)
        return lambda **parameters: self._death.request(operation, lambda: method(**parameters))


class LaggingIndex:
    """Adds entries to what the wake-up index shows: those of items that say something else by now, or are gone."""

    def __init__(self, client: Any, entries: dict[int, list[dict[str, Any]]]) -> None:
        self._client = client
        self._entries = entries

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        return getattr(self._client, operation)

    def query(self, **parameters: Any) -> dict[str, Any]:
        """Query, and add what was still there a moment ago."""
        reply = dict(self._client.query(**parameters))
        shard = int(parameters["ExpressionAttributeValues"][":shard"]["N"])
        reply["Items"] = [*self._entries.get(shard, []), *reply["Items"]]
        return reply


class Canned:
    """A table that holds nothing but an index full of due runs, and applies whatever it is asked to; counts requests.

    For numbers of runs at which an emulator would be what is measured.
    """

    def __init__(self, runs: int, *, shards: int, wake_at: int) -> None:
        self._shards = [
            [
                {
                    "pk": {"S": f"run#{number}"},
                    "sk": {"S": "run"},
                    "wake_shard": {"N": str(shard)},
                    "wake_at": {"N": str(wake_at)},
                }
                for number in range(shard, runs, shards)
            ]
            for shard in range(shards)
        ]
        self.requests: Counter[str] = Counter()
        self.updated: Counter[str] = Counter()
        self._lock = threading.Lock()

    def query(self, **parameters: Any) -> dict[str, Any]:
        """Return one page of a partition, of at most ``Limit`` entries."""
        self.requests["query"] += 1
        shard = int(parameters["ExpressionAttributeValues"][":shard"]["N"])
        entries = self._shards[shard] if 0 <= shard < len(self._shards) else []
        start = int(parameters.get("ExclusiveStartKey", {}).get("after", {}).get("N", 0))
        end = start + parameters["Limit"]
        more = {"LastEvaluatedKey": {"after": {"N": str(end)}}} if end < len(entries) else {}
        return {"Items": entries[start:end], **more}

    def get_item(self, **parameters: Any) -> dict[str, Any]:
        """Find nothing."""
        self.requests["get_item"] += 1
        return {}

    def update_item(self, **parameters: Any) -> dict[str, Any]:
        """Say that the write was made, and return the item, which has no group, where it is asked for."""
        with self._lock:
            self.requests["update_item"] += 1
            self.updated[parameters["Key"]["pk"]["S"]] += 1
        return {"Attributes": parameters["Key"]} if parameters["ReturnValues"] == "ALL_NEW" else {}


class _NoQueue:
    """Stands where an emulator's SQS client would, for ``make_aws``."""

    def create_queue(self, **parameters: Any) -> dict[str, str]:
        return {"QueueUrl": "https://sqs.invalid/queue"}
