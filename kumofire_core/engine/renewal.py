"""Leases that are renewed: how a process without a deadline executes attempts of any length.

A short lease is renewed while the handler runs, so that the end of a process is noticed within a minute, however long
its attempts are. Whoever waits for the handler keeps the time; each renewal is made in a thread beside it. A lease that
was lost, or can't be renewed, cuts the attempt before another one may begin.

Imported by workers alone.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.handlers.context import log_fields
from kumofire_core.handlers.handler_pool import AttemptCutError, HandlerCall, HandlerPool, HandlerTimeoutError
from kumofire_core.model.error_text import error_name
from kumofire_core.model.run_item import StoredRun
from kumofire_core.rules import run_writes

HIDDEN_IN_TRACEBACKS = True

RENEWALS_A_LEASE = 3
"""Two renewals in a row may fail, and the third still comes in time."""

TRIES_A_PERIOD = 4
"""How much sooner than the next renewal one that failed is tried again."""

LEAST_WAIT = 0.001
"""In seconds: no less is left between two looks, however clocks round."""

INTERRUPTED_WAIT_MS = 5_000
"""How long an interrupted run waits: plain code goes on until its process has ended."""

STOPPED = "its process ends"
NOT_RENEWED = "its lease could not be renewed in time"
LOST = "its lease was lost"
"""Why an attempt was cut that had time left."""

log = logging.getLogger("kumofire_core")

held_by_lease: contextvars.ContextVar[Callable[[], object] | None] = contextvars.ContextVar(
    "kumofire_held_by_lease", default=None
)
"""Called when the lease of the attempt that begins in this context was renewed for the first time."""


class Renewal:
    """The leases of one process's attempts; safe to call from many threads. ``lease_ms`` is how long each lasts."""

    def __init__(self, lease_ms: int) -> None:
        self.lease_ms = lease_ms
        self.stopping = False
        """Whether the process is to end: handlers are told so, and no further step begins."""
        self._interrupted = False
        self._held: set[HeldAttempt] = set()
        self._lock = threading.Lock()

    @property
    def period(self) -> float:
        """The seconds from one renewal to the next."""
        return self.lease_ms / 1000 / RENEWALS_A_LEASE

    def interrupt(self) -> int:
        """Cut all attempts under way, and each that begins from now on; return how many were under way."""
        self.stopping = True
        with self._lock:
            self._interrupted = True
            held = list(self._held)
        return sum([each.cut(STOPPED) for each in held])

    def begin(self, held: HeldAttempt) -> None:
        """Let an attempt be cut when the others are."""
        with self._lock:
            self._held.add(held)
            interrupted = self._interrupted
        if interrupted:
            held.cut(STOPPED)

    def end(self, held: HeldAttempt) -> None:
        """Forget an attempt that has ended."""
        with self._lock:
            self._held.discard(held)


class HeldAttempt:
    """One attempt, and its lease."""

    def __init__(self, renewal: Renewal, store: RunStore, pool: HandlerPool, claimed: StoredRun) -> None:
        self._renewal = renewal
        self._store = store
        self._pool = pool
        self._claimed = claimed
        self._call: HandlerCall | None = None
        self._why: str | None = None
        self._ended = False
        self._renewing = False
        self._warned = False
        self._told_held = held_by_lease.get()
        self._lease_ms_until = (claimed.lease_until or 0) - run_writes.LEASE_MARGIN_MS
        self._lease_ends = time.monotonic() + (self._lease_ms_until - store.now_ms()) / 1000
        # The reply to the claim may have come late.
        self._next = self._lease_ends - renewal.period * (RENEWALS_A_LEASE - 1)

    def stops(self) -> bool:
        """Say whether the attempt is to stop soon, or was cut."""
        return self._renewal.stopping or self._why is not None

    def run(self, function: Callable[[], Any], *, seconds: float | None) -> Any:
        """Return what ``function`` returns or raise what it raises, while the lease lasts and for ``seconds`` at most.

        Raises ``HandlerTimeoutError`` when these are over, ``AttemptCutError`` where it was cut before. In both cases
        the caller is free of it.
        """
        ends = inf if seconds is None else time.monotonic() + seconds
        call = self._call = self._pool.start(partial(self._begin, function))
        self._renewal.begin(self)
        try:
            while not call.wait(max(LEAST_WAIT, min(ends, self._next, self._lease_ends) - time.monotonic())):
                now = time.monotonic()
                if now >= ends:
                    if self._pool.abandon(call):
                        raise HandlerTimeoutError
                elif self._is_over():
                    self.cut(NOT_RENEWED)
                elif now >= self._next:
                    self._begin_renewal()
        finally:
            self._ended = True
            self._renewal.end(self)
        if call.abandoned:
            raise AttemptCutError(self._why or STOPPED)
        return call.result()

    def _begin(self, function: Callable[[], Any]) -> Any:
        """Call the function, unless the lease has ended since it was looked at, because the process stood still."""
        if self._is_over():
            raise AttemptCutError(NOT_RENEWED)
        return function()

    def _is_over(self) -> bool:
        """Say whether the lease has ended, by whichever clock: one of them stands still while the machine sleeps."""
        return time.monotonic() >= self._lease_ends or self._store.now_ms() >= self._lease_ms_until

    def cut(self, why: str) -> bool:
        """Give the attempt up, unless it has ended just now; say whether it was given up."""
        before, self._why = self._why, self._why or why
        if self._call is not None and self._pool.abandon(self._call):
            return True
        self._why = before
        return False

    def _begin_renewal(self) -> None:
        # The waiter looks again this soon, whatever comes of it.
        self._next = time.monotonic() + self._renewal.period / TRIES_A_PERIOD
        if self._renewing:
            return
        self._renewing = True
        try:
            contextvars.Context().run(self._pool.start, self._renew)  # its lines in the log are no attempt's
        except RuntimeError:  # the process may have no more threads
            self._renew()

    def _renew(self) -> None:
        """Renew the lease, or cut the attempt where the lease is lost. What fails is tried again soon."""
        try:
            self._try_to_renew()
        finally:
            self._renewing = False

    def _try_to_renew(self) -> None:
        asked, now_ms, lease_ms = time.monotonic(), self._store.now_ms(), self._renewal.lease_ms
        write = run_writes.renew(self._claimed, new_token(), now_ms=now_ms, lease_ms=lease_ms)
        try:
            answer = self._store.apply(self._claimed.id, write)
        except Exception as error:  # whatever it is, the lease lasts for a while
            if not self._warned and not self._ended:
                self._warned = True
                log.warning(
                    "the lease of an attempt could not be renewed (%s); it is tried again until the lease ends",
                    error_name(error),
                    extra=log_fields(self._claimed),
                )
            return
        until_ms = now_ms + lease_ms
        if not answer.applied:
            if answer.item is None or not run_writes.is_held(self._claimed, answer.item):
                if not self._ended:
                    self.cut(LOST)
                return
            until_ms = int(answer.item.get("lease_until", 0)) - run_writes.LEASE_MARGIN_MS
            if until_ms < now_ms + lease_ms:  # it was refused for something else, and lasts no longer than before
                return
        self._lease_ends = max(self._lease_ends, asked + (until_ms - now_ms) / 1000)
        self._lease_ms_until = max(self._lease_ms_until, until_ms)
        self._next = asked + self._renewal.period
        self._warned = False
        told, self._told_held = self._told_held, None
        if told is not None:
            told()
