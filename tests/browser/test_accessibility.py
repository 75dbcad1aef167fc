"""Each page, looked at by axe: no finding in light or dark, on a wide screen or a telephone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import Person, Place

LATER_MS = 4_000_000_000_000

PAGES = {
    "overview": "/",
    "runs": "/runs",
    "runs that failed": "/runs?status=failed&job=send-email&since=2h",
    "no runs": "/runs?q=nothing-has-this",
    "wrong filter": "/runs?since=yesterday-ish",
    "run": "/runs/failed-1",
    "running": "/runs/running-1",
    "jobs": "/jobs",
    "schedules": "/schedules",
    "schedule": "/schedules/{schedule}",
    "dead letters": "/dead-letters",
    "nothing": "/nothing-here",
}

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "telephone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True},
}


@pytest.fixture
def schedule(place: Place) -> str:
    """Arrange a little of everything, and return a schedule's id."""
    for number in range(3):
        place.table.a_run(
            f"failed-{number}",
            status="failed",
            job_name="send-email",
            attempt=3,
            error_type="ValueError",
            last_error="ValueError: no such address",
            finished_at=1,
            list_shard=f"failed#{number}",
            list_at=1,
        )
    place.table.a_run("running-1", status="running", claims=1, lease_token="held", lease_until=LATER_MS)
    place.jobs.pause("resize-image", reason="the service moves")
    return place.jobs.create_schedule(
        "export-report", {"pages": 2}, schedule_type="cron", schedule_expr="0 6 * * *", timezone="Europe/Berlin"
    )


@pytest.mark.parametrize("look", LOOKS)
def test_no_page_has_a_finding(place: Place, person: Callable[..., Person], schedule: str, look: str) -> None:
    someone = person(place.served, **LOOKS[look])
    someone.expected = ["422", "404"]
    findings = []

    for name, path in PAGES.items():
        page = someone.goes_to(path.format(schedule=schedule))
        page.wait_for_load_state("networkidle")
        results = Axe().run(page)
        findings += [
            f"{name}: {found['id']}: {node['html'][:200]} ({node['failureSummary']})"
            for found in results.response["violations"]
            for node in found["nodes"]
        ]
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            findings.append(f"{name}: it is {wide} px wider than the screen")

    assert findings == []
