"""What all races have in common: their settings and clock, the queue that delivers nothing, one racing process.

A race of one kind is a subclass of ``Racer``: the jobs that it registers, what its threads do, and what it promises.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from kumofire_core import JobContext, Jobs, RetryPolicy
from kumofire_core.aws.dynamodb import unmarshal
from kumofire_core.model.message import decode_body
from kumofire_core.model.run import derived_run_id
from tests.builders import message, record
from tests.chaos import ledger

FULL_PARTITION = 3
"""So many items that are due let a dispatcher hand a partition over; 500 outside of races."""

LEASE_MARGIN_MS = 5_000
MAX_ATTEMPTS = 4
SHARDS = 3

_stuck: deque[tuple[float, str]] = deque()
"""When the leases of this process's handlers that outlive them end, and whose they are."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the processes of a race have in common, and how much each does."""

    what: str = "runs"
    """Which race: a name of ``tests.chaos.races.RACES``."""
    endpoint_url: str
    table: str
    queue_url: str | None
    """``None`` where there is no SQS: messages then go nowhere, and the dispatcher's part is done by chance."""
    ledger: str
    began: float
    """Epoch seconds."""
    seed: int
    keys: int = 140
    threads: int = 16
    operations: int = 18
    """Of each thread."""
    seconds: float | None = None
    """How long the threads race, in real seconds, instead of ``operations``."""
    speed: float = 3
    """How many times as fast as a real clock that of the race runs: leases end and retries come due meanwhile."""
    lease_seconds: float = 5
    """Of the race's time, without the margin."""
    batch_writes: bool = False
    mistake: str | None = None
    """What the racing processes do wrong: a name in ``tests.chaos.mistakes``."""
    calm: bool = False
    """Whether handlers neither dawdle nor outlive their leases: after the race."""

    @property
    def lease_ms(self) -> int:
        """How long a claim holds, by the clock of the race."""
        return int(self.lease_seconds * 1000) + LEASE_MARGIN_MS

    @property
    def real_lease_seconds(self) -> float:
        """How long a claim holds, in real seconds."""
        return self.lease_ms / 1000 / self.speed

    def client(self, service: str) -> Any:
        """Return a client with a connection for each thread."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(
                proxies={}, max_pool_connections=self.threads + 2, read_timeout=30, retries={"mode": "standard"}
            ),
        )

    def clock(self) -> datetime:
        """Return the time of the race."""
        return datetime.fromtimestamp(self.began + (time.time() - self.began) * self.speed, UTC)

    def jobs(self, *, clock: Callable[[], datetime], sqs: Any) -> Jobs:
        """Return a ``Jobs`` without handlers."""
        return Jobs(
            table=self.table,
            queue_url=self.queue_url or "https://sqs.invalid/queue",
            dynamodb=self.client("dynamodb"),
            sqs=sqs,
            clock=clock,
            lease=timedelta(seconds=self.lease_seconds),
            retry=RetryPolicy(MAX_ATTEMPTS, base=timedelta(milliseconds=500), cap=timedelta(seconds=2)),
            wake_shards=SHARDS,
            batch_writes=self.batch_writes,
        )

    def enter(self, event: str, **fields: Any) -> None:
        """Append one event to the ledger."""
        ledger.enter(self.ledger, event, **fields)

    def execution(
        self, ctx: JobContext, clock: Callable[[], datetime], **fields: Any
    ) -> contextlib.AbstractContextManager[None]:
        """Enter that a handler begins, and how it ends."""
        return ledger.execution(
            self.enter, ctx, lease_ms=self.lease_ms, now_ms=lambda: int(clock().timestamp() * 1000), **fields
        )

    def dawdle(self, ctx: JobContext, *, stuck: float = 0.03) -> None:
        """Take no time, a moment, or with the probability ``stuck`` more than the lease."""
        if self.calm:
            return
        drawn = random.random()
        if (ctx.run.last_error or "").startswith("LeaseExpired"):
            time.sleep(1.5)  # so that the one who lost the lease comes back meanwhile
        elif drawn < stuck:
            _stuck.append((time.monotonic() + self.real_lease_seconds, ctx.run.id))
            time.sleep(self.real_lease_seconds + 0.9)
        elif drawn < 0.3:
            time.sleep(0.02)


class Nowhere:
    """A queue that takes every message and delivers none; it remembers which runs were sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send_message(self, **request: Any) -> dict[str, Any]:
        """Take one message."""
        self.sent.append(decode_body(request["MessageBody"]))
        return {"MessageId": "m"}

    def get_queue_attributes(self, **request: Any) -> dict[str, Any]:
        """Say that nothing waits."""
        return {"Attributes": dict.fromkeys(request["AttributeNames"], "0")}

    def send_message_batch(self, **request: Any) -> dict[str, Any]:
        """Take up to ten messages."""
        self.sent += [decode_body(entry["MessageBody"]) for entry in request["Entries"]]
        return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]]}


