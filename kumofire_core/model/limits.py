"""The item that holds the slots of a limit: who has them, and who waits for them, in their order.

Each run has two attributes in it. Its ticket is its place in the line, given out by the item's own counter ``seq``. Its
hold says under which claim it has the place, and until when that claim's lease lasts. The runs with the smallest
tickets, as many as there are slots, have the slots; all others wait.
"""

from __future__ import annotations

from typing import NamedTuple

from kumofire_core.model.write import SCHEMA, Attributes, Key

LIMIT = "limit"
"""The kind of the items."""

TICKET = "t:"
HOLD = "l:"
"""The attributes of a run are these and its id."""

_CLAIM = 10**14
WAITS = _CLAIM - 1
"""Stands for the end of the lease in the hold of a run that no attempt holds: it waits, or it is on its way."""


def limit_key(item_id: str) -> Key:
    """Return the key of a limit's item."""
    return Key(LIMIT, item_id)


def hold_of(claims: int, until_ms: int) -> int:
    """Return a hold as one number, so that a condition can tell which of two is the later one.

    A later claim is larger than an earlier one, and of one claim, waiting is larger than its lease.
    """
    return claims * _CLAIM + min(max(until_ms, 0), WAITS - 1)


def waiting_hold(claims: int) -> int:
    """Return the hold of a run that waits since this claim of it; 0 where its claim is not known."""
    return claims * _CLAIM + WAITS


class Entry(NamedTuple):
    """A run in a limit's item."""

    ticket: int
    run_id: str
    hold: int

    @property
    def waits(self) -> bool:
        """Whether no attempt holds its place."""
        return self.hold % _CLAIM == WAITS

    @property
    def until_ms(self) -> int:
        """When the lease ends of the attempt that holds its place."""
        return self.hold % _CLAIM


class LimitState:
    """A limit's item as it was at a moment."""

    __slots__ = ("count", "entries", "overflow_ms", "slots")

    def __init__(self, item: Attributes | None) -> None:
        item = {} if item is None else item
        entries = []
        for name, ticket in item.items():
            if name.startswith(TICKET) and isinstance(ticket, int):
                run_id = name.removeprefix(TICKET)
                hold = item.get(HOLD + run_id)
                entries.append(Entry(ticket, run_id, hold if isinstance(hold, int) else WAITS))
        self.entries = sorted(entries)
        """All runs, in the order of their tickets."""
        self.count = _number(item, "n")
        self.slots = _number(item, "slots")
        """The slots that there are, as the process knew it that took or awaited one last."""
        self.overflow_ms = _number(item, "overflow")
        """When the latest run came that had to wait outside of the item; 0 where none does."""

    def find(self, run_id: str) -> Entry | None:
        """Return a run's entry, or ``None``."""
        return next((entry for entry in self.entries if entry.run_id == run_id), None)

    def has_slot(self, run_id: str, slots: int) -> bool:
        """Say whether a run has one of the slots."""
        return any(entry.run_id == run_id for entry in self.entries[:slots])


def _number(item: Attributes, name: str) -> int:
    found = item.get(name, 0)
    return found if isinstance(found, int) else 0


__all__ = [
    "HOLD",
    "LIMIT",
    "SCHEMA",
    "TICKET",
    "WAITS",
    "Entry",
    "LimitState",
    "hold_of",
    "limit_key",
    "waiting_hold",
]
