"""When a schedule fires: the meaning of its expression, and the next occurrence after a time.

Pure: ``now`` is an argument. ``cronsim`` and ``zoneinfo`` are imported inside the functions that need them, so that a
process without schedules does not pay for them. docs/schedules.md has the rules for users, daylight saving included.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kumofire_core.errors import InvalidScheduleError, short_repr
from kumofire_core.model.schedule import MAX_EXPRESSION_LENGTH, Schedule, ScheduleType, Timing
from kumofire_core.model.times import EPOCH

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

SHORTEST_INTERVAL = timedelta(seconds=1)
# cronsim's own horizon. The longest real gap is 40 years: a weekday on 29 February, across 2100.
NEVER_AFTER = timedelta(days=50 * 366)

# A zone's clocks changed by at most 24 hours at once (the date line moved), never twice in three days (tzdata 2026).
_SETTLED_AFTER = timedelta(days=2)
_TICK = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)

CRON_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# Blanks are spaces and tabs, and a number may have one leading zero, as in cron's fields.
_RATE = re.compile(r"rate\([ \t]*([0-9]{1,2}|[1-9][0-9]*)[ \t]+(second|minute|hour|day)s?[ \t]*\)", re.ASCII)
_RATE_UNITS = {
    "day": timedelta(days=1),
    "hour": timedelta(hours=1),
    "minute": timedelta(minutes=1),
    "second": timedelta(seconds=1),
}
_AT = re.compile(r"at\([ \t]*([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})[ \t]*\)", re.ASCII)
# The forms of datetime.fromisoformat, but only T or a space between date and time.
_ISO = re.compile(r"[0-9W-]+([T ][0-9:.,]+(Z|[+-][0-9:.]+)?)?", re.ASCII)
_ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", re.ASCII)
_OFFSET_NAME = re.compile(r"(Etc/)?[A-Z]{0,5}[ ]*[+\u2212-]?[ ]*[0-9]{1,2}:?([0-9]{2})?", re.IGNORECASE)
_ABBREVIATION = re.compile(r"[A-Z]{1,5}", re.IGNORECASE | re.ASCII)
_AREAS = (
    *("Africa/", "America/", "Antarctica/", "Arctic/", "Asia/"),
    *("Atlantic/", "Australia/", "Europe/", "Indian/", "Pacific/"),
)
# Files of the system's zone database that depend on the machine or count leap seconds.
_NOT_A_ZONE = ("localtime", "posixrules", "posix/", "right/")


def parse_timing(
    *,
    schedule_type: ScheduleType | str,
    schedule_expr: str | timedelta | datetime,
    timezone: str | None = None,
    start_at: datetime | None = None,
    end_at: datetime | None = None,
    anchor: datetime,
    stored: Timing | None = None,
) -> Timing:
    """Check a schedule's timing and return it in canonical form.

    ``stored`` is the timing of an existing schedule. Its expression is not checked against cron's grammar again if it
    stays the same, because an earlier release accepted it.

    ``anchor`` is the schedule's creation time: an interval without a ``start_at`` counts from it, and a cron expression
    must have an occurrence within 50 years after it. Times are rounded down to milliseconds. A valid timing may have no
    occurrence between ``start_at`` and ``end_at``: then `next_occurrence` returns `None`.

    Raises `InvalidScheduleError`, which names the argument, and for cron the field.
    """
    try:
        kind = ScheduleType(schedule_type)
    except ValueError:
        known = ", ".join(repr(known.value) for known in ScheduleType)
        raise InvalidScheduleError(f"unknown schedule_type {short_repr(schedule_type)}; use one of {known}") from None
    created = _utc(anchor, "anchor")
    start = None if start_at is None else _utc(start_at, "start_at")
    end = None if end_at is None else _utc(end_at, "end_at")
    if start is not None and end is not None and end < start:
        raise InvalidScheduleError(f"end_at ({end.isoformat()}) is before start_at ({start.isoformat()})")
    if timezone is not None:
        if isinstance(timezone, str) and not _ZONE_NAME.fullmatch(timezone):
            raise _unknown_zone(timezone)
        _load_zone(timezone)
    if isinstance(schedule_expr, str) and len(schedule_expr) > MAX_EXPRESSION_LENGTH:
        raise InvalidScheduleError(
            f"schedule_expr has {len(schedule_expr)} characters; {MAX_EXPRESSION_LENGTH} are allowed"
        )
    timing = Timing(schedule_type=kind, expr="", timezone=timezone, start_at=start, end_at=end)
    match kind:
        case ScheduleType.CRON:
            kept = stored.expr if stored is not None and stored.schedule_type is ScheduleType.CRON else None
            return _parse_cron(timing, schedule_expr, created, kept)
        case ScheduleType.INTERVAL:
            return _parse_interval(timing, schedule_expr, created)
        case ScheduleType.ONCE:
            return _parse_once(timing, schedule_expr)


def next_occurrence(timing: Timing, after: datetime) -> datetime | None:
    """Return the first occurrence strictly later than ``after``, in UTC, or `None` if no occurrence is left.

    Occurrences lie between ``start_at`` and ``end_at``, both included. They are a fixed set of instants, which does not
    depend on where an iteration starts. An interval fires at its anchor and after every interval of elapsed time. Cron
    follows the clocks of ``timezone``, by Debian cron's rule:

    - Fixed times (neither the minute nor the hour field starts with ``*``): a time that the clocks skip fires at the
      first instant after the gap, once for all times in the gap; a time that comes twice fires the first time.
    - Other expressions fire whenever the local time matches: never in a gap, and in both passes through an hour that
      comes twice.

    ``at(…)`` is a fixed time. `None` may also mean no match within 50 years. Raises `ValueError` for a naive ``after``.
    """
    require_aware_time(after, "after")
    after = after.astimezone(UTC)
    if timing.start_at is not None and timing.start_at > after:
        after = timing.start_at - _TICK
    try:
        match timing.schedule_type:
            case ScheduleType.CRON:
                found = _next_cron(timing, after)
            case ScheduleType.INTERVAL:
                found = _next_interval(timing, after)
            case ScheduleType.ONCE:
                once = _once_instant(timing)
                found = once if once > after else None
    except OverflowError:  # past the year 9999
        return None
    if found is None or (timing.end_at is not None and found > timing.end_at):
        return None
    return found


def first_occurrence(timing: Timing, now: datetime, *, fired: datetime | None = None) -> datetime | None:
    """Return the occurrence that a schedule with this timing waits for at ``now``, or `None` if it has none left.

    ``fired`` is the latest occurrence that became a run. A ``once`` waits for its occurrence, even a past one, unless
    it fired.
    """
    if timing.schedule_type is ScheduleType.ONCE:
        return next_occurrence(timing, fired or EPOCH)
    if timing.start_at is not None and timing.start_at >= now:
        return next_occurrence(timing, EPOCH)  # start_at is included, even if it is now
    return next_occurrence(timing, now)


def occurrences(timing: Timing, first: datetime | None, count: int) -> list[datetime]:
    """Return the occurrence ``first`` and those that follow it, ``count`` in all or as many as there are, in UTC."""
    found: list[datetime] = []
    while first is not None and len(found) < count:
        found.append(first)
        first = next_occurrence(timing, first)
    return found


def timing_of(schedule: Schedule) -> Timing:
    """Return a schedule's timing. An interval's occurrences are as far apart from its next one as from its first."""
    return Timing(
        schedule_type=schedule.schedule_type,
        expr=schedule.schedule_expr,
        timezone=schedule.timezone,
        start_at=schedule.start_at,
        end_at=schedule.end_at,
        anchor=schedule.next_run_at if schedule.schedule_type is ScheduleType.INTERVAL else None,
    )


def _parse_cron(timing: Timing, expr: object, created: datetime, kept: str | None) -> Timing:
    from kumofire_core.rules.cron import BLANKS, canonical_cron, folded

    if not isinstance(expr, str):
        raise InvalidScheduleError(f"schedule_expr of a cron schedule must be a string, not {short_repr(expr)}")
    text = expr.strip(BLANKS)
    if text.startswith("@"):
        canonical = text.lower() if text.isascii() else text
        if canonical not in CRON_ALIASES:
            raise InvalidScheduleError(f"unknown cron alias {short_repr(text)}; use one of {', '.join(CRON_ALIASES)}")
    elif text.lower().startswith("cron("):
        raise InvalidScheduleError(
            f"schedule_expr {short_repr(text)} is EventBridge's form, which counts weekdays from 1; "
            "write the five fields of cron, without cron(…)"
        )
    else:
        canonical = kept if kept is not None and folded(text) == kept else canonical_cron(text)
    unbounded = Timing(schedule_type=ScheduleType.CRON, expr=canonical, timezone=timing.timezone)
    try:
        fires = next_occurrence(unbounded, created) is not None
    except InvalidScheduleError:
        fires = False
    if not fires:
        raise InvalidScheduleError(
            f"cron expression {short_repr(canonical)} can never fire: in timezone {timing.timezone or 'UTC'} no day "
            "has this date, weekday and time together"
        )
    return replace(timing, expr=canonical)


def _parse_interval(timing: Timing, expr: object, created: datetime) -> Timing:
    if isinstance(expr, str):
        matched = _RATE.fullmatch(expr.strip(" \t").lower()) if expr.isascii() else None
        if matched is None:
            raise InvalidScheduleError(
                f"interval {short_repr(expr)} is not valid; give a timedelta, or rate(n unit) such as rate(5 minutes), "
                "with seconds, minutes, hours or days, in ASCII and without leading zeros"
            )
        interval = _rate(matched, expr)
    elif isinstance(expr, timedelta):
        interval = expr
    else:
        raise InvalidScheduleError(
            f"schedule_expr of an interval schedule must be a timedelta or rate(n unit), not {short_repr(expr)}"
        )
    if interval < SHORTEST_INTERVAL:
        raise InvalidScheduleError(f"interval {short_repr(expr)} is too short; it must be at least one second")
    if interval % _SECOND:
        raise InvalidScheduleError(f"interval {short_repr(expr)} must be whole seconds")
    anchor = created if timing.start_at is None else timing.start_at
    try:
        anchor + interval
    except OverflowError:
        raise InvalidScheduleError(f"interval {short_repr(expr)} is too long; it ends after the year 9999") from None
    name, unit = next((name, unit) for name, unit in _RATE_UNITS.items() if not interval % unit)
    count = interval // unit
    return replace(timing, expr=f"rate({count} {name}{'' if count == 1 else 's'})", anchor=anchor)


def _rate(matched: re.Match[str], expr: str) -> timedelta:
    try:
        return int(matched[1]) * _RATE_UNITS[matched[2]]
    except OverflowError:
        raise InvalidScheduleError(f"interval {short_repr(expr)} is too long; it ends after the year 9999") from None


def _parse_once(timing: Timing, expr: object) -> Timing:
    if isinstance(expr, datetime):
        canonical = _utc(expr, "schedule_expr").isoformat()
    elif isinstance(expr, str):
        canonical = _canonical_once(expr.strip(" \t"))
    else:
        raise InvalidScheduleError(
            "schedule_expr of a once schedule must be an aware datetime, ISO 8601 with an offset, or "
            f"at(yyyy-mm-ddThh:mm:ss), not {short_repr(expr)}"
        )
    checked = replace(timing, expr=canonical)
    try:
        once = _once_instant(checked)
    except OverflowError:
        raise InvalidScheduleError(f"once {short_repr(canonical)} is outside the years 1 to 9999 in UTC") from None
    if checked.start_at is not None and once < checked.start_at:
        raise InvalidScheduleError(
            f"once {short_repr(canonical)} can never fire: it is before start_at ({checked.start_at.isoformat()})"
        )
    if checked.end_at is not None and once > checked.end_at:
        raise InvalidScheduleError(
            f"once {short_repr(canonical)} can never fire: it is after end_at ({checked.end_at.isoformat()})"
        )
    return checked


def _canonical_once(text: str) -> str:
    in_zone = _AT.fullmatch(text)
    try:
        if not in_zone and not _ISO.fullmatch(text):
            raise ValueError(text)
        moment = datetime.fromisoformat(in_zone[1] if in_zone else text)
    except ValueError:
        raise InvalidScheduleError(
            f"once {short_repr(text)} is not a valid time; give an aware datetime, ISO 8601 with an offset "
            "(2026-12-01T09:00:00+01:00), or at(2026-12-01T09:00:00) for a time in the schedule's timezone"
        ) from None
    if in_zone:
        return f"at({moment.isoformat()})"
    if moment.tzinfo is None:
        raise InvalidScheduleError(
            f"once {short_repr(text)} has no offset; add one (…+01:00 or …Z), "
            "or write at(yyyy-mm-ddThh:mm:ss) for a time in the schedule's timezone"
        )
    return _utc(moment, "schedule_expr").isoformat()


def _once_instant(timing: Timing) -> datetime:
    in_zone = _AT.fullmatch(timing.expr)
    if in_zone is None:
        return datetime.fromisoformat(timing.expr)
    wall = datetime.fromisoformat(in_zone[1])
    if timing.timezone is None:
        return wall.replace(tzinfo=UTC)
    return _instant_of(wall, _load_zone(timing.timezone))


def _next_interval(timing: Timing, after: datetime) -> datetime:
    matched = _RATE.fullmatch(timing.expr)
    if matched is None or timing.anchor is None:
        raise InvalidScheduleError(
            f"interval {short_repr(timing.expr)} with anchor {timing.anchor} was not made by parse_timing"
        )
    interval = _rate(matched, timing.expr)
    passed = (after - timing.anchor) // interval
    return timing.anchor + max(0, passed + 1) * interval


def _next_cron(timing: Timing, after: datetime) -> datetime | None:
    if timing.timezone is None:
        wall = _wall_time_after(timing.expr, after.replace(tzinfo=None))
        return None if wall is None else wall.replace(tzinfo=UTC)
    zone = _load_zone(timing.timezone)
    minute, hour, *_ = CRON_ALIASES.get(timing.expr, timing.expr).split()
    if minute.startswith("*") or hour.startswith("*"):
        return _next_in_real_time(timing.expr, zone, after)
    return _next_at_fixed_time(timing.expr, zone, after)


def _next_at_fixed_time(expr: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    wall = after.astimezone(zone).replace(tzinfo=None)
    while (found_wall := _wall_time_after(expr, wall)) is not None:
        found = _instant_of(found_wall, zone)
        # In the second pass through an hour, later local times had their instant in the first pass.
        if found > after:
            return found
        wall = found_wall
    return None


def _next_in_real_time(expr: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """Return the first instant later than ``after`` at which the local time matches.

    Searches periods of constant UTC offset, in which each local time is one instant.
    """
    start = after + _TICK
    give_up = start + NEVER_AFTER
    while start < give_up:
        offset = _offset(start, zone)
        wall = _wall_time_after(expr, _naive(start) + offset - _TICK)
        if wall is None:
            return None
        found = (wall - offset).replace(tzinfo=UTC)
        shift = _next_shift(start, min(found, start + _SETTLED_AFTER), zone)
        if shift is not None:
            start = shift
        elif found - start <= _SETTLED_AFTER:
            return found
        else:
            # Until two days before ``found``, whatever the offset, local times are before the match. So skip them.
            start = found - _SETTLED_AFTER
    return None


def _wall_time_after(expr: str, wall: datetime) -> datetime | None:
    """Return the first matching naive time later than the naive ``wall``, or `None`; raises `InvalidScheduleError`.

    Never pass cronsim (2.8) a zone. With a zone, it returns a time before its start if it starts in the second pass
    through an hour, and misses or invents times where clocks change by half an hour or at midnight.
    """
    from cronsim import CronSim, CronSimError

    try:
        return next(CronSim(CRON_ALIASES.get(expr, expr), wall), None)
    except CronSimError as error:
        raise InvalidScheduleError(f"cron expression {short_repr(expr)} can't be used: {error}") from None


def _instant_of(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the first instant at which the zone's clocks show ``wall``, or the end of the gap that skips it."""
    instant = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _naive(instant) + _offset(instant, zone) == wall:
        return instant
    before_gap = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _next_shift(before_gap, instant, zone) or instant


