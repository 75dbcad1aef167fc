"""Deaths, end to end: the deployed stack executes runs while its processes are killed and its connections cut.

The stack is ``template.yaml`` on a MiniStack of its own, whose functions are real processes behind a real event source
mapping. While the storm lasts, consumers get SIGKILL in mid-handler (the ledger says which process is in one),
dispatchers in mid-tick, and a proxy breaks connections between the functions and AWS. Then it is calm, and every run
must end.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from examples.deployment import Stack, deploy
from examples.local_aws import KEYS, REGION, LocalAws, local_aws
from kumofire_core import Jobs
from tests.chaos import ledger, promises
from tests.chaos.proxy import CuttingProxy
from tests.chaos.racer import refusals_pass, scan

CUTTING = 0.06
VISIBILITY_SECONDS = 8
"""More than the lease of a run whose worker was killed: its job's second and the margin of five."""

PATIENCE_SECONDS = 20
"""How long the runs that are left have to end by themselves, before later looks at them are made now."""

OVERTIME_SECONDS = 60
"""How much longer a storm lasts where not all has happened yet that it is about, as on a slow machine."""

TICK_SECONDS = 0.5
KILL_SECONDS = 0.6
TIMEOUT = timedelta(seconds=1)
"""As in ``tests.chaos.jobs``, whose module only imports inside a function."""

MAX_ATTEMPTS = 12
WORKER = ("--lease", "15", "--poll", "1", "--concurrency", "4")

LIMITS = {"customer": 2}
"""As in ``tests.chaos.jobs``."""

SOURCES = ("tests/__init__.py", "tests/chaos/__init__.py", "tests/chaos/ledger.py", "tests/chaos/jobs.py")


@dataclass
class Result:
    """What a storm came to."""

    verdict: ledger.Verdict
    runs: int = 0
    consumers_killed: int = 0
    workers_killed: int = 0
    dispatchers_killed: int = 0
    ticks: int = 0
    cut: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    """How often each event is in the ledger."""

    def __str__(self) -> str:
        told = {
            "runs": self.runs,
            "executions": self.verdict.executions,
            "of these unended": self.verdict.unended,
            "consumers killed": self.consumers_killed,
            "workers killed": self.workers_killed,
            "dispatchers killed": self.dispatchers_killed,
            "ticks": self.ticks,
            **{f"requests {fate}": count for fate, count in sorted(self.cut.items())},
            **self.statuses,
            **{f"'{event}'": count for event, count in sorted(self.events.items()) if event not in ("begin", "end")},
        }
        return ", ".join(f"{name} {count}" for name, count in told.items())


def storm(*, seconds: float, seed: int, calm_seconds: float = 90) -> Result:
    """Deploy, kill and cut for ``seconds``, then wait for all runs to end, and judge."""
    with (
        CuttingProxy(seed=seed) as proxy,
        local_aws({"AWS_ENDPOINT_URL": proxy.url}) as aws,
    ):
        address = urlsplit(aws.endpoint_url)
        assert address.hostname is not None
        assert address.port is not None
        proxy.target = (address.hostname, address.port)
        stack = deploy(
            aws,
            name="kumofire-chaos",
            parameters={"JobsModule": "tests.chaos.jobs:jobs", "ConsumerConcurrency": "5"},
            further_sources=SOURCES,
        )
        folder = Path(tempfile.mkdtemp(prefix="kumofire-chaos-"))
        result = _Storm(aws, stack, proxy, folder / "ledger", random.Random(seed)).run(seconds, calm_seconds)
        if result.verdict.problems:
            result.verdict.problems.append(f"the ledger is {folder / 'ledger'}")
        else:
            shutil.rmtree(folder)
        return result