class NoSqs(Nowhere):
    """Nowhere, as a client that makes a queue."""

    def create_queue(self, **request: Any) -> dict[str, str]:
        """Return the address of a queue that does not exist."""
        return {"QueueUrl": "https://sqs.invalid/queue"}


Operation = Callable[[str, random.Random], None]


class Racer:
    """One process of a race, with the operations that every race has: to deliver, to dispatch, to hurry."""

    uncounted: ClassVar[float] = math.inf
    """How many claims may end without an attempt counted: limits, pauses and suspensions give them back."""
    further: ClassVar[dict[str, Any]] = {}
    """The settings in which this race differs."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.settings = settings
        self.number = number
        self.sqs: Any = self.make_sqs()
        self.jobs = self.make_jobs(settings, clock=settings.clock, sqs=self.sqs)
        self.dynamodb = settings.client("dynamodb")
        self._others: list[threading.Thread] = []
        """Passes of partitions that were handed over."""
        self.operations: dict[Operation, int] = {self.deliver: 36, self.dispatch: 8, self.hurry: 6}

    def make_sqs(self) -> Any:
        """Return the client of SQS that this process uses."""
        return self.settings.client("sqs") if self.settings.queue_url else Nowhere()

    @classmethod
    def make_jobs(cls, settings: Settings, *, clock: Callable[[], datetime], sqs: Any) -> Jobs:
        """Return a ``Jobs`` whose handlers enter their executions in the ledger."""
        jobs = settings.jobs(clock=clock, sqs=sqs)
        cls.register(jobs, settings, clock)
        return jobs

    @classmethod
    def register(cls, jobs: Jobs, settings: Settings, clock: Callable[[], datetime]) -> None:
        """Register the race's handlers."""
        raise NotImplementedError

    @classmethod
    def calm_down(cls, jobs: Jobs, settings: Settings) -> None:
        """Do what lets the runs of this race end, once nobody races any more."""

    @classmethod
    def judge(cls, events: list[dict[str, Any]], items: list[dict[str, Any]]) -> list[str]:
        """Return the promises of this race that were broken, beside those that every run has."""
        return []

    def run(self) -> None:
        """Race with all threads until each has made its operations."""
        with ThreadPoolExecutor(self.settings.threads) as pool:
            for future in [pool.submit(self._thread, number) for number in range(self.settings.threads)]:
                future.result()
        for other in self._others:
            other.join()

    def conduct(self) -> None:
        """Do what the first thread of the first process alone does, instead of racing."""
        raise NotImplementedError

    def _thread(self, number: int) -> None:
        chance = random.Random(f"{self.settings.seed} {self.number} {number}")
        if number == self.number == 0 and type(self).conduct is not Racer.conduct:
            self.conduct()
            return
        for progress in self._progress():
            self._rescue()
            operation = chance.choices(list(self.operations), list(self.operations.values()))[0]
            try:
                operation(self._key(chance, progress), chance)
            except Exception as error:
                self.settings.enter("error", operation=operation.__name__, text=repr(error)[:300])

        while number == 0 and _stuck:
            time.sleep(0.02)
            self._rescue()

    def _progress(self) -> Iterator[float]:
        """Yield, for each operation, how much of the race is over, from 0 to 1."""
        if self.settings.seconds is None:
            yield from (step / self.settings.operations for step in range(self.settings.operations))
            return
        began = time.monotonic()
        while (passed := time.monotonic() - began) < self.settings.seconds:
            yield passed / self.settings.seconds

    def _rescue(self) -> None:
        """Consume a run whose handler is stuck, just after its lease has ended."""
        try:
            ends, run_id = _stuck.popleft()
        except IndexError:
            return
        if ends > time.monotonic():
            _stuck.appendleft((ends, run_id))
        else:
            self.consume_all([run_id])

    def _key(self, chance: random.Random, progress: float) -> str:
        # Mostly where all the others are, too.
        near = int(progress * self.settings.keys) + chance.randint(0, 5)
        return f"key-{(near if chance.random() < 0.8 else chance.randrange(self.settings.keys)) % self.settings.keys}"

    def consume_all(self, run_ids: Sequence[str]) -> None:
        """Consume a batch with a message for each of these runs."""
        consume_all(self.jobs, self.settings, run_ids)

    def unfinished(self) -> list[dict[str, Any]]:
        """Return keys, status and wake-ups of all that is in the index of wake-ups."""
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.settings.table,
            FilterExpression="attribute_exists(wake_at)",
            ProjectionExpression="pk, sk, #status, wake_at",
            ExpressionAttributeNames={"#status": "status"},
        )
        return [dict(unmarshal(item)) for page in pages for item in page["Items"]]

    def unfinished_runs(self) -> list[str]:
        """Return the ids of all runs that have not ended."""
        return [item["pk"].removeprefix("run#") for item in self.unfinished() if item["pk"].startswith("run#")]

    def deliver(self, key: str, chance: random.Random) -> None:
        """Deliver messages of unfinished runs, to whichever process this is: early, late and twice."""
        waiting = self.unfinished_runs()
        self.consume_all(chance.sample(waiting, min(len(waiting), chance.choice((1, 4, 8)))))

    def dispatch(self, key: str, chance: random.Random) -> None:
        """Make a pass of a dispatcher: of all partitions, of one, or one that hands full partitions over to others."""
        if chance.random() < 0.3:
            self._dispatch(hand_over=lambda partition: self._hand_over(partition, chance))
            return
        self._dispatch(limit=20, partitions=chance.choice((None, None, [chance.randrange(SHARDS)], [-1])))

    def _dispatch(self, **given: Any) -> None:
        result = self.jobs.dispatch(**given)
        if result.errors:
            self.settings.enter("error", operation="dispatch", text=f"{result.errors} errors")

    def _hand_over(self, partition: int, chance: random.Random) -> None:
        """Let another pass take a partition, beside this one: once, twice, or never, as an invocation may be lost."""
        self.settings.enter("handed", partition=partition)
        for _ in range(chance.choice((0, 1, 1, 2))):
            other = threading.Thread(target=self._dispatch, kwargs={"partitions": [partition]})
            other.start()
            self._others.append(other)

    def hurry(self, key: str, chance: random.Random) -> None:
        """Make the dispatcher look now at some of what it looks at later: a wake-up may come early at any time."""
        waiting = [item for item in self.unfinished() if item.get("status") != "scheduled"]
        for item in chance.sample(waiting, min(len(waiting), 4)):
            self.wake({"pk": {"S": item["pk"]}, "sk": {"S": item["sk"]}})

    def wake(self, key: dict[str, Any]) -> None:
        """Let the wake-up of an item that is not scheduled come now."""
        with refusals_pass():
            self.dynamodb.update_item(
                TableName=self.settings.table,
                Key=key,
                UpdateExpression="SET wake_at = :now",
                ConditionExpression="attribute_exists(wake_at)"
                " AND (attribute_not_exists(#status) OR #status <> :scheduled)",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={
                    ":now": {"N": str(int(self.settings.clock().timestamp() * 1000))},
                    ":scheduled": {"S": "scheduled"},
                },
            )


