"""After: the same as a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from examples.from_celery import work
from examples.from_celery.work import NotReadyError
from kumofire_core import JobContext, Jobs, RetryPolicy

jobs = Jobs.from_env()


@dataclass
class Statement:
    bucket: str
    key: str


@jobs.handler(
    "add-up",
    retry=RetryPolicy(6, base=timedelta(seconds=2), cap=timedelta(seconds=60)),  # 5 retries are 6 attempts
    retry_on=NotReadyError,
    timeout=timedelta(seconds=30),
)
def add_up(ctx: JobContext[Statement]) -> dict[str, str]:
    return work.add_up(ctx.payload.bucket, ctx.payload.key)


def statement_announced(bucket: str, key: str) -> str:
    return add_up.create(Statement(bucket, key), delay=1)
