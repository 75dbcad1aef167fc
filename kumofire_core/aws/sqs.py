"""The queue: the only place that speaks SQS. It sends run ids, and knows nothing about runs.

Errors of SQS do not leave this module: whatever it does not send, the dispatcher sends later. An error that can't pass
by itself is told as such and counted, because then the dispatcher can't send it either.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kumofire_core.aws.errors import AWS_ERRORS, explained, note_of, where
from kumofire_core.model.error_text import error_name
from kumofire_core.model.message import Sending, encode_message

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient


BATCH_SIZE = 10
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""

log = logging.getLogger("kumofire_core")


_LENGTHS = tuple(f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed"))


class Queue:
    """One SQS queue. ``client`` makes the low-level client, on the first request."""

    def __init__(
        self, url: str, client: Callable[[], SQSClient], receiver: Callable[[], SQSClient] | None = None
    ) -> None:
        self.url = url
        self._client = client
        self._receiver = receiver or client
        self._refused = 0
        self._lock = threading.Lock()

    def described(self) -> str:
        """Return what a note says of this queue."""
        return f"queue {self.url}, asked{where(self._client)} (KUMOFIRE_QUEUE_URL, or queue_url=… of Jobs)"

    def take_refused(self) -> int:
        """Return how many messages SQS refused for good since this was asked last: for an error that will not pass."""
        with self._lock:
            refused, self._refused = self._refused, 0
            return refused

    def try_send(self, run_id: str, *, delay_seconds: int = 0, group: str | None = None) -> bool:
        """Send the message for a run, to arrive after ``delay_seconds`` (at most 900, an SQS limit).

        ``group`` is its ``MessageGroupId``, by which a standard queue is fair.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues.html

        ``False``, with a line in the log, where SQS took none: the run is stored, and its wake-up stands behind the
        message. A message too many, after a reply that was lost, is harmless: its consumer ignores it.
        """
        try:
            self._send(_message(run_id, Sending(delay_seconds, group)))
        except AWS_ERRORS as error:
            if not self._told_as_permanent(error, messages=1, job_run_id=run_id):
                log.error(
                    "the message of a run could not be sent (%s); the dispatcher will send it. %s",
                    error_name(error),
                    note_of(error),
                    extra={"job_run_id": run_id, "permanent": False},
                )
            return False
        return True

    def waiting(self) -> int | None:
        """Return about how many messages wait to be received, or are received and not deleted; ``None``: not known."""
        try:
            names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            return sum(map(int, self._attributes(names)["Attributes"].values()))
        except Exception as error:  # an estimate that can't be had must not stop a pass
            log.warning("the length of the queue could not be read (%s). %s", error_name(error), note_of(error))
            return None

    def lengths(self) -> tuple[tuple[int, int, int], str | None]:
        """Return how many messages this queue has, and the URL of its dead-letter queue, if it has one.

        The numbers are SQS's estimates: messages that wait, are in flight (received, and not deleted), are delayed.
        Errors of SQS leave this method and ``length_of`` as botocore raised them.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html
        """
        found = self._attributes([*_LENGTHS, "RedrivePolicy"]).get("Attributes", {})
        return _lengths(found), _dead_letter_url(self.url, found.get("RedrivePolicy"))

    def length_of(self, url: str) -> int:
        """Return about how many messages another queue has, those in flight and delayed ones among them."""
        return sum(_lengths(self._attributes(_LENGTHS, url).get("Attributes", {})))

    def try_send_many(self, sendings: Mapping[str, Sending]) -> list[str]:
        """Send the messages of runs, each with its delay and group; return the ids that SQS took none for.

        A batch can fail in part, with status 200: each entry's answer is read, and what failed is sent once more,
        unless it can't succeed.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
        """
        hopeless: list[str] = []
        unsent = list(sendings)
        for _ in range(2):
            failed: list[str] = []
            for start in range(0, len(unsent), BATCH_SIZE):
                failed += self._send_batch(unsent[start : start + BATCH_SIZE], sendings, hopeless)
            unsent = failed
        if unsent:
            log.error("SQS took no message for %d runs; the dispatcher will send them again", len(unsent))
        return unsent + hopeless

    def _send_batch(self, run_ids: Sequence[str], sendings: Mapping[str, Sending], hopeless: list[str]) -> list[str]:
        """Send up to ten messages; return those that may be sent again, and add to ``hopeless`` those that may not."""
        try:
            reply = self._send_many(
                [{"Id": str(index), **_message(run_id, sendings[run_id])} for index, run_id in enumerate(run_ids)]
            )
        except AWS_ERRORS as error:
            if self._told_as_permanent(error, messages=len(run_ids)):
                hopeless += run_ids
                return []
            log.warning("a batch of messages could not be sent (%s). %s", error_name(error), note_of(error))
            return list(run_ids)
        again: list[str] = []
        for entry in reply.get("Failed", ()):
            run_id = run_ids[int(entry["Id"])]
            if self._told_as_permanent(entry.get("Code"), messages=1, job_run_id=run_id):
                hopeless.append(run_id)
            else:
                again.append(run_id)
        return again

    def receive(self, most: int, *, wait_seconds: int, visibility_seconds: int | None = None) -> list[dict[str, Any]]:
        """Receive up to ``most`` (at most 10) messages, as the records of a Lambda event.

        It waits up to ``wait_seconds`` (at most 20) for the first. ``visibility_seconds`` is for how long they are
        hidden from others, in place of the queue's own number. Errors of SQS leave as botocore raised them.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
        """
        hidden = {} if visibility_seconds is None else {"VisibilityTimeout": visibility_seconds}
        reply = self._receive({"MaxNumberOfMessages": most, "WaitTimeSeconds": wait_seconds, **hidden})
        return [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message.get("Attributes", {}),
                "messageAttributes": {},
                "eventSource": "aws:sqs",
            }
            for message in reply.get("Messages", ())
        ]

    def try_delete(self, receipts: Sequence[str]) -> list[str]:
        """Delete received messages, by their receipt handles, ten in a request; return those that may be tried again.

        What fails is logged. A message that is not deleted comes again, and its consumer ignores it.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteMessageBatch.html
        """
        left: list[str] = []
        for start in range(0, len(receipts), BATCH_SIZE):
            some = receipts[start : start + BATCH_SIZE]
            try:
                reply = self._delete([{"Id": str(index), "ReceiptHandle": each} for index, each in enumerate(some)])
            except AWS_ERRORS as error:
                log.warning("%d messages could not be deleted (%s). %s", len(some), error_name(error), note_of(error))
                left += some
                continue
            failed = reply.get("Failed", ())
            left += [some[int(entry["Id"])] for entry in failed if not entry.get("SenderFault")]
            if failed:
                codes = ", ".join(sorted({str(entry.get("Code")) for entry in failed}))
                log.warning("%d messages could not be deleted (%s)", len(failed), codes)
        return left

    def try_hide(self, seconds: Mapping[str, int]) -> None:
        """Let SQS deliver received messages again after these seconds, by their receipt handles; one request for ten.

        What fails is logged, and delivered again when the queue's visibility timeout is over.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibilityBatch.html
        """
        receipts = list(seconds)
        for start in range(0, len(receipts), BATCH_SIZE):
            entries = [
                {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": seconds[receipt]}
                for index, receipt in enumerate(receipts[start : start + BATCH_SIZE])
            ]
            permanent = False
            try:
                failed = self._change_visibility(entries).get("Failed", ())
            except Exception as error:  # the batch must be answered, whatever this is
                from kumofire_core.aws.error_notes import is_permanent

                permanent = is_permanent(error)
                count, why = len(entries), f"({error_name(error)}). {note_of(error)}"
            else:
                count, why = len(failed), f"({', '.join(sorted({str(entry.get('Code')) for entry in failed}))})"
            if count:
                log.log(
                    logging.ERROR if permanent else logging.WARNING,
                    "%d records come again after the queue's visibility timeout only %s",
                    count,
                    why,
                    extra={"permanent": permanent},
                )

    def _told_as_permanent(self, error: BaseException | str | None, *, messages: int, **fields: str) -> bool:
        """Log and count messages whose sending can't succeed until a person acts; ``False`` where it may pass."""
        from kumofire_core.aws.error_notes import advice_for, is_permanent, is_permanent_code

        if isinstance(error, BaseException):
            permanent, name, note = is_permanent(error), error_name(error), note_of(error)
        else:
            permanent, name, note = is_permanent_code(error), str(error), f"{self.described()}: {advice_for(error)}"
        if permanent:
            with self._lock:
                self._refused += messages
            log.error(
                "SQS refuses the messages of %d runs (%s), and this will not pass by itself. The runs are stored, and "
                "the dispatcher sends them once it is mended. %s",
                messages,
                name,
                note,
                extra={**fields, "permanent": True},
            )
        return permanent

    @explained
    def _send(self, message: Any) -> None:
        self._client().send_message(QueueUrl=self.url, **message)

    @explained
    def _send_many(self, entries: Any) -> Any:
        return self._client().send_message_batch(QueueUrl=self.url, Entries=entries)

    @explained
    def _attributes(self, names: Any, url: str | None = None) -> Any:
        return self._client().get_queue_attributes(QueueUrl=url or self.url, AttributeNames=names)

    @explained
    def _receive(self, parameters: Any) -> Any:
        return self._receiver().receive_message(
            QueueUrl=self.url, MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"], **parameters
        )

    @explained
    def _delete(self, entries: Any) -> Any:
        return self._client().delete_message_batch(QueueUrl=self.url, Entries=entries)

    @explained
    def _change_visibility(self, entries: Any) -> Any:
        return self._client().change_message_visibility_batch(QueueUrl=self.url, Entries=entries)


def _message(run_id: str, sending: Sending) -> dict[str, Any]:
    """Return the parameters of a run's message. SQS refuses an empty group, so a run without one sends none."""
    message: dict[str, Any] = {"MessageBody": encode_message(run_id), "DelaySeconds": sending.delay_seconds}
    return message if sending.group is None else {**message, "MessageGroupId": sending.group}


def _lengths(found: Mapping[str, str]) -> tuple[int, int, int]:
    waiting, in_flight, delayed = (int(found.get(name, 0)) for name in _LENGTHS)
    return waiting, in_flight, delayed


def _dead_letter_url(url: str, redrive_policy: str | None) -> str | None:
    """Return the URL of the queue that a redrive policy names: its account and name, where this queue's are in ``url``.

    A dead-letter queue is in the same region and account as its queue.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
    """
    try:
        parts = str(json.loads(redrive_policy or "")["deadLetterTargetArn"]).split(":")
    except (ValueError, TypeError, KeyError):
        return None
    service, _, _ = url.rstrip("/").rpartition("/")
    service, _, _ = service.rpartition("/")
    return f"{service}/{parts[4]}/{parts[5]}" if len(parts) == 6 and service else None