def consume_all(jobs: Jobs, settings: Settings, run_ids: Sequence[str]) -> None:
    """Consume a batch with a message for each of these runs, and enter what it is told to have come to."""
    records = [record(json.dumps(message(run_id))) for run_id in run_ids]
    for report in jobs.run_batch({"Records": records}).records:
        if report.failure is not None and report.failure.startswith("only "):
            settings.enter("unstarted", run_id=report.job_run_id)
        elif report.failure is not None:
            settings.enter("error", operation="batch", text=report.failure)
        elif report.result is not None and report.result.outcome == "succeeded":
            settings.enter("succeeded", run_id=report.job_run_id)


@contextlib.contextmanager
def refusals_pass() -> Iterator[None]:
    """Let a conditional write be refused."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise


def run_id_of(key: str) -> str:
    """Return the id of a dedupe key's first run."""
    return derived_run_id("dedupe_key", key)


def number_of(key: str) -> int:
    """Return the number of a key."""
    return int(key.rpartition("-")[2])


def a_value() -> str:
    """Return a value that no other call has."""
    return uuid.uuid4().hex


def scan(dynamodb: Any, table: str) -> list[dict[str, Any]]:
    """Return all items of a table."""
    pages = dynamodb.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    return [dict(unmarshal(item)) for page in pages for item in page["Items"]]
