"""Items as they are stored, and one conditional write to one of them, as values. Free of AWS and of their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from kumofire_core.times import from_ms

SCHEMA = 1
"""The version of the items that this release writes. An older release refuses a newer item as a runtime failure."""

Value = str | int
Attributes = Mapping[str, Value]


class Sum(NamedTuple):
    """A value DynamoDB computes: attribute ``name``, or ``otherwise`` where the item has none, plus ``plus``."""

    name: str
    otherwise: int
    plus: int


@dataclass(slots=True, kw_only=True)
class Write:
    """What must hold of an existing item, what then changes, and how a repeat knows its own first copy.

    Made for every request, so not frozen: that would take three times as long. Nobody changes one.
    """

    one_of: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """Attributes that must have one of these values."""
    holds: Mapping[str, Value] = field(default_factory=dict)
    """Attributes that must have exactly these values."""
    at_most: Mapping[str, int] = field(default_factory=dict)
    """Attributes that must not be greater than these numbers."""
    absent: tuple[str, ...] = ()
    """Attributes that the item must not have."""
    sets: Mapping[str, Value | Sum] = field(default_factory=dict)
    adds: Mapping[str, int] = field(default_factory=dict)
    removes: tuple[str, ...] = ()
    evidence: tuple[str, Value]
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


def number(attributes: Attributes, name: str, default: int | None = None) -> int:
    """Return a whole number that the item must have, where there is no default; ``KeyError``, ``TypeError``."""
    value = attributes[name] if default is None else attributes.get(name, default)
    if not isinstance(value, int):
        raise TypeError(f"{name} is no whole number")
    return value


def read_number(attributes: Attributes, name: str) -> int | None:
    """Return an attribute as a whole number, or ``None`` where the item has none; ``TypeError``."""
    return number(attributes, name) if name in attributes else None


def read_moment(attributes: Attributes, name: str) -> datetime | None:
    """Return an attribute of epoch milliseconds as a datetime, or ``None``; ``TypeError``, ``OverflowError``."""
    return from_ms(number(attributes, name)) if name in attributes else None
