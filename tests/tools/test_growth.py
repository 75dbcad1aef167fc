"""The page of growth: what is on it is what is calculated, from what was counted. No duration is asserted on."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ceilings, features, growth, units
from benchmarks.prices import Prices, money
from kumofire_core.testing.dynamodb import MemoryDynamoDB

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "growth.md").read_text(encoding="utf-8")


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_the_page_shows_what_is_calculated_now():
    shown = PAGE.partition(growth.BEGIN)[2].partition(growth.END)[0]

    assert shown == growth.tables(Prices()), "call `python -m benchmarks.growth --docs docs`"


def test_the_summary_says_what_is_calculated():
    summary = PAGE.partition("\n## Prices")[0]
    million = growth.month(1e6, growth.Load(), Prices())
    cents = features.day_of("the overview", Prices())[3] * 100

    assert f"{growth.write_units(growth.Load()):g}" == "5"
    assert "costs five write units" in summary
    assert f"about\n  {million:.0f} dollars" in summary
    assert f"From {growth.cheaper_from(growth.per_run_s3, growth.per_run, Prices()):g} KB on" in summary
    assert f"a page of 50 runs costs {features.COUNTED['a page of 50 runs'].reads:g} read units" in summary
    assert f"overview {cents:.0f} cents" in summary
    assert f"sends {ceilings.sent_in_a_tick(8):,} runs" in summary
    assert f"makes runs of {ceilings.fired_in_a_tick():,} in a minute" in summary


def test_every_price_that_is_calculated_with_is_in_the_table_of_prices():
    listed = set(re.findall(r"\d+(?:\.\d+)?", PAGE.partition("\n## Prices")[2].partition("\n## What is counted")[0]))

    for field in fields(Prices):
        value = getattr(Prices(), field.name)
        ways = {f"{value:g}", f"{value * 1e6:g}", f"{value:.2f}", f"{value * 1e6:.2f}", f"{value:.10f}", f"{value:.8f}"}
        if field.name == "fargate_spot_share":
            ways = {f"{100 - 100 * value:.0f}"}
        assert ways & listed, field.name


@pytest.mark.parametrize(
    ("field", "table"),
    [
        ("write_unit", features.extras_table),
        ("sqs_request", features.extras_table),
        ("read_unit", features.looks_table),
        ("read_unit", features.console_table),
        ("fargate_vcpu_hour", features.worker_table),
        ("lambda_gb_second", features.worker_table),
    ],
)
def test_a_change_of_a_price_changes_the_tables(field: str, table: Callable[[Prices], str]):
    dearer = replace(Prices(), **{field: getattr(Prices(), field) * 10})

    assert table(dearer) != table(Prices())


def test_no_cell_of_the_tables_says_never():
    assert not [line for line in PAGE.splitlines() if line.startswith("|") and "never" in line.lower()]


def test_the_requests_that_are_priced_are_those_that_the_library_makes(quiet: None):
    found = units.counted(MemoryDynamoDB(lambda: int(time.time() * 1000)))

    assert {what: each.requests for what, each in found.items()} == {
        what: each.requests for what, each in features.COUNTED.items()
    }


@pytest.mark.dynamodb_local
def test_the_units_that_are_priced_are_those_that_dynamodb_local_counts(dynamodb_local: Any, quiet: None):
    found = units.counted(dynamodb_local, f"units-{uuid.uuid4().hex[:8]}")

    for what, counted in features.COUNTED.items():
        # How ids spread over partitions, and so where half units are rounded, differs from time to time.
        assert found[what].writes == pytest.approx(counted.writes, abs=0), what
        assert found[what].reads == pytest.approx(counted.reads, rel=0.05, abs=1), what


def test_an_idle_pass_takes_what_was_counted():
    assert growth.idle_reads(8) == features.COUNTED["a pass with nothing due"].reads


@pytest.mark.parametrize("minutes", [5, 60])
def test_the_formula_for_counts_gives_what_was_counted(minutes: int):
    formula = features.stats_reads(minutes=minutes, listed=units.FAILED, unfinished=units.WAITING + units.MEMBERS)

    assert features.EXAMINED_WHEN_COUNTED == units.WAITING + units.MEMBERS
    assert formula == pytest.approx(features.COUNTED[f"stats of {minutes} minutes"].reads, rel=0.1)


def test_a_run_and_its_failed_attempts_cost_what_the_model_says():
    plain = features.COUNTED["a run that succeeds"]

    assert plain.writes == features.PLAIN_WRITES == growth.write_units(growth.Load())
    assert features.COUNTED["a run that succeeds at attempt 4"].writes == plain.writes + 3 * 4


def test_runs_due_in_one_minute_are_on_time_while_sending_takes_no_longer_than_it_begins_ahead():
    assert ceilings.LEAST_AHEAD_SECONDS == 30
    assert ceilings.late_seconds(ceilings.seconds_to_send(80_000, shards=8)) == 0
    assert ceilings.late_seconds(ceilings.seconds_to_send(120_000, shards=8)) > 0


def test_what_a_tick_can_send_is_sent_before_the_next_one():
    for shards in (8, 32):
        most = ceilings.sent_in_a_tick(shards)
        assert ceilings.seconds_to_send(most, shards=shards) <= ceilings.PASS_SECONDS + 1
        assert ceilings.seconds_to_send(2 * most, shards=shards) > ceilings.TICK_SECONDS


def test_schedules_beyond_a_pass_wait_for_the_next_one():
    most = ceilings.fired_in_a_tick()

    assert ceilings.firing(most).seconds <= ceilings.PASS_SECONDS
    assert ceilings.firing(2 * most).seconds > ceilings.TICK_SECONDS
    assert ceilings.firing(1_000, overlap="skip").seconds > ceilings.firing(1_000).seconds


def test_the_dispatchers_function_has_the_timeout_that_is_calculated_with():
    template = (ROOT / "template.yaml").read_text(encoding="utf-8")
    dispatcher = template.partition("\n  Dispatcher:\n")[2]

    assert re.search(r"^      Timeout: (\d+)$", dispatcher, re.MULTILINE)[1] == str(ceilings.TIMEOUT_SECONDS)  # type: ignore[index]


def test_where_the_task_becomes_cheaper_both_cost_the_same():
    prices, hours = Prices(), features.cheaper_hours(Prices())
    renewals = hours * features.RENEWALS_AN_HOUR * 3 * prices.write_unit
    looks = hours * features.LOOKS_AN_HOUR * prices.write_unit

    assert hours * features.function_hour(prices) == pytest.approx(features.task_month(prices) + renewals + looks)


def test_half_a_cent_is_rounded_up():
    assert [money(each) for each in (0.625, 0.004, 0.0049999, 99.994, 100.4)] == [
        "0.63",
        "< 0.01",
        "< 0.01",
        "99.99",
        "100",
    ]
