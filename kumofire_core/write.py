"""Items as they are stored, and one conditional write to one of them, as values. Free of AWS and of their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from kumofire_core.times import from_ms

SCHEMA = 1
"""The version of the items that this release writes. An older release refuses a newer item as a runtime failure."""

Value = str | int
Attributes = Mapping[str, Value]

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Sum(NamedTuple):
    """A value DynamoDB computes: attribute ``name``, or ``otherwise`` where the item has none, plus ``plus``."""

    name: str
    otherwise: int
    plus: int


class Write:
    """What must hold of an existing item, what then changes, and how a repeat knows its own first copy.

    Nobody changes one. It is no dataclass, like whatever is made for every request or at every cold start in this
    package: to make the class would take half a millisecond of a cold start, and an object of it, frozen, three times
    as long.
    """

    __slots__ = ("absent", "at_most", "computes", "counts", "evidence", "holds", "removes", "sets", "source", "target")

    def __init__(
        self,
        *,
        evidence: tuple[str, Value],
        source: tuple[str, ...] = (),
        target: str | None = None,
        holds: Mapping[str, Value] = NOTHING,
        at_most: Mapping[str, int] = NOTHING,
        absent: tuple[str, ...] = (),
        sets: Mapping[str, Value] = NOTHING,
        computes: Mapping[str, Sum] = NOTHING,
        counts: tuple[str, ...] = (),
        removes: tuple[str, ...] = (),
    ) -> None:
        self.source = source
        """The item's status must be one of these; without any, it does not matter."""
        self.target = target
        """The status that the item then has, or ``None``: it has none, or keeps it."""
        self.holds = holds
        """Attributes that must have exactly these values."""
        self.at_most = at_most
        """Attributes that must not be greater than these numbers."""
        self.absent = absent
        """Attributes that the item must not have."""
        self.sets = sets
        self.computes = computes
        self.counts = counts
        """Counters that go up by one."""
        self.removes = removes
        self.evidence = evidence
        """The attribute and value that only this write can have put there: a refusal that shows it is a success."""


def present(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    """Return the attributes that have a value; DynamoDB has none for ``None``."""
    return {name: value for name, value in attributes.items() if value is not None}


def read_text(attributes: Attributes, name: str) -> str | None:
    """Return an attribute of text, or ``None`` where the item has none; ``TypeError``."""
    value = attributes.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def number(attributes: Attributes, name: str) -> int:
    """Return a whole number that the item must have; ``KeyError``, ``TypeError``."""
    value = attributes[name]
    if not isinstance(value, int):
        raise TypeError(f"{name} is no whole number")
    return value


def read_number(attributes: Attributes, name: str) -> int | None:
    """Return an attribute as a whole number, or ``None`` where the item has none; ``TypeError``."""
    return number(attributes, name) if name in attributes else None


def read_moment(attributes: Attributes, name: str) -> datetime | None:
    """Return an attribute of epoch milliseconds as a datetime, or ``None``; ``TypeError``, ``OverflowError``."""
    return from_ms(number(attributes, name)) if name in attributes else None
