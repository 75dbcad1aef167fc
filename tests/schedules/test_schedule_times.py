"""When schedules fire, against two independent readings of cron: a minute-by-minute oracle and croniter."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import cronsim
import pytest
from croniter import croniter
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from kumofire_core.errors import InvalidScheduleError, KumofireError
from kumofire_core.model.schedule import Missed, Timing
from kumofire_core.rules import occurrences as occurrence_rules
from kumofire_core.rules import recurrence
from kumofire_core.rules.cron import canonical_cron
from kumofire_core.rules.occurrences import due_occurrences
from kumofire_core.rules.recurrence import next_occurrence, parse_timing

pytestmark = pytest.mark.long

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
CREATED = datetime(2026, 1, 1, tzinfo=UTC)

# A year with both shifts in each of these: an hour in Europe and America, half an hour on Lord Howe, at midnight in
# Brazil and Egypt, and a skipped 30 December in Samoa.
YEARS = {
    "Europe/Berlin": 2026,
    "America/New_York": 2026,
    "Australia/Lord_Howe": 2026,
    "America/Sao_Paulo": 2018,
    "Africa/Cairo": 2024,
    "Pacific/Apia": 2011,
}


def timing(schedule_type: str, expr: str | timedelta | datetime, zone: str | None = None, **fields: Any) -> Timing:
    return parse_timing(schedule_type=schedule_type, schedule_expr=expr, timezone=zone, **{"anchor": CREATED, **fields})


def cron(expr: str, zone: str | None = None, **fields: Any) -> Timing:
    return timing("cron", expr, zone, **fields)


def every(interval: str | timedelta, **fields: Any) -> Timing:
    return timing("interval", interval, **fields)


def once(expr: str | datetime, zone: str | None = None, **fields: Any) -> Timing:
    return timing("once", expr, zone, **fields)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(text: str, zone: str) -> datetime:
    """The instant of a wall time, in the first pass where it comes twice."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def occurrences(of: Timing, *, after: datetime, until: datetime) -> list[datetime]:
    found = []
    moment: datetime | None = after
    while (moment := next_occurrence(of, moment)) is not None and moment <= until:
        found.append(moment)
    return found


def on_the_wall(of: Timing, day: str, *, days: int = 1) -> list[str]:
    """The occurrences of a local day, as that zone's clocks and offset show them."""
    assert of.timezone is not None
    zone = ZoneInfo(of.timezone)
    start = local(f"{day}T00:00", of.timezone)
    end = local(f"{(datetime.fromisoformat(day) + days * DAY).date()}T00:00", of.timezone)
    return [f"{found.astimezone(zone):%d %H:%M%z}" for found in occurrences(of, after=start - TICK, until=end - TICK)]


# The oracle: a clock that ticks through every minute of real time, as a cron daemon does.


def read_field(field: str, low: int, high: int, names: str = "") -> set[int]:
    numbers = {name: str(index + low) for index, name in enumerate(names.split())}
    values: set[int] = set()
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        first, last = numbers.get(first, first), numbers.get(last, last)
        if first == "*":
            ends = (low, high)
        elif last:
            ends = (int(first), int(last))
        else:
            ends = (int(first), high if step else int(first))
        values.update(range(ends[0], ends[1] + 1, int(step or 1)))
    return values


def wall_matcher(expr: str) -> Callable[[datetime], bool]:
    """Whether a wall time matches all the fields but the minute."""
    _, hour, day, month, weekday = expr.split()
    hours, days = read_field(hour, 0, 23), read_field(day, 1, 31)
    months = read_field(month, 1, 12, "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC")
    weekdays = {number % 7 for number in read_field(weekday, 0, 7, "SUN MON TUE WED THU FRI SAT")}
    both = day.startswith("*") or weekday.startswith("*")

    def matches(wall: datetime) -> bool:
        if wall.hour not in hours or wall.month not in months:
            return False
        of_month, of_week = wall.day in days, wall.isoweekday() % 7 in weekdays
        return (of_month and of_week) if both else (of_month or of_week)

    return matches


class Clock:
    """A wall clock that is watched through every minute of a time, in UTC.

    ``shown`` holds what it showed and when; ``reached`` each minute that it reached or jumped over for the first time,
    and when. Both are by minute of the hour, which makes a year of them quick to search.
    """

    def __init__(self, zone: str, start: datetime, end: datetime) -> None:
        self.shown: dict[int, list[tuple[datetime, datetime]]] = defaultdict(list)
        self.reached: dict[int, list[tuple[datetime, datetime]]] = defaultdict(list)
        self.shifts: list[datetime] = []
        local_time = ZoneInfo(zone)
        moment, end = start.replace(tzinfo=None), end.replace(tzinfo=None)
        offset = furthest = None
        while moment <= end:
            if offset is None or moment.minute % 15 == 0:  # no zone shifts in between, in these years
                before, offset = offset, local_time.utcoffset(local_time.fromutc(moment.replace(tzinfo=local_time)))
                if before not in (None, offset):
                    self.shifts.append(moment.replace(tzinfo=UTC))
            wall = moment + offset
            self.shown[wall.minute].append((moment, wall))
            furthest = furthest or wall - MINUTE
            while furthest < wall:
                furthest += MINUTE
                self.reached[furthest.minute].append((moment, furthest))
            moment += MINUTE


@lru_cache(maxsize=1)
def clock_of_the_year(zone: str) -> Clock:
    year = YEARS[zone]
    return Clock(zone, datetime(year, 1, 1, tzinfo=UTC), datetime(year, 12, 31, 23, 59, tzinfo=UTC))


def cron_daemon(expr: str, clock: Clock) -> list[datetime]:
    """What a daemon with Debian's rule starts: fixed times as the clock reaches them, others whenever it shows them."""
    matches = wall_matcher(expr)
    fixed = not any(field.startswith("*") for field in expr.split()[:2])
    walls = clock.reached if fixed else clock.shown
    minutes = read_field(expr.split()[0], 0, 59)
    started = {moment for minute in minutes for moment, wall in walls[minute] if matches(wall)}
    return sorted(moment.replace(tzinfo=UTC) for moment in started)


@pytest.mark.parametrize(
    "expr",
    [
        "30 2 * * *",
        "15,45 0-3 */2 FEB-NOV *",
        "*/20 0-3 * * MON-FRI",
        "* 3 * * SUN",
        "0 0 1,15 * FRI",
    ],
)
@pytest.mark.parametrize("zone", YEARS)
def test_a_year_of_occurrences_is_what_a_cron_daemon_would_have_started(expr: str, zone: str) -> None:
    start, end = datetime(YEARS[zone], 1, 1, tzinfo=UTC), datetime(YEARS[zone] + 1, 1, 1, tzinfo=UTC)

    found = occurrences(cron(expr, zone), after=start - TICK, until=end - TICK)

    assert found == cron_daemon(expr, clock_of_the_year(zone))
    assert found


