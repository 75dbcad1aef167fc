"""Writes made together: an accelerator for a batch, which no answer of the service can make wrong.

Ten claims in one request save nine requests, and so do ten ends of attempts. But what DynamoDB does inside a batch of
PartiQL statements is documented in part only. So a write counts as made only if its item comes back with this write's
own token; every other one is made again as the ordinary write, with the same token, and that decides. Free of boto3.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from kumofire_core import transitions
from kumofire_core.failure import error_name
from kumofire_core.run import StoredRun
from kumofire_core.runs import Runs, new_token
from kumofire_core.transitions import Transition

log = logging.getLogger("kumofire_core")

MOST_STATEMENTS = 25
"""https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchExecuteStatement.html"""

PATIENCE = 5
"""After this many requests in a row that made none of their writes, a process makes that kind of writes one by one."""

LINGER_SECONDS = 0.002
"""How long the end of an attempt waits for others to be recorded with it: half of what a request takes."""

Made = TypeVar("Made")


class EarlyClaim(NamedTuple):
    """A claim that was tried together with others."""

    token: str
    claimed: StoredRun | None
    """The run, where the claim surely was made; ``None`` leaves it undecided."""
    ends: Ends
    """Where its end is recorded, together with those of the others."""


class Together:
    """Makes the writes of a batch together, for as long as that gains something. Never raises for what AWS does."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._in_vain: Counter[str] = Counter()

    def try_claims(self, run_ids: Sequence[str], *, longest_ms: int) -> dict[str, EarlyClaim]:
        """Try to claim up to 25 different runs; return what is known of each that was tried."""
        wanted = list(dict.fromkeys(run_ids))[:MOST_STATEMENTS]
        if len(wanted) < 2 or not self.worthwhile("claims"):
            return {}
        now_ms = self._runs.now_ms()
        tokens = {run_id: new_token() for run_id in wanted}
        claims = {
            run_id: transitions.claim(token, now_ms=now_ms, longest_ms=longest_ms, heeds_timeout=False)
            for run_id, token in tokens.items()
        }
        claimed = self._tried("claims", lambda: self._runs.try_claims(claims))
        ends = Ends(self, under_way=set(claimed))
        return {run_id: EarlyClaim(token, claimed.get(run_id), ends) for run_id, token in tokens.items()}

    def try_ends(self, ends: dict[str, Transition]) -> set[str]:
        """Try to record the ends of attempts; return the ids of the runs for which that surely was done."""
        return set(self._tried("ends", lambda: dict.fromkeys(self._runs.try_ends(ends))))

    def worthwhile(self, kind: str) -> bool:
        """Say whether this process still makes ``claims``, or ``ends``, together."""
        return self._in_vain[kind] < PATIENCE

    def _tried(self, kind: str, request: Callable[[], dict[str, Made]]) -> dict[str, Made]:
        try:
            made = request()
        except Exception as error:  # whatever it is, the ordinary writes decide
            log.warning("%s could not be made together: %s", kind, error_name(error))
            made = {}
        self._in_vain[kind] = 0 if made else self._in_vain[kind] + 1
        if self._in_vain[kind] == PATIENCE:
            log.warning("%s made together gain nothing here; this process makes them one by one from now on", kind)
        return made


class Ends:
    """The ends of the attempts that one batch began together; those that come within a moment share a request.

    None waits for a handler that takes longer: the first one lingers, and then takes those along that are there.
    """

    def __init__(self, together: Together, *, under_way: set[str]) -> None:
        self._together = together
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
        if not self._together.worthwhile("ends"):
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
                    group.made = self._together.try_ends(group.ends)
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
