"""Stored items, and a conditional write to one of them, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from kumofire_core.model.times import from_ms

SCHEMA = 1
"""The schema version that this release writes, but for what needs a later one. A release that does not know an item's
version refuses to read it."""

LARGE_SCHEMA = 2
"""That of a run whose payload or output is in S3. A release that does not know it leaves such a run to others."""

LATEST_SCHEMA = LARGE_SCHEMA
"""The latest that this release reads."""

Value = str | int
Attributes = Mapping[str, Value]

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Key(NamedTuple):
    """The key of an item: its kind (``run`` or ``schedule``) and its id."""

    kind: str
    id: str
    part: str = ""
    """The sort key of an item beside the one that has the kind as its sort key, such as a run's step."""


class Sum(NamedTuple):
    """A value that DynamoDB computes: attribute ``name`` (``otherwise`` if the item does not have it) plus ``plus``."""

    name: str
    otherwise: int
    plus: int


class Write:
    """One conditional write to an existing item: its conditions, its changes, and the token that identifies it.

    Treat it as immutable. It is not a dataclass, because defining one adds half a millisecond to each cold start, and
    making an object of a frozen one takes three times as long. The same holds for other types that are made for every
    request.
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
        """The statuses that the item may have; if empty, the write does not depend on the status."""
        self.target = target
        """The item's new status, or ``None`` if the write does not change the status."""
        self.equals = equals
        """Attributes that must equal these values."""
        self.at_most = at_most
        """Attributes that must not be greater than these numbers."""
        self.not_exists = not_exists
        """Attributes that the item must not have."""
        self.sets = sets
        self.computes = computes
        self.increments = increments
        """Number attributes that the write increases by one."""
        self.removes = removes
        self.write_token = write_token
        """An attribute, and a value that only this write stores in it.

        The SDK repeats a request whose reply was lost. If DynamoDB refuses the write and returns an item with this
        token, the first copy of the request was applied: the write has succeeded.
        """


def present(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    """Return the attributes that are not ``None``, which is stored as an absent attribute."""
    return {name: value for name, value in attributes.items() if value is not None}


def read_text(attributes: Attributes, name: str) -> str | None:
    """Return a text attribute, or ``None`` if the item does not have it; raises ``TypeError`` for another type."""
    value = attributes.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value


def number(attributes: Attributes, name: str) -> int:
    """Return a whole number; raises ``KeyError`` if the item does not have it, ``TypeError`` for another type."""
    value = attributes[name]
    if not isinstance(value, int):
        raise TypeError(f"{name} is not a whole number")
    return value


def read_number(attributes: Attributes, name: str) -> int | None:
    """Return a whole number, or ``None`` if the item does not have it; raises ``TypeError`` for another type."""
    return number(attributes, name) if name in attributes else None


def read_moment(attributes: Attributes, name: str) -> datetime | None:
    """Return the datetime of epoch milliseconds, or ``None`` if absent; raises ``TypeError``, ``OverflowError``."""
    return from_ms(number(attributes, name)) if name in attributes else None


def text_bytes(text: str) -> int:
    """Return how many bytes a text takes in an item."""
    return len(text) if text.isascii() else len(text.encode())
