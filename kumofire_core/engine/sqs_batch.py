"""A batch of SQS records: which are malformed, which were consumed, and which SQS must deliver again.

A record never affects another one. The report is always complete: a record that is not finished when the process must
answer is reported for another delivery.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from kumofire_core.aws.errors import note_of
from kumofire_core.engine.consumer import PAUSED, Consumer, ConsumeResult
from kumofire_core.engine.counts import CountTeller
from kumofire_core.engine.progress import ProgressTeller, typical_sent_ms
from kumofire_core.errors import DeadlineTooCloseError, KumofireError, MalformedMessageError
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.model.error_text import error_name, error_places
from kumofire_core.model.message import decode_body
from kumofire_core.rules.redelivery import seconds_to_keep, seconds_until_redelivery

if TYPE_CHECKING:
    from kumofire_core.engine.batch_writes import BatchClaim

log = logging.getLogger("kumofire_core")

EXCERPT_LENGTH = 80
"""How much of a malformed body is logged, in characters."""

UNDONE = "not done before the deadline"

ANSWER_SECONDS = 0.3
"""How long before the process's end the batch is answered, whatever is still under way."""

LAST_SECONDS = 0.1
"""How long before the process's end nothing is waited for any more, and the answer is given."""

TELL_SECONDS = 1.0
"""How long the batch waits at its end for the write that tells how far it was in the queue."""

COUNT_SECONDS = 0.5
"""The same for the write that counts what became of the records."""

LEAST_COUNT_SECONDS = 0.5
"""That write is not begun with less time before the deadline's reserve."""

STRAY_PATIENCE_SECONDS = 0.5
"""How long a handler that was cut is waited for to stop."""


class RecordReport(NamedTuple):
    """What became of one record. Exactly one of ``result``, ``malformed`` and ``failure`` is set."""

    message_id: str | None
    job_run_id: str | None = None
    result: ConsumeResult | None = None
    malformed: str | None = None
    """Why it is no message of ours. It is acknowledged: it would be malformed for ever."""
    failure: str | None = None
    """What kept the runtime from consuming it. It is reported, and SQS delivers it again."""
    again_in: int | None = None
    """Seconds until SQS is to deliver it again: a failure by its receive count, and a message that came before its run
    is due at that time. ``None`` leaves a failure to the queue's visibility timeout."""


class SqsBatchReport(NamedTuple):
    """What became of a batch, record by record, in the event's order."""

    records: tuple[RecordReport, ...] = ()
    stray_handlers: int = 0
    """Handlers that were cut and still run. Their process should end before it serves another batch."""
    refused_messages: int = 0
    """Messages that were to be sent, of retries and of runs that handlers created, and that SQS refuses for a reason
    that will not pass by itself."""
    hook_failures: int = 0
    """Calls of hooks that failed, took too long or were dropped since the last batch."""

    def response(self) -> dict[str, list[dict[str, str]]]:
        """Return what Lambda wants to hear: the records to deliver again.

        https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html#services-sqs-batchfailurereporting
        """
        return {
            "batchItemFailures": [
                {"itemIdentifier": record.message_id}
                for record in self.records
                if (record.failure is not None or record.again_in is not None) and record.message_id is not None
            ]
        }


