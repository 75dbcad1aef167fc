"""The demo's jobs, executed by the deployed consumer. Each enters its execution in the ledger first."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from typing import Any

import boto3

from examples.ledger import Ledger
from kumofire_core import JobContext, Jobs, RetryPolicy

jobs = Jobs.from_env()
ledger = Ledger(boto3.client("dynamodb"))


@jobs.handler("greet")
def greet(ctx: JobContext) -> dict[str, str]:
    """Succeed."""
    ledger.record(ctx.run.id, ctx.attempt)
    return {"greeting": f"Hello, {ctx.payload['name']}!"}


@jobs.handler("echo")
def echo(ctx: JobContext) -> Any:
    """Succeed with the payload as the output."""
    ledger.record(ctx.run.id, ctx.attempt)
    return ctx.payload


@jobs.handler("fetch")
async def fetch(ctx: JobContext) -> dict[str, int]:
    """Succeed after a while, without blocking a thread."""
    ledger.record(ctx.run.id, ctx.attempt)
    await asyncio.sleep(0.5)
    return {"pages": ctx.payload["pages"]}


@jobs.handler("flaky")
def flaky(ctx: JobContext) -> dict[str, int]:
    """Fail as often as the payload says, then succeed."""
    ledger.record(ctx.run.id, ctx.attempt)
    if ctx.attempt <= ctx.payload["failures"]:
        raise ConnectionError(f"no answer to attempt {ctx.attempt}")
    return {"attempts_made": ctx.attempt}


# Its waits are shorter than the default's, because it makes more of them.
@jobs.handler("stubborn", max_attempts=5, retry=RetryPolicy(base=timedelta(milliseconds=200)))
def stubborn(ctx: JobContext) -> None:
    """Fail in every attempt."""
    ledger.record(ctx.run.id, ctx.attempt)
    raise ConnectionError(f"no answer to attempt {ctx.attempt}")


@jobs.handler("unserializable", max_attempts=1)
def unserializable(ctx: JobContext) -> object:
    """Return a value that is not JSON, so that the attempt fails."""
    ledger.record(ctx.run.id, ctx.attempt)
    return {1, 2, 3}


# The timeout shortens the lease, so that another worker takes the run soon after this one was killed.
@jobs.handler("mortal", timeout=timedelta(seconds=1))
def mortal(ctx: JobContext) -> dict[str, int]:
    """Kill the whole process in the first attempt, as the kernel does when memory runs out; succeed in the next."""
    ledger.record(ctx.run.id, ctx.attempt)
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"survived_in_attempt": ctx.attempt}