class _Storm:
    def __init__(self, aws: LocalAws, stack: Stack, proxy: CuttingProxy, path: Path, chance: random.Random) -> None:
        self.aws = aws
        self.stack = stack
        self.proxy = proxy
        self.path = path
        self.chance = chance
        self.dynamodb, self.lambda_ = aws.client("dynamodb"), aws.client("lambda")
        self.jobs = Jobs(
            table=stack.table, queue_url=stack.queue_url, dynamodb=self.dynamodb, sqs=aws.client("sqs"), wake_shards=8
        )
        for name in ("work", "gather", "limited", "order"):
            self.jobs.handler(name, max_attempts=MAX_ATTEMPTS, timeout=TIMEOUT)(lambda ctx: None)
        self.result = Result(ledger.Verdict())
        self.batches: list[str] = []
        self.tick_seconds = 0.1
        """How long the last tick took that was answered; a dispatcher is killed within that time."""

    def run(self, seconds: float, calm_seconds: float) -> Result:
        self.aws.client("sqs").set_queue_attributes(
            QueueUrl=self.stack.queue_url, Attributes={"VisibilityTimeout": str(VISIBILITY_SECONDS)}
        )
        self._schedule(seconds)
        ends = time.monotonic() + seconds
        self.proxy.cutting = CUTTING
        parts = (
            self._create_runs,
            self._create_flows,
            self._kill_consumers,
            self._work_and_kill,
            self._tick_and_kill,
        )
        threads = [threading.Thread(target=part, args=(ends,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.proxy.cutting = 0.0
        self._calm(time.monotonic() + calm_seconds)
        return self._judge()

    def _goes_on(self, ends: float) -> bool:
        """Say whether the storm goes on: for its time, and until all that it is about has happened."""
        now, counts = time.monotonic(), self.proxy.counts
        happened = (
            self.result.consumers_killed and self.result.dispatchers_killed and counts["refused"] + counts["lost"]
        )
        return now < ends or (not happened and now < ends + OVERTIME_SECONDS)

    def _payload(self) -> dict[str, Any]:
        return {"ledger": str(self.path), "seconds": [0.05, 0.4], "failing": 0.1}

    def _schedule(self, seconds: float) -> None:
        first = datetime.now(UTC) + timedelta(seconds=1)
        self.jobs.create_schedule(
            "work",
            self._payload(),
            schedule_type="interval",
            schedule_expr=timedelta(seconds=1),
            start_at=first,
            end_at=first + timedelta(seconds=int(seconds)),
        )

    def _create_runs(self, ends: float) -> None:
        number = 0
        while self._goes_on(ends):
            self.jobs.create(
                "work", self._payload(), dedupe_key=f"storm-{number}", delay=self.chance.choice((0, 0, 1, 2))
            )
            number += 1
            time.sleep(0.15)

    def _create_flows(self, ends: float) -> None:
        """Create batches with callbacks, limited runs, and runs of steps that are signaled."""
        number = 0
        while self._goes_on(ends):
            payload = self._payload()
            batch_id = self.jobs.create_batch(
                [{"name": "work", "payload": payload} for _ in range(4)], then={"name": "gather", "payload": payload}
            )
            self.batches.append(batch_id)
            for _ in range(3):
                self.jobs.create("limited", payload | {"customer": self.chance.randrange(2)})
            order = self.jobs.create("order", payload)
            time.sleep(self.chance.uniform(0, 1))
            for value in (f"a-{number}", f"b-{number}"):
                ledger.enter(self.path, "gives", run_id=order, value=value)
                kept = self.jobs.signal(order, "answer", value)
                ledger.enter(self.path, "gave", run_id=order, value=value, kept=kept)
            number += 1
            time.sleep(0.5)

    def _kill_consumers(self, ends: float) -> None:
        while self._goes_on(ends):
            time.sleep(KILL_SECONDS)
            busy = sorted(self._busy() & set(self._functions("consumer")))
            if busy:
                self._kill(self.chance.choice(busy))
                self.result.consumers_killed += 1

    def _work_and_kill(self, ends: float) -> None:
        """Run a worker beside the consumers, kill it in mid-handler, and run the next one."""
        while self._goes_on(ends):
            worker = subprocess.Popen(
                [sys.executable, "-m", "kumofire_core.cli", "work", "--jobs", "tests.chaos.jobs:jobs", *WORKER],
                cwd=Path(__file__).parents[2],
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
                    **KEYS,
                    "AWS_REGION": REGION,
                    "AWS_DEFAULT_REGION": REGION,
                    "NO_PROXY": "127.0.0.1",
                    "AWS_ENDPOINT_URL": self.proxy.url,
                    "KUMOFIRE_TABLE": self.stack.table,
                    "KUMOFIRE_QUEUE_URL": self.stack.queue_url,
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                alive_until: float | None = None
                while self._goes_on(ends) and (alive_until is None or time.monotonic() < alive_until):
                    if worker.pid in self._busy():
                        if alive_until is None:  # its first run: it lives for a moment more
                            alive_until = time.monotonic() + self.chance.uniform(0.5, 3)
                        elif self.chance.random() < 0.05:
                            break
                    time.sleep(0.05)
            finally:
                self.result.workers_killed += worker.pid in self._busy()
                worker.kill()
                worker.wait()

    def _busy(self) -> set[int]:
        """Return the processes that are in a handler."""
        executions, _ = ledger.executions_of(ledger.read(self.path))
        return {each.pid for each in executions if each.ended_at is None}

    def _tick_and_kill(self, ends: float) -> None:
        while self._goes_on(ends):
            answered: list[bool] = []
            began = time.monotonic()
            tick = threading.Thread(target=lambda answered=answered: answered.append(self._tick()))
            tick.start()
            if self.chance.random() < 0.75:
                tick.join(self.chance.uniform(0.0, self.tick_seconds))
                for pid in self._functions("dispatcher") if tick.is_alive() else ():
                    self._kill(pid)
            tick.join()
            if answered == [False]:
                self.result.dispatchers_killed += 1
            elif answered:
                self.tick_seconds = time.monotonic() - began
            time.sleep(TICK_SECONDS)

    def _tick(self) -> bool:
        """Invoke the dispatcher; say whether it answered."""
        reply = self.lambda_.invoke(FunctionName=self.stack.dispatcher_function, Payload=b"{}")
        self.result.ticks += 1
        return "FunctionError" not in reply

    def _functions(self, name: str) -> Iterator[int]:
        """Yield the processes of one function of this stack, and of no other."""
        ours = f"AWS_ENDPOINT_URL={self.proxy.url}\0".encode()
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    process.name.isdigit()
                    and f"handler.{name}.handler".encode() in (process / "cmdline").read_bytes()
                    and ours in (process / "environ").read_bytes()
                ):
                    yield int(process.name)

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _calm(self, until: float) -> None:
        began = time.monotonic()
        while time.monotonic() < until:
            self._tick()
            waiting = [item for item in scan(self.dynamodb, self.stack.table) if "wake_at" in item]
            schedule_over = all(
                "next_run_at" not in item
                for item in scan(self.dynamodb, self.stack.table)
                if item["pk"].startswith("schedule#")
            )
            if schedule_over and all(item["pk"].startswith("schedule#") for item in waiting):
                return
            if time.monotonic() - began > PATIENCE_SECONDS:
                self._hurry(waiting)
            time.sleep(0.5)

    def _hurry(self, waiting: list[dict[str, Any]]) -> None:
        """Let looks come now that would come within minutes: a wake-up may come early at any time."""
        now_ms = int(time.time() * 1000)
        for item in waiting:
            is_due = item.get("status") != "scheduled" or item["scheduled_for"] <= now_ms
            if not item["pk"].startswith("schedule#") and is_due and item["wake_at"] > now_ms:
                with refusals_pass():
                    self.dynamodb.update_item(
                        TableName=self.stack.table,
                        Key={"pk": {"S": item["pk"]}, "sk": {"S": item["sk"]}},
                        UpdateExpression="SET wake_at = :now",
                        ConditionExpression="wake_at = :then",
                        ExpressionAttributeValues={
                            ":now": {"N": str(now_ms)},
                            ":then": {"N": str(item["wake_at"])},
                        },
                    )

    def _judge(self) -> Result:
        items = scan(self.dynamodb, self.stack.table)
        events = ledger.read(self.path)
        runs = [item for item in items if ledger.is_run(item)]
        self.result.verdict = ledger.judge(events, items, uncounted=3 + len(runs) / 10, given_back=("limited", "order"))
        stored = {ledger.id_of(item) for item in items if item["pk"].startswith("batch#")}
        self.result.verdict.problems += [
            *(f"batch {batch_id}: is not stored" for batch_id in self.batches if batch_id not in stored),
            *promises.broken_batches(events, items),
            *promises.broken_limits(events, items, LIMITS),
            *promises.broken_steps(events),
            *promises.broken_sleeps(events),
            *promises.broken_signals(events),
        ]
        self.result.events = Counter(event["event"] for event in events)
        self.result.runs = len(runs)
        self.result.statuses = Counter(item["status"] for item in runs)
        self.result.cut = self.proxy.counts
        return self.result