def run_batch(
    event: object,
    consumer: Consumer,
    *,
    deadline: Deadline | None,
    concurrency: int,
    teller: ProgressTeller | None = None,
    counts: CountTeller | None = None,
) -> SqsBatchReport:
    """Consume every record of an event, ``concurrency`` at a time, and report on each.

    ``teller`` writes down, once a minute and beside the records, how far in the queue this batch is. ``counts`` adds up
    what became of the records.
    """
    if not isinstance(event, dict) or not isinstance(event.get("Records"), list):
        log.error("the event is not a batch of SQS records; nothing was done")
        return SqsBatchReport()
    records: list[Any] = event["Records"]
    batch = _Batch(len(records))
    todo: deque[tuple[int, _Delivery]] = deque()
    receipts: list[str | None] = [None] * len(records)
    for index, record in enumerate(records):
        report, delivery = _parse(record)
        batch.reports[index] = report
        if delivery is not None:
            todo.append((index, delivery))
            receipts[index] = delivery.receipt

    def work() -> None:
        while not batch.closed:
            try:
                index, delivery = todo.popleft()
            except IndexError:
                return
            batch.settle(index, _consume(consumer, delivery, deadline, early.pop(delivery.run_id, None)))

    sent_ms = typical_sent_ms(records)
    telling = None
    if teller is not None and sent_ms is not None and teller.is_due():
        with contextlib.suppress(RuntimeError):  # the process may have no more threads
            telling = consumer.pool.start(partial(teller.tell, sent_ms))
    loops = min(concurrency, len(todo))
    # Only what is begun at once: a claim that had to wait for its turn might find no time left.
    early = consumer.claim_early([delivery.run_id for _, delivery in itertools.islice(todo, loops)], deadline)
    if deadline is None and loops == 1:
        work()
    elif loops:
        calls = []
        for _ in range(loops):
            try:
                calls.append(consumer.pool.start(work))
            except RuntimeError as error:  # the process may have no more threads; those there are do the work
                log.warning("a thread could not be started: %s", error)
                break
        if not calls:
            work()
        for call in calls:
            call.wait(None if deadline is None else deadline.seconds_left() - min(ANSWER_SECONDS, deadline.reserve / 4))
    if telling is not None:  # or Lambda would freeze the process around its request
        telling.wait(TELL_SECONDS if deadline is None else min(TELL_SECONDS, deadline.seconds_left() / 2))
    reports = batch.close()
    counting = None
    if counts is not None:
        counts.count(report.result for report in reports if report.result is not None)
        has_time = deadline is None or deadline.seconds_to_run() > LEAST_COUNT_SECONDS
        if has_time and counts.is_due(len(records)):
            with contextlib.suppress(RuntimeError):  # the process may have no more threads
                counting = consumer.pool.start(counts.tell)
    for report in reports:
        if report.failure == UNDONE:
            log.error(
                "a record could not be consumed and will be delivered again: %s",
                UNDONE,
                extra={"message_id": report.message_id, "job_run_id": report.job_run_id},
            )
    paused = sum(report.result is not None and report.result.reason == PAUSED for report in reports)
    if paused:
        log.info("%d runs were put aside, because their jobs are paused", paused)
    hidden = {
        receipt: report.again_in
        for receipt, report in zip(receipts, reports, strict=True)
        if receipt is not None and report.again_in is not None
    }
    if hidden:
        _give_back(consumer, hidden, deadline)
    hook_failures = 0
    if consumer.hooks is not None:
        consumer.hooks.finish(deadline)
        hook_failures = consumer.hooks.take_failures()
    if counting is not None:  # beside what is above, and never in the time that is kept for the answer
        counting.wait(COUNT_SECONDS if deadline is None else min(COUNT_SECONDS, deadline.seconds_to_run()))
    patience = STRAY_PATIENCE_SECONDS
    if deadline is not None:
        patience = min(patience, deadline.seconds_left() / 4)
    return SqsBatchReport(
        records=tuple(reports),
        stray_handlers=consumer.pool.stray(patience_seconds=max(0.0, patience)),
        refused_messages=consumer.queue.take_refused(),
        hook_failures=hook_failures,
    )


class _Batch:
    """The reports of one batch. Once closed it takes no more, and its threads begin nothing new."""

    def __init__(self, size: int) -> None:
        self.reports: list[RecordReport] = [RecordReport(message_id=None)] * size
        self.closed = False
        self._lock = threading.Lock()

    def settle(self, index: int, report: RecordReport) -> None:
        with self._lock:
            if not self.closed:
                self.reports[index] = report

    def close(self) -> list[RecordReport]:
        with self._lock:
            self.closed = True
            return list(self.reports)


