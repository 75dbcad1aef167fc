"""Batched writes: several claims, or several ends of attempts, in one PartiQL request. Optional, and off by default.

Ten claims in one request save nine requests, and so do ten ends of attempts. DynamoDB documents what it answers inside
such a batch in part only. So a batch never decides: a write counts as made only if its item comes back with this
write's own token. Every other write is made again as an ordinary one, with the same token, and that one decides.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.model.error_text import error_name
from kumofire_core.model.run_item import StoredRun
from kumofire_core.rules import run_writes
from kumofire_core.rules.run_writes import Transition

log = logging.getLogger("kumofire_core")

MOST_STATEMENTS = 25
"""https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchExecuteStatement.html"""

BREAKER_FAILURES = 5
"""A circuit breaker: after this many batch requests in a row that made none of their writes, this process writes that
kind one by one."""

LINGER_SECONDS = 0.002
"""How long the end of an attempt waits for others to be recorded with it: half of what a request takes."""

Made = TypeVar("Made")


class BatchClaim(NamedTuple):
    """A claim that was tried together with others."""

    token: str
    claimed: StoredRun | None
    """The run, where the claim surely was made; ``None`` leaves it undecided."""
    completer: BatchCompleter
    """Records the end of its attempt, together with the ends of the others."""


class BatchWriter:
    """Makes the writes of a batch together, for as long as that gains something. Never raises for what AWS does."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._failures: Counter[str] = Counter()

    def try_claims(
        self, run_ids: Sequence[str], *, longest_ms: int, logged: str | None = None
    ) -> dict[str, BatchClaim]:
        """Try to claim up to 25 different runs; return what is known of each that was tried."""
        wanted = list(dict.fromkeys(run_ids))[:MOST_STATEMENTS]
        if len(wanted) < 2 or not self.batches("claims"):
            return {}
        now_ms = self._store.now_ms()
        tokens = {run_id: new_token() for run_id in wanted}
        claims = {
            run_id: run_writes.claim(token, now_ms=now_ms, longest_ms=longest_ms, heeds_timeout=False, log=logged)
            for run_id, token in tokens.items()
        }
        claimed = self._tried("claims", lambda: self._store.try_claims(claims))
        completer = BatchCompleter(self, under_way=set(claimed))
        return {run_id: BatchClaim(token, claimed.get(run_id), completer) for run_id, token in tokens.items()}

    def try_ends(self, ends: dict[str, Transition]) -> set[str]:
        """Try to record the ends of attempts; return the ids of the runs for which that surely was done."""
        return set(self._tried("ends", lambda: dict.fromkeys(self._store.try_ends(ends))))

    def batches(self, kind: str) -> bool:
        """Say whether this process still batches ``claims``, or ``ends``: whether their circuit breaker is closed."""
        return self._failures[kind] < BREAKER_FAILURES

    def _tried(self, kind: str, request: Callable[[], dict[str, Made]]) -> dict[str, Made]:
        try:
            made = request()
        except Exception as error:  # whatever it is, the ordinary writes decide
            log.warning("a batch of %s could not be written: %s", kind, error_name(error))
            made = {}
        self._failures[kind] = 0 if made else self._failures[kind] + 1
        if self._failures[kind] == BREAKER_FAILURES:
            log.warning(
                "batches of %s were refused %d times in a row; this process writes them one by one from now on",
                kind,
                BREAKER_FAILURES,
            )
        return made


class BatchCompleter:
    """The ends of the attempts that one batch began together; those that come within a moment share a request.

    None waits for a handler that takes longer: the first one lingers, and then takes those along that are there.
    """

    def __init__(self, writer: BatchWriter, *, under_way: set[str]) -> None:
        self._writer = writer
        self._under_way = under_way
        self._lock = threading.Lock()
        self._group: _Group | None = None

    def leave(self, run_id: str) -> None:
        """Wait no longer for the end of an attempt: it came in another way, or is recorded already."""
        with self._lock:
            self._under_way.discard(run_id)
            if self._group is not None and not self._under_way:
                self._group.complete.set()

    def record(self, run_id: str, end: Transition) -> bool:
        """Record the end of an attempt, with others; ``False`` leaves it undecided."""
        if not self._writer.batches("ends"):
            return False
        with self._lock:
            self._under_way.discard(run_id)
            group, first = self._group, self._group is None
            if group is None:
                group = self._group = _Group()
            group.ends[run_id] = end
            mine = not self._under_way
            if mine:
                self._group = None
        if first and not mine:
            group.complete.wait(LINGER_SECONDS)
            with self._lock:
                mine = self._group is group
                if mine:
                    self._group = None
        if not mine:
            group.recorded.wait()
        else:
            try:
                if len(group.ends) > 1:
                    group.made = self._writer.try_ends(group.ends)
            finally:
                group.recorded.set()
                group.complete.set()
        return run_id in group.made


class _Group:
    def __init__(self) -> None:
        self.ends: dict[str, Transition] = {}
        self.made: set[str] = set()
        self.complete = threading.Event()
        """The first one need not linger: all that were under way are here, or recorded."""
        self.recorded = threading.Event()
