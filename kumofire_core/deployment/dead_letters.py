"""The messages on a deployment's dead-letter queue: looks at them, sends them back, and deletes them.

A dead letter is a pointer to a run, and its run does not need it: the dispatcher sends the message of an unfinished run
again (docs/alarms.md, "Messages on the dead-letter queue"). So nothing here can lose or repeat a run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from botocore.exceptions import ClientError

from kumofire_core.aws.error_notes import code_of
from kumofire_core.deployment.discovery import Deployment
from kumofire_core.errors import InvalidArgumentError, KumofireError, MalformedMessageError, short_repr
from kumofire_core.model.message import decode_body
from kumofire_core.model.times import from_ms

BATCH = 10
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""

MOST_SHOWN = 1000
BODY_CHARACTERS = 1000
LOOK_SECONDS = 30
"""For how long a message is hidden while it is looked at, where the process ends before it shows the message again."""

MOVE_SECONDS = 60
"""For how long a message is hidden while it is sent to the queue, where SQS does not move messages itself."""

NOT_AVAILABLE = ("InvalidAction", "UnknownOperation", "NotImplemented")
"""What a service that has no message move tasks answers."""

Progress = Callable[[int, int], object]
"""Called with the messages that have been moved, and the messages that were there to be moved."""


class DeadLetterError(KumofireError):
    """The dead-letter queue can't be found or emptied; the text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that no consumer could take."""

    message_id: str
    run_id: str | None
    """``None`` for a message that is not one of Kumofire."""
    receives: int
    """How often it was received, by consumers and by those who looked at it here, this time included."""
    sent_at: datetime
    """When it was sent to the queue, as SQS tells it."""
    body: str
    """Its beginning, up to 1000 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive:
    """What became of the messages that were to be sent back to the queue."""

    moved: int
    found: int
    """How many were there at the start, as SQS estimates it."""
    finished: bool
    """``False`` where the task still runs at SQS: this process stopped waiting."""


class DeadLetters:
    """The dead-letter queue of a deployment. Errors of AWS leave the methods as botocore raised them.

    ``wait`` waits for some seconds. It is called between two looks at a move that SQS makes.
    """

    def __init__(self, deployment: Deployment, *, wait: Callable[[float], object] = time.sleep) -> None:
        self._deployment = deployment
        self._sqs = deployment.client("sqs")
        self._wait = wait

    @cached_property
    def url(self) -> str:
        """The queue's URL: the stack's output, or that of the queue which the jobs' queue names in its RedrivePolicy.

        Raises ``DeadLetterError`` where the jobs' queue has none.
        """
        if self._deployment.dead_letter_queue_url:
            return self._deployment.dead_letter_queue_url
        attributes = self._attributes(self._deployment.queue_url, "RedrivePolicy")
        try:
            arn = json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"]
        except (KeyError, TypeError, ValueError):
            raise DeadLetterError(
                f"the queue {self._deployment.queue_url} has no dead-letter queue; "
                "give it a RedrivePolicy, as template.yaml does"
            ) from None
        # SQS takes only a queue of the same account and region, so the URLs differ in their last part alone.
        # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-configure-dead-letter-queue.html
        address, _, _ = self._deployment.queue_url.rstrip("/").rpartition("/")
        return f"{address}/{arn.rpartition(':')[2]}"

    def count(self) -> int:
        """Return about how many messages are there, in flight or not; one request."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(int(number) for number in self._attributes(self.url, *names).values())

    def show(self, limit: int = 10) -> list[DeadLetter]:
        """Return up to ``limit`` messages (at most 1000), in no order, and leave them where they are.

        SQS shows a message only to who receives it. So each one's count of receives grows by one, and meanwhile nobody
        else sees it: for a moment, or for 30 seconds when this process is killed. Needs ``sqs:ReceiveMessage`` and
        ``sqs:ChangeMessageVisibility``.
        """
        if type(limit) is not int or not 1 <= limit <= MOST_SHOWN:
            raise InvalidArgumentError(f"limit must be a whole number from 1 to {MOST_SHOWN}, not {short_repr(limit)}")
        receipts: list[str] = []
        found: dict[str, DeadLetter] = {}
        try:
            for message in self._received(limit, LOOK_SECONDS):
                receipts.append(message["ReceiptHandle"])
                found[message["MessageId"]] = _read(message)
        finally:
            self._release(receipts)
        return list(found.values())

    def redrive(
        self,
        *,
        on_progress: Progress | None = None,
        messages_per_second: int | None = None,
        patience_seconds: int = 900,
    ) -> Redrive:
        """Send all messages back to the jobs' queue, and wait for it; return how many were moved.

        SQS moves them itself (``StartMessageMoveTask``, one request however many there are), at the rate of
        ``messages_per_second`` (1 to 500) if one is given. Where a move runs already, this waits for that one. After
        ``patience_seconds`` this returns, and SQS goes on. A service without such tasks gets the messages moved one by
        one; a message that is moved twice then does no harm. Raises ``DeadLetterError`` when SQS gives the move up.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_StartMessageMoveTask.html
        """
        if messages_per_second is not None and (
            type(messages_per_second) is not int or not 1 <= messages_per_second <= 500
        ):
            raise InvalidArgumentError(
                f"messages_per_second must be a whole number from 1 to 500, not {short_repr(messages_per_second)}"
            )
        tell = on_progress or (lambda moved, found: None)
        source = self._attributes(self.url, "QueueArn")["QueueArn"]
        target = self._attributes(self._deployment.queue_url, "QueueArn")["QueueArn"]
        try:
            if not (task := self._task(source)) or task["Status"] != "RUNNING":
                # With its target: of a message that was sent to the dead-letter queue itself SQS knows no origin.
                rate = {"MaxNumberOfMessagesPerSecond": messages_per_second} if messages_per_second else {}
                self._sqs.start_message_move_task(SourceArn=source, DestinationArn=target, **rate)
        except ClientError as error:
            if code_of(error) not in NOT_AVAILABLE:
                raise
            return self._redrive_one_by_one(tell)
        return self._follow(source, tell, patience_seconds)

    def purge(self) -> None:
        """Delete all messages of the queue; SQS takes up to a minute for it.

        Raises ``DeadLetterError`` where a purge of the last minute is still under way.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_PurgeQueue.html
        """
        try:
            self._sqs.purge_queue(QueueUrl=self.url)
        except ClientError as error:
            if code_of(error) != "PurgeQueueInProgress":
                raise
            raise DeadLetterError(
                "the dead-letter queue is being purged already; SQS takes one purge in 60 seconds, so wait a minute"
            ) from error

    def _follow(self, source: str, tell: Progress, patience_seconds: int) -> Redrive:
        for _ in range(max(1, patience_seconds)):
            task = self._task(source) or {"Status": "RUNNING"}
            moved = int(task.get("ApproximateNumberOfMessagesMoved") or 0)
            found = max(int(task.get("ApproximateNumberOfMessagesToMove") or 0), moved)
            tell(moved, found)
            if task["Status"] not in ("RUNNING", "CANCELLING"):
                break
            self._wait(1.0)
        if task["Status"] in ("FAILED", "CANCELLED"):
            raise DeadLetterError(
                f"SQS gave up moving the dead letters after {moved} of {found} ({task['Status']}: "
                f"{task.get('FailureReason') or 'it does not say why'}); the others are still on {self.url}"
            )
        return Redrive(moved=moved, found=found, finished=task["Status"] == "COMPLETED")

    def _redrive_one_by_one(self, tell: Progress) -> Redrive:
        """Send each message to the jobs' queue, and then delete it. What fails comes back after a minute."""
        found, moved = self.count(), 0
        tell(moved, found)
        # No more than were there: one that comes back meanwhile is left.
        for message in self._received(found, MOVE_SECONDS):
            group = message.get("Attributes", {}).get("MessageGroupId")
            grouped = {} if group is None else {"MessageGroupId": group}
            self._sqs.send_message(QueueUrl=self._deployment.queue_url, MessageBody=message["Body"], **grouped)
            self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
            moved += 1
            tell(moved, max(found, moved))
        return Redrive(moved=moved, found=max(found, moved), finished=True)

    def _received(self, limit: int, hidden_seconds: int) -> Iterator[Any]:
        while limit > 0:
            reply = self._sqs.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=min(BATCH, limit),
                VisibilityTimeout=hidden_seconds,
                # Any wait makes SQS ask all its servers; without it a queue of few messages often looks empty.
                WaitTimeSeconds=1,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
            )
            messages = reply.get("Messages") or []
            if not messages:
                return
            limit -= len(messages)
            yield from messages

    def _release(self, receipts: list[str]) -> None:
        """Let messages be received by others at once; where that fails, they can be after ``LOOK_SECONDS``."""
        for start in range(0, len(receipts), BATCH):
            self._sqs.change_message_visibility_batch(
                QueueUrl=self.url,
                Entries=[
                    {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                    for index, receipt in enumerate(receipts[start : start + BATCH])
                ],
            )

    def _task(self, source: str) -> dict[str, Any] | None:
        """Return the latest move of messages out of the queue."""
        results = self._sqs.list_message_move_tasks(SourceArn=source, MaxResults=1).get("Results") or [None]
        task: dict[str, Any] | None = results[0]
        return task

    def _attributes(self, url: str, *names: str) -> dict[str, str]:
        found: dict[str, str] = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(names)).get(
            "Attributes", {}
        )
        return found


def _read(message: Any) -> DeadLetter:
    body = message["Body"]
    try:
        run_id = decode_body(body)
    except MalformedMessageError:
        run_id = None
    attributes = message.get("Attributes", {})
    return DeadLetter(
        message_id=message["MessageId"],
        run_id=run_id,
        receives=int(attributes.get("ApproximateReceiveCount", 0)),
        sent_at=from_ms(int(attributes.get("SentTimestamp", 0))),
        body=body[:BODY_CHARACTERS],
    )
