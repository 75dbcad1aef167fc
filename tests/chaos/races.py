"""Real races: several processes with many threads each create, consume, dispatch, cancel and retry the same runs.

They share nothing but the table, and clocks that run ``SPEED`` times as fast as real ones, so that leases end and
retries come due while the race is on. ``race`` starts them and, when all are done, lets the clock jump until
every run has ended. A process by itself: ``python -m tests.chaos.races SETTINGS``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from kumofire_core import DeadlineTooCloseError, JobContext, Jobs, RetryPolicy, ScheduleConflictError
from kumofire_core.aws.dynamodb import unmarshal
from kumofire_core.model.message import decode_body
from kumofire_core.model.run import derived_run_id
from tests.builders import message, record
from tests.chaos import ledger

SPEED = 3
LEASE = timedelta(seconds=5)
LEASE_MARGIN_MS = 5_000
LEASE_SECONDS = (LEASE.total_seconds() + LEASE_MARGIN_MS / 1000) / SPEED
"""How long a claim holds, in real seconds."""

STUCK_SECONDS = LEASE_SECONDS + 0.9

MAX_ATTEMPTS = 4
SCHEDULE = timedelta(seconds=50)
OCCURRENCES = 12
"""Its end comes long after the race's: the dispatcher makes the later ones when the clock jumps."""


_stuck: deque[tuple[float, str]] = deque()
"""When the leases of this process's handlers that outlive them end, and whose they are."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the processes of a race have in common, and how much each does."""

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
    batch_writes: bool = False

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
        return datetime.fromtimestamp(self.began + (time.time() - self.began) * SPEED, UTC)

    def jobs(self, *, clock: Callable[[], datetime], sqs: Any) -> Jobs:
        """Return a ``Jobs`` whose handlers enter their executions in the ledger."""
        jobs = Jobs(
            table=self.table,
            queue_url=self.queue_url or "https://sqs.invalid/queue",
            dynamodb=self.client("dynamodb"),
            sqs=sqs,
            clock=clock,
            lease=LEASE,
            retry=RetryPolicy(MAX_ATTEMPTS, base=timedelta(milliseconds=500), cap=timedelta(seconds=2)),
            wake_shards=3,
            batch_writes=self.batch_writes,
        )

        @jobs.handler("race")
        def race(ctx: JobContext) -> int:
            name = {"run_id": ctx.run.id, "fence": ctx.fencing_token}
            ledger.enter(
                self.ledger,
                "begin",
                **name,
                attempt=ctx.attempt,
                max_attempts=ctx.run.max_attempts,
                claimed_ms=int(ctx.now.timestamp() * 1000),
                lease_ms=int(LEASE.total_seconds() * 1000) + LEASE_MARGIN_MS,
                begun_ms=int(clock().timestamp() * 1000),
                scheduled_ms=int(ctx.run.scheduled_for.timestamp() * 1000),
            )
            drawn = random.random()
            if (ctx.run.last_error or "").startswith("LeaseExpired"):
                time.sleep(1.5)  # so that the one who lost the lease comes back meanwhile
            elif drawn < 0.03:
                _stuck.append((time.monotonic() + LEASE_SECONDS, ctx.run.id))
                time.sleep(STUCK_SECONDS)
            elif drawn < 0.3:
                time.sleep(0.02)
            how = "raised" if random.random() < 0.5 else "returned"
            ledger.enter(self.ledger, "end", **name, how=how)
            if how == "raised":
                raise ConnectionError("no answer")
            return ctx.attempt

        return jobs


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


