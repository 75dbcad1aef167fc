"""Before: the task of Celery."""

from __future__ import annotations

from celery import Celery

from examples.from_celery import work
from examples.from_celery.work import NotReadyError

app = Celery("statements", broker="sqs://")


@app.task(
    name="add-up",
    acks_late=True,
    autoretry_for=(NotReadyError,),
    max_retries=5,
    retry_backoff=2,
    retry_backoff_max=60,
    retry_jitter=False,
    time_limit=30,
)
def add_up(bucket: str, key: str) -> dict[str, str]:
    return work.add_up(bucket, key)


def statement_announced(bucket: str, key: str) -> str:
    return add_up.apply_async((bucket, key), countdown=1).id
