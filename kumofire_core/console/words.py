"""How the console writes texts of others, times, durations and numbers: the filters of its templates."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from kumofire_core.text import length, plain, relative


def shown(text: object) -> Markup:
    """Return a text of others on one line: nothing in it can act as markup, steer a display, or turn what follows.

    What turns the direction of writing is escaped, and right-to-left letters stay within their own box.
    """
    return Markup("<bdi>{}</bdi>").format(plain(text))


def shown_lines(text: object) -> Markup:
    """Return a text of several lines, each made as ``shown`` does."""
    lines = str(text).expandtabs(4).replace("\r\n", "\n").split("\n")
    return Markup("\n").join(Markup("<bdi>{}</bdi>").format(plain(line)) for line in lines)


def ago(moment: datetime | None, now: datetime, *, otherwise: str = "") -> Markup:
    """Return a time as one reads it, and the exact one on hover. The page's script keeps it current."""
    if moment is None:
        return escape(otherwise)
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(timespec="milliseconds").replace("+00:00", "Z"), exact(moment), relative(moment, now)
    )


def clock_time(moment: datetime | None, now: datetime) -> Markup:
    """Return a time of day, with the date where that is another, and the exact one on hover."""
    if moment is None:
        return Markup("")
    utc = moment.astimezone(UTC)
    text = f"{utc:%H:%M:%S}" if utc.date() == now.astimezone(UTC).date() else f"{utc:%Y-%m-%d %H:%M:%S}"
    return Markup('<time datetime="{}" title="{}" data-clock>{}</time>').format(
        utc.isoformat(timespec="milliseconds").replace("+00:00", "Z"), exact(moment), text
    )


def exact(moment: datetime | None) -> str:
    """Return a time in UTC to the millisecond."""
    if moment is None:
        return ""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 1000:03d} UTC"


def took(seconds: float | None) -> str:
    """Return a duration. Clocks here count milliseconds: what took less than one did not take none."""
    if seconds is None:
        return ""
    return "<1ms" if seconds < 0.001 else length(seconds)


def count(number: int | None, *, complete: bool = True) -> str:
    """Return a number with its thousands apart; ``+`` behind one that is not all there are."""
    return "-" if number is None else f"{number:,}{'' if complete else '+'}"


def things(number: int, noun: str) -> str:
    """Return a number of things: ``1 run``, ``2,000 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """Return a share from 0 to 1 in whole percent; what is neither nothing nor all does not read as such."""
    rounded = round(share * 100)
    return "<1%" if rounded == 0 and share > 0 else ">99%" if rounded == 100 and share < 1 else f"{rounded}%"


def row_id(text: object) -> str:
    """Return a text of others as a part of an element's id, which has no blanks."""
    return quote(str(text), safe="", errors="replace")


def short_id(run_id: str) -> str:
    """Return the beginning of an id, enough to tell it from others by eye."""
    return run_id if len(run_id) <= 14 else f"{run_id[:12]}…"


FILTERS: dict[str, Any] = {
    "plain": plain,
    "shown": shown,
    "shown_lines": shown_lines,
    "ago": ago,
    "clock_time": clock_time,
    "exact": exact,
    "took": took,
    "count": count,
    "things": things,
    "percent": percent,
    "row_id": row_id,
    "short_id": short_id,
}
