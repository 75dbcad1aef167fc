"""A client of SQS whose queues are in memory, on a clock that is given: delays, visibility, groups, dead letters.

Threads may share it. An operation or a parameter that it does not know raises ``NotImitatedError``.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from kumofire_core.testing.refusals import Exceptions, NotImitatedError, service_error

VISIBILITY_SECONDS = 30
"""SQS's default."""
MOST_DELAY_SECONDS = 900
MOST_AT_ONCE = 10
ACCOUNT = "123456789012"


@dataclass(eq=False, slots=True)
class Message:
    """A message in a queue."""

    id: str
    body: str
    sent_ms: int
    visible_ms: int
    """When it can be received: after its delay, or when the one who has received it is not waited for any more."""
    group: str | None = None
    receives: int = 0
    first_received_ms: int | None = None
    receipt: str | None = None
    """By which the one who received it last can delete or hide it."""

    def is_in_flight(self, now_ms: int) -> bool:
        """Say whether somebody has received it and may still work on it."""
        return self.receipt is not None and self.visible_ms > now_ms


@dataclass(eq=False)
class MemoryQueue:
    """The messages of one queue, in the order in which they were sent."""

    name: str
    url: str
    visibility_seconds: int = VISIBILITY_SECONDS
    dead_letters: MemoryQueue | None = None
    most_receives: int = 0
    messages: dict[str, Message] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        """The name that a redrive policy has for it."""
        return f"arn:aws:sqs:us-east-1:{ACCOUNT}:{self.name}"

    def receive(self, message: Message, now_ms: int, receipt: str, seconds: int | None = None) -> bool:
        """Hide a message for the one who receives it; ``False`` where it is a dead letter by now."""
        if self.dead_letters is not None and message.receives >= self.most_receives:
            del self.messages[message.id]
            message.receipt, message.visible_ms = None, now_ms
            self.dead_letters.messages[message.id] = message
            return False
        message.receives += 1
        message.receipt = receipt
        message.first_received_ms = message.first_received_ms or now_ms
        message.visible_ms = now_ms + 1000 * (self.visibility_seconds if seconds is None else seconds)
        return True


