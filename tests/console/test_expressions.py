"""A schedule's timing in the console: the words are true, and what a person writes is read as they mean it."""

from __future__ import annotations

import itertools
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumofire_core.console.expressions import cron_in_words, explained, in_words, moment, read_timing
from kumofire_core.errors import InvalidArgumentError, InvalidScheduleError
from kumofire_core.model.schedule import ScheduleType, Timing
from kumofire_core.rules.cron import canonical_cron
from kumofire_core.rules.recurrence import CRON_ALIASES, next_occurrence, occurrences, parse_timing
from tests.builders import NOW

MINUTES = "* */1 */5 */7 */60 0 5 5,10 0-59 10-20 0-1 5/20 0/15 1-59/2 0-30/10 0,1,2 58,59 10-20,40"
HOURS = "* */1 */2 */24 0 9 9-17 0-23 9,17 9-10 0/6 22/1 1-23/2 0-12/3 9,10,11,12,13 9-17,20"
DAYS = "* */2 */1 */31 1 13 L LW 1-31 1-31/2 1/1 5/20 31 1,15 21,22 10-20 10-11 2-31 L,15 1,LW 1-30,31 2/2"
WEEKDAYS = (
    "* */2 */1 */7 0 7 5 FRI MON-FRI 1-7 0-6 0-7 5L MON#1 1,2,3,4,5,6,7 SUN-SAT 1-6/2 0/2 SUN,SAT SAT,SUN 1-5 FRI#2,5L"
)
MONTHS = "* 1 JAN */3 1-12 6-8 JAN-FEB 2,4,11"


def accepted(*expressions: str) -> list[str]:
    found = []
    for expr in expressions:
        try:
            found.append(canonical_cron(expr))
        except InvalidScheduleError:
            continue
    return found


def times_of(expr: str, count: int) -> tuple[datetime, ...]:
    timing = Timing(schedule_type=ScheduleType.CRON, expr=expr)
    return tuple(occurrences(timing, next_occurrence(timing, NOW), count))


@pytest.mark.long
@pytest.mark.parametrize(
    ("expressions", "count"),
    [
        ([f"{minute} {hour} * * *" for minute, hour in itertools.product(MINUTES.split(), HOURS)], 300),
        ([f"0 0 {day} * {weekday}" for day, weekday in itertools.product(DAYS.split(), WEEKDAYS)], 60),
        ([f"0 0 1 {month} {weekday}" for month, weekday in itertools.product(MONTHS.split(), ("*", "FRI", "0-7"))], 40),
    ],
    ids=["times", "days", "months"],
)
def test_expressions_in_the_same_words_fire_at_the_same_times(expressions: list[str], count: int):
    said: dict[str, dict[tuple[datetime, ...], str]] = defaultdict(dict)
    for expr in accepted(*expressions):
        said[cron_in_words(expr)].setdefault(times_of(expr, count), expr)

    assert len(said) > 10
    assert [list(by_times.values()) for by_times in said.values() if len(by_times) > 1] == []


@settings(deadline=None)
@given(
    st.tuples(
        *(
            st.lists(st.sampled_from(field.split()), min_size=1, max_size=3).map(",".join)
            for field in (MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS)
        )
    )
)
def test_every_accepted_expression_has_words(fields: tuple[str, ...]):
    for expr in accepted(" ".join(fields)):
        words = cron_in_words(expr)

        assert words != expr
        assert "None" not in words


@pytest.mark.parametrize("alias", CRON_ALIASES)
def test_a_short_name_has_the_words_of_what_it_stands_for(alias: str):
    assert cron_in_words(alias) == cron_in_words(CRON_ALIASES[alias]) != alias


@pytest.mark.parametrize(
    ("expr", "words"),
    [
        ("30 7 * * MON-FRI", "At 07:30 on Monday through Friday"),
        ("*/15 * * * *", "Every 15 minutes"),
        ("*/7 * * * *", "Every seventh minute of every hour"),
        ("0 0 13 * FRI", "At 00:00 on the 13th day of month or on Friday"),
        ("0 0 */2 * FRI", "At 00:00 on every second day of month if it's on Friday"),
        ("0 0 1-31 * FRI", "At 00:00 every day"),
        ("0 0 31 */2 *", "At 00:00 on the 31st day of every second month"),
        ("0 0 21,22,23 * *", "At 00:00 on the 21st, the 22nd, and the 23rd day of month"),
        ("0 0 LW * *", "At 00:00 on the last weekday of every month"),
    ],
)
def test_the_words_of_an_expression(expr: str, words: str):
    assert cron_in_words(expr) == words


