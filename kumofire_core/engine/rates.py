"""Rates: a run reserves the moment of its start, and starts at that moment.

The moment is reserved in one item (``aws.rate_items``). A run whose moment is near waits for it in its consumer; for a
later one it is put back, and its message comes shortly before the moment. A run that comes too late for its moment
reserves another, because a start that is late may fall together with those after it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kumofire_core.aws.rate_items import RateItems
from kumofire_core.engine.run_store import RunStore
from kumofire_core.model.run_item import StoredRun
from kumofire_core.rules import run_writes
from kumofire_core.rules.limits import Beat

MOST_WAIT_US = 2_000_000
"""For how long a run waits in its consumer, which is paid for meanwhile."""

EARLY_MS = 1_200
"""How long before its moment the message of a run is due that was put back: SQS delays by whole seconds, and a claim
takes its time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

MOST_KNOWN = 10_000
"""For how many rates a process remembers whether they are busy."""


class Moments:
    """The moment at which one attempt starts."""

    def __init__(self, store: RunStore, claimed: StoredRun, beat: Beat, busy: dict[str, bool]) -> None:
        """``busy`` says of the rates that this process used last whether moments after the present were reserved."""
        self._busy = busy
        self._store = store
        self._beat = beat
        self._moment_us: int | None = None
        known = claimed.reserved
        if known is not None and known[0] == beat.item_id:
            self._moment_us = known[1]

    def microseconds_left(self) -> int:
        """Return how long it is until the run may start, after reserving a moment where it has none in time."""
        now_us = self._now_us()
        if self._moment_us is None or now_us > self._moment_us + self._beat.slack_us:
            items, item_id = RateItems.of(self._store.table), self._beat.item_id
            self._moment_us = items.reserve(
                item_id, interval_us=self._beat.interval_us, now_us=now_us, is_busy=self._busy.get(item_id, False)
            )
            if len(self._busy) > MOST_KNOWN:
                self._busy.clear()
            self._busy[item_id] = self._moment_us > now_us
        return max(0, self._moment_us - now_us)

    def is_missed(self) -> bool:
        """Say whether it is too late to start at the moment that was reserved."""
        return self._now_us() > (self._moment_us or 0) + self._beat.slack_us

    def write_of(self, claimed: StoredRun, *, early_ms: int = EARLY_MS) -> tuple[run_writes.Transition, int]:
        """Return the write that puts the run back until so long before its moment, and when it is due then."""
        moment_us, now_ms = self._moment_us or 0, self._store.now_ms()
        due_ms = max(now_ms, -(-moment_us // 1_000) - early_ms)
        reserved = f"{self._beat.item_id} {moment_us}"
        return run_writes.await_moment(claimed, now_ms=now_ms, due_ms=due_ms, reserved=reserved), due_ms

    def _now_us(self) -> int:
        return (self._store.clock() - _EPOCH) // _MICROSECOND
