"""The loop of a worker: what it receives, deletes and gives back, and how it goes on when the queue does not answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from kumofire_core.aws.sqs import Queue
from kumofire_core.engine import worker as loop
from kumofire_core.engine.sqs_batch import RecordReport, SqsBatchReport
from kumofire_core.engine.worker import Ended, Worker
from kumofire_core.handlers.handler_pool import HandlerPool, HandlerTimeoutError

PATIENCE_SECONDS = 60


class Sqs:
    """An SQS in memory, which can refuse what it is asked."""

    def __init__(self, messages: int = 0) -> None:
        self.messages = [f"receipt-{number}" for number in range(messages)]
        self.asked: list[int] = []
        self.deleted: list[list[str]] = []
        self.hidden: dict[str, int] = {}
        self.refusals: list[Exception] = []
        self.undeletable: Counter[str] = Counter()
        """How often a message can't be deleted."""
        self.on_receive: Callable[[], object] = lambda: None

    def receive_message(self, **parameters: Any) -> dict[str, Any]:
        self.asked.append(parameters["MaxNumberOfMessages"])
        if self.refusals:
            raise self.refusals.pop(0)
        self.on_receive()
        most = parameters["MaxNumberOfMessages"]
        taken, self.messages = self.messages[:most], self.messages[most:]
        return {"Messages": [{"MessageId": each, "ReceiptHandle": each, "Body": "{}"} for each in taken]}

    def delete_message_batch(self, **parameters: Any) -> dict[str, Any]:
        receipts = [entry["ReceiptHandle"] for entry in parameters["Entries"]]
        failed = [number for number, each in enumerate(receipts) if self.undeletable[each] > 0]
        self.undeletable.subtract(receipts)
        self.deleted.append([each for number, each in enumerate(receipts) if number not in failed])
        return {"Failed": [{"Id": str(number), "Code": "InternalError", "SenderFault": False} for number in failed]}

    def change_message_visibility_batch(self, **parameters: Any) -> dict[str, Any]:
        self.hidden |= {entry["ReceiptHandle"]: entry["VisibilityTimeout"] for entry in parameters["Entries"]}
        return {}


def done(event: dict[str, Any]) -> SqsBatchReport:
    return SqsBatchReport((RecordReport(event["Records"][0]["messageId"], malformed="it is a test's"),))


def failed(event: dict[str, Any]) -> SqsBatchReport:
    return SqsBatchReport((RecordReport(event["Records"][0]["messageId"], failure="the table is out of reach"),))


def made(sqs: Sqs, consume: Callable[[dict[str, Any]], SqsBatchReport] = done, **settings: Any) -> Worker:
    given: dict[str, Any] = {"concurrency": 10, "poll_seconds": 0, "idle_seconds": 0.01, **settings}
    queue = Queue("https://sqs.invalid/queue", lambda: sqs)  # type: ignore[arg-type,return-value]
    return Worker(queue, given.pop("pool", None) or HandlerPool(), consume, **given)


def until(look: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not look():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.01)


def run(worker: Worker, *, until_true: Callable[[], object], grace: float = 30) -> Ended:
    """Let a worker work until something holds, and then end."""

    def end() -> None:
        try:
            until(until_true)
        finally:
            worker.stop()

    thread = threading.Thread(target=end)
    thread.start()
    ended = worker.run(grace)
    thread.join()
    return ended


def test_messages_that_are_done_are_deleted_ten_in_a_request() -> None:
    sqs = Sqs(messages=40)

    ended = run(made(sqs), until_true=lambda: not sqs.messages)

    assert ended == Ended()
    assert sorted(each for some in sqs.deleted for each in some) == sorted(f"receipt-{n}" for n in range(40))
    assert max(map(len, sqs.deleted)) == 10
    assert len(sqs.deleted) < 40


def test_a_message_that_could_not_be_consumed_is_not_deleted() -> None:
    sqs, reports = Sqs(messages=3), list[SqsBatchReport]()

    run(made(sqs, failed, on_report=reports.append), until_true=lambda: len(reports) == 3)

    assert sqs.deleted == []