@pytest.mark.parametrize("expr", ["", "* * *", "61 * * * MON#", "a b c d e"])
def test_what_a_damaged_item_holds_stands_for_itself(expr: str):
    assert cron_in_words(expr) == expr


def timing(kind: str, expr: Any, **given: Any) -> Timing:
    return parse_timing(schedule_type=kind, schedule_expr=expr, anchor=NOW, **given)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (timing("cron", "0 6 * * *", timezone="Europe/Berlin"), "At 06:00 every day, in Europe/Berlin."),
        (timing("cron", "@hourly"), "At the start of every hour, in UTC."),
        (
            timing("cron", "0 6 * * *", timezone="Asia/Tokyo", start_at=NOW, end_at=NOW + timedelta(days=1)),
            "At 06:00 every day, in Asia/Tokyo, from 2026-03-14 21:00 Asia/Tokyo, until 2026-03-15 21:00 Asia/Tokyo.",
        ),
        (timing("interval", timedelta(hours=1)), "Every hour, counted from the last change of its timing."),
        (
            timing("interval", timedelta(minutes=90), start_at=NOW + timedelta(seconds=5)),
            "Every 1 hour and 30 minutes, counted from 2026-03-14 12:00:05 UTC.",
        ),
        (timing("interval", timedelta(days=2)), "Every 2 days, counted from the last change of its timing."),
        (
            timing("once", "at(2026-12-01T09:00:00)", timezone="Europe/Berlin"),
            "Once, at 2026-12-01 09:00 Europe/Berlin.",
        ),
        (timing("once", "2026-12-01T09:00:00+01:00"), "Once, at 2026-12-01 08:00 UTC."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_timing_in_words_has_its_zone_and_its_window(of: Timing, words: str):
    assert in_words(of) == words


def written(kind: str, expr: str, *, timezone: str = "", start: str = "", end: str = "") -> Timing:
    return read_timing(kind=kind, expr=expr, timezone=timezone, start=start, end=end, now=NOW)


def test_a_time_without_an_offset_is_in_the_schedules_zone():
    found = written("cron", "0 6 * * *", timezone="Europe/Berlin", start="2026-07-01T09:00", end="2026-12-01T09:00Z")

    assert found.start_at == datetime(2026, 7, 1, 7, tzinfo=UTC)
    assert found.end_at == datetime(2026, 12, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "expr", "stored"),
    [
        ("interval", "15m", "rate(15 minutes)"),
        ("interval", "1h30m", "rate(90 minutes)"),
        ("interval", "rate(2 days)", "rate(2 days)"),
        ("once", "2026-12-01T09:30", "at(2026-12-01T09:30:00)"),
        ("once", "2026-12-01T09:30:00+01:00", "2026-12-01T08:30:00+00:00"),
        ("once", "2h", "2026-03-14T14:00:00+00:00"),
        ("cron", " 0 6  * * mon ", "0 6 * * MON"),
    ],
)
def test_an_expression_is_read_as_people_write_it(kind: str, expr: str, stored: str):
    assert written(kind, expr, timezone="Europe/Berlin").expr == stored


@pytest.mark.parametrize("text", ["tomorrow", "2026-13-01", "5x", "9" * 40 + "d", "2026-12-01T09:00 in Berlin"])
def test_a_time_that_is_none_is_refused_and_named(text: str):
    with pytest.raises(InvalidArgumentError, match="the start is"):
        moment("the start", text, None, NOW)


def test_a_zone_that_does_not_exist_is_refused_also_for_a_local_time():
    with pytest.raises(InvalidScheduleError):
        written("cron", "0 6 * * *", timezone="Europe/Berlyn", start="2026-07-01T09:00")


def test_what_is_wrong_with_an_expression_is_said_in_its_place():
    found = explained(lambda: written("cron", "0 25 * * *"), NOW, count=5)

    assert found.words is None
    assert found.times == ()
    assert "hour (field 2 of 5) has '25'" in str(found.problem)


def test_an_interval_that_stays_keeps_its_rhythm_and_a_changed_one_counts_from_now():
    kept = Timing(schedule_type=ScheduleType.INTERVAL, expr="rate(1 hour)", anchor=NOW + timedelta(minutes=7))

    same = explained(lambda: written("interval", "1h"), NOW, count=2, kept=kept)
    other = explained(lambda: written("interval", "2h"), NOW, count=1, kept=kept)

    assert same.times == (NOW + timedelta(minutes=7), NOW + timedelta(minutes=67))
    assert other.times == (NOW + timedelta(hours=2),)
