"""Texts of others made safe to show, times as people write and read them. For the command line and the console."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any

from kumofire_core.errors import InvalidArgumentError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LENGTH = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,6})?[smhdw])+", re.ASCII)
_PART = re.compile(r"([0-9.]+)([smhdw])")
LENGTH_FORM = "such as 90s, 30m, 2h, 1h30m, 7d or 2w"


def plain(text: object) -> str:
    """Return a text on one line in which nothing can steer a terminal: such characters are written as escapes."""
    return "".join(map(_shown, str(text)))


def plain_lines(text: object) -> list[str]:
    """Return the lines of a text, each as ``plain`` makes it; tabs become spaces."""
    return [plain(line) for line in str(text).expandtabs(4).split("\n")]


def _shown(character: str) -> str:
    # Not printable are control and format characters (among them those that turn the direction of writing), surrogates,
    # private and unassigned ones, and separators, of which the blanks ("Zs") do no harm.
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def as_json(value: Any) -> str:
    """Return a value as JSON in ASCII on several lines: safe in every terminal, and equal after it was parsed."""
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=True)


def as_shown_json(value: Any) -> list[str]:
    """Return a value as lines of JSON for people: letters as they are, whatever a terminal obeys escaped."""
    return [plain(line) for line in json.dumps(value, indent=2, ensure_ascii=False).split("\n")]


def iso(moment: datetime | None) -> str | None:
    """Return a time as the JSON forms have it: UTC, milliseconds, ``Z``."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def length(seconds: float) -> str:
    """Return a duration in one or two units: ``8ms``, ``1.5s``, ``45s``, ``3m``, ``2h 5m``, ``4d``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s".replace(".0s", "s")
    whole = round(seconds)
    if whole < 120:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 172800:
        hours, rest = divmod(whole, 3600)
        return f"{hours}h {rest // 60}m" if rest >= 60 and hours < 10 else f"{hours}h"
    return f"{whole // 86400}d"


def relative(moment: datetime, now: datetime) -> str:
    """Return how long ago a time was, or how soon it is."""
    seconds = round((moment - now).total_seconds())
    if seconds == 0:
        return "now"
    return f"in {length(seconds)}" if seconds > 0 else f"{length(-seconds)} ago"


def absolute(moment: datetime) -> str:
    """Return a time in this machine's zone, with its offset."""
    local = moment.astimezone()
    offset = local.strftime("%z")
    return f"{local:%Y-%m-%d %H:%M:%S} {offset[:3]}:{offset[3:5]}"


def both(moment: datetime, now: datetime) -> str:
    """Return a time in this machine's zone, and how far away it is."""
    return f"{absolute(moment)} ({relative(moment, now)})"


def parse_length(option: str, text: str) -> timedelta:
    """Return the duration that a person wrote; ``option`` names it in the error."""
    given = text.strip()
    if not _LENGTH.fullmatch(given):
        raise InvalidArgumentError(f"{option} is {text!r}; it must be a duration {LENGTH_FORM}")
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(given)))
    except (ValueError, OverflowError):
        raise InvalidArgumentError(f"{option} is {text!r}, which is too long") from None


def parse_moment(option: str, text: str, *, now: datetime, ahead: bool = False) -> datetime:
    """Return the time that a person wrote, in UTC: a date or a time of ISO 8601, or a duration before ``now``.

    With ``ahead`` a duration counts from ``now`` on. What has no offset is in this machine's zone.
    """
    given = text.strip()
    if given == "now":
        return now
    if _LENGTH.fullmatch(given):
        span = parse_length(option, given)
        try:
            return now + span if ahead else now - span
        except OverflowError:
            raise InvalidArgumentError(f"{option} is {text!r}, which is outside the years 1 to 9999") from None
    try:
        return datetime.fromisoformat(given).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidArgumentError(
            f"{option} is {text!r}; it must be a time such as 2026-12-01T09:30 (in this machine's zone) or "
            f"2026-12-01T09:30+01:00, or a duration {LENGTH_FORM} {'from now' if ahead else 'before now'}"
        ) from None