def _next_shift(start: datetime, end: datetime, zone: ZoneInfo) -> datetime | None:
    """Return the instant after ``start``, up to ``end``, at which the UTC offset changes, or `None`.

    The two are at most ``_SETTLED_AFTER`` apart, so the offset changes at most once, and always at a whole second.
    """
    offset = _offset(start, zone)
    if _offset(end, zone) == offset:
        return None
    low, high = start.replace(microsecond=0), end.replace(microsecond=0)
    while high - low > _SECOND:
        middle = low + (high - low) // 2 // _SECOND * _SECOND
        if _offset(middle, zone) == offset:
            low = middle
        else:
            high = middle
    return high


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta(0)


def _naive(instant: datetime) -> datetime:
    return instant.replace(tzinfo=None)


def _load_zone(name: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo

    if isinstance(name, str) and name and not name.startswith(_NOT_A_ZONE):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # unknown, not a valid key, a directory
            pass
    raise _unknown_zone(name)


def _unknown_zone(name: object) -> InvalidScheduleError:
    """Return the error for an unknown time zone; its text suggests a similar name if one is found."""
    from zoneinfo import available_timezones

    known = available_timezones()
    if not known:
        return InvalidScheduleError(
            f"timezone {short_repr(name)} can't be checked: there is no time zone database here; install tzdata"
        )
    hint = ""
    if isinstance(name, str) and (meant := _zone_meant(name[:64], known)):
        hint = f" (did you mean {meant!r}?)"
    elif isinstance(name, str) and _OFFSET_NAME.fullmatch(name):
        hint = ": an offset is not a zone, and the signs of the Etc/GMT zones are inverted (Etc/GMT-2 is ahead of UTC)"
    elif isinstance(name, str) and _ABBREVIATION.fullmatch(name):
        hint = ": an abbreviation means other times elsewhere"
    return InvalidScheduleError(f"unknown timezone {short_repr(name)}{hint}; use an IANA name such as Europe/Berlin")


def _zone_meant(name: str, known: set[str]) -> str | None:
    """Return the zone that a misspelled name probably means: other case or blanks, a city alone, or a typo in a city.

    A similar name may be another city's, with another time (Manama and Panama). So typos are corrected only within the
    named area, and never to a zone that is not a place.
    """
    from difflib import get_close_matches

    wanted = name.strip().lower().replace(" ", "_")
    if wanted == "utc":
        return "UTC"
    places = sorted(zone for zone in known if zone.startswith(_AREAS))
    if wanted in (spelled := {zone.lower(): zone for zone in places}):
        return spelled[wanted]
    area, slash, city = wanted.rpartition("/")
    if not slash:
        named = [zone for zone in known if "/" in zone and not zone.startswith(_NOT_A_ZONE)]
        cities = [zone for zone in named if zone.lower().rpartition("/")[2] == wanted]
        return cities[0] if len(cities) == 1 and cities[0].count("/") == 1 and cities[0] in places else None
    there = {key.rpartition("/")[2]: zone for key, zone in spelled.items() if key.rpartition("/")[0] == area}
    close = get_close_matches(city, there, n=1, cutoff=0.85)
    return there[close[0]] if close else None


def _utc(moment: object, argument: str) -> datetime:
    if not isinstance(moment, datetime):
        raise InvalidScheduleError(f"{argument} must be an aware datetime, not {short_repr(moment)}")
    if moment.utcoffset() is None:
        raise InvalidScheduleError(
            f"{argument} ({moment.isoformat()}) has no time zone; give an aware datetime, such as datetime.now(UTC)"
        )
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise InvalidScheduleError(f"{argument} ({moment.isoformat()}) is outside the years 1 to 9999 in UTC") from None
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def require_aware_time(moment: datetime, argument: str) -> None:
    if moment.utcoffset() is None:
        raise ValueError(f"{argument} ({moment.isoformat()}) has no time zone; give an aware datetime")
