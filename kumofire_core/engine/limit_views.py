"""What people see of a limit: who has its slots, who waits for them, and until when a rate is reserved."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kumofire_core.aws.dynamodb import LISTING_INDEX
from kumofire_core.aws.rate_items import RATE
from kumofire_core.engine.run_store import RunStore
from kumofire_core.model.limits import LimitState, limit_key
from kumofire_core.model.times import LAST_MS, from_ms
from kumofire_core.model.write import Key
from kumofire_core.rules.limits import MOST_SLOTS, SLOTS_TOGETHER, digest, key_text
from kumofire_core.rules.listing import limit_shard

MOST_OUTSIDE = 1_000
"""Runs that wait outside of an item which are counted."""

TOGETHER = 8
"""Items that are read in one request, until one is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitUse:
    """The slots of a limit for one key, or the moments of a rate, as they are now."""

    slots: int
    """How many there are, as the latest run knew it; 0 where no run has needed one lately."""
    holders: tuple[str, ...]
    """The runs that have a slot: those that execute, and those that have been sent and not started yet."""
    waiting: tuple[str, ...]
    """The runs that wait, in the order of their turns, up to 1,000 of each of the limit's items."""
    complete: bool
    """Whether ``waiting`` has all of them."""
    next_start: datetime | None
    """The first moment of the job's rate that is free, if that is in the future."""


def limit_use(store: RunStore, job_name: str, *, key: str | int | None, name: str | None) -> LimitUse:
    """Return who has the slots of a limit and who waits; one request, and one more where runs wait outside."""
    text = key_text(key, f"the limit of job {job_name!r}")
    base, rate = (digest(kind, name, job_name, text) for kind in ("limit", "rate"))
    slots, complete = 0, True
    holders: list[str] = []
    waiting: list[str] = []
    outside: list[str] = []
    parts = MOST_SLOTS // SLOTS_TOGETHER
    next_ms = 0
    for first in range(0, parts, TOGETHER):
        ids = [f"{base}.{part}" if part else base for part in range(first, min(parts, first + TOGETHER))]
        found = store.table.get_many([*map(limit_key, ids), Key(RATE, rate)])
        next_us = found.get(Key(RATE, rate), {}).get("next")
        next_ms = next_us // 1_000 if isinstance(next_us, int) else 0
        for item_id in ids:
            if limit_key(item_id) not in found:
                continue
            state = LimitState(found[limit_key(item_id)])
            slots += state.slots
            holders += [entry.run_id for entry in state.entries[: state.slots]]
            waiting += [entry.run_id for entry in state.entries[state.slots :]]
            if state.overflow_ms:
                there, all_of_them = _outside(store, item_id)
                outside += [run_id for run_id in there if state.find(run_id) is None]
                complete = complete and all_of_them
        if limit_key(ids[-1]) not in found:
            break
    return LimitUse(
        slots=slots,
        holders=tuple(holders),
        waiting=(*waiting, *outside),
        complete=complete,
        next_start=from_ms(next_ms) if next_ms > store.now_ms() else None,
    )


def _outside(store: RunStore, item_id: str) -> tuple[list[str], bool]:
    items, after = store.table.index_page(
        LISTING_INDEX,
        ("list_shard", limit_shard(item_id)),
        "list_at",
        between=(-LAST_MS, LAST_MS),
        limit=MOST_OUTSIDE,
    )
    return [str(item.get("pk")).partition("#")[2] for item in items], after is None
