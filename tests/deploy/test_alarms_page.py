"""docs/alarms.md has every alarm, metric and widget of the stack, as the template has them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from examples.deployment import PROJECT, load_template
from kumofire_core.edge import telemetry

PAGE = (PROJECT / "docs/alarms.md").read_text()
TEMPLATE = load_template()
ALARMS: dict[str, Any] = {
    name: resource["Properties"]
    for name, resource in TEMPLATE["Resources"].items()
    if resource["Type"] == "AWS::CloudWatch::Alarm"
}
PARTS = ("**Goes off**", "**Means**", "**Look**", "**Do**", "**Harmless**")


def section(name: str) -> str:
    (text,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def goes_off(alarm: dict[str, Any]) -> str:
    """Return when an alarm goes off, as its section has to say it."""
    threshold = alarm["Threshold"]
    if isinstance(threshold, dict):
        threshold = f"`{threshold['Ref']}` ({TEMPLATE['Parameters'][threshold['Ref']]['Default']})"
    compared = {"GreaterThanOrEqualToThreshold": "at least", "LessThanThreshold": "less than"}
    periods, minutes = alarm["EvaluationPeriods"], alarm["Period"] // 60
    long = f"within {minutes} minutes" if periods == 1 else f"in each of {periods} periods of {minutes} minutes"
    return f"{compared[alarm['ComparisonOperator']]} {threshold} {long}"


def test_every_alarm_has_a_section_and_a_row() -> None:
    assert len(ALARMS) == 12
    assert set(re.findall(r"^## (\w+Alarm)$", PAGE, re.MULTILINE)) == set(ALARMS)
    assert set(re.findall(r"^\| \[`(\w+)`\]", PAGE, re.MULTILINE)) == set(ALARMS)


@pytest.mark.parametrize("name", ALARMS)
def test_a_section_says_when_its_alarm_goes_off_and_what_to_do(name: str) -> None:
    text, alarm = section(name), ALARMS[name]
    first = " ".join(text[text.index(PARTS[0]) :].split("\n\n")[0].split())

    assert [part for part in PARTS if part in text] == list(PARTS)
    assert f"`{alarm['MetricName']}`" in first
    assert goes_off(alarm) in first


def test_every_metric_has_a_row() -> None:
    (table,) = re.findall(r"^\| metric \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    rows = [row.split("|")[1] for row in table.strip().splitlines()[2:]]
    named = set(re.findall(r"`([A-Z]\w+)`", " ".join(rows)))
    source = (PROJECT / "kumofire_core/edge/telemetry.py").read_text()
    written = {*re.findall(r'name="([A-Z]\w+)"', source), *re.findall(r'name = "([A-Z]\w+)"', source)}
    written |= {*telemetry.OUTCOME_METRICS.values(), *telemetry.DISPATCH_METRICS.values()}

    assert len(written) > 20
    assert named == written


def test_every_widget_of_the_dashboard_has_a_row() -> None:
    body = TEMPLATE["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    widgets = json.loads(re.sub(r"\$\{[^}]+\}", "x", body))["widgets"]
    (table,) = re.findall(r"^\| widget \|.*", PAGE, re.MULTILINE | re.DOTALL)

    assert re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)[1:] == [
        widget["properties"]["title"] for widget in widgets
    ]