@pytest.mark.parametrize(
    ("expr", "croniters"),
    [
        ("30 6 * * *", "30 6 * * *"),
        ("*/45 */7 * * *", "*/45 */7 * * *"),
        ("5 0-20/5 * JAN,JUL MON-WED", "5 0-20/5 * 1,7 1-3"),
        ("0 12 13 * FRI", "0 12 13 * 5"),
        ("0 7 L * *", "0 7 L * *"),
        ("0 7 * * 5L", "0 7 * * L5"),
        ("0 7 * * TUE#2", "0 7 * * 2#2"),
        ("@weekly", "@weekly"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Apia"])
def test_a_year_of_occurrences_agrees_with_croniter_away_from_the_shifts(expr: str, croniters: str, zone: str) -> None:
    year = YEARS.get(zone, 2026)
    start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    unsettled = clock_of_the_year(zone).shifts if zone in YEARS else []
    theirs, walk = [], croniter(croniters, start.astimezone(ZoneInfo(zone)))
    while (moment := walk.get_next(datetime).astimezone(UTC)) < end:
        theirs.append(moment)

    ours = occurrences(cron(expr, zone), after=start, until=end - TICK)

    def settled(moments: list[datetime]) -> list[datetime]:
        return [moment for moment in moments if all(abs(moment - shift) > DAY for shift in unsettled)]

    assert settled(ours) == settled(theirs)
    assert len(settled(ours)) > 10


# Daylight saving, pinned.


@pytest.mark.parametrize(
    ("zone", "day", "expr", "runs"),
    [
        ("Europe/Berlin", "2026-03-29", "30 2 * * *", ["29 03:00+0200"]),
        ("America/New_York", "2026-03-08", "30 2 * * *", ["08 03:00-0400"]),
        ("Australia/Lord_Howe", "2026-10-04", "15 2 * * *", ["04 02:30+1100"]),
        ("Africa/Cairo", "2024-04-26", "0 0 * * *", ["26 01:00+0300"]),
    ],
)
def test_a_fixed_time_in_the_gap_runs_when_the_gap_ends(zone: str, day: str, expr: str, runs: list[str]) -> None:
    assert on_the_wall(cron(expr, zone), day) == runs


def test_a_midnight_that_does_not_exist_runs_at_the_first_instant_of_that_day() -> None:
    assert on_the_wall(cron("@daily", "America/Sao_Paulo"), "2018-11-03", days=2) == ["03 00:00-0300", "04 01:00-0200"]


def test_all_the_fixed_times_in_one_gap_run_once_together_with_the_one_at_its_end() -> None:
    assert on_the_wall(cron("0,20,40 1-3 * * *", "Europe/Berlin"), "2026-03-29") == [
        *("29 01:00+0100", "29 01:20+0100", "29 01:40+0100"),
        *("29 03:00+0200", "29 03:20+0200", "29 03:40+0200"),
    ]


def test_the_job_of_a_day_that_was_skipped_runs_when_the_next_day_begins() -> None:
    daily = cron("0 9 * * *", "Pacific/Apia")

    assert on_the_wall(daily, "2011-12-29", days=3) == ["29 09:00-1000", "31 00:00+1400", "31 09:00+1400"]


@pytest.mark.parametrize(
    ("zone", "day", "expr", "runs"),
    [
        ("Europe/Berlin", "2026-10-25", "30 2 * * *", ["25 02:30+0200"]),
        ("America/New_York", "2026-11-01", "30 1 * * *", ["01 01:30-0400"]),
        ("Australia/Lord_Howe", "2026-04-05", "45 1 * * *", ["05 01:45+1100"]),
        ("America/Sao_Paulo", "2018-02-17", "30 23 * * *", ["17 23:30-0200"]),
    ],
)
def test_a_fixed_time_that_comes_twice_runs_at_the_first(zone: str, day: str, expr: str, runs: list[str]) -> None:
    assert on_the_wall(cron(expr, zone), day) == runs


def test_a_fixed_time_does_not_run_again_for_one_who_starts_in_the_second_pass() -> None:
    second_pass = datetime(2026, 10, 25, 2, 15, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)

    found = next_occurrence(cron("30 2 * * *", "Europe/Berlin"), second_pass)

    assert found == local("2026-10-26T02:30", "Europe/Berlin")


def test_a_wildcard_follows_real_time_through_both_passes_of_an_hour() -> None:
    assert on_the_wall(cron("*/30 2 * * *", "Europe/Berlin"), "2026-10-25") == [
        *("25 02:00+0200", "25 02:30+0200"),
        *("25 02:00+0100", "25 02:30+0100"),
    ]
    assert on_the_wall(cron("45 * * * *", "Australia/Lord_Howe"), "2026-04-05")[:4] == [
        *("05 00:45+1100", "05 01:45+1100", "05 01:45+1030", "05 02:45+1030"),
    ]


def test_a_wildcard_does_not_run_at_a_time_that_does_not_exist() -> None:
    assert on_the_wall(cron("*/30 2 * * *", "Europe/Berlin"), "2026-03-29") == []
    assert on_the_wall(cron("15 * * * *", "Australia/Lord_Howe"), "2026-10-04")[:3] == [
        *("04 00:15+1030", "04 01:15+1030", "04 03:15+1100"),
    ]


def test_a_wildcard_misses_nothing_after_a_shift_of_half_an_hour() -> None:
    assert on_the_wall(cron("*/20 3 * * *", "Australia/Lord_Howe"), "2026-10-04") == [
        *("04 03:00+1100", "04 03:20+1100", "04 03:40+1100"),
    ]


def test_a_wildcard_starts_a_day_without_midnight_at_its_first_instant() -> None:
    sunday = cron("* * * * SUN", "America/Sao_Paulo")

    assert next_occurrence(sunday, local("2018-11-03T12:00", "America/Sao_Paulo")) == utc("2018-11-04T03:00")
    assert next_occurrence(sunday, utc("2018-11-04T03:00")) == utc("2018-11-04T03:01")


def test_an_interval_counts_elapsed_time_through_a_shift() -> None:
    daily = every(timedelta(days=1), zone="Europe/Berlin", start_at=local("2026-03-28T09:00", "Europe/Berlin"))

    assert on_the_wall(daily, "2026-03-28", days=2) == ["28 09:00+0100", "29 10:00+0200"]


# Cron, the language.


@pytest.mark.parametrize(
    ("expr", "after", "expected"),
    [
        ("@hourly", "2026-05-05T10:00", "2026-05-05T11:00"),
        ("@daily", "2026-05-05T10:00", "2026-05-06T00:00"),
        ("@Midnight", "2026-05-05T10:00", "2026-05-06T00:00"),
        ("@weekly", "2026-05-05T10:00", "2026-05-10T00:00"),
        ("@monthly", "2026-05-05T10:00", "2026-06-01T00:00"),
        ("@yearly", "2026-05-05T10:00", "2027-01-01T00:00"),
        ("@annually", "2026-05-05T10:00", "2027-01-01T00:00"),
        ("0 0 L * *", "2028-02-01T00:00", "2028-02-29T00:00"),
        ("0 0 LW * *", "2026-05-01T00:00", "2026-05-29T00:00"),
        ("0 0 * * 5L", "2026-05-01T00:00", "2026-05-29T00:00"),
        ("0 0 * * mon#1", "2026-05-05T00:00", "2026-06-01T00:00"),
        ("0 0 * * 7", "2026-05-05T00:00", "2026-05-10T00:00"),
        ("0 0 * * 0", "2026-05-05T00:00", "2026-05-10T00:00"),
        ("5/20 10 * * *", "2026-05-05T10:05", "2026-05-05T10:25"),
        ("0 0 13 * FRI", "2026-05-09T00:00", "2026-05-13T00:00"),
        ("0 0 */2 * FRI", "2026-05-09T00:00", "2026-05-15T00:00"),
        ("0 0 29 2 *", "2096-03-01T00:00", "2104-02-29T00:00"),
        ("0 0 * 2 MON#5", "2072-03-01T00:00", "2112-02-29T00:00"),
    ],
)
def test_cron_means_what_docs_schedules_md_says(expr: str, after: str, expected: str) -> None:
    assert next_occurrence(cron(expr), utc(after)) == utc(expected)


def test_a_schedule_without_a_zone_is_in_utc() -> None:
    assert next_occurrence(cron("0 9 * * *"), CREATED) == next_occurrence(cron("0 9 * * *", "UTC"), CREATED)


# Intervals and once.


@pytest.mark.parametrize(
    ("interval", "canonical", "length"),
    [
        (timedelta(minutes=5), "rate(5 minutes)", 5 * MINUTE),
        ("rate(5 minutes)", "rate(5 minutes)", 5 * MINUTE),
        ("rate(5 minute)", "rate(5 minutes)", 5 * MINUTE),
        ("rate(1 minutes)", "rate(1 minute)", MINUTE),
        (" RATE( 90  Seconds ) ", "rate(90 seconds)", 90 * timedelta(seconds=1)),
        ("rate(1 second)", "rate(1 second)", timedelta(seconds=1)),
        ("rate(3600 seconds)", "rate(1 hour)", HOUR),
        ("rate(48 hours)", "rate(2 days)", 2 * DAY),
        (timedelta(hours=25), "rate(25 hours)", 25 * HOUR),
        (timedelta(days=1, seconds=1), "rate(86401 seconds)", DAY + timedelta(seconds=1)),
    ],
)
def test_an_interval_fires_at_whole_multiples_from_its_anchor(
    interval: str | timedelta, canonical: str, length: timedelta
) -> None:
    found = every(interval)

    assert found.expr == canonical
    assert found.anchor == CREATED
    assert occurrences(found, after=CREATED, until=CREATED + 3 * length) == [CREATED + n * length for n in (1, 2, 3)]
    assert next_occurrence(found, CREATED + 1_000_000 * length - TICK) == CREATED + 1_000_000 * length


def test_an_interval_does_not_fire_before_its_anchor() -> None:
    assert next_occurrence(every("rate(1 hour)"), CREATED - DAY) == CREATED


def test_an_interval_with_a_start_fires_first_at_its_start() -> None:
    start = utc("2026-02-01T10:30")
    found = every("rate(1 hour)", start_at=start)

    assert found.anchor == start
    assert occurrences(found, after=CREATED, until=start + HOUR) == [start, start + HOUR]


@pytest.mark.parametrize(
    ("expr", "zone", "canonical", "fires"),
    [
        (datetime(2026, 12, 1, 9, tzinfo=timezone(HOUR)), None, "2026-12-01T08:00:00+00:00", "2026-12-01T08:00"),
        ("2026-12-01T09:00:00+01:00", "Asia/Tokyo", "2026-12-01T08:00:00+00:00", "2026-12-01T08:00"),
        ("2026-12-01T09:00Z", None, "2026-12-01T09:00:00+00:00", "2026-12-01T09:00"),
        ("2026-12-01T09:00:00.1239Z", None, "2026-12-01T09:00:00.123000+00:00", "2026-12-01T09:00:00.123"),
        ("at(2026-12-01T09:00:00)", None, "at(2026-12-01T09:00:00)", "2026-12-01T09:00"),
        (" at( 2026-12-01T09:00:00 )", "Europe/Berlin", "at(2026-12-01T09:00:00)", "2026-12-01T08:00"),
        ("at(2026-03-29T02:30:00)", "Europe/Berlin", "at(2026-03-29T02:30:00)", "2026-03-29T01:00"),
        ("at(2026-10-25T02:30:00)", "Europe/Berlin", "at(2026-10-25T02:30:00)", "2026-10-25T00:30"),
        ("at(2011-12-30T12:00:00)", "Pacific/Apia", "at(2011-12-30T12:00:00)", "2011-12-30T10:00"),
    ],
)
def test_once_fires_once(expr: str | datetime, zone: str | None, canonical: str, fires: str) -> None:
    found = once(expr, zone)

    assert found.expr == canonical
    assert next_occurrence(found, utc("2000-01-01")) == utc(fires)
    assert next_occurrence(found, utc(fires) - TICK) == utc(fires)
    assert next_occurrence(found, utc(fires)) is None


# The window.


@pytest.mark.parametrize("found", [cron("0 9 * * *"), cron("0 9 * * *", "UTC"), cron("*/60 9 * * *", "UTC")])
def test_start_and_end_both_belong_to_the_window(found: Timing) -> None:
    nine = [utc(f"2026-02-0{day}T09:00") for day in range(1, 6)]
    second = timedelta(seconds=1)

    def within(start_at: datetime, end_at: datetime) -> list[datetime]:
        bounded = cron(found.expr, found.timezone, start_at=start_at, end_at=end_at)
        return occurrences(bounded, after=CREATED, until=utc("2027-01-01"))

    assert within(nine[1], nine[3]) == nine[1:4]
    assert within(nine[1] + second, nine[3] - second) == nine[2:3]
    assert within(nine[1], nine[1]) == nine[1:2]
    assert within(nine[1] + second, nine[2] - second) == []


def test_once_may_lie_on_either_end_of_its_window() -> None:
    assert next_occurrence(once(CREATED, start_at=CREATED, end_at=CREATED), CREATED - TICK) == CREATED


def test_an_interval_ends_with_its_window() -> None:
    bounded = every("rate(1 hour)", end_at=CREATED + 2 * HOUR)

    assert next_occurrence(bounded, CREATED + HOUR) == CREATED + 2 * HOUR
    assert next_occurrence(bounded, CREATED + 2 * HOUR) is None


@pytest.mark.parametrize("found", [every("rate(9 days)"), cron("0 0 1 1 *"), cron("* 1 1 1 *", "Europe/Berlin")])
def test_the_end_of_the_calendar_is_the_end_of_a_schedule(found: Timing) -> None:
    assert next_occurrence(found, datetime.max.replace(tzinfo=UTC)) is None


def test_stored_milliseconds_lose_nothing() -> None:
    precise = CREATED + timedelta(microseconds=1999)
    found = every("rate(1 hour)", anchor=precise, end_at=precise)

    assert found.anchor == found.end_at == CREATED + timedelta(milliseconds=1)
    assert every("rate(1 hour)", start_at=precise).anchor == CREATED + timedelta(milliseconds=1)


# Refusals.


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        ("* * * *", "'* * * *' has 4 fields; it needs five: minute, hour, day of month, month, day of week"),
        ("0 0 0 * * *", "has 6 fields; it needs five"),
        ("", "has 0 fields; it needs five"),
        (
            "61 * * * *",
            "'61 * * * *': minute (field 1 of 5) has '61', which is not valid: 61 is not within 0-59; it takes 0-59",
        ),
        ("1,,2 * * * *", "minute (field 1 of 5) has ''"),
        ("0 25 * * *", "hour (field 2 of 5) has '25', which is not valid: 25 is not within 0-23"),
        (
            "0 9-5 * * *",
            "hour (field 2 of 5) has '9-5', which is not valid: the range descends, from 9 to 5 (write 9-23,0-5)",
        ),
        ("0 */0 * * *", "hour (field 2 of 5) has '*/0'"),
        ("0 5-5/2 * * *", "hour (field 2 of 5) has '5-5/2'"),
        ("0 0 * * 1-MON/2", "day of week (field 5 of 5) has '1-MON/2'"),
        (
            "0 0 1,32 * *",
            "day of month (field 3 of 5) has '32', which is not valid: 32 is not within 1-31; it takes 1-31, L",
        ),
        ("0 0 L/2 * *", "day of month (field 3 of 5) has 'L/2'"),
        ("0 0 ? * *", "day of month (field 3 of 5) has '?'"),
        (
            "0 0 * 0 *",
            "month (field 4 of 5) has '0', which is not valid: 0 is not within 1-12; it takes 1-12 or JAN-DEC",
        ),
        ("0 0 * mars *", "month (field 4 of 5) has 'MARS'"),
        (
            "0 0 * * 8",
            "day of week (field 5 of 5) has '8', which is not valid: 8 is not within 0-7; it takes 0-7 or SUN-SAT",
        ),
        ("0 0 * * FRI#6", "day of week (field 5 of 5) has 'FRI#6'"),
        (
            "*/61 * * * *",
            "minute (field 1 of 5) has '*/61', which is not valid: the step 61 is longer than the 60 values",
        ),
        ("5/70 * * * *", "the step 70 is longer than the way from 5 to 59, so it would never be taken"),
        ("59/1 * * * *", "the step 1 is longer than the way from 59 to 59"),
        ("0 9-17/9 * * *", "hour (field 2 of 5) has '9-17/9', which is not valid: the step 9 is longer than the way"),
        ("0 */25 * * *", "the step 25 is longer than the 24 values of *"),
        ("0 0 */32 * *", "the step 32 is longer than the 31 values of *"),
        ("0 0 * */13 *", "the step 13 is longer than the 12 values of *"),
        ("0 0 * * */8", "the step 8 is longer than the 7 values of *"),
        ("0 0 * * MON/2", "it may or may not mean Sunday; write 1-6/2, or 1-7/2 with it"),
        ("5-5 * * * *", "minute (field 1 of 5) has '5-5', which is not valid: a range of one value is written 5"),
        ("*/999999999999 * * * *", "the step '999999999999' is not a number of one or two digits"),
        ("*/-1 * * * *", "minute (field 1 of 5) has '*/-1'"),
        ("*/2/2 * * * *", "minute (field 1 of 5) has '*/2/2'"),
        ("1-2-3 * * * *", "minute (field 1 of 5) has '1-2-3'"),
        ("000005 * * * *", "'000005' is not a number of one or two digits, and this field has no names"),
        ("*,5 * * * *", "minute (field 1 of 5) has '*', which is not valid: * is every value, so it stands alone"),
        ("0 0 * * FRI-MON", "the range descends, from 5 to 1 (write 5-6,0-1)"),
        ("0 0 * * SAT-SUN", "the range descends, from 6 to 0 (Sunday is 7 there: 6-7)"),
        ("0 0 * * MON#01", "after # stands which one of the month, 1 to 5, and not '01'"),
        ("0 0 * * FRIL", "day of week (field 5 of 5) has 'FRIL'"),
        ("0\xa00 * * *", "minute (field 1 of 5) has U+00A0 (NO-BREAK SPACE); write ASCII, with spaces or tabs between"),
        ("0 0 * * \u017fun", "day of week (field 5 of 5) has U+017F (LATIN SMALL LETTER LONG S); write ASCII"),
        ("0 0 * * *\n", "day of week (field 5 of 5) has U+000A (a control character)"),
        ("\u20030 0 * * *", "minute (field 1 of 5) has U+2003 (EM SPACE)"),
        ("0 \u0663 * * *", "hour (field 2 of 5) has U+0663 (ARABIC-INDIC DIGIT THREE)"),
        ("0 0 * * * \xa0", "after field 5 has U+00A0"),
        ("@wee\u212aly", "unknown cron alias '@wee\u212aly'"),
        ("@reboot", "unknown cron alias '@reboot'; use one of @hourly, @daily, @midnight, @weekly"),
        ("cron(0 9 * * ? *)", "is EventBridge's form, which counts weekdays from 1; write the five fields"),
        ("0 0 30 2 *", "'0 0 30 2 *' can never fire: in timezone UTC no day has this date, weekday and time together"),
        ("0 0 31 4,6,9,11 *", "can never fire"),
        ("0 0 LW * */7", "can never fire"),
        (timedelta(hours=1), "schedule_expr of a cron schedule must be a string, not datetime.timedelta"),
        ("*" * 257, "schedule_expr has 257 characters; 256 are allowed"),
    ],
)
def test_a_bad_cron_expression_is_refused_by_field(expr: Any, names: str) -> None:
    with pytest.raises(InvalidScheduleError) as refusal:
        cron(expr)

    assert names in str(refusal.value)
    assert isinstance(refusal.value, KumofireError)


def test_a_wall_time_that_falls_into_the_gap_every_year_can_never_fire() -> None:
    in_the_gap = "* 2 * 3 7L"  # the last Sunday of March, where Berlin has no such hour

    with pytest.raises(InvalidScheduleError, match="can never fire: in timezone Europe/Berlin"):
        cron(in_the_gap, "Europe/Berlin")
    assert cron(in_the_gap, "UTC")


@pytest.mark.parametrize(
    ("interval", "names"),
    [
        (timedelta(0), "interval datetime.timedelta(0) is too short; it must be at least one second"),
        (timedelta(seconds=-5), "is too short; it must be at least one second"),
        (timedelta(milliseconds=999), "is too short; it must be at least one second"),
        (timedelta(seconds=1.5), "must be whole seconds"),
        ("rate(0 minutes)", "interval 'rate(0 minutes)' is too short; it must be at least one second"),
        ("rate(-5 minutes)", "interval 'rate(-5 minutes)' is not valid; give a timedelta, or rate(n unit)"),
        ("rate(5 weeks)", "with seconds, minutes, hours or days"),
        ("rate(5minutes)", "is not valid"),
        ("5 minutes", "such as rate(5 minutes)"),
        ("rate(005 minutes)", "is not valid; give a timedelta, or rate(n unit)"),
        ("rate(5\xa0minutes)", "is not valid"),
        ("\u2003rate(5 minutes)", "is not valid"),
        ("rate(5\nminutes)", "is not valid"),
        ("rate(\u0665 minutes)", "is not valid"),
        ("rate(99999999999 days)", "interval 'rate(99999999999 days)' is too long; it ends after the year 9999"),
        (timedelta(days=4_000_000), "is too long; it ends after the year 9999"),
        (300, "must be a timedelta or rate(n unit), not 300"),
        (f"rate({'1' * 300} days)", "characters; 256 are allowed"),
    ],
)
def test_a_bad_interval_is_refused(interval: Any, names: str) -> None:
    with pytest.raises(InvalidScheduleError) as refusal:
        every(interval)

    assert names in str(refusal.value)


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        (datetime(2026, 12, 1), "schedule_expr (2026-12-01T00:00:00) has no time zone; give an aware datetime"),
        ("2026-12-01T09:00:00", "once '2026-12-01T09:00:00' has no offset; add one"),
        ("2026-12-01", "or write at(yyyy-mm-ddThh:mm:ss) for a time in the schedule's timezone"),
        ("tomorrow", "once 'tomorrow' is not a valid time; give an aware datetime, ISO 8601 with an offset"),
        ("at(2026-13-01T09:00:00)", "once 'at(2026-13-01T09:00:00)' is not a valid time"),
        ("at(2026-12-01T09:00:00Z)", "is not a valid time"),
        ("at(2026-12-01)", "is not a valid time"),
        ("at(\xa02026-12-01T09:00:00)", "is not a valid time"),
        ("\u20032026-12-01T09:00Z", "is not a valid time"),
        ("2026-12-01\xa009:00Z", "is not a valid time"),
        ("2026-12-01+09:00Z", "is not a valid time"),
        ("9999-12-31T23:00:00-05:00", "is outside the years 1 to 9999 in UTC"),
        (timedelta(hours=1), "schedule_expr of a once schedule must be an aware datetime, ISO 8601 with an offset, or"),
        ("2" * 257, "257 characters"),
    ],
)
def test_a_bad_once_is_refused(expr: Any, names: str) -> None:
    with pytest.raises(InvalidScheduleError) as refusal:
        once(expr)

    assert names in str(refusal.value)


