"""A process that takes messages from the queue itself, and executes their runs: without Lambda, and of any length.

It receives no more messages than it has free places for, deletes those that are done, and leaves the others to SQS. The
commands ``kumofire work`` and ``kumofire dev`` are its two fronts: they choose what is told of it, and end it.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from kumofire_core.aws.errors import note_of
from kumofire_core.engine.renewal import held_by_lease
from kumofire_core.model.error_text import error_name, error_places

if TYPE_CHECKING:
    from kumofire_core.aws.sqs import Queue
    from kumofire_core.engine.renewal import Renewal
    from kumofire_core.engine.sqs_batch import SqsBatchReport
    from kumofire_core.handlers.handler_pool import HandlerPool

MOST_RECEIVED = 10
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html"""

LONGEST_POLL_SECONDS = 20

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
"""How long it waits after a request for messages that failed: twice as long after each, half of it spread by jitter."""

DELETE_AFTER_SECONDS = 0.2
"""How long a message that is done waits for nine others, to be deleted in one request with them."""

DELETE_TRIES = 3

RECORD_SECONDS = 5.0
"""How much of the grace is kept to record the interruption of runs."""

LOOK_SECONDS = 0.5
"""How often a worker looks whether it was told to end, and whether code that was cut has stopped."""

LONGEST_SILENCE_SECONDS = 90.0
"""A poll takes up to 25 seconds and a pause up to 30."""

log = logging.getLogger("kumofire_core")


class Ended(NamedTuple):
    """How a worker has ended."""

    interrupted: int = 0
    """Runs that went on after the grace, and were interrupted."""
    unfinished: int = 0
    """Runs whose end could not be recorded any more; the dispatcher finds them when their leases end."""
    stuck: bool = False
    """It ended by itself: all its places are held by code that was cut and does not stop."""