class _Delivery(NamedTuple):
    """A message that SQS delivered."""

    message_id: str
    run_id: str
    receipt: str | None
    """By which its visibility can be changed; ``None`` where the event has none."""
    receives: int
    """How often it was received, this time included; about, says SQS."""

    def again_in(self, *, time_was_short: bool = False) -> int | None:
        """Return for how many seconds it is to stay hidden when it is given back."""
        if self.receipt is None:
            return None
        return seconds_until_redelivery(self.message_id, receives=self.receives, time_was_short=time_was_short)


def _give_back(consumer: Consumer, hidden: dict[str, int], deadline: Deadline | None) -> None:
    """Let SQS deliver records again when it makes sense, instead of after the queue's visibility timeout.

    As good as can be: what fails here only comes later. Near the deadline the answer does not wait for it.
    """
    if deadline is None:
        consumer.queue.try_hide(hidden)
        return
    try:
        call = consumer.pool.start(lambda: consumer.queue.try_hide(hidden))
    except RuntimeError as error:
        log.warning("a thread could not be started: %s", error)
        return
    call.wait(deadline.seconds_left() - min(LAST_SECONDS, deadline.reserve / 12))


def _parse(record: object) -> tuple[RecordReport, _Delivery | None]:
    """Return a record's delivery with the report it has until it is consumed, or what is malformed about it."""
    message_id = record.get("messageId") if isinstance(record, dict) else None
    if not isinstance(message_id, str) or not message_id:
        message_id = None
    body = record.get("body") if isinstance(record, dict) else None
    try:
        run_id = decode_body(body)
        if message_id is None:
            raise MalformedMessageError("the record has no messageId")
    except MalformedMessageError as error:
        log.warning(
            "malformed record acknowledged: %s",
            error,
            extra={"message_id": message_id, "excerpt": _excerpt(body)},
        )
        return RecordReport(message_id=message_id, malformed=str(error)), None
    delivery = _Delivery(message_id, run_id, *_receipt(record))
    again_in = delivery.again_in(time_was_short=True)
    return RecordReport(message_id=message_id, job_run_id=run_id, failure=UNDONE, again_in=again_in), delivery


def _receipt(record: Any) -> tuple[str | None, int]:
    """Return a record's receipt handle and how often it was received, for as far as the event tells."""
    receipt, attributes = record.get("receiptHandle"), record.get("attributes")
    count = attributes.get("ApproximateReceiveCount") if isinstance(attributes, dict) else None
    receives = int(count) if isinstance(count, str) and count.isascii() and count.isdecimal() and len(count) < 10 else 1
    return receipt if isinstance(receipt, str) and receipt else None, receives


def _consume(
    consumer: Consumer, delivery: _Delivery, deadline: Deadline | None, early: BatchClaim | None
) -> RecordReport:
    message_id, run_id = delivery.message_id, delivery.run_id
    try:
        result = consumer.consume(run_id, deadline, early)
    except (Exception, SystemExit) as error:
        # Ours says what it is about; another's text may quote data.
        failure = str(error) if isinstance(error, KumofireError) else f"run#{run_id}: {error_name(error)}"
        note = note_of(error)
        log.error(
            "a record could not be consumed and will be delivered again: %s",
            f"{failure}. {note}" if note else failure,
            extra={"message_id": message_id, "job_run_id": run_id, "error_at": error_places(error)},
        )
        again_in = delivery.again_in(time_was_short=isinstance(error, DeadlineTooCloseError))
        return RecordReport(message_id=message_id, job_run_id=run_id, failure=failure, again_in=again_in)
    keep = None if delivery.receipt is None else seconds_to_keep(result.early_seconds)
    return RecordReport(message_id=message_id, job_run_id=run_id, result=result, again_in=keep)


def _excerpt(body: object) -> str:
    """Return the beginning of a body, in printable ASCII."""
    text = body[: EXCERPT_LENGTH + 1] if isinstance(body, str) else f"({type(body).__name__})"
    return ascii(text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "...")
