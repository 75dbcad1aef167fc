"""Every benchmark runs, counts what it must count, and gives ratios that can be read. Nothing here is timed."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as bench
from benchmarks import ceilings, endpoint, growth, report
from benchmarks.measure import Row
from benchmarks.prices import Prices

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="benchmarks run on Linux"),
]


# One run serves all tests of a process; write units need DynamoDB Local, which no test has.
os.environ["DYNAMODB_LOCAL"] = os.devnull


@cache
def measured(name: str, *, path: str | None = None) -> dict[str, Row]:
    rows = bench.run(name, 1, quick=True)
    assert rows is not None, "it says why on stderr"
    return {row.what: row for row in rows}


@pytest.mark.parametrize("name", bench.BENCHMARKS)
def test_a_short_run_gives_ratios_above_zero(name: str):
    for row in measured(name).values():
        if row.value is None:
            assert row.detail, f"{row.what} says why it was not measured"
        else:
            assert 0 < row.value < math.inf


def test_requests_are_counted_exactly():
    consume, batch = measured("consume"), measured("batch")
    create, dispatch = measured("create"), measured("dispatch")

    assert consume["requests to DynamoDB for a run that succeeds"].value == 2
    assert batch["requests for a batch of ten (one core)"].value == 20
    assert 2 <= batch["requests for a batch of ten, writes together (one core)"].value <= 11
    assert create["create_many: SQS requests a run"].value == 0.1
    assert dispatch["due runs that one pass dispatched"].value == 160
    assert dispatch["the pass: SQS requests a run"].value == 0.1


def test_the_endpoint_without_a_c_compiler_answers_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "")

    with endpoint.running_endpoint() as slow:
        assert "no C compiler" in slow.note

    assert measured("consume", path="")["requests to DynamoDB for a run that succeeds"].value == 2
    assert measured("dispatch", path="")["due runs that one pass dispatched"].value == 160


def test_the_page_keeps_its_words_and_gets_tables_and_plots(tmp_path: Path):
    page = tmp_path / "benchmarks.md"
    page.write_text(f"before\n{report.BEGIN}old{report.END}\nafter\n")
    rows = [
        Row(what="ours < theirs", value=0.5, low=0.4, high=0.6, at_most=0.7),
        Row(what="b", value=None, detail="why"),
    ]

    report.write(tmp_path, {"consume": rows}, heading="now")

    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "0.5 ✓" in text
    assert "not measured" in text
    ElementTree.parse(tmp_path / "benchmark-consume.svg")


def test_what_was_not_measured_now_stays_on_the_page_with_its_own_date(tmp_path: Path):
    page = tmp_path / "benchmarks.md"
    page.write_text(f"{report.BEGIN}{report.END}\n")
    report.write(tmp_path, {"worker": [Row(what="w", value=1)], "consume": [Row(what="c", value=2)]}, heading="first")

    report.write(tmp_path, {"consume": [Row(what="c", value=3)]}, heading="second")

    consume, worker = page.read_text().split("### ")[1:]
    assert "Measured second." in consume
    assert "| c | 3 " in consume
    assert "Measured first." in worker
    assert "| w | 1 " in worker


def test_write_units_are_those_that_dynamodb_local_reports():
    assert growth.write_units(growth.Load()) == 5
    assert [growth.write_units(growth.Load(payload_kb=size)) for size in growth.PAYLOAD_KB] == [8, 35, 305, 1055]
    beside = [growth.units_beside(growth.Load(payload_kb=size)) for size in growth.PAYLOAD_KB]
    assert beside == [(7, 1), (16, 3), (106, 26), (356, 88)]


def test_from_a_break_even_on_a_layout_costs_less_and_just_before_it_does_not():
    prices = Prices()
    layouts = (growth.per_run, growth.per_run_beside, growth.per_run_s3)
    for layout, other in ((layouts[1], layouts[0]), (layouts[2], layouts[0]), (layouts[2], layouts[1])):
        size = growth.cheaper_from(layout, other, prices)
        before, there = (growth.Load(payload_kb=kb) for kb in (size - 0.1, size))
        assert layout(there, prices) < other(there, prices)
        assert layout(before, prices) >= other(before, prices)
        assert all(
            layout(growth.Load(payload_kb=kb), prices) < other(growth.Load(payload_kb=kb), prices) for kb in (50, 350)
        )


def test_costs_grow_with_runs_and_never_fall():
    months = [growth.month(runs, growth.Load(), Prices()) for runs in growth.RUNS_A_MONTH]

    assert months == sorted(months)
    assert months[0] < 1


def test_a_backlog_drains_by_what_consumers_can_do_more():
    backlog = growth.drain(capacity=2, outage_seconds=90, handler_seconds=1)

    # 90 s of runs wait, two are executed for each that comes; nothing waits long enough to be sent again.
    assert backlog.drained_after_seconds == pytest.approx(90, abs=2 * growth.STEP_SECONDS)
    assert backlog.copies_a_run == 0


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("factor", [1.05, 1.25, 1.5, 2, 3, 5])
def test_consumers_faster_than_the_arrivals_drain_an_hours_backlog_with_few_copies(factor: float, seconds: float):
    backlog = growth.drain(capacity=factor, outage_seconds=3600, handler_seconds=seconds)

    assert backlog.drained_after_seconds is not None
    assert backlog.drained_after_seconds <= 1.05 * 3600 / (factor - 1) + 60
    assert backlog.copies_a_run <= 0.1


def test_a_million_runs_due_in_one_minute_are_sent_within_two():
    assert ceilings.seconds_to_send(1_000_000, shards=32) <= 120
    assert ceilings.seconds_to_send(1_000_000, shards=8, spread=False) > 1800


@pytest.mark.parametrize("name", ["growth-cost.svg", "growth-payload.svg"])
def test_plots_are_well_formed(name: str):
    ElementTree.fromstring(growth.plots(Prices())[name])
