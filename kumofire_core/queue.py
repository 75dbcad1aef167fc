"""The queue: the only place that speaks SQS. It sends run ids, and knows nothing about runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from kumofire_core.failure import error_name
from kumofire_core.message import encode_message

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient


log = logging.getLogger("kumofire_core")


class Queue:
    """One SQS queue. ``client`` makes the low-level client, on the first request."""

    def __init__(self, url: str, client: Callable[[], SQSClient]) -> None:
        self.url = url
        self._client = client

    def try_send(self, run_id: str, *, delay_seconds: int = 0) -> bool:
        """Send the message for a run, to arrive after ``delay_seconds`` (at most 900, an SQS limit).

        ``False``, with a line in the log, where SQS took none: the run is stored, and its wake-up stands behind the
        message. A message too many, after a reply that was lost, is harmless: its consumer ignores it.
        """
        try:
            self._client().send_message(
                QueueUrl=self.url, MessageBody=encode_message(run_id), DelaySeconds=delay_seconds
            )
        except (BotoCoreError, ClientError) as error:
            log.error(
                "the message of a run could not be sent to %s (%s); the dispatcher will send it",
                self.url,
                error_name(error),
                extra={"job_run_id": run_id},
            )
            return False
        return True