def test_a_wall_time_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(InvalidScheduleError, match="outside the years 1 to 9999"):
        once("at(9999-12-31T23:00:00)", "America/New_York")


@pytest.mark.parametrize(
    ("zone", "names"),
    [
        ("europe/berlin", "unknown timezone 'europe/berlin' (did you mean 'Europe/Berlin'?); use an IANA name"),
        ("Europe/Berln", "(did you mean 'Europe/Berlin'?)"),
        ("New York", "(did you mean 'America/New_York'?)"),
        ("Mars/Olympus", "unknown timezone 'Mars/Olympus'; use an IANA name such as Europe/Berlin"),
        ("Europe", "unknown timezone 'Europe'; use"),
        ("", "unknown timezone ''; use"),
        ("../zoneinfo/UTC", "unknown timezone '../zoneinfo/UTC'"),
        ("a\0b", "unknown timezone 'a\\x00b'"),
        ("localtime", "unknown timezone 'localtime'; use"),
        ("right/Europe/Berlin", "unknown timezone 'right/Europe/Berlin'"),
        ("Z" * 1000, "unknown timezone 'ZZZZ"),
        (UTC, "unknown timezone datetime.timezone.utc; use"),
        ("Europe/Berlin\xa0", "unknown timezone 'Europe/Berlin\\xa0'"),
        ("\uff25urope/Berlin", "unknown timezone '"),
        ("utc", "(did you mean 'UTC'?)"),
        ("Asia/Calcuta", "(did you mean 'Asia/Calcutta'?)"),
    ],
)
@pytest.mark.parametrize("schedule_type", ["cron", "interval", "once"])
def test_an_unknown_zone_is_refused_with_the_nearest_name(schedule_type: str, zone: Any, names: str) -> None:
    expr = {"cron": "@daily", "interval": "rate(1 day)", "once": "2026-12-01T09:00Z"}[schedule_type]
    with pytest.raises(InvalidScheduleError) as refusal:
        timing(schedule_type, expr, zone)

    assert names in str(refusal.value)
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ("zone", "reason"),
    [
        *((zone, "the signs of the Etc/GMT zones are inverted (Etc/GMT-2 is ahead of UTC)") for zone in (
            "GMT+2", "UTC+2", "gmt-2", "UTC-5", "UTC +2", "+02:00", "-0330", "+2", "UTC+05:30", "Etc/UTC+2",
            "Etc/GMT+15", "GMT\u22122", "EST+5", "EST5", "Z+1",
        )),
        *((zone, "an abbreviation means other times elsewhere") for zone in ("PST", "CEST", "BST", "IST", "ist")),
        *((zone, "; use an IANA name") for zone in ("Manama", "Madras", "America/Manama", "GMT+two", "Bergen")),
    ],
)  # fmt: skip
def test_another_time_than_the_one_that_was_meant_is_never_suggested(zone: str, reason: str) -> None:
    with pytest.raises(InvalidScheduleError) as refusal:
        cron("@daily", zone)

    assert reason in str(refusal.value)
    assert "did you mean" not in str(refusal.value)


