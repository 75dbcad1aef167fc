"""The race of runs that wait for others: batches with callbacks, chains, steps, sleeps and signals."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from kumofire_core import BatchCanceledError, JobContext, Jobs
from kumofire_core.model.batch import batch_id_of
from tests.chaos import promises
from tests.chaos.racer import Racer, Settings, a_value, number_of, run_id_of

SLEEP = timedelta(seconds=4)
PATIENCE = timedelta(seconds=15)
"""How long a run waits for its signal, by the race's clock; some signals come later than that."""


class FlowRacer(Racer):
    """Create the same batches, chains and runs of steps, signal and cancel them."""

    def __init__(self, settings: Settings, number: int) -> None:
        super().__init__(settings, number)
        self.operations |= {
            self._create_batch: 8,
            self._create_chain: 6,
            self._create_order: 12,
            self._signal: 16,
            self._cancel_batch: 2,
            self._cancel_order: 1,
        }

    @classmethod
    def register(cls, jobs: Jobs, settings: Settings, clock: Callable[[], datetime]) -> None:
        """Register the members and the callbacks of batches, the links of chains, and a job of steps."""

        @jobs.handler("member", max_attempts=2)
        def member(ctx: JobContext) -> str:
            with settings.execution(ctx, clock):
                settings.dawdle(ctx, stuck=0.02)
                if random.random() < 0.3:
                    raise ConnectionError("no answer")
                return a_value()

        @jobs.handler("link", max_attempts=3)
        def link(ctx: JobContext) -> str:
            with settings.execution(ctx, clock):
                before = ctx.batch.previous if ctx.batch is not None and ctx.run.callback_of is not None else None
                if before is not None:
                    settings.enter("given", run_id=ctx.run.id, of=before.id, output=before.output)
                settings.dawdle(ctx, stuck=0.02)
                if random.random() < 0.2:
                    raise ConnectionError("no answer")
                return a_value()

        @jobs.handler("gather")
        def gather(ctx: JobContext) -> dict[str, int]:
            with settings.execution(ctx, clock):
                settings.dawdle(ctx, stuck=0.02)
                assert ctx.batch is not None
                return {"succeeded": ctx.batch.succeeded, "pending": ctx.batch.pending}

        @jobs.handler("order", max_attempts=12)
        def order(ctx: JobContext) -> list[Any]:
            def effect(step: str) -> str:
                value = a_value()
                settings.enter("effect", run_id=ctx.run.id, fence=ctx.fencing_token, step=step, value=value)
                settings.dawdle(ctx, stuck=0.06)
                return value

            def step(name: str) -> str:
                value = ctx.step(name, effect, name)
                settings.enter("returned", run_id=ctx.run.id, step=name, value=value)
                if random.random() < 0.2:
                    raise ConnectionError("no answer")
                return value

            def now_ms() -> int:
                return int(clock().timestamp() * 1000)

            with settings.execution(ctx, clock):
                charge = step("charge")
                answer = ctx.wait_for("answer", timeout=PATIENCE, default=None)
                settings.enter("got", run_id=ctx.run.id, value=answer)
                pack = step("pack")
                settings.enter("sleeps", run_id=ctx.run.id, at_ms=now_ms())
                ctx.sleep(SLEEP)
                slept_ms = int(SLEEP.total_seconds() * 1000)
                settings.enter("slept", run_id=ctx.run.id, at_ms=now_ms(), for_ms=slept_ms)
                return [charge, answer, pack, step("mail")]

    def _create_batch(self, key: str, chance: random.Random) -> None:
        number = number_of(key)
        with contextlib.suppress(BatchCanceledError):
            self.jobs.create_batch(
                [{"name": "member", "payload": place} for place in range(1 + number % 7)],
                then="gather",
                then_if="succeeded" if number % 3 == 0 else "ended",
                key=f"batch-{key}",
            )

    def _create_chain(self, key: str, chance: random.Random) -> None:
        with contextlib.suppress(BatchCanceledError):
            self.jobs.create_chain([{"name": "link", "payload": place} for place in range(3)], key=f"chain-{key}")

    def _create_order(self, key: str, chance: random.Random) -> None:
        self.jobs.create("order", key, dedupe_key=key)

    def _signal(self, key: str, chance: random.Random) -> None:
        run_id, value = run_id_of(key), a_value()
        self.settings.enter("gives", run_id=run_id, value=value)
        kept = self.jobs.signal(run_id, "answer", value)
        self.settings.enter("gave", run_id=run_id, value=value, kept=kept)

    def _cancel_batch(self, key: str, chance: random.Random) -> None:
        self.jobs.cancel_batch(batch_id_of(f"{chance.choice(('batch', 'chain'))}-{key}"), "raced")

    def _cancel_order(self, key: str, chance: random.Random) -> None:
        self.jobs.cancel(run_id_of(key), "raced")

    @classmethod
    def judge(cls, events: list[dict[str, Any]], items: list[dict[str, Any]]) -> list[str]:
        """Judge batches and their callbacks, outputs that are passed on, steps, sleeps and signals."""
        return [
            *promises.broken_batches(events, items),
            *promises.broken_outputs(events, items),
            *promises.broken_steps(events),
            *promises.broken_sleeps(events),
            *promises.broken_signals(events),
        ]
