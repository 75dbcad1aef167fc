"""The race of worker processes: they renew leases, and some stand still for longer than a lease lasts."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from kumofire_core import JobContext, Jobs
from kumofire_core.engine.renewal import Renewal
from kumofire_core.engine.worker import Worker
from kumofire_core.handlers.handler_pool import is_given_up
from tests.builders import body
from tests.chaos import promises
from tests.chaos.racer import LEASE_MARGIN_MS, Nowhere, Racer, Settings, a_value, run_id_of

LEASE_SECONDS = 1.5
"""Without the margin."""

LONG_SECONDS = LEASE_SECONDS + LEASE_MARGIN_MS / 1000 + 1.5
"""How long some handlers take: more than the lease of a claim that nobody renews."""

FROZEN_SECONDS = LEASE_SECONDS + LEASE_MARGIN_MS / 1000 + 1

GRACE_SECONDS = 60.0

CONCURRENCY = 12


class Deliveries(Nowhere):
    """A queue that delivers, to whoever asks, messages of unfinished runs: early, late and twice."""

    def __init__(self, unfinished: Callable[[], list[str]]) -> None:
        super().__init__()
        self._unfinished = unfinished

    def receive_message(self, **request: Any) -> dict[str, Any]:
        """Deliver some, or nothing after a moment."""
        waiting = self._unfinished()
        chosen = random.sample(waiting, min(len(waiting), random.choice((0, 1, 4)), request["MaxNumberOfMessages"]))
        if not chosen:
            time.sleep(0.1)
        return {
            "Messages": [
                {"MessageId": a_value(), "ReceiptHandle": a_value(), "Body": body(run_id)} for run_id in chosen
            ]
        }

    def delete_message_batch(self, **request: Any) -> dict[str, Any]:
        """Delete nothing: what is delivered again has ended by then, or has not."""
        return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]]}

    def change_message_visibility_batch(self, **request: Any) -> dict[str, Any]:
        """Hide nothing."""
        return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]]}


class WorkerRacer(Racer):
    """Execute runs that take longer than a lease in workers, beside a process that renews none.

    The first process is stopped again and again by a signal, for longer than a lease lasts, and goes on where it was.
    """

    further = {"speed": 1, "seconds": 24.0, "lease_seconds": LEASE_SECONDS, "keys": 300}  # noqa: RUF012

    def __init__(self, settings: Settings, number: int) -> None:
        super().__init__(settings, number)
        self.operations = {self._create: 16, self.dispatch: 8, self.hurry: 6, self._cancel: 1}
        self._worker: Worker | None = None
        if number == 2:  # of three
            self.operations[self.deliver] = 24
            return
        consumer = self.jobs._consumer
        consumer.renewal = Renewal(int(LEASE_SECONDS * 1000))
        self._worker = Worker(
            consumer.queue,
            consumer.pool,
            self.jobs.run_batch,
            concurrency=CONCURRENCY,
            renewal=consumer.renewal,
            poll_seconds=0,
            idle_seconds=0.05,
            on_report=lambda report: settings.enter("worked", runs=len(report.records)),
        )

    def make_sqs(self) -> Deliveries:
        """Return a queue of this process's own."""
        return Deliveries(self.unfinished_runs)

    @classmethod
    def register(cls, jobs: Jobs, settings: Settings, clock: Callable[[], datetime]) -> None:
        """Register a job of which some attempts take longer than a lease."""

        @jobs.handler("long", max_attempts=5)
        def long(ctx: JobContext) -> None:
            with settings.execution(ctx, clock):
                drawn = random.random()
                ends = time.monotonic() + (0 if settings.calm else LONG_SECONDS if drawn < 0.15 else 0.02)
                while time.monotonic() < ends:
                    time.sleep(0.02)
                    if is_given_up():
                        at_ms = int(clock().timestamp() * 1000)
                        settings.enter("cut", run_id=ctx.run.id, fence=ctx.fencing_token, at_ms=at_ms)
                        return
                if drawn > 0.8:
                    raise ConnectionError("no answer")

    def run(self) -> None:
        """Race, with a worker beside the threads where this process has one; let its runs end."""
        worker = self._worker
        if worker is None:
            super().run()
            return
        self.settings.enter("renews")
        working = threading.Thread(target=worker.run, args=(GRACE_SECONDS,))
        working.start()
        super().run()
        worker.stop()
        working.join()

    def conduct(self) -> None:
        """Let this process stand still for longer than a lease, from time to time."""
        for _ in self._progress():
            time.sleep(random.uniform(1, 4))
            self.settings.enter("freezes")
            pid = os.getpid()
            subprocess.run(["sh", "-c", f"(kill -STOP {pid}; sleep {FROZEN_SECONDS}; kill -CONT {pid}) &"], check=True)
            time.sleep(0.5)
            self.settings.enter("thawed")

    def _create(self, key: str, chance: random.Random) -> None:
        time.sleep(0.02)
        self.jobs.create("long", None, dedupe_key=key)

    def _cancel(self, key: str, chance: random.Random) -> None:
        self.jobs.cancel(run_id_of(key), "raced")

    @classmethod
    def judge(cls, events: list[dict[str, Any]], items: list[dict[str, Any]]) -> list[str]:
        """Judge whether the leases of workers held while their handlers ran."""
        return promises.broken_renewals(events)