class MemorySQS:
    """Queues in memory, behind boto3's methods. ``now_ms`` gives the time by which messages become visible."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.queues: dict[str, MemoryQueue] = {}
        """By their URLs."""
        self.exceptions = Exceptions()
        self.meta = SimpleNamespace(region_name="in-process", endpoint_url=None)
        self.on_send: Callable[[MemoryQueue, Message], None] | None = None
        """Called with every message that was sent, when it is in its queue."""
        self._now_ms = now_ms
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation.startswith("_"):
            raise AttributeError(operation)
        raise NotImitatedError(f"SQS's operation {operation!r}")

    def queue(self, url: str, operation: str = "GetQueueAttributes") -> MemoryQueue:
        """Return a queue by its URL; raises SQS's error where there is none."""
        try:
            return self.queues[url]
        except KeyError:
            code = "AWS.SimpleQueueService.NonExistentQueue"
            raise service_error(operation, code, f"The specified queue does not exist: {url}") from None

    def add_queue(self, url: str, **settings: Any) -> MemoryQueue:
        """Make a queue with this URL, or return the one that has it."""
        with self._lock:
            if url not in self.queues:
                self.queues[url] = MemoryQueue(url.rstrip("/").rpartition("/")[2], url, **settings)
            return self.queues[url]

    def create_queue(self, *, QueueName: str, Attributes: Mapping[str, str] | None = None) -> dict[str, str]:
        """Make a queue, or return the one that has this name."""
        url = next(
            (queue.url for queue in self.queues.values() if queue.name == QueueName),
            f"https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/{QueueName}",
        )
        queue = self.add_queue(url)
        given = Attributes or {}
        queue.visibility_seconds = int(given.get("VisibilityTimeout", queue.visibility_seconds))
        if "RedrivePolicy" in given:
            policy = json.loads(given["RedrivePolicy"])
            queue.dead_letters = next(
                each for each in self.queues.values() if each.arn == policy["deadLetterTargetArn"]
            )
            queue.most_receives = int(policy["maxReceiveCount"])
        return {"QueueUrl": url}

    def get_queue_url(self, *, QueueName: str) -> dict[str, str]:
        """Return the URL of a queue."""
        for queue in self.queues.values():
            if queue.name == QueueName:
                return {"QueueUrl": queue.url}
        code = "AWS.SimpleQueueService.NonExistentQueue"
        raise service_error("GetQueueUrl", code, f"The specified queue does not exist: {QueueName}")

    def send_message(
        self,
        *,
        QueueUrl: str,
        MessageBody: str,
        DelaySeconds: int = 0,
        MessageGroupId: str | None = None,
        MessageAttributes: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Take a message."""
        with self._lock:
            queue = self.queue(QueueUrl, "SendMessage")
            if not 0 <= DelaySeconds <= MOST_DELAY_SECONDS:
                raise service_error("SendMessage", "InvalidParameterValue", f"DelaySeconds is {DelaySeconds}")
            if MessageGroupId is not None and not 1 <= len(MessageGroupId) <= 128:
                raise service_error("SendMessage", "InvalidParameterValue", "MessageGroupId has 1 to 128 characters")
            if not MessageBody:
                raise service_error("SendMessage", "MissingParameter", "The request must contain a MessageBody")
            now_ms = self._now_ms()
            message = Message(
                id=f"message-{next(self._numbers)}",
                body=MessageBody,
                sent_ms=now_ms,
                visible_ms=now_ms + 1000 * DelaySeconds,
                group=MessageGroupId,
            )
            queue.messages[message.id] = message
            if self.on_send is not None:
                self.on_send(queue, message)
            return {"MessageId": message.id}

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Take up to ten messages."""
        _require_entries("SendMessageBatch", Entries)
        successful = [
            {"Id": entry["Id"], **self.send_message(QueueUrl=QueueUrl, **_without_id(entry))} for entry in Entries
        ]
        return {"Successful": successful, "Failed": []}

    def receive_message(
        self,
        *,
        QueueUrl: str,
        MaxNumberOfMessages: int = 1,
        VisibilityTimeout: int | None = None,
        WaitTimeSeconds: int = 0,
        AttributeNames: Sequence[str] = (),
        MessageSystemAttributeNames: Sequence[str] = (),
        MessageAttributeNames: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return messages that are visible now, without waiting for one."""
        with self._lock:
            queue, now_ms = self.queue(QueueUrl, "ReceiveMessage"), self._now_ms()
            if not 1 <= MaxNumberOfMessages <= MOST_AT_ONCE:
                raise service_error("ReceiveMessage", "InvalidParameterValue", "MaxNumberOfMessages is 1 to 10")
            found: list[dict[str, Any]] = []
            for message in [each for each in queue.messages.values() if each.visible_ms <= now_ms]:
                if len(found) == MaxNumberOfMessages:
                    break
                receipt = self.new_receipt()
                if queue.receive(message, now_ms, receipt, VisibilityTimeout):
                    found.append(
                        {
                            "MessageId": message.id,
                            "ReceiptHandle": receipt,
                            "Body": message.body,
                            "Attributes": system_attributes(message),
                        }
                    )
            return {"Messages": found} if found else {}

    def new_receipt(self) -> str:
        """Return a receipt handle that no message has yet."""
        return f"receipt-{next(self._numbers)}"

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> dict[str, Any]:
        """Delete a message that was received."""
        with self._lock:
            queue = self.queue(QueueUrl, "DeleteMessage")
            message = self._received(queue, ReceiptHandle)
            if message is not None:
                del queue.messages[message.id]
            return {}

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Delete up to ten messages that were received."""
        _require_entries("DeleteMessageBatch", Entries)
        for entry in Entries:
            self.delete_message(QueueUrl=QueueUrl, ReceiptHandle=entry["ReceiptHandle"])
        return {"Successful": [{"Id": entry["Id"]} for entry in Entries], "Failed": []}

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> dict[str, Any]:
        """Let a message that was received be hidden for these seconds from now."""
        with self._lock:
            if not 0 <= VisibilityTimeout <= 43_200:
                raise service_error("ChangeMessageVisibility", "InvalidParameterValue", str(VisibilityTimeout))
            message = self._received(self.queue(QueueUrl, "ChangeMessageVisibility"), ReceiptHandle)
            if message is None:
                raise service_error("ChangeMessageVisibility", "ReceiptHandleIsInvalid", ReceiptHandle)
            message.visible_ms = self._now_ms() + 1000 * VisibilityTimeout
            return {}

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Do the same for up to ten messages."""
        _require_entries("ChangeMessageVisibilityBatch", Entries)
        for entry in Entries:
            self.change_message_visibility(QueueUrl=QueueUrl, **_without_id(entry))
        return {"Successful": [{"Id": entry["Id"]} for entry in Entries], "Failed": []}

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: Sequence[str] = ()) -> dict[str, Any]:
        """Return how many messages a queue has, and its settings."""
        with self._lock:
            queue, now_ms = self.queue(QueueUrl), self._now_ms()
            messages = queue.messages.values()
            in_flight = sum(each.is_in_flight(now_ms) for each in messages)
            visible = sum(each.visible_ms <= now_ms for each in messages)
            known = {
                "ApproximateNumberOfMessages": str(visible),
                "ApproximateNumberOfMessagesNotVisible": str(in_flight),
                "ApproximateNumberOfMessagesDelayed": str(len(messages) - in_flight - visible),
                "VisibilityTimeout": str(queue.visibility_seconds),
                "QueueArn": queue.arn,
            }
            if queue.dead_letters is not None:
                policy = {"deadLetterTargetArn": queue.dead_letters.arn, "maxReceiveCount": queue.most_receives}
                known["RedrivePolicy"] = json.dumps(policy)
            wanted = (
                known if "All" in AttributeNames else {name: known[name] for name in AttributeNames if name in known}
            )
            return {"Attributes": dict(wanted)} if wanted else {}

    def purge_queue(self, *, QueueUrl: str) -> dict[str, Any]:
        """Delete all messages of a queue."""
        with self._lock:
            self.queue(QueueUrl, "PurgeQueue").messages.clear()
            return {}

    def close(self) -> None:
        """Do nothing: there is no connection."""

    @staticmethod
    def _received(queue: MemoryQueue, receipt: str) -> Message | None:
        return next((each for each in queue.messages.values() if each.receipt == receipt), None)


def system_attributes(message: Message) -> dict[str, str]:
    """Return what SQS says of a message that was received."""
    return {
        "ApproximateReceiveCount": str(message.receives),
        "SentTimestamp": str(message.sent_ms),
        "SenderId": ACCOUNT,
        "ApproximateFirstReceiveTimestamp": str(message.first_received_ms),
        **({} if message.group is None else {"MessageGroupId": message.group}),
    }


def _without_id(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "Id"}


def _require_entries(operation: str, entries: Sequence[Mapping[str, Any]]) -> None:
    code = "AWS.SimpleQueueService.{}"
    if not entries:
        raise service_error(operation, code.format("EmptyBatchRequest"), "the batch has no entry")
    if len(entries) > MOST_AT_ONCE:
        raise service_error(operation, code.format("TooManyEntriesInBatchRequest"), f"{len(entries)} entries")
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise service_error(operation, code.format("BatchEntryIdsNotDistinct"), "two entries have one Id")