@pytest.mark.long
def test_a_slip_in_any_zone_s_spelling_leads_to_that_zone_or_nowhere() -> None:
    led = 0
    for zone in sorted(available_timezones()):
        for slip in {zone.lower(), zone.replace("_", " "), zone[:-2] + zone[-1], zone.rpartition("/")[2].lower()}:
            with suppress(InvalidScheduleError):
                cron("@daily", slip)
                continue
            with pytest.raises(InvalidScheduleError) as refusal:
                cron("@daily", slip)
            if "did you mean" in str(refusal.value):
                led += 1
                assert same_time(str(refusal.value).split("did you mean '")[1].split("'")[0], zone), (slip, zone)
    assert led > 500


def same_time(one: str, other: str) -> bool:
    """Whether two zones show the same time in every month of a year."""
    moments = [utc(f"2026-{month:02}-15T12:00") for month in range(1, 13)]
    return all(
        moment.astimezone(ZoneInfo(one)).utcoffset() == moment.astimezone(ZoneInfo(other)).utcoffset()
        for moment in moments
    )


def test_a_platform_without_a_zone_database_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(key: str) -> ZoneInfo:
        raise KeyError(key)

    monkeypatch.setitem(sys.modules, "zoneinfo", SimpleNamespace(ZoneInfo=missing, available_timezones=set))

    with pytest.raises(InvalidScheduleError, match="there is no time zone database here; install tzdata"):
        cron("@daily", "Europe/Berlin")


