"""The races about when a run may start: limits by key, shared and together; rates; pauses."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from kumofire_core import JobContext, Jobs, Limit, Rate
from tests.chaos import promises
from tests.chaos.racer import Racer, Settings, number_of, run_id_of

CUSTOMERS = 2
SIDE_BY_SIDE = 6
"""How many runs there are of each key."""

LIMITS = {"customer": 2, "crm": 1, "all": 5}


class LimitRacer(Racer):
    """Create more runs than may execute at once, consume and cancel them.

    A claim is followed by more requests than elsewhere, and has to outlast them on a busy machine.
    """

    further = {"lease_seconds": 15}  # noqa: RUF012

    def __init__(self, settings: Settings, number: int) -> None:
        super().__init__(settings, number)
        self.operations |= {self._create: 20, self._cancel: 3, self._retry: 3}

    @classmethod
    def register(cls, jobs: Jobs, settings: Settings, clock: Callable[[], datetime]) -> None:
        """Register a job with a limit by key and one for all its runs, and two that share one of a single slot."""
        execute = _executing(settings, clock)

        def customer(payload: Any) -> int:
            return int(payload) % CUSTOMERS

        jobs.handler("sync", concurrency=[Limit(LIMITS["customer"], key=customer), Limit(LIMITS["all"])])(
            lambda ctx: execute(ctx, [f"customer/{customer(ctx.payload)}", "all"])
        )
        for name in ("import", "export"):
            jobs.handler(name, concurrency=Limit(LIMITS["crm"], key=customer, name="crm"))(
                lambda ctx: execute(ctx, [f"crm/{customer(ctx.payload)}"])
            )

    def _create(self, key: str, chance: random.Random) -> None:
        number, name = number_of(key), _one_of(key, chance)
        job = ("sync", "import", "sync", "export")[number_of(name) % 4]
        self.jobs.create(job, number, dedupe_key=name)

    def _cancel(self, key: str, chance: random.Random) -> None:
        self.jobs.cancel(run_id_of(_one_of(key, chance)), "raced")

    def _retry(self, key: str, chance: random.Random) -> None:
        run_id = run_id_of(_one_of(key, chance))
        if self.jobs.retry(run_id):
            self.settings.enter("retried", run_id=run_id)

    @classmethod
    def judge(cls, events: list[dict[str, Any]], items: list[dict[str, Any]]) -> list[str]:
        """Judge how many executed at once."""
        return promises.broken_limits(events, items, LIMITS)


def _one_of(key: str, chance: random.Random) -> str:
    return f"{key}-{chance.randrange(SIDE_BY_SIDE)}"


def _executing(settings: Settings, clock: Callable[[], datetime]) -> Callable[[JobContext, list[str]], int]:
    def execute(ctx: JobContext, slots: list[str]) -> int:
        with settings.execution(ctx, clock, slots=slots):
            settings.dawdle(ctx, stuck=0.02)
            if not settings.calm:
                time.sleep(random.uniform(0.05, 0.3))  # so that there is somebody to execute beside
            if random.random() < 0.3:
                raise ConnectionError("no answer")
            return ctx.attempt

    return execute


RATE = Rate(12, per=timedelta(seconds=3))
JUDGED_MS = 2_000
"""How long a time is that sees no more starts than the rate says: less than the rate's own by what a busy machine may
need from the engine's last look at the clock to the handler's entry in the ledger."""


class RateRacer(Racer):
    """Create more runs than may start. A run waits in real seconds, so the clock runs as a real one."""

    further = {"speed": 1}  # noqa: RUF012

    def __init__(self, settings: Settings, number: int) -> None:
        super().__init__(settings, number)
        self.operations |= {self._create: 16}

    @classmethod
    def register(cls, jobs: Jobs, settings: Settings, clock: Callable[[], datetime]) -> None:
        """Register a job with a rate; it fails now and then, and retries are starts as well."""

        @jobs.handler("paced", rate=RATE)
        def paced(ctx: JobContext) -> None:
            with settings.execution(ctx, clock):
                if random.random() < 0.2:
                    raise ConnectionError("no answer")

    def _create(self, key: str, chance: random.Random) -> None:
        self.jobs.create("paced", None, dedupe_key=key)

    @classmethod
    def judge(cls, events: list[dict[str, Any]], items: list[dict[str, Any]]) -> list[str]:
        """Judge how many started within any time."""
        return promises.broken_rates(events, job="paced", most=RATE.count, within_ms=JUDGED_MS)


PAUSE_SECONDS = 90
"""By the race's clock: half a minute longer than a pause may take to hold everywhere."""

RESUMED_SECONDS = 15


class PauseRacer(Racer):
    """Create and consume runs of a job that the first thread pauses and resumes, by a clock ten times as fast."""

    further = {"speed": 10, "seconds": 20.0, "lease_seconds": 30, "keys": 400}  # noqa: RUF012

    def __init__(self, settings: Settings, number: int) -> None:
        super().__init__(settings, number)
        self.operations |= {self._create: 16}

    @classmethod
    def register(cls, jobs: Jobs, settings: Settings, clock: Callable[[], datetime]) -> None:
        """Register a job that is paused, and one that is not."""
        for name in ("paused", "free"):

            @jobs.handler(name)
            def execute(ctx: JobContext) -> None:
                with settings.execution(ctx, clock):
                    if random.random() < 0.3:
                        raise ConnectionError("no answer")

    def conduct(self) -> None:
        """Pause and resume the job until the race is over."""
        for progress in self._progress():
            self.jobs.pause("paused", reason="raced")
            self.settings.enter("paused", at_ms=int(self.settings.clock().timestamp() * 1000))
            time.sleep(PAUSE_SECONDS / self.settings.speed)
            self.settings.enter("resumes", progress=progress)
            self.jobs.resume("paused")
            time.sleep(RESUMED_SECONDS / self.settings.speed)

    @classmethod
    def calm_down(cls, jobs: Jobs, settings: Settings) -> None:
        """Resume what may be paused still."""
        jobs.resume("paused")

    def _create(self, key: str, chance: random.Random) -> None:
        self.jobs.create(chance.choice(("paused", "free")), None)

    @classmethod
    def judge(cls, events: list[dict[str, Any]], items: list[dict[str, Any]]) -> list[str]:
        """Judge what began while the job was paused."""
        return promises.broken_pauses(events, job="paused")
