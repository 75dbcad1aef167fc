"""Which jobs are paused, as one consumer process knows it: read at most every 15 seconds, not for each run."""

from __future__ import annotations

import logging
import threading

from kumofire_core.aws.errors import note_of
from kumofire_core.engine.run_store import RunStore
from kumofire_core.errors import KumofireError
from kumofire_core.model.error_text import error_name
from kumofire_core.model.pauses import NONE, PAUSES, read_pauses

REFRESH_MS = 15_000
"""How old what is known may be when a message is taken; then one thread reads again, while the others go on."""

OLDEST_MS = 45_000
"""How old it may be when a handler is about to be called; then it is read first.

With what a read can take, four tries of a request, a pause holds everywhere within a minute.
"""

AGAIN_MS = 5_000
"""How long a read that failed is not tried again."""

WAIT_SECONDS = 15.0
"""How long a handler's call waits for another thread's read at most: as long as the four tries of a request take."""

log = logging.getLogger("kumofire_core")


class PauseReader:
    """Knows, for one process, which jobs are paused. Safe to call from many threads.

    Where a read fails, what was read last stays valid, and a line is logged. Before the first read that succeeds,
    nothing is taken for paused: a process that can't read this item alone must still do its work.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._known = NONE
        self._read_ms: int | None = None
        self._failed_ms: int | None = None
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read what is paused if that is due, unless another thread is just doing so."""
        if self._is_older_than(REFRESH_MS) and self._lock.acquire(blocking=False):
            self._read_if_older_than(REFRESH_MS)

    def is_paused(self, job_name: str) -> bool:
        """Say whether no run of this job may start, by what was read within ``OLDEST_MS`` if that is possible."""
        if self._is_older_than(OLDEST_MS) and self._lock.acquire(timeout=WAIT_SECONDS):
            self._read_if_older_than(OLDEST_MS)
        return self._known.is_paused(job_name, self._store.now_ms())

    def _is_older_than(self, limit_ms: int) -> bool:
        now_ms, failed_ms = self._store.now_ms(), self._failed_ms
        if failed_ms is not None and 0 <= now_ms - failed_ms < AGAIN_MS:
            return False
        return self._read_ms is None or not 0 <= now_ms - self._read_ms < limit_ms

    def _read_if_older_than(self, limit_ms: int) -> None:
        """Read, unless another thread did so while this one waited for the lock, and give the lock back."""
        try:
            if self._is_older_than(limit_ms):
                self._read()
        finally:
            self._lock.release()

    def _read(self) -> None:
        began_ms = self._store.now_ms()
        try:
            known = read_pauses(self._store.table.get(PAUSES))
        except Exception as error:  # whatever it is, it must not fail an attempt
            if self._failed_ms is None:
                what = str(error) if isinstance(error, KumofireError) else f"{error_name(error)}. {note_of(error)}"
                log.warning("the pauses could not be read, so this process takes them to be as before: %s", what)
            self._failed_ms = began_ms
        else:
            self._known, self._read_ms, self._failed_ms = known, began_ms, None