class Racer:
    """One process of a race."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.settings = settings
        self.number = number
        self.sqs = settings.client("sqs") if settings.queue_url else Nowhere()
        self.jobs = settings.jobs(clock=settings.clock, sqs=self.sqs)
        self.dynamodb = settings.client("dynamodb")
        self.operations = {
            self._create: 40,
            self._consume: 36,
            self._batch: 8,
            self._receive: 4,
            self._wake: 6,
            self._dispatch: 8,
            self._cancel: 8,
            self._retry: 12,
            self._schedule: 2,
        }

    def run(self) -> None:
        """Race with all threads until each has made its operations."""
        with ThreadPoolExecutor(self.settings.threads) as pool:
            for future in [pool.submit(self._thread, number) for number in range(self.settings.threads)]:
                future.result()

    def _thread(self, number: int) -> None:
        chance = random.Random(f"{self.settings.seed} {self.number} {number}")
        for step in range(self.settings.operations):
            self._rescue()
            key = self._key(chance, step / self.settings.operations)
            operation = chance.choices(list(self.operations), list(self.operations.values()))[0]
            try:
                operation(key, chance)
            except Exception as error:
                ledger.enter(self.settings.ledger, "error", operation=operation.__name__, text=repr(error)[:300])

        while number == 0 and _stuck:
            time.sleep(0.02)
            self._rescue()

    def _rescue(self) -> None:
        """Consume a run whose handler is stuck, just after its lease has ended."""
        try:
            ends, run_id = _stuck.popleft()
        except IndexError:
            return
        if ends > time.monotonic():
            _stuck.appendleft((ends, run_id))
        else:
            self._consume_all([run_id])

    def _key(self, chance: random.Random, progress: float) -> str:
        # Mostly where all the others are, too.
        near = int(progress * self.settings.keys) + chance.randint(0, 5)
        return f"key-{(near if chance.random() < 0.8 else chance.randrange(self.settings.keys)) % self.settings.keys}"

    def _create(self, key: str, chance: random.Random) -> None:
        self.jobs.create("race", key, dedupe_key=key, delay=chance.choice((0, 0, 0, 1.5)))

    def _consume(self, key: str, chance: random.Random) -> None:
        try:
            result = self.jobs.consume(message(run_id_of(key)))
        except DeadlineTooCloseError:
            ledger.enter(self.settings.ledger, "unstarted", run_id=run_id_of(key))
            return
        if result.outcome == "succeeded":
            ledger.enter(self.settings.ledger, "succeeded", run_id=result.job_run_id)

    def _batch(self, key: str, chance: random.Random) -> None:
        number = int(key.partition("-")[2])
        self._consume_all([run_id_of(f"key-{(number + step) % self.settings.keys}") for step in range(4)])

    def _receive(self, key: str, chance: random.Random) -> None:
        if self.settings.queue_url is None:
            return
        received = self.sqs.receive_message(QueueUrl=self.settings.queue_url, MaxNumberOfMessages=10).get(
            "Messages", []
        )
        self._consume_all([decode_body(each["Body"]) for each in received])

    def _consume_all(self, run_ids: list[str]) -> None:
        records = [record(json.dumps(message(run_id))) for run_id in run_ids]
        for report in self.jobs.run_batch({"Records": records}).records:
            if report.failure is not None and report.failure.startswith("only "):
                ledger.enter(self.settings.ledger, "unstarted", run_id=report.job_run_id)
            elif report.failure is not None:
                ledger.enter(self.settings.ledger, "error", operation="batch", text=report.failure)
            elif report.result is not None and report.result.outcome == "succeeded":
                ledger.enter(self.settings.ledger, "succeeded", run_id=report.job_run_id)

    def _wake(self, key: str, chance: random.Random) -> None:
        """Make the dispatcher look now at whoever is near: a wake-up may come early at any time."""
        now_ms, number = int(self.settings.clock().timestamp() * 1000), int(key.partition("-")[2])
        for step in range(4):
            run_id = run_id_of(f"key-{(number + step) % self.settings.keys}")
            try:
                self.dynamodb.update_item(
                    TableName=self.settings.table,
                    Key={"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}},
                    UpdateExpression="SET wake_at = :now",
                    ConditionExpression="attribute_exists(wake_at) AND (#status <> :scheduled)",
                    ExpressionAttributeNames={"#status": "status"},
                    ExpressionAttributeValues={":now": {"N": str(now_ms)}, ":scheduled": {"S": "scheduled"}},
                )
            except ClientError as error:
                if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                    raise

    def _dispatch(self, key: str, chance: random.Random) -> None:
        result = self.jobs.dispatch(limit=20)
        if result.errors:
            ledger.enter(self.settings.ledger, "error", operation="dispatch", text=f"{result.errors} errors")

    def _cancel(self, key: str, chance: random.Random) -> None:
        self.jobs.cancel(run_id_of(key), "raced")

    def _retry(self, key: str, chance: random.Random) -> None:
        if self.jobs.retry(run_id_of(key)):
            ledger.enter(self.settings.ledger, "retried", run_id=run_id_of(key))

    def _schedule(self, key: str, chance: random.Random) -> None:
        first = datetime.fromtimestamp(int(self.settings.began) + 2, UTC)
        with contextlib.suppress(ScheduleConflictError):
            self.jobs.upsert_schedule(
                "race",
                "occurrence",
                schedule_key="race",
                schedule_type="interval",
                schedule_expr=SCHEDULE,
                start_at=first,
                end_at=first + (OCCURRENCES - 1) * SCHEDULE,
            )


@dataclass
class Result:
    """What a race came to."""

    verdict: ledger.Verdict
    runs: int
    claims: int
    occurrences: int
    """How many of the runs are a schedule's."""
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        told: dict[str, int] = {
            "runs": self.runs,
            "of a schedule": self.occurrences,
            "claims": self.claims,
            "executions": self.verdict.executions,
            **self.statuses,
        }
        return ", ".join(f"{name} {count}" for name, count in told.items())