class Worker:
    """Executes what the queue delivers, ``concurrency`` runs at once, each message in a thread of its own.

    ``consume`` executes an event of one record and reports on it. With ``renewal``, attempts have no deadline but their
    jobs' timeouts, and runs that go on after the grace are interrupted. Its ``on_…`` arguments are told what happens,
    from several threads.
    """

    def __init__(
        self,
        queue: Queue,
        pool: HandlerPool,
        consume: Callable[[dict[str, Any]], SqsBatchReport],
        *,
        concurrency: int,
        renewal: Renewal | None = None,
        poll_seconds: int = LONGEST_POLL_SECONDS,
        idle_seconds: float = 0.0,
        visibility_seconds: int | None = None,
        on_report: Callable[[SqsBatchReport], object] = lambda report: None,
        on_look: Callable[[], object] = lambda: None,
    ) -> None:
        self._queue = queue
        self._pool = pool
        self._execute = consume
        self._concurrency = concurrency
        self._renewal = renewal
        self._poll_seconds = poll_seconds
        self._idle_seconds = idle_seconds
        self._visibility_seconds = visibility_seconds
        self._on_report = on_report
        self._on_look = on_look
        self._told_to_stop = False
        self._stopping = threading.Event()
        self._busy = 0
        self._changed = threading.Condition()
        self._failures = 0
        self._looked_at = time.monotonic()
        self._done = Deletions(queue)

    def is_alive(self) -> bool:
        """Say whether it receives, or waits for a free place: no request hangs for longer than any should."""
        return time.monotonic() - self._looked_at < LONGEST_SILENCE_SECONDS

    def stop(self) -> None:
        """Let ``run`` receive nothing more. Safe to call from a signal handler."""
        # Attributes alone: the main thread may hold the lock of an event that a signal's handler would set.
        self._told_to_stop = True
        if self._renewal is not None:
            self._renewal.stopping = True

    def run(self, grace_seconds: float) -> Ended:
        """Work until ``stop`` is called; then let the runs under way end, for ``grace_seconds`` at most.

        What still runs near their end is interrupted: its run is put back, and no attempt is counted.
        """
        receiving = threading.Thread(target=self._receive_all, name="kumofire-receiver", daemon=True)
        receiving.start()
        while not self._told_to_stop:
            self._on_look()
            if self._is_stuck():
                log.error("all %d places are held by code that was cut and does not stop", self._concurrency)
                self.stop()
                self._stopping.set()
                self._done.finish()
                return Ended(stuck=True)
            self._stopping.wait(LOOK_SECONDS)
        self._stopping.set()
        return self._drain(receiving, time.monotonic() + grace_seconds, min(RECORD_SECONDS, grace_seconds / 3))

    def _drain(self, receiving: threading.Thread, give_up: float, reserve: float) -> Ended:
        receiving.join(max(0.0, give_up - reserve - time.monotonic()))
        interrupted = 0
        if not self._await_idle(give_up - reserve) and self._renewal is not None:
            interrupted = self._renewal.interrupt()
            self._await_idle(give_up)
        with self._changed:
            unfinished = self._busy
        self._done.finish()
        return Ended(interrupted, unfinished)

    def _await_idle(self, until: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, max(0.0, until - time.monotonic()))

    def _is_stuck(self) -> bool:
        with self._changed:
            return not self._busy and self._pool.stray() >= self._concurrency

    def _receive_all(self) -> None:
        while not self._told_to_stop:
            self._looked_at = time.monotonic()
            free = self._free()
            if free <= 0:
                with self._changed:
                    self._changed.wait(LOOK_SECONDS)
                continue
            records = self._receive(min(free, MOST_RECEIVED))
            if self._told_to_stop:
                self._give_back(records)
                return
            self._begin(records)

    def _free(self) -> int:
        with self._changed:
            busy = self._busy
        return self._concurrency - busy - self._pool.stray()

    def _receive(self, most: int) -> list[dict[str, Any]]:
        """Receive messages; where that fails, wait for a while."""
        try:
            records = self._queue.receive(
                most, wait_seconds=self._poll_seconds, visibility_seconds=self._visibility_seconds
            )
        except Exception as error:  # whatever it is, it must not end the worker
            self._failures += 1
            longest = min(FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE_SECONDS)
            if not self._told_to_stop:
                log.warning("messages could not be received (%s). %s", error_name(error), note_of(error))
            self._stopping.wait(random.uniform(longest / 2, longest))
            return []
        self._failures = 0
        if not records and self._idle_seconds:
            self._stopping.wait(self._idle_seconds)
        return records

    def _begin(self, records: list[dict[str, Any]]) -> None:
        with self._changed:
            self._busy += len(records)
        for number, record in enumerate(records):
            try:
                self._pool.start(lambda record=record: self._consume(record))  # type: ignore[misc]
            except RuntimeError as error:
                log.warning("a thread could not be started: %s", error)
                self._give_back(records[number:])
                self._leave(len(records) - number)
                return

    def _leave(self, count: int = 1) -> None:
        with self._changed:
            self._busy -= count
            self._changed.notify_all()

    def _give_back(self, records: Collection[dict[str, Any]]) -> None:
        """Let SQS deliver messages at once whose runs were not begun."""
        if records:
            self._queue.try_hide({record["receiptHandle"]: 0 for record in records})

    def _consume(self, record: dict[str, Any]) -> None:
        """Execute one message's run, and delete it unless it is to come again."""
        receipt = record["receiptHandle"]
        # A lease that was renewed is what holds the run from then on, and the dispatcher recovers it if that ends. So a
        # run may take longer than SQS hides any message (12 hours).
        deleted = threading.Lock()

        def delete() -> None:
            if deleted.acquire(blocking=False):
                self._done.add(receipt)

        held_by_lease.set(delete)
        try:
            report = self._execute({"Records": [record]})
            if not report.response()["batchItemFailures"]:
                delete()
            self._on_report(report)
        except Exception as error:
            log.error(
                "a message could not be handled, and comes again: %s",
                error_name(error),
                extra={"error_at": error_places(error)},
            )
        finally:
            self._leave()


class Deletions:
    """Messages that are done, deleted ten at a time; safe to call from many threads.

    What can't be deleted comes again, and is ignored then.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._waiting: dict[str, int] = {}
        """By receipt handle, how often it was tried."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, receipt: str) -> None:
        """Let a message be deleted in a moment."""
        with self._changed:
            self._waiting[receipt] = 0
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="kumofire-deletions", daemon=True)
                with contextlib.suppress(RuntimeError):  # the process may have no more threads; ``finish`` deletes
                    self._thread.start()
            self._changed.notify_all()

    def finish(self) -> None:
        """Delete what waits, and take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(RECORD_SECONDS)
        self._delete(self._take())

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._closed:
                    self._changed.wait_for(
                        lambda: len(self._waiting) >= MOST_RECEIVED or self._closed, DELETE_AFTER_SECONDS
                    )
                if self._closed:
                    return
            self._delete(self._take())

    def _take(self) -> dict[str, int]:
        with self._changed:
            taken = dict(list(self._waiting.items())[:MOST_RECEIVED] if not self._closed else self._waiting)
            for receipt in taken:
                del self._waiting[receipt]
            return taken

    def _delete(self, taken: dict[str, int]) -> None:
        try:
            left = self._queue.try_delete(list(taken)) if taken else []
        except Exception as error:  # this thread must not end
            log.warning("messages could not be deleted (%s)", error_name(error))
            return
        with self._changed:
            for receipt in left:
                if taken[receipt] + 1 < DELETE_TRIES and not self._closed:
                    self._waiting[receipt] = taken[receipt] + 1
