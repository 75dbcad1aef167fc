"""Meanwhile: the task of Celery makes a run. Callers that are not moved yet, and messages that wait, lose nothing.

Deploy the job first, then this in place of ``before``. Celery may deliver a message twice. Its id is the run's dedupe
key, so there is one run all the same.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from examples.from_celery import jobs as moved

app = Celery("statements", broker="sqs://")


@app.task(name="add-up", bind=True, acks_late=True, autoretry_for=(Exception,), max_retries=None, retry_backoff=True)
def add_up(self: Any, bucket: str, key: str) -> str:
    return moved.add_up.create(moved.Statement(bucket, key), dedupe_key=f"celery/{self.request.id}")
