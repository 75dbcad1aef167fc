"""The jobs of the stack that is killed: each enters its executions in the ledger that its payload names."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from typing import Any

from kumofire_core import JobContext, Jobs, RetryPolicy
from tests.chaos import ledger

TIMEOUT = timedelta(seconds=1)
"""It bounds the lease, and with it how long a run is left alone when its worker was killed."""

LEASE_MARGIN_MS = 5_000
MAX_ATTEMPTS = 12

jobs = Jobs.from_env(retry=RetryPolicy(MAX_ATTEMPTS, base=timedelta(milliseconds=100), cap=timedelta(seconds=1)))


@jobs.handler("work", timeout=TIMEOUT)
def work(ctx: JobContext) -> Any:
    """Take a while, so that there is somebody to kill; fail now and then."""
    path, name = ctx.payload["ledger"], {"run_id": ctx.run.id, "fence": ctx.fencing_token}
    ledger.enter(
        path,
        "begin",
        **name,
        attempt=ctx.attempt,
        max_attempts=ctx.run.max_attempts,
        claimed_ms=int(ctx.now.timestamp() * 1000),
        lease_ms=int(TIMEOUT.total_seconds() * 1000) + LEASE_MARGIN_MS,
        begun_ms=int(time.time() * 1000),
        scheduled_ms=int(ctx.run.scheduled_for.timestamp() * 1000),
    )
    time.sleep(random.uniform(*ctx.payload["seconds"]))
    if random.random() < ctx.payload.get("failing", 0):
        ledger.enter(path, "end", **name, how="raised")
        raise ConnectionError("no answer")
    ledger.enter(path, "end", **name, how="returned")
    return ctx.attempt
