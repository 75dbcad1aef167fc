"""Charts of minutes as numbers that a template draws: where each bar begins, how high it is, what its axes say.

What lies across is in percent of the drawing's width and what lies upright in pixels, so that a drawing fits every
screen and its texts keep their size. Pure: it reads neither a clock nor AWS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

TOP = 12
"""Pixels above the highest tick, for half of its label."""
BELOW = 20
"""Pixels below the base line, for the times."""
BAR = 0.78
"""How much of its minute's width a bar takes."""
MOST_STEPS = 4
MARK_MINUTES = 10


class Minute(NamedTuple):
    """What is drawn of one minute."""

    start: datetime
    values: Mapping[str, int]
    """By series. The first one stands on the base line, the others upon it."""


class Part(NamedTuple):
    """The part of a bar that one series has."""

    series: str
    y: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """The bar of a minute, with the room around it that a pointer may hover over."""

    key: str
    left: str
    room: str
    x: str
    width: str
    parts: tuple[Part, ...]
    """From the base line up. A series without anything has none."""
    label: str
    partial: bool
    """Whether more may be added: the minute is not over, or was over a moment ago."""


class Tick(NamedTuple):
    """A line across, and what it stands for."""

    y: float
    value: int


class Mark(NamedTuple):
    """A time below the base line."""

    x: str
    """Of its middle."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart of bars."""

    height: int
    """Of the whole drawing, in pixels."""
    base: int
    """Where the base line is."""
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    bars: tuple[Bar, ...]


def step_of(most: int) -> int:
    """Return the distance between two ticks: 1, 2 or 5 times a power of ten, so that at most four reach ``most``."""
    power = 1
    while most > 5 * power * MOST_STEPS:
        power *= 10
    return next(digit * power for digit in (1, 2, 5) if most <= digit * power * MOST_STEPS)


def stacked(minutes: Sequence[Minute], *, height: int, partial: int = 1) -> Chart:
    """Return the chart of minutes in order, each a bar of its series one upon the other.

    ``height`` is that of the highest tick above the base line, in pixels. The last ``partial`` bars are marked as such.
    """
    most = max((sum(minute.values.values()) for minute in minutes), default=0)
    step = step_of(most)
    top = step * max(1, -(-most // step))
    base = TOP + height
    room = 100 / max(1, len(minutes))
    return Chart(
        height=base + BELOW,
        base=base,
        ticks=tuple(Tick(round(base - height * value / top, 2), value) for value in range(0, top + 1, step)),
        marks=tuple(
            Mark(_percent((index + 0.5) * room), f"{minute.start.astimezone(UTC):%H:%M}")
            for index, minute in enumerate(minutes)
            if minute.start.minute % MARK_MINUTES == 0
        ),
        bars=tuple(
            Bar(
                key=f"{minute.start.astimezone(UTC):%H%M}",
                left=_percent(index * room),
                room=_percent(room),
                x=_percent((index + (1 - BAR) / 2) * room),
                width=_percent(room * BAR),
                parts=_parts(minute.values, base, height / top),
                label=_label(minute),
                partial=index >= len(minutes) - partial,
            )
            for index, minute in enumerate(minutes)
        ),
    )


def _parts(values: Mapping[str, int], base: float, pixels: float) -> tuple[Part, ...]:
    parts, below = [], 0
    for series, value in values.items():
        if value > 0:
            below += value
            parts.append(Part(series, round(base - below * pixels, 2), round(value * pixels, 2)))
    return tuple(parts)


def _label(minute: Minute) -> str:
    counts = ", ".join(f"{value:,} {series}" for series, value in minute.values.items())
    return f"{minute.start.astimezone(UTC):%H:%M} UTC: {counts}"


def _percent(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".") + "%"
