"""What a handler tells of its progress: written at most once a second for each attempt, beside the handler.

One thread of the process writes for all attempts that told something. It is there while something is to be written, so
an attempt that tells nothing costs nothing, and none of them waits for a request.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import logging
import math
import threading
import time

from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.handlers.context import log_fields
from kumofire_core.handlers.handler_pool import HandlerPool
from kumofire_core.model import json_codec
from kumofire_core.model.error_text import cut_to_bytes, error_name
from kumofire_core.model.run_item import PROGRESS_BYTES, StoredRun
from kumofire_core.model.write import text_bytes
from kumofire_core.rules import run_writes

WRITE_SECONDS = 1.0
"""How long after a write the next one of the same attempt comes at the earliest."""

NOTE_LENGTH = 200
NOTE_BYTES = 400
OTHER_BYTES = 64
"""The number of the claim, the fraction, the time and JSON's own characters."""
SHORTER_NOTES = (200, 80)
"""To how many bytes a note is cut where all of it has no room once it is encrypted."""

log = logging.getLogger("kumofire_core")


class ProgressWriter:
    """Writes the progress of all attempts of one process."""

    def __init__(self, store: RunStore, pool: HandlerPool) -> None:
        self.store = store
        self._pool = pool
        self._wakened = threading.Condition()
        self._due: list[tuple[float, int, AttemptProgress]] = []
        self._numbers = itertools.count()
        self._at_work = False

    def schedule(self, attempt: AttemptProgress, at: float) -> bool:
        """Let ``attempt.write`` be called at ``at``, on ``time.monotonic``'s scale; ``False`` where that can't be."""
        with self._wakened:
            heapq.heappush(self._due, (at, next(self._numbers), attempt))
            if self._at_work:
                self._wakened.notify()
                return True
            self._at_work = True
        try:
            contextvars.Context().run(self._pool.start, self._work)  # its lines in the log are no attempt's
        except RuntimeError:  # the process may have no more threads
            with self._wakened:
                self._at_work = False
            self.forget(attempt)
            return False
        return True

    def forget(self, attempt: AttemptProgress) -> None:
        """Let the thread end that waits for an attempt which has ended."""
        with self._wakened:
            self._due = [entry for entry in self._due if entry[2] is not attempt]
            heapq.heapify(self._due)
            self._wakened.notify()

    def _work(self) -> None:
        while True:
            with self._wakened:
                while self._due and (seconds := self._due[0][0] - time.monotonic()) > 0:
                    self._wakened.wait(seconds)
                if not self._due:
                    self._at_work = False
                    return
                _, _, attempt = heapq.heappop(self._due)
            attempt.write()


class AttemptProgress:
    """The progress of one attempt. Nothing here raises: what is told for people must not fail the attempt."""

    def __init__(self, writer: ProgressWriter, claimed: StoredRun) -> None:
        self._writer = writer
        self._claimed = claimed
        self._lock = threading.Lock()
        self._told: tuple[int, str | None, int] | None = None
        """Thousandths, the note and when; ``None`` where all that was told is written."""
        self._next_write = 0.0
        self._scheduled = False
        self._ended = False
        self._warned = False

    def tell(self, fraction: object, note: object) -> None:
        """Take what a handler tells, to be written in a moment. A wrong argument is logged, once for an attempt."""
        thousandths = _thousandths(fraction)
        if thousandths is None or not (note is None or isinstance(note, str)):
            self._warn(
                "ctx.progress takes a number from 0 to 1 and a string, not %s and %s; this is not written",
                type(fraction).__name__,
                type(note).__name__,
            )
            return
        told = (thousandths, None if note is None else _cut(note), self._writer.store.now_ms())
        with self._lock:
            if self._ended:
                return
            self._told = told
            if self._scheduled:
                return
            self._scheduled = True
            at = max(time.monotonic(), self._next_write)
        if not self._writer.schedule(self, at):
            with self._lock:
                self._scheduled = False

    def end(self) -> None:
        """Let nothing more be written: the handler has returned, or was given up."""
        with self._lock:
            self._ended = True
            waits, self._told = self._scheduled, None
        if waits:
            self._writer.forget(self)

    def write(self) -> None:
        """Write what was told last."""
        with self._lock:
            told, self._told = self._told, None
            self._scheduled = False
            self._next_write = time.monotonic() + WRITE_SECONDS
            if told is None:
                return
        try:
            progress = self._stored(*told)
            write = run_writes.tell_progress(self._claimed, new_token(), progress=progress)
            if not self._writer.store.apply(self._claimed.id, write).applied:
                self._ended = True  # the lease is another's, or the attempt has ended in this instant
        except Exception as error:  # whatever it is, the attempt goes on
            self._warn("the progress of an attempt could not be written (%s)", error_name(error))

    def _stored(self, thousandths: int, note: str | None, at_ms: int) -> str:
        """Return the stored form: at most ``PROGRESS_BYTES``, the note encrypted where there is a cipher."""
        if note is not None and self._writer.store.cipher is not None:
            note = self._encrypted(note)
        # JSON escapes a character by six bytes at most, so that a note in plain text has room as well.
        return json_codec.encode("the progress", [self._claimed.claims, thousandths, note, at_ms])

    def _encrypted(self, note: str) -> str | None:
        store, room = self._writer.store, PROGRESS_BYTES - OTHER_BYTES
        stored = store.encrypted_text(self._claimed.id, note, most_bytes=room)
        for most in SHORTER_NOTES:
            if stored is None and text_bytes(note) > most:
                stored = store.encrypted_text(self._claimed.id, cut_to_bytes(note, most), most_bytes=room)
        return stored

    def _warn(self, text: str, *values: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(text, *values, extra=log_fields(self._claimed))


def _thousandths(fraction: object) -> int | None:
    """Return a fraction in thousandths, from 0 to 1,000; ``None`` for what is not a number. NaN counts as 0."""
    if isinstance(fraction, bool | str | bytes):
        return None
    try:
        value = float(fraction)  # type: ignore[arg-type]
    except OverflowError:
        value = math.inf if fraction > 0 else -math.inf  # type: ignore[operator]
    except Exception:  # a type of others may raise anything
        return None
    return 0 if math.isnan(value) else round(1000 * min(1.0, max(0.0, value)))


def _cut(note: str) -> str:
    # Half a surrogate pair would make JSON escapes of all other characters.
    return cut_to_bytes(note[:NOTE_LENGTH].encode("utf-8", "backslashreplace").decode(), NOTE_BYTES)
