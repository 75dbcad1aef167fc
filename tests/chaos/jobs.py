"""The jobs of the stack that is killed: each enters its executions in the ledger that its payload names."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from datetime import timedelta
from functools import partial
from typing import Any

from kumofire_core import JobContext, Jobs, Limit, RetryPolicy
from tests.chaos import ledger

TIMEOUT = timedelta(seconds=1)
"""It bounds the lease, and with it how long a run is left alone when its worker was killed."""

LEASE_MARGIN_MS = 5_000
MAX_ATTEMPTS = 12
SLEEP = timedelta(seconds=2)

jobs = Jobs.from_env(retry=RetryPolicy(MAX_ATTEMPTS, base=timedelta(milliseconds=100), cap=timedelta(seconds=1)))


@jobs.handler("work", timeout=TIMEOUT)
def work(ctx: JobContext) -> Any:
    """Take a while, so that there is somebody to kill; fail now and then."""
    with _execution(ctx):
        _take_time(ctx)
        return ctx.attempt


@jobs.handler("gather", timeout=TIMEOUT)
def gather(ctx: JobContext) -> int:
    """Follow a batch."""
    with _execution(ctx):
        _take_time(ctx)
        assert ctx.batch is not None
        return ctx.batch.ended


@jobs.handler("limited", timeout=TIMEOUT, concurrency=Limit(2, key=lambda payload: payload["customer"]))
def limited(ctx: JobContext) -> None:
    """Take a while beside one other run of the customer at most."""
    with _execution(ctx, slots=[f"customer/{ctx.payload['customer']}"]):
        _take_time(ctx)


@jobs.handler("order", timeout=TIMEOUT)
def order(ctx: JobContext) -> list[str]:
    """Go through two steps, a wait and a sleep."""
    with _execution(ctx):
        charge = _step(ctx, "charge")
        answer = ctx.wait_for("answer", timeout=timedelta(seconds=20), default=None)
        _enter(ctx, "got", value=answer)
        _enter(ctx, "sleeps", at_ms=int(time.time() * 1000))
        ctx.sleep(SLEEP)
        _enter(ctx, "slept", at_ms=int(time.time() * 1000), for_ms=int(SLEEP.total_seconds() * 1000))
        return [charge, _step(ctx, "mail")]


def _step(ctx: JobContext, name: str) -> str:
    def effect() -> str:
        value = uuid.uuid4().hex
        _enter(ctx, "effect", fence=ctx.fencing_token, step=name, value=value)
        time.sleep(random.uniform(0.05, 0.2))
        return value

    value = ctx.step(name, effect)
    _enter(ctx, "returned", step=name, value=value)
    return value


def _take_time(ctx: JobContext) -> None:
    time.sleep(random.uniform(*ctx.payload["seconds"]))
    if random.random() < ctx.payload.get("failing", 0):
        raise ConnectionError("no answer")


def _execution(ctx: JobContext, **fields: Any) -> contextlib.AbstractContextManager[None]:
    timeout_ms = int(TIMEOUT.total_seconds() * 1000)
    return ledger.execution(
        partial(ledger.enter, ctx.payload["ledger"]),
        ctx,
        lease_ms=timeout_ms + LEASE_MARGIN_MS,
        now_ms=lambda: int(time.time() * 1000),
        timeout_ms=timeout_ms,
        **fields,
    )


def _enter(ctx: JobContext, event: str, **fields: Any) -> None:
    ledger.enter(ctx.payload["ledger"], event, run_id=ctx.run.id, **fields)
