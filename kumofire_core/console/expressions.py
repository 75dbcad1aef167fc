"""A schedule's timing in words, and what a person writes in a form as the library takes it. Pure: ``now`` is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from kumofire_core.errors import InvalidArgumentError, InvalidScheduleError, KumofireError
from kumofire_core.model.schedule import Missed, Overlap, ScheduleType, Timing
from kumofire_core.model.times import EPOCH
from kumofire_core.rules.recurrence import CRON_ALIASES, first_occurrence, occurrences, parse_timing
from kumofire_core.text import LENGTH_FORM, parse_length, parse_moment

MISSED_WORDS = {
    Missed.ALL: "Occurrences that were missed all run, late.",
    Missed.LATEST: "Of the occurrences that were missed, only the newest runs.",
    Missed.SKIP: "Occurrences that were missed by more than a minute do not run.",
}
OVERLAP_WORDS = {
    Overlap.ALLOW: "An occurrence runs also while the previous run is unfinished.",
    Overlap.SKIP: "An occurrence is skipped while the previous run is unfinished.",
}

_ORDINAL = re.compile(r"\b(\d+)th\b")
_EVERY_NTH = re.compile(r"^Every \S+ minute of every hour")
_NUMBERED = re.compile(r"rate\((\d+) (\w+)\)")
_LENGTH = re.compile(r"(?:[0-9.]+[smhdw])+", re.ASCII)


def in_words(timing: Timing) -> str:
    """Return one sentence that says when a schedule with this timing fires, its zone and its window included."""
    match timing.schedule_type:
        case ScheduleType.CRON:
            when = f"{cron_in_words(timing.expr)}, in {zone_name(timing)}"
        case ScheduleType.INTERVAL:
            when = f"{_interval_in_words(timing.expr)}, counted from {_anchor(timing)}"
        case ScheduleType.ONCE:
            once = first_occurrence(timing, EPOCH)
            when = f"Once, at {timing.expr if once is None else local(once, timing)}"
    if timing.start_at is not None and timing.schedule_type is not ScheduleType.INTERVAL:
        when += f", from {local(timing.start_at, timing)}"
    if timing.end_at is not None:
        when += f", until {local(timing.end_at, timing)}"
    return f"{when}."


def cron_in_words(expr: str) -> str:
    """Return what a cron expression means, or the expression itself if that can't be said.

    The words are cronsim's, but for days: it takes a field that names all its values (``1-31``) for a ``*``, although
    then the other day field decides nothing. And "and" between two fields of days reads as if both were needed.
    """
    from cronsim.explain import Expression

    try:
        minute, hour, day, month, weekday = CRON_ALIASES.get(expr, expr).split()
        either = not day.startswith("*") and not weekday.startswith("*")
        if either:
            month_days, week_days = _values(day, 1, 31), _values(weekday, 0, 6)
            if month_days == set(range(1, 32)) or week_days == set(range(7)):
                day = weekday = "*"
        words = Expression([minute, hour, day, month, weekday]).explain()
    except Exception:  # of a release that took other expressions: cronsim checks nothing here
        return expr
    if either:
        before, _, after = words.rpartition(" and on ")
        words = f"{before} or on {after}" if before else words
    step = minute.removeprefix("*/")
    if minute.startswith("*/") and step.isdecimal() and 60 % int(step) == 0:
        words = _EVERY_NTH.sub(f"Every {int(step)} minutes", words)
    return _ORDINAL.sub(lambda found: _ordinal(int(found[1])), words)


def zone_name(timing: Timing) -> str:
    """Return the name of the zone that a timing follows."""
    return timing.timezone or "UTC"


def moved(moment: datetime, zone: str) -> datetime:
    """Return a time in a zone; in UTC where it has no year there that Python can write, which are 1 to 9999."""
    try:
        return moment.astimezone(ZoneInfo(zone))
    except OverflowError:
        return moment.astimezone(UTC)


def local(moment: datetime, timing: Timing) -> str:
    """Return a time in a timing's zone, to the second where it is not a whole minute."""
    there = moved(moment, zone_name(timing))
    name = "UTC" if there.tzinfo is UTC else zone_name(timing)
    return f"{there:%Y-%m-%d %H:%M}{f':{there:%S}' if there.second else ''} {name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What an expression means that somebody is writing, or what is wrong with it."""

    words: str | None = None
    times: tuple[datetime, ...] = ()
    zone: str = "UTC"
    problem: str | None = None


