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

from kumofire_core.engine.consumer import Consumer, ConsumeResult
from kumofire_core.engine.progress import ProgressTeller, typical_sent_ms
from kumofire_core.errors import KumofireError, MalformedMessageError
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.model.error_text import error_name, error_places
from kumofire_core.model.message import decode_body

if TYPE_CHECKING:
    from kumofire_core.engine.batch_writes import BatchClaim

log = logging.getLogger("kumofire_core")

EXCERPT_LENGTH = 80
"""How much of a malformed body is logged, in characters."""

UNDONE = "not done before the deadline"

ANSWER_SECONDS = 0.3
"""How long before the process's end the batch is answered, whatever is still under way."""

TELL_SECONDS = 1.0
"""How long the batch waits at its end for the write that tells how far it was in the queue."""

STRAY_PATIENCE_SECONDS = 0.5
"""How long a handler that was cut is waited for to stop."""


class RecordReport(NamedTuple):
    """What became of one record. Exactly one of the last three is set."""

    message_id: str | None
    job_run_id: str | None = None
    result: ConsumeResult | None = None
    malformed: str | None = None
    """Why it is no message of ours. It is acknowledged: it would be malformed for ever."""
    failure: str | None = None
    """What kept the runtime from consuming it. It is reported, and SQS delivers it again."""


class SqsBatchReport(NamedTuple):
    """What became of a batch, record by record, in the event's order."""

    records: tuple[RecordReport, ...] = ()
    stray_handlers: int = 0
    """Handlers that were cut and still run. Their process should end before it serves another batch."""

    def response(self) -> dict[str, list[dict[str, str]]]:
        """Return what Lambda wants to hear: the records to deliver again.

        https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html#services-sqs-batchfailurereporting
        """
        return {
            "batchItemFailures": [
                {"itemIdentifier": record.message_id}
                for record in self.records
                if record.failure is not None and record.message_id is not None
            ]
        }


def run_batch(
    event: object,
    consumer: Consumer,
    *,
    deadline: Deadline | None,
    concurrency: int,
    teller: ProgressTeller | None = None,
) -> SqsBatchReport:
    """Consume every record of an event, ``concurrency`` at a time, and report on each.

    ``teller`` writes down, once a minute and beside the records, how far in the queue this batch is.
    """
    if not isinstance(event, dict) or not isinstance(event.get("Records"), list):
        log.error("the event is not a batch of SQS records; nothing was done")
        return SqsBatchReport()
    records: list[Any] = event["Records"]
    batch = _Batch(len(records))
    todo: deque[tuple[int, str, str]] = deque()
    for index, record in enumerate(records):
        report, run_id = _parse(record)
        batch.reports[index] = report
        if run_id is not None and report.message_id is not None:
            todo.append((index, report.message_id, run_id))

    def work() -> None:
        while not batch.closed:
            try:
                index, message_id, run_id = todo.popleft()
            except IndexError:
                return
            batch.settle(index, _consume(consumer, message_id, run_id, deadline, early.pop(run_id, None)))

    sent_ms = typical_sent_ms(records)
    telling = None
    if teller is not None and sent_ms is not None and teller.is_due():
        with contextlib.suppress(RuntimeError):  # the process may have no more threads
            telling = consumer.pool.start(partial(teller.tell, sent_ms))
    loops = min(concurrency, len(todo))
    # Only what is begun at once: a claim that had to wait for its turn might find no time left.
    early = consumer.claim_early([run_id for _, _, run_id in itertools.islice(todo, loops)], deadline)
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
    for report in reports:
        if report.failure == UNDONE:
            log.error(
                "a record could not be consumed and will be delivered again: %s",
                UNDONE,
                extra={"message_id": report.message_id, "job_run_id": report.job_run_id},
            )
    patience = STRAY_PATIENCE_SECONDS
    if deadline is not None:
        patience = min(patience, deadline.seconds_left() / 4)
    return SqsBatchReport(
        records=tuple(reports), stray_handlers=consumer.pool.stray(patience_seconds=max(0.0, patience))
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


def _parse(record: object) -> tuple[RecordReport, str | None]:
    """Return a record's run id with the report it has until it is consumed, or what is malformed about it."""
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
    return RecordReport(message_id=message_id, job_run_id=run_id, failure=UNDONE), run_id


def _consume(
    consumer: Consumer, message_id: str, run_id: str, deadline: Deadline | None, early: BatchClaim | None
) -> RecordReport:
    try:
        result = consumer.consume(run_id, deadline, early)
    except (Exception, SystemExit) as error:
        # Ours says what it is about; another's text may quote data.
        failure = str(error) if isinstance(error, KumofireError) else f"run#{run_id}: {error_name(error)}"
        log.error(
            "a record could not be consumed and will be delivered again: %s",
            failure,
            extra={"message_id": message_id, "job_run_id": run_id, "error_at": error_places(error)},
        )
        return RecordReport(message_id=message_id, job_run_id=run_id, failure=failure)
    return RecordReport(message_id=message_id, job_run_id=run_id, result=result)


def _excerpt(body: object) -> str:
    """Return the beginning of a body, in printable ASCII."""
    text = body[: EXCERPT_LENGTH + 1] if isinstance(body, str) else f"({type(body).__name__})"
    return ascii(text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "...")