def run_id_of(key: str) -> str:
    """Return the id of a dedupe key's run."""
    return derived_run_id("dedupe_key", key)


def race(settings: Settings, *, processes: int = 3) -> Result:
    """Let ``processes`` race, bring all runs to their end, and judge."""
    racers = [_start(settings, number) for number in range(processes)]
    try:
        for racer in racers:  # all are let go when the last one is ready
            assert racer.stdout is not None
            line = racer.stdout.readline()
            assert line == "ready\n", f"a racer did not start: {line!r}"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        statuses = [racer.wait(180) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
            for pipe in (racer.stdin, racer.stdout):
                if pipe is not None:
                    pipe.close()
    assert statuses == [0] * processes, f"a racer ended with {statuses}"
    _settle(settings)
    items = scan(settings.client("dynamodb"), settings.table)
    events = ledger.read(settings.ledger)
    runs = [item for item in items if item["pk"].startswith("run#")]
    return Result(
        verdict=ledger.judge(events, items),
        runs=len(runs),
        claims=sum(item.get("claims", 0) for item in runs),
        occurrences=sum("schedule_id" in item for item in runs),
        statuses=Counter(item["status"] for item in runs),
        errors=Counter(f"{event['operation']}: {event['text']}" for event in events if event["event"] == "error"),
    )


def _start(settings: Settings, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.races", json.dumps({**asdict(settings), "number": number})],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _settle(settings: Settings) -> None:
    """Let the clock jump from minute to minute, dispatch, and deliver what is sent, until all runs have ended."""
    offset, queue = timedelta(), Nowhere()
    jobs = settings.jobs(clock=lambda: settings.clock() + offset, sqs=queue)
    dynamodb = settings.client("dynamodb")
    for _ in range(30):
        jobs.dispatch()
        sent, queue.sent = list(dict.fromkeys(queue.sent)), []
        for run_id in sent:
            if jobs.consume(message(run_id)).outcome == "succeeded":
                ledger.enter(settings.ledger, "succeeded", run_id=run_id)
        if all("wake_at" not in item for item in scan(dynamodb, settings.table) if item["pk"].startswith("run#")):
            return
        offset += timedelta(minutes=5)  # a message is taken for lost after an hour at the latest


def scan(dynamodb: Any, table: str) -> list[dict[str, Any]]:
    """Return all items of a table."""
    pages = dynamodb.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    return [dict(unmarshal(item)) for page in pages for item in page["Items"]]


def _main() -> None:
    logging.disable(logging.ERROR)
    given = json.loads(sys.argv[1])
    racer = Racer(Settings(**{name: value for name, value in given.items() if name != "number"}), given["number"])
    print("ready", flush=True)
    sys.stdin.readline()
    racer.run()


if __name__ == "__main__":
    _main()