@pytest.mark.parametrize("schedule_type", ["daily", "CRON", None, 3])
def test_an_unknown_type_is_refused_with_the_known_ones(schedule_type: Any) -> None:
    with pytest.raises(InvalidScheduleError, match=r"unknown schedule_type .*; use one of 'cron', 'interval', 'once'"):
        timing(schedule_type, "@daily")


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"start_at": datetime(2026, 1, 1)}, "start_at (2026-01-01T00:00:00) has no time zone"),
        ({"end_at": datetime(2026, 1, 1)}, "end_at (2026-01-01T00:00:00) has no time zone"),
        ({"anchor": datetime(2026, 1, 1)}, "anchor (2026-01-01T00:00:00) has no time zone"),
        ({"start_at": "2026-01-01"}, "start_at must be an aware datetime, not '2026-01-01'"),
        (
            {"end_at": datetime.max.replace(tzinfo=timezone(-HOUR))},
            "end_at (9999-12-31T23:59:59.999999-01:00) is outside the years 1 to 9999 in UTC",
        ),
        (
            {"start_at": CREATED, "end_at": CREATED - timedelta(milliseconds=1)},
            "end_at (2025-12-31T23:59:59.999000+00:00) is before start_at (2026-01-01T00:00:00+00:00)",
        ),
    ],
)
def test_a_bad_window_is_refused(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(InvalidScheduleError) as refusal:
        cron("@daily", **fields)

    assert names in str(refusal.value)


def test_once_outside_its_window_is_refused() -> None:
    with pytest.raises(InvalidScheduleError, match=r"can never fire: it is before start_at \(2026-01-02"):
        once(CREATED, start_at=CREATED + DAY)
    with pytest.raises(InvalidScheduleError, match=r"can never fire: it is after end_at \(2025-12-31"):
        once(CREATED, end_at=CREATED - DAY)


def test_naive_times_and_a_limit_of_nothing_are_refused() -> None:
    daily = cron("@daily")
    naive = datetime(2026, 1, 1)

    with pytest.raises(ValueError, match=r"after .* has no time zone"):
        next_occurrence(daily, naive)
    with pytest.raises(ValueError, match=r"next_run_at .* has no time zone"):
        due_occurrences(daily, next_run_at=naive, now=CREATED, missed=Missed.ALL, limit=1)
    with pytest.raises(ValueError, match=r"now .* has no time zone"):
        due_occurrences(daily, next_run_at=CREATED, now=naive, missed=Missed.ALL, limit=1)
    with pytest.raises(ValueError, match="limit is 0; it must be at least 1"):
        due_occurrences(daily, next_run_at=CREATED, now=CREATED, missed=Missed.ALL, limit=0)


# What is due.

FIVE = every("rate(5 minutes)")


@pytest.mark.parametrize("missed", Missed)
def test_nothing_is_due_before_its_time(missed: Missed) -> None:
    due = due_occurrences(
        FIVE, next_run_at=CREATED + 5 * MINUTE, now=CREATED + 5 * MINUTE - TICK, missed=missed, limit=9
    )

    assert due == ([], CREATED + 5 * MINUTE)


@pytest.mark.parametrize("missed", Missed)
def test_what_is_due_right_now_runs_under_every_policy(missed: Missed) -> None:
    due = due_occurrences(FIVE, next_run_at=CREATED + 5 * MINUTE, now=CREATED + 5 * MINUTE, missed=missed, limit=9)

    assert due == ([CREATED + 5 * MINUTE], CREATED + 10 * MINUTE)


def test_all_that_was_missed_runs_a_limit_at_a_time() -> None:
    now = CREATED + 23 * MINUTE

    first, rest = due_occurrences(FIVE, next_run_at=CREATED + 5 * MINUTE, now=now, missed=Missed.ALL, limit=3)
    assert first == [CREATED + n * MINUTE for n in (5, 10, 15)]
    assert rest == CREATED + 20 * MINUTE

    assert due_occurrences(FIVE, next_run_at=rest, now=now, missed=Missed.ALL, limit=3) == (
        [CREATED + 20 * MINUTE],
        CREATED + 25 * MINUTE,
    )


def test_only_the_latest_of_what_was_missed_runs() -> None:
    due = due_occurrences(
        FIVE, next_run_at=CREATED + 5 * MINUTE, now=CREATED + 23 * MINUTE, missed=Missed.LATEST, limit=3
    )

    assert due == ([CREATED + 20 * MINUTE], CREATED + 25 * MINUTE)


@pytest.mark.parametrize(
    ("late", "runs"), [(60 * timedelta(seconds=1), [CREATED + 20 * MINUTE]), (60 * timedelta(seconds=1) + TICK, [])]
)
def test_what_is_more_than_a_minute_late_is_skipped(late: timedelta, runs: list[datetime]) -> None:
    for since in (5, 20):
        due = due_occurrences(
            FIVE,
            next_run_at=CREATED + since * MINUTE,
            now=CREATED + 20 * MINUTE + late,
            missed=Missed.SKIP,
            limit=3,
        )
        assert due == (runs, CREATED + 25 * MINUTE)


@pytest.mark.parametrize(("missed", "runs"), [(Missed.ALL, [CREATED]), (Missed.LATEST, [CREATED]), (Missed.SKIP, [])])
def test_a_late_once_leaves_an_exhausted_schedule(missed: Missed, runs: list[datetime]) -> None:
    due = due_occurrences(once(CREATED), next_run_at=CREATED, now=CREATED + DAY, missed=missed, limit=9)

    assert due == (runs, None)


@pytest.mark.parametrize("missed", Missed)
def test_a_schedule_past_its_end_is_exhausted(missed: Missed) -> None:
    bounded = every("rate(1 hour)", end_at=CREATED + 2 * HOUR)

    due, rest = due_occurrences(bounded, next_run_at=CREATED + HOUR, now=CREATED + 2 * HOUR, missed=missed, limit=9)

    assert due[-1] == CREATED + 2 * HOUR
    assert rest is None


def test_occurrences_still_ahead_are_given_and_never_count_as_missed() -> None:
    fast = every("rate(20 seconds)")
    now = CREATED + 10 * MINUTE + timedelta(seconds=5)
    old, coming = CREATED + 10 * MINUTE, [now + timedelta(seconds=seconds) for seconds in (15, 35, 55)]

    def ahead(missed: Missed, limit: int) -> tuple[list[datetime], datetime | None]:
        return due_occurrences(fast, next_run_at=CREATED + MINUTE, now=now, missed=missed, limit=limit, ahead=MINUTE)

    assert ahead(Missed.LATEST, 9) == ([old, *coming], coming[-1] + timedelta(seconds=20))
    assert ahead(Missed.LATEST, 2) == ([old, coming[0]], coming[1])
    skipping, rest = ahead(Missed.SKIP, 9)
    assert skipping == [old - timedelta(seconds=40), old - timedelta(seconds=20), old, *coming]
    assert rest == coming[-1] + timedelta(seconds=20)


# Bounded work.


@pytest.fixture
def cron_searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records every search of cronsim."""
    made: list[str] = []

    class Counted(cronsim.CronSim):
        def __next__(self) -> datetime:
            made.append(" ".join(self.parts))
            return super().__next__()

    monkeypatch.setattr(cronsim, "CronSim", Counted)
    return made


@pytest.mark.parametrize("missed", [Missed.LATEST, Missed.SKIP])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_ten_years_of_missed_minutes_are_not_walked_through(
    missed: Missed, zone: str | None, cron_searches: list[str]
) -> None:
    minutely = cron("* * * * *", zone)
    now = CREATED + 3653 * DAY + timedelta(seconds=30)

    due = due_occurrences(minutely, next_run_at=CREATED, now=now, missed=missed, limit=5)

    assert due == ([CREATED + 3653 * DAY], CREATED + 3653 * DAY + MINUTE)
    assert len(cron_searches) < 100


def test_a_crowd_of_missed_minutes_long_ago_is_not_walked_through(cron_searches: list[str]) -> None:
    crowded = cron("* * 1 1 *", start_at=CREATED + DAY)

    due, _ = due_occurrences(
        crowded, next_run_at=utc("2027-01-01"), now=utc("2027-06-01"), missed=Missed.LATEST, limit=5
    )

    assert due == [utc("2027-01-01T23:59")]
    assert len(cron_searches) < 100


def test_all_of_ten_missed_years_costs_no_more_than_its_limit(cron_searches: list[str]) -> None:
    minutely = cron("* * * * *", "Europe/Berlin")
    cron_searches.clear()

    due, _ = due_occurrences(minutely, next_run_at=CREATED, now=CREATED + 3653 * DAY, missed=Missed.ALL, limit=5)

    assert len(due) == 5
    assert len(cron_searches) <= 10


@pytest.mark.parametrize("missed", [Missed.LATEST, Missed.SKIP])
def test_thirty_years_of_missed_seconds_are_not_walked_through(missed: Missed, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[datetime] = []
    original = next_occurrence
    monkeypatch.setattr(
        occurrence_rules, "next_occurrence", lambda of, after: asked.append(after) or original(of, after)
    )

    due, _ = due_occurrences(
        every("rate(1 second)"), next_run_at=CREATED, now=CREATED + 10_958 * DAY, missed=missed, limit=100
    )

    assert due[-1] == CREATED + 10_958 * DAY
    assert len(asked) < 170


@pytest.mark.parametrize("expr", ["0 0 30 2 *", "0 0 LW * */7", "* 2 * 3 7L"])
def test_an_expression_that_never_fires_is_refused_after_bounded_work(expr: str, cron_searches: list[str]) -> None:
    with pytest.raises(InvalidScheduleError):
        cron(expr, "Europe/Berlin")

    assert len(cron_searches) < 250


@pytest.mark.parametrize("expr", ["* * 29 2 *", "0 0 29 2 *", "*/5 * * 2 MON#5"])
def test_a_far_occurrence_is_jumped_to(expr: str, cron_searches: list[str]) -> None:
    rare = cron(expr, "America/New_York")
    cron_searches.clear()

    found = next_occurrence(rare, utc("2072-03-02"))

    assert found is not None
    assert found > utc("2076-02-28")
    assert len(cron_searches) <= 4


def test_a_process_without_schedules_does_not_pay_for_cron_and_zones() -> None:
    package = Path(recurrence.__file__).parent.parent
    program = (
        "import sys, types\n"
        "bare = types.ModuleType('kumofire_core')\n"
        f"bare.__path__ = [{str(package)!r}]\n"
        "sys.modules['kumofire_core'] = bare\n"
        "import kumofire_core.rules.recurrence\n"
        "print(*sorted({'cronsim', 'zoneinfo', 'difflib', 'boto3', 'botocore'} & set(sys.modules)))\n"
    )

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout.split() == []


# Properties.

ZONES = [None, "UTC", *YEARS, "Asia/Kolkata", "Africa/Casablanca", "America/St_Johns", "Pacific/Chatham", "Asia/Gaza"]
# Every shift of the years above, and Samoa's, as seen from some zone: where the interesting times are.
SHIFTS = [
    *("2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T07:00", "2026-11-01T06:00", "2026-10-03T15:30"),
    *("2026-04-04T15:00", "2018-11-04T03:00", "2018-02-18T02:00", "2024-04-25T22:00", "2024-10-31T21:00"),
    *("2011-12-30T10:00", "2011-04-02T14:00", "2011-09-24T14:00"),
]


def field(low: int, high: int, *extra: str) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.lists(number, min_size=2, max_size=2, unique=True).map(lambda ends: f"{min(ends)}-{max(ends)}")
    longer = st.integers(low, high - 1).flatmap(
        lambda first: st.integers(first + 1, high).flatmap(
            lambda last: st.integers(1, last - first).map(lambda step: f"{first}-{last}/{step}")
        )
    )
    step = st.one_of(st.integers(1, high).map("*/{}".format), longer)
    item = st.one_of(number.map(str), span, step, *map(st.just, extra))
    return st.one_of(st.just("*"), st.lists(item, min_size=1, max_size=3).map(",".join))


PLAIN_CRON = st.tuples(
    field(0, 59),
    field(0, 23),
    st.one_of(st.just("*"), field(1, 31)),
    st.one_of(st.just("*"), field(1, 12)),
    st.one_of(st.just("*"), field(0, 7)),
).map(" ".join)
RICH_CRON = st.one_of(
    st.tuples(
        field(0, 59), field(0, 23), field(1, 31, "L", "LW"), field(1, 12, "JAN", "feb-APR"),
        field(0, 7, "SUN", "mon-FRI", "5L", "TUE#2", "7#5"),
    ).map("  ".join),
    st.sampled_from(["@hourly", "@daily", "@weekly", "@monthly", "@YEARLY"]),
)  # fmt: skip
MOMENTS = st.one_of(
    st.datetimes(datetime(2005, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),
    st.builds(lambda shift, offset: utc(shift) + offset, st.sampled_from(SHIFTS), st.timedeltas(-26 * HOUR, 26 * HOUR)),
)


@st.composite
def timings(draw: st.DrawFn) -> Timing:
    schedule_type = draw(st.sampled_from(["cron", "cron", "interval", "once"]))
    moments = st.datetimes(datetime(2005, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))
    expr: str | timedelta | datetime
    if schedule_type == "cron":
        expr = draw(RICH_CRON)
    elif schedule_type == "interval":
        expr = timedelta(seconds=draw(st.integers(1, 10**7)))
    else:
        expr = draw(st.one_of(moments, moments.map(lambda moment: f"at({moment:%Y-%m-%dT%H:%M:%S})")))
    ends = sorted(draw(st.tuples(moments, moments)))
    window = {"start_at": draw(st.sampled_from([None, ends[0]])), "end_at": draw(st.sampled_from([None, ends[1]]))}
    try:
        return timing(schedule_type, expr, draw(st.sampled_from(ZONES)), anchor=draw(moments), **window)
    except InvalidScheduleError as refusal:
        assume("can never fire" not in str(refusal))
        raise


def property_test(examples: int) -> Callable[[Any], Any]:
    # No deadline: the first use of a zone reads a file.
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@property_test(100)
@given(timings(), MOMENTS, st.floats(0, 1))
def test_occurrences_ascend_and_do_not_depend_on_where_the_iteration_starts(
    of: Timing, start: datetime, part: float
) -> None:
    found: list[datetime] = []
    moment: datetime | None = start
    while len(found) < 8 and (moment := next_occurrence(of, moment)) is not None:
        found.append(moment)

    assert all(before < after for before, after in pairwise([start, *found]))
    assert all(moment.utcoffset() == timedelta(0) for moment in found)
    assert all(of.start_at is None or of.start_at <= moment for moment in found)
    assert all(of.end_at is None or moment <= of.end_at for moment in found)
    for before, after in pairwise([start, *found]):
        assert next_occurrence(of, min(before + (after - before) * part, after - TICK)) == after
        assert next_occurrence(of, after - TICK) == after


@property_test(60)
@given(PLAIN_CRON, st.sampled_from(sorted(YEARS)), st.sampled_from(SHIFTS))
@example("0-59/7 0-5 * * *", "Australia/Lord_Howe", "2026-04-04T15:00")
@example("* * 30,31 * *", "Pacific/Apia", "2011-12-30T10:00")
def test_around_a_shift_any_expression_fires_as_a_cron_daemon_would(expr: str, zone: str, shift: str) -> None:
    start, end = utc(shift) - 26 * HOUR, utc(shift) + 26 * HOUR
    try:
        found = cron(expr, zone)
    except InvalidScheduleError as refusal:
        assume("can never fire" not in str(refusal))
        raise

    assert occurrences(found, after=start - TICK, until=end) == cron_daemon(expr, Clock(zone, start, end))


@property_test(100)
@given(timings(), MOMENTS, st.integers(0, 400), st.timedeltas(timedelta(0), 2 * HOUR))
def test_latest_is_the_last_of_all_and_skip_is_their_last_minute(
    of: Timing, start: datetime, count: int, late: timedelta
) -> None:
    first = next_occurrence(of, start)
    assume(first is not None)
    assert first is not None
    everything, now = [first], first
    while len(everything) <= count and (moment := next_occurrence(of, now)) is not None:
        everything.append(moment)
        now = moment
    now += late
    everything += occurrences(of, after=everything[-1], until=now)

    def due(missed: Missed) -> tuple[list[datetime], datetime | None]:
        return due_occurrences(of, next_run_at=first, now=now, missed=missed, limit=10_000)

    rest = next_occurrence(of, now)
    assert due(Missed.ALL) == (everything, rest)
    assert due(Missed.LATEST) == (everything[-1:], rest)
    assert due(Missed.SKIP) == ([moment for moment in everything if now - moment <= MINUTE], rest)


@property_test(100)
@given(timings(), MOMENTS)
def test_the_canonical_expression_parses_to_the_same_timing(of: Timing, later: datetime) -> None:
    again = parse_timing(
        schedule_type=of.schedule_type,
        schedule_expr=of.expr,
        timezone=of.timezone,
        start_at=of.start_at,
        end_at=of.end_at,
        anchor=of.anchor or later,
    )

    assert again == of
    assert next_occurrence(again, later) == next_occurrence(of, later)


PARTS = ["minutes", "hours", "days", "months", "weekdays"]
EVERYTHING = [set(range(60)), set(range(24)), set(range(1, 32)), set(range(1, 13)), set(range(7))]


def read_by_cronsim(expr: str) -> list[set[Any]]:
    fields = [set(getattr(cronsim.CronSim(expr, datetime(2026, 1, 1)), part)) for part in PARTS]
    fields[4] = {(day[0] % 7, day[1]) if isinstance(day, tuple) else day % 7 for day in fields[4]}
    return fields


def read_by_croniter(expr: str) -> list[set[Any]]:
    """croniter's reading, with its 2#1 and L5 for our MON#1 and 5L, in cronsim's form; it knows no LW."""
    *others, weekday = expr.split(" ")
    items = weekday.split(",")
    special = {
        (int(read_field(day, 0, 7, "SUN MON TUE WED THU FRI SAT").pop()) % 7, int(nth) if nth else -1000)
        for item in items
        if "#" in item or "L" in item
        for day, _, nth in [item.removesuffix("L").partition("#")]
    }
    plain = [item for item in items if "#" not in item and "L" not in item]
    days = others[2].split(",")
    last = {{"L": -1000, "LW": -1001}[day] for day in days if day in ("L", "LW")}
    others[2] = ",".join(day for day in days if day not in ("L", "LW")) or "1"
    found = croniter.expand(" ".join([*others, ",".join(plain) or "1"]))[0]
    fields = [full if "*" in read else set(read) for read, full in zip(found, EVERYTHING, strict=True)]
    fields[4] = {day % 7 for day in fields[4]}
    fields[2] = (fields[2] if len(last) < len(set(days)) else set()) | last
    fields[4] = (fields[4] if plain else set()) | special
    return fields


STRICT_CRON = st.tuples(
    field(0, 59, "5/20", "05"), field(0, 23, "*/24"), field(1, 31, "L", "LW"), field(1, 12, "JAN", "feb-APR", "MAR/3"),
    field(0, 7, "SUN", "mon-FRI", "5L", "TUE#2", "7#5", "7L", "SUN/2", "tue-sat/2"),
).map(" ".join)  # fmt: skip


def accepted(expr: str) -> str | None:
    """The canonical form of an expression, also of one that never fires; `None` for one that is refused."""
    try:
        return canonical_cron(expr)
    except InvalidScheduleError as refusal:
        assert len(str(refusal)) < 600  # noqa: PT017 (what a refusal is like is part of the promise)
        return None


@property_test(200)
@given(STRICT_CRON)
def test_what_is_written_by_the_rules_is_accepted_and_means_the_same_to_two_libraries(expr: str) -> None:
    canonical = accepted(expr)

    assert canonical is not None
    with suppress(cronsim.CronSimError):  # raised for a day that no month has, which is told as "can never fire"
        assert read_by_cronsim(canonical) == read_by_croniter(canonical)


@property_test(600)
@given(STRICT_CRON, st.data())
def test_a_slip_in_an_expression_is_refused_or_means_the_same_to_two_libraries(expr: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(expr) - 1))
        slip = data.draw(st.sampled_from([*"0123456789*/,-LW# SUMONFEB\t", "\xa0", "\u017f", "\u0663", "\xb2", ""]))
        expr = expr[:place] + slip + expr[place + data.draw(st.integers(0, 1)) :] or "*"
    canonical = accepted(expr)

    if canonical is not None:
        assert expr.isascii()
        assert canonical == " ".join(expr.upper().split())
        with suppress(cronsim.CronSimError):
            assert read_by_cronsim(canonical) == read_by_croniter(canonical)


def test_every_range_and_step_there_is_means_the_same_to_two_libraries_or_is_refused() -> None:
    taken = 0
    for index, (low, high) in enumerate([(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]):
        spans = ["*", *map(str, range(low, high + 1))]
        spans += [f"{first}-{last}" for first in range(low, high + 1) for last in {first, first + 1, high - 1, high}]
        for item in [*spans, *(f"{span}/{step}" for span in spans for step in (1, 2, 5, 7, high - 1, high, high + 1))]:
            expr = " ".join([*["*"] * index, item, *["*"] * (4 - index)])
            if accepted(expr):
                taken += 1
                assert read_by_cronsim(expr) == read_by_croniter(expr), expr
    assert taken > 1_000


@property_test(60)
@given(st.sampled_from(["cron", "interval", "once"]), st.text(max_size=40))
@example("cron", "²L * * * 5²L")
@example("cron", "* * * * ²L")
@example("cron", "* * * * #")
@example("once", "at(0001-01-01T00:00:00)")
@example("interval", "rate(٣ minutes)")
def test_no_text_breaks_the_parser(schedule_type: str, text: str) -> None:
    for zone in ("Asia/Tokyo", text):
        with suppress(InvalidScheduleError):
            assert timing(schedule_type, text, zone).expr
