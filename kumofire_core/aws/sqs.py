"""The queue: the only place that speaks SQS. It sends run ids, and knows nothing about runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.model.error_text import error_name
from kumofire_core.model.message import encode_message

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient


BATCH_SIZE = 10
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""

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
        except AWS_ERRORS as error:
            log.error(
                "the message of a run could not be sent to %s (%s); the dispatcher will send it",
                self.url,
                error_name(error),
                extra={"job_run_id": run_id},
            )
            return False
        return True

    def waiting(self) -> int | None:
        """Return about how many messages wait to be received, or are received and not deleted; ``None``: not known."""
        try:
            reply = self._client().get_queue_attributes(
                QueueUrl=self.url,
                AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
            )
            return sum(map(int, reply["Attributes"].values()))
        except Exception as error:  # an estimate that can't be had must not stop a pass
            log.warning("the length of %s could not be read (%s)", self.url, error_name(error))
            return None

    def try_send_many(self, delays: Mapping[str, int]) -> list[str]:
        """Send the messages of runs, each after its delay in seconds; return the ids that SQS took none for.

        A batch can fail in part, with status 200: each entry's answer is read, and what failed is sent once more.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
        """
        unsent = list(delays)
        for _ in range(2):
            failed: list[str] = []
            for start in range(0, len(unsent), BATCH_SIZE):
                failed += self._send_batch(unsent[start : start + BATCH_SIZE], delays)
            unsent = failed
        if unsent:
            log.error("SQS took no message for %d runs; the dispatcher will send them again", len(unsent))
        return unsent

    def _send_batch(self, run_ids: Sequence[str], delays: Mapping[str, int]) -> list[str]:
        try:
            reply = self._client().send_message_batch(
                QueueUrl=self.url,
                Entries=[
                    {"Id": str(index), "MessageBody": encode_message(run_id), "DelaySeconds": delays[run_id]}
                    for index, run_id in enumerate(run_ids)
                ],
            )
        except AWS_ERRORS as error:
            log.warning("a batch of messages could not be sent to %s (%s)", self.url, error_name(error))
            return list(run_ids)
        return [run_ids[int(entry["Id"])] for entry in reply.get("Failed", [])]