def test_no_more_messages_are_received_than_there_are_free_places() -> None:
    sqs, go = Sqs(messages=9), threading.Event()

    def consume(event: dict[str, Any]) -> SqsBatchReport:
        assert go.wait(PATIENCE_SECONDS)
        return done(event)

    worker = made(sqs, consume, concurrency=3)
    threading.Timer(0.5, lambda: (asked.extend(sqs.asked), go.set())).start()
    asked: list[int] = []
    run(worker, until_true=lambda: not sqs.messages)

    assert asked == [3]
    assert max(sqs.asked) <= 3


def test_a_message_that_comes_after_the_end_was_told_is_given_back_at_once() -> None:
    sqs, consumed = Sqs(messages=2), list[object]()

    def consume(event: dict[str, Any]) -> SqsBatchReport:
        consumed.append(event)
        return done(event)

    worker = made(sqs, consume)
    sqs.on_receive = worker.stop

    assert worker.run(30) == Ended()
    assert consumed == []
    assert sqs.hidden == {"receipt-0": 0, "receipt-1": 0}


def test_a_worker_goes_on_when_the_queue_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "FIRST_PAUSE_SECONDS", 0.001)
    sqs = Sqs(messages=1)
    sqs.refusals = [
        EndpointConnectionError(endpoint_url="https://sqs.invalid"),
        ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ReceiveMessage"),
        ValueError("what nobody expects"),
    ]

    run(made(sqs), until_true=lambda: sqs.deleted)

    assert sqs.deleted == [["receipt-0"]]


def test_the_pauses_between_refused_requests_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[tuple[float, float]] = []
    monkeypatch.setattr(loop.random, "uniform", lambda low, high: pauses.append((low, high)) or 0.0)
    sqs = Sqs()
    sqs.refusals = [EndpointConnectionError(endpoint_url="https://sqs.invalid") for _ in range(7)]

    run(made(sqs), until_true=lambda: not sqs.refusals)

    assert [high for _, high in pauses] == [1, 2, 4, 8, 16, 30, 30]
    assert all(low == high / 2 for low, high in pauses)


def test_a_message_that_could_not_be_deleted_is_tried_again() -> None:
    sqs = Sqs(messages=1)
    sqs.undeletable["receipt-0"] = 2

    run(made(sqs), until_true=lambda: ["receipt-0"] in sqs.deleted)

    assert sqs.deleted == [[], [], ["receipt-0"]]


def test_what_a_record_raises_ends_neither_the_worker_nor_its_place() -> None:
    sqs = Sqs(messages=5)

    def consume(event: dict[str, Any]) -> SqsBatchReport:
        if event["Records"][0]["messageId"] != "receipt-4":
            raise RuntimeError("a mistake of this library")
        return done(event)

    run(made(sqs, consume, concurrency=1), until_true=lambda: sqs.deleted)

    assert sqs.deleted == [["receipt-4"]]


def test_what_goes_on_after_the_grace_is_told() -> None:
    sqs, go, begun = Sqs(messages=1), threading.Event(), threading.Event()

    def consume(event: dict[str, Any]) -> SqsBatchReport:
        begun.set()
        go.wait(PATIENCE_SECONDS)
        return done(event)

    ended = run(made(sqs, consume), until_true=begun.is_set, grace=0.1)
    go.set()

    assert ended == Ended(unfinished=1)


def test_code_that_was_cut_and_goes_on_keeps_its_place_and_at_last_ends_the_worker() -> None:
    sqs, pool, go = Sqs(messages=3), HandlerPool(), threading.Event()

    def consume(event: dict[str, Any]) -> SqsBatchReport:
        with pytest.raises(HandlerTimeoutError):
            pool.run(lambda: go.wait(PATIENCE_SECONDS), seconds=0.1)
        return done(event)

    ended = made(sqs, consume, pool=pool, concurrency=2).run(30)
    go.set()

    assert ended == Ended(stuck=True)
    assert len(sqs.messages) == 1


def test_a_worker_whose_receiver_hangs_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    sqs, go, looks = Sqs(), threading.Event(), list[bool]()
    monkeypatch.setattr(loop, "LONGEST_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(loop, "LOOK_SECONDS", 0.05)
    sqs.on_receive = lambda: go.wait(PATIENCE_SECONDS)
    worker = made(sqs, on_look=lambda: looks.append(worker.is_alive()))

    run(worker, until_true=lambda: False in looks and (go.set() or True))

    assert looks[-1] is False
