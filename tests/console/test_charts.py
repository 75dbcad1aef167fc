"""The bars of a chart are as high as their numbers say, and stand where their minutes are."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumofire_core.console.charts import BELOW, TOP, Chart, Minute, stacked, step_of
from tests.builders import NOW


def minutes(*values: dict[str, int]) -> list[Minute]:
    return [Minute(NOW + timedelta(minutes=number), each) for number, each in enumerate(values)]


def heights(chart: Chart) -> list[dict[str, float]]:
    return [{part.series: part.height for part in bar.parts} for bar in chart.bars]


def test_a_bar_is_as_high_as_its_number_on_the_scale_of_the_ticks() -> None:
    chart = stacked(minutes({"failed": 20}, {"failed": 5}, {"failed": 10}), height=140)

    assert [tick.value for tick in chart.ticks] == [0, 5, 10, 15, 20]
    assert heights(chart) == [{"failed": 140}, {"failed": 35}, {"failed": 70}]
    assert [bar.parts[0].y for bar in chart.bars] == [TOP, TOP + 105, TOP + 70]


def test_a_bar_ends_at_the_tick_of_its_number() -> None:
    chart = stacked(minutes({"failed": 15}, {"failed": 20}), height=140)

    [tick] = [tick for tick in chart.ticks if tick.value == 15]
    assert chart.bars[0].parts[0].y == tick.y


def test_the_series_of_a_bar_stand_one_upon_the_other_from_the_base_line_on() -> None:
    chart = stacked(minutes({"failed": 4, "retried": 6, "succeeded": 10}), height=100)

    parts = [(part.series, part.y + part.height, part.y) for part in chart.bars[0].parts]

    assert parts == [
        ("failed", chart.base, chart.base - 20),
        ("retried", chart.base - 20, chart.base - 50),
        ("succeeded", chart.base - 50, chart.base - 100),
    ]


def test_one_failure_among_thousands_keeps_its_true_height_and_its_number_in_words() -> None:
    chart = stacked(minutes({"failed": 1, "succeeded": 1_999}), height=140)

    assert heights(chart) == [{"failed": 0.07, "succeeded": 139.93}]
    assert chart.bars[0].label == "12:00 UTC: 1 failed, 1,999 succeeded"


def test_a_minute_without_anything_has_room_and_no_bar() -> None:
    chart = stacked(minutes({"failed": 0}, {"failed": 2}), height=140)

    assert heights(chart) == [{}, {"failed": 140}]
    assert (chart.bars[0].left, chart.bars[0].room) == ("0%", "50%")


def test_bars_stand_side_by_side_over_the_whole_width() -> None:
    chart = stacked(minutes(*[{"failed": 1}] * 4), height=140)

    assert [bar.left for bar in chart.bars] == ["0%", "25%", "50%", "75%"]
    assert [bar.x for bar in chart.bars] == ["2.75%", "27.75%", "52.75%", "77.75%"]
    assert {bar.width for bar in chart.bars} == {"19.5%"}


def test_times_stand_below_the_middle_of_every_tenth_minute() -> None:
    chart = stacked(minutes(*[{"failed": 1}] * 25), height=140)

    assert [(mark.text, mark.x) for mark in chart.marks] == [("12:00", "2%"), ("12:10", "42%"), ("12:20", "82%")]


def test_the_last_bars_are_marked_as_not_complete() -> None:
    chart = stacked(minutes(*[{"failed": 1}] * 4), height=140, partial=2)

    assert [bar.partial for bar in chart.bars] == [False, False, True, True]


def test_a_chart_of_nothing_keeps_its_height() -> None:
    nothing, something = stacked([], height=140), stacked(minutes({"failed": 7}), height=140)

    assert (nothing.height, nothing.base) == (something.height, something.base) == (TOP + 140 + BELOW, TOP + 140)
    assert (nothing.bars, nothing.marks) == ((), ())
    assert [tick.value for tick in stacked(minutes({"failed": 0}), height=140).ticks] == [0, 1]


@pytest.mark.parametrize(
    ("most", "step"),
    [
        (0, 1),
        (1, 1),
        (4, 1),
        (5, 2),
        (8, 2),
        (9, 5),
        (20, 5),
        (21, 10),
        (40, 10),
        (41, 20),
        (1_234, 500),
        (9_999, 5_000),
    ],
)
def test_ticks_are_at_numbers_that_people_count_by(most: int, step: int) -> None:
    assert step_of(most) == step


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=60))
def test_no_bar_leaves_the_drawing_and_there_are_few_ticks(values: list[tuple[int, int]]) -> None:
    chart = stacked(minutes(*({"failed": failed, "succeeded": ok} for failed, ok in values)), height=140)

    assert 2 <= len(chart.ticks) <= 5
    assert chart.ticks[-1].y == TOP
    for bar, (failed, ok) in zip(chart.bars, values, strict=True):
        assert all(part.y >= TOP - 0.01 and part.y + part.height <= chart.base + 0.02 for part in bar.parts)
        drawn = sum(part.height for part in bar.parts)
        assert drawn == pytest.approx(140 * (failed + ok) / chart.ticks[-1].value, abs=0.02)
