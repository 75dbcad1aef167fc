"""Stored items, and a conditional write to one of them, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from kumofire_core.model.times import from_ms

SCHEMA = 1
"""The version of the items that this release writes. An older release refuses a newer item as a runtime failure."""

Value = str | int
Attributes = Mapping[str, Value]

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Key(NamedTuple):
    """The key of an item: the kind of thing it is (``run`` or ``schedule``), and its id."""

    kind: str
    id: str


class Sum(NamedTuple):
    """A value DynamoDB computes: attribute ``name``, or ``otherwise`` where the item has none, plus ``plus``."""

    name: str
    otherwise: int
    plus: int


class Write:
    """One conditional write to an existing item: its conditions, its changes, and how a repeat knows its first copy.

    Nobody changes one. It is not a dataclass, like everything in this package that is made for every request or at
    every cold start: making the class would take half a millisecond of a cold start, and making a frozen object of it
    three times as long.
    """

    __slots__ = (
        "at_most",
        "computes",
        "equals",
        "increments",
        "not_exists",
        "removes",
        "sets",
        "source",
        "target",
        "write_token",
    )

    def __init__(
        self,
        *,
        write_token: tuple[str, Value],
        source: tuple[str, ...] = (),
        target: str | None = None,
        equals: Mapping[str, Value] = NOTHING,
        at_most: Mapping[str, int] = NOTHING,
        not_exists: tuple[str, ...] = (),
        sets: Mapping[str, Value] = NOTHING,
        computes: Mapping[str, Sum] = NOTHING,
        increments: tuple[str, ...] = (),
        removes: tuple[str, ...] = (),
    ) -> None:
        self.source = source
        """The item's status must be one of these; without any, it does not matter."""
        self.target = target
        """The status that the item then has, or ``None``: it has none, or keeps it."""
        self.equals = equals
        """Attributes that must have exactly these values."""
        self.at_most = at_most
        """Attributes that must not be greater than these numbers."""
        self.not_exists = not_exists
        """Attributes that the item must not have."""
        self.sets = sets
        self.computes = computes
        self.increments = increments
        """Counters that go up by one."""
        self.removes = removes
        self.write_token = write_token
        """An attribute and a value that only this write puts there.

        The SDK repeats a request whose reply was lost. A refusal that returns an item with this token was therefore
        caused by this write's own first copy, and means success.
        """


def present(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    """Return the attributes that have a value; DynamoDB has none for ``None``."""
    return {name: value for name, value in attributes.items() if value is not None}


def read_text(attributes: Attributes, name: str) -> str | None:
    """Return an attribute of text, or ``None`` where the item has none; ``TypeError``."""
    value = attributes.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value


def number(attributes: Attributes, name: str) -> int:
    """Return a whole number that the item must have; ``KeyError``, ``TypeError``."""
    value = attributes[name]
    if not isinstance(value, int):
        raise TypeError(f"{name} is not a whole number")
    return value


def read_number(attributes: Attributes, name: str) -> int | None:
    """Return an attribute as a whole number, or ``None`` where the item has none; ``TypeError``."""
    return number(attributes, name) if name in attributes else None


def read_moment(attributes: Attributes, name: str) -> datetime | None:
    """Return an attribute of epoch milliseconds as a datetime, or ``None``; ``TypeError``, ``OverflowError``."""
    return from_ms(number(attributes, name)) if name in attributes else None
