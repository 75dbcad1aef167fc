"""What became of messages in the last minutes, by job: consumers add it up in items, and ``Jobs.stats`` reads them.

A minute has four items, so that many processes don't all write to one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import NamedTuple

from kumofire_core.aws.errors import AWS_ERRORS, is_access_denied, is_invalid
from kumofire_core.engine.consumer import ConsumeResult
from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.model.error_text import error_name
from kumofire_core.model.write import SCHEMA, Key, text_bytes

COUNTS = "counts"
"""The kind of these items. ``counts#<minute>-<shard>`` holds numbers named ``<outcome>|<job>`` and ``ms|<job>``."""

SHARDS = 4
"""Items of a minute. Readers read all of them, so the number must never change."""

MILLISECONDS = "ms"
OTHER = "(other)"
"""Stands for the jobs that are not counted by their names."""

MOST_NAMES = 100
MOST_NAME_BYTES = 4 * 1024
"""Jobs that are counted by their names, and the bytes of these names: an item must stay small, because DynamoDB charges
each addition by the size of the whole item."""

TELL_AFTER_MS = 10_000
"""How often one process writes, at most, while its batches are full."""
TELL_SOON_MS = 1_000
"""The same after a batch that is not full: perhaps no further one comes."""
FULL_BATCH = 10
LONGEST_PAUSE_MS = 60_000
"""For how long a process pauses, at most, after writes that failed."""
MOST_REQUESTS = 2
"""Writes at the end of one batch: the counts of a minute that is over, and those of the current one."""

MOST_AMOUNTS = 100
"""Numbers in one write: an expression may have 300 operators and 4 KB. What is over waits for the next write.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html (expression parameters)"""

KEPT_MINUTES = 60
"""For so long counts are kept that could not be written; later nobody asks for them."""
KEPT_SECONDS = 2 * 24 * 60 * 60
"""After that DynamoDB's TTL deletes an item."""

log = logging.getLogger("kumofire_core")


def minute_of(ms: int) -> int:
    """Return the minute since the epoch that a time in epoch milliseconds belongs to."""
    return ms // 60_000


def counts_keys(minute: int) -> list[Key]:
    """Return the keys of all items that have a minute's counts."""
    return [Key(COUNTS, f"{minute}-{shard}") for shard in range(SHARDS)]


class _Addition(NamedTuple):
    """A write that is to be made once. Repeated, it is the very same, so that the item can tell."""

    minute: int
    token: str
    amounts: dict[str, int]

    @property
    def key(self) -> Key:
        return Key(COUNTS, f"{self.minute}-{int(self.token[0], 16) % SHARDS}")


class CountTeller:
    """Counts, for one process, what became of messages, and adds it to the table. Safe to call from many threads.

    Best effort: what can't be written is logged and kept for the next write. A process that ends takes what it has not
    written with it, ten seconds' worth at most while batches come.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._waiting: dict[int, dict[str, int]] = {}
        """By minute; milliseconds are kept as microseconds."""
        self._unconfirmed: _Addition | None = None
        self._told_ms = 0
        self._failures = 0
        self._allowed = True
        self._names: frozenset[str] = frozenset()
        self._registered = -1
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    def count(self, results: Iterable[ConsumeResult]) -> None:
        """Add what became of a batch's messages to what is to be written."""
        now_ms = self._store.now_ms()
        registered = self._store.registry.names()
        with self._lock:
            if not self._allowed:
                return
            if len(registered) != self._registered:
                self._registered, self._names = len(registered), _counted_names(registered)
            amounts = self._waiting.get(minute_of(now_ms), {})
            for result in results:
                job = result.job_name if result.job_name in self._names else OTHER
                _add(amounts, f"{result.outcome.value}|{job}", 1)
                if result.duration is not None:
                    microseconds = result.duration.days * 86_400_000_000 + result.duration.seconds * 1_000_000
                    _add(amounts, f"{MILLISECONDS}|{job}", microseconds + result.duration.microseconds)
            if amounts:
                self._waiting[minute_of(now_ms)] = amounts
            for minute in [minute for minute in self._waiting if minute < minute_of(now_ms) - KEPT_MINUTES]:
                del self._waiting[minute]

    def is_due(self, batch_size: int) -> bool:
        """Say whether ``tell`` has something to write after a batch of this size, and its time has come."""
        now_ms = self._store.now_ms()
        with self._lock:
            if not self._waiting and self._unconfirmed is None:
                return False
            pause_ms = TELL_AFTER_MS if batch_size >= FULL_BATCH else TELL_SOON_MS
            if self._failures:
                pause_ms = min(TELL_AFTER_MS << (self._failures - 1), LONGEST_PAUSE_MS)
            return not 0 <= now_ms - self._told_ms < pause_ms

    def tell(self) -> None:
        """Write what has been counted: one request, and another one where a minute has gone by."""
        if not self._writing.acquire(blocking=False):
            return  # an earlier batch's write is still under way
        try:
            for _ in range(MOST_REQUESTS):
                addition = self._next()
                if addition is None or not self._write(addition):
                    return
        finally:
            self._writing.release()

    def _next(self) -> _Addition | None:
        """Return what is to be written now: first what may or may not have been written before."""
        with self._lock:
            self._told_ms = now_ms = self._store.now_ms()
            if self._unconfirmed is not None and self._unconfirmed.minute < minute_of(now_ms) - KEPT_MINUTES:
                self._unconfirmed = None
            if self._unconfirmed is None and self._waiting:
                minute = min(self._waiting)
                waiting = self._waiting[minute]
                amounts = {name: waiting.pop(name) for name in list(waiting)[:MOST_AMOUNTS]}
                if not waiting:
                    del self._waiting[minute]
                for name in amounts:
                    if name.startswith(f"{MILLISECONDS}|"):
                        amounts[name] = (amounts[name] + 500) // 1000
                amounts = {name: amount for name, amount in amounts.items() if amount} or amounts
                self._unconfirmed = _Addition(minute, new_token(), amounts)
            return self._unconfirmed

    def _write(self, addition: _Addition) -> bool:
        lasting = {"schema": SCHEMA, "expires_at": addition.minute * 60 + KEPT_SECONDS}
        try:
            self._store.table.add(addition.key, addition.amounts, told_by=addition.token, sets=lasting)
        except AWS_ERRORS as error:
            with self._lock:
                if is_access_denied(error):
                    self._allowed, self._unconfirmed = False, None
                    self._waiting.clear()
                    log.warning(
                        "this process may not write its counts (dynamodb:UpdateItem on counts#*), so the stats lack "
                        "them; allow it, or switch them off (Jobs(counts=False), KUMOFIRE_COUNTS=false)"
                    )
                    return False
                self._failures = min(self._failures + 1, 10)
                if is_invalid(error):  # it would be refused again
                    self._unconfirmed = None
            log.warning("the counts for the stats could not be written (%s)", error_name(error))
            return False
        with self._lock:
            self._unconfirmed, self._failures = None, 0
        return True


def _counted_names(names: Iterable[str]) -> frozenset[str]:
    """Return those of the registered jobs that are counted by their names.

    They are chosen in the order of registration, so that all processes with the same code choose the same.
    """
    chosen: list[str] = []
    room = MOST_NAME_BYTES
    for name in names:
        if len(chosen) < MOST_NAMES and text_bytes(name) <= room:
            chosen.append(name)
            room -= text_bytes(name)
    return frozenset(chosen)


def _add(amounts: dict[str, int], name: str, amount: int) -> None:
    amounts[name] = amounts.get(name, 0) + amount