def explained(read: Callable[[], Timing], now: datetime, *, count: int, kept: Timing | None = None) -> Explained:
    """Return what the timing that ``read`` returns means. ``kept`` is the schedule's own, whose rhythm goes on."""
    try:
        timing = read()
        if kept is not None and (timing.expr, timing.start_at) == (kept.expr, kept.start_at):
            timing = replace(timing, anchor=kept.anchor)
        times = tuple(occurrences(timing, first_occurrence(timing, now), count))
    except KumofireError as error:
        return Explained(problem=str(error))
    return Explained(words=in_words(timing), times=times, zone=zone_name(timing))


def read_timing(
    *,
    kind: str,
    expr: str,
    timezone: str,
    start: str,
    end: str,
    now: datetime,
    stored: Timing | None = None,
) -> Timing:
    """Return the timing that a person wrote; raises ``InvalidScheduleError`` or ``InvalidArgumentError``."""
    given = settings(kind=kind, expr=expr, timezone=timezone, start=start, end=end, now=now)
    return parse_timing(**given, anchor=now, stored=stored)


def settings(*, kind: str, expr: str, timezone: str, start: str, end: str, now: datetime) -> dict[str, Any]:
    """Return what a person wrote as ``Jobs.update_schedule`` takes it.

    A time without an offset is in the schedule's zone; ``2h`` is two hours from ``now``.
    """
    zone = timezone.strip() or None
    return {
        "schedule_type": kind,
        "schedule_expr": _expression(kind, expr.strip(), now),
        "timezone": zone,
        "start_at": moment("the start", start, zone, now),
        "end_at": moment("the end", end, zone, now),
    }


def moment(what: str, text: str, timezone: str | None, now: datetime) -> datetime | None:
    """Return the time that a person wrote, ``None`` for nothing; one without an offset is in ``timezone``."""
    given = text.strip()
    if not given:
        return None
    if _LENGTH.fullmatch(given) or given == "now":
        return parse_moment(what, given, now=now, ahead=True)
    try:
        read = datetime.fromisoformat(given)
    except ValueError:
        raise InvalidArgumentError(
            f"{what} is {given[:80]!r}; it must be a time such as 2026-12-01T09:30 or 2026-12-01T09:30+01:00, or a "
            f"duration from now {LENGTH_FORM}"
        ) from None
    if read.utcoffset() is not None:
        return read
    try:
        return read.replace(tzinfo=ZoneInfo(timezone or "UTC")).astimezone(UTC)
    except (KeyError, ValueError, OSError, OverflowError):
        raise InvalidScheduleError(f"{what} can't be read in the time zone {str(timezone)[:80]!r}") from None


def _expression(kind: str, expr: str, now: datetime) -> str | timedelta | datetime:
    if kind == ScheduleType.INTERVAL and _LENGTH.fullmatch(expr):
        return parse_length("the interval", expr)
    if kind == ScheduleType.ONCE:
        try:
            read = datetime.fromisoformat(expr)
        except ValueError:
            return parse_moment("the time", expr, now=now, ahead=True) if _LENGTH.fullmatch(expr) else expr
        return expr if read.utcoffset() is not None else f"at({read.isoformat(timespec='seconds')})"
    return expr


def _interval_in_words(expr: str) -> str:
    found = _NUMBERED.fullmatch(expr)
    if found is None:
        return f"Every {expr}"
    number, unit = int(found[1]), found[2].removesuffix("s")
    if number == 1:
        return f"Every {unit}"
    if unit in ("minute", "second") and number > 60:
        larger = {"second": "minute", "minute": "hour"}[unit]
        whole, rest = divmod(number, 60)
        return f"Every {_number(whole, larger)} and {_number(rest, unit)}"
    return f"Every {number} {unit}s"


def _number(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _anchor(timing: Timing) -> str:
    if timing.start_at is not None:
        return local(timing.start_at, timing)
    return "the last change of its timing"


def _values(field: str, low: int, high: int) -> set[int] | None:
    """Return the values that a field without names lists, ``None`` where it names special days."""
    weekdays = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
    values: set[int] = set()
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, dash, last = span.partition("-")
        try:
            ends = [weekdays.index(each) if each in weekdays else int(each) for each in (first, last or first)]
        except ValueError:
            return None
        top = ends[1] if dash else 7 if step and high == 6 else high if step else ends[0]
        values.update(range(ends[0], top + 1, int(step or 1)))
    return {value % 7 for value in values} if high == 6 else values


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
