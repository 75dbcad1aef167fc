"""The bad night of docs/bad-night.md in the console: by mouse, and by keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from examples.console_demo import deliver
from tests.browser.conftest import Person, Place

FAILED = 30


@pytest.fixture
def failed(place: Place) -> list[str]:
    """Let 30 receipts fail for a mistake in a template, among runs that do well and one that fails otherwise."""
    place.world.template_is_broken = True
    receipts = [
        place.jobs.create("send-email", {"to": f"c{number}@example.com", "template": "receipt"}, max_attempts=1)
        for number in range(FAILED)
    ]
    others = [place.jobs.create("send-email", {"to": "x", "template": "welcome"}) for _ in range(20)]
    others.append(place.jobs.create("charge-card", {"order": 1, "cents": 95_000}, dedupe_key="order-1"))
    deliver(place.jobs, receipts + others)
    return receipts


def statuses(place: Place, run_ids: list[str]) -> set[str]:
    return {str((place.table.item(run_id) or {}).get("status")) for run_id in run_ids}


def settle(place: Place, page: Page, run_ids: list[str], status: str) -> None:
    """Wait until all runs have a status in the table."""
    for _ in range(150):
        if statuses(place, run_ids) == {status}:
            return
        page.wait_for_timeout(200)
    assert statuses(place, run_ids) == {status}


def test_from_the_overview_to_the_last_retried_run_by_mouse(
    place: Place, person: Callable[..., Person], failed: list[str]
) -> None:
    someone = person(place.served)
    page = someone.goes_to("/")

    # The overview says what fails, and how many errors that is.
    fails = page.get_by_role("row").filter(has_text="TemplateError")
    expect(fails).to_contain_text(str(FAILED))
    fails.get_by_role("link", name=str(FAILED)).click()
    expect(page).to_have_url(re.compile("status=failed"))
    expect(page.locator("tr[data-row]")).to_have_count(FAILED)

    # One of them tells why.
    page.locator("a[data-open]").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("send-email")
    expect(page.locator("main")).to_contain_text("'order.totl' is undefined")
    expect(page.locator("main")).to_contain_text("raise TemplateError(")
    expect(page.locator("main")).not_to_contain_text('"template"')
    page.get_by_text("Show payload").click()
    expect(page.locator("main")).to_contain_text('"receipt"')
    page.go_back()

    # The mistake is mended, and all that fit the filter are retried, after they were counted.
    place.world.template_is_broken = False
    place.start_work()
    page.locator(".fitting").get_by_text("Retry…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Retry {FAILED} runs?")
    dialog.get_by_role("button", name="Retry").click()
    expect(page).to_have_url(re.compile("/bulk/"))
    expect(page.locator("#bulk")).to_contain_text("Done")
    expect(page.locator("#bulk dd").nth(1)).to_have_text(str(FAILED))

    settle(place, page, failed, "succeeded")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("row").filter(has_text="TemplateError")).to_have_count(0, timeout=20_000)
    expect(page.get_by_role("row").filter(has_text="Fail").filter(has_text="charge-card")).to_have_count(1)


def test_the_same_by_keyboard_alone(place: Place, person: Callable[..., Person], failed: list[str]) -> None:
    place.world.template_is_broken = False
    place.start_work()
    someone = person(place.served)
    page = someone.goes_to("/")
    press = page.keyboard.press

    press("g")
    press("r")
    expect(page).to_have_url(re.compile("/runs$"))
    press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keys")
    press("Escape")
    press("/")
    page.keyboard.type("order-1")
    expect(page.locator("tr[data-row]")).to_have_count(1)
    expect(page).to_have_url(re.compile("q=order-1"))
    press("Escape")
    press("j")
    press("Enter")
    expect(page.locator("main")).to_contain_text("the card's limit is exceeded")
    page.go_back()
    expect(page.get_by_label("Id or key")).to_have_value("order-1")
    page.get_by_label("Id or key").press("ControlOrMeta+a")
    press("Delete")
    expect(page.locator("tr[data-row]").nth(5)).to_be_visible()
    press("Escape")

    # Three rows, chosen one by one, are retried.
    first = page.locator("tr[data-row]")
    for _ in range(3):
        press("j")
        press("x")
    chosen = [str(first.nth(index).get_attribute("data-row")) for index in range(3)]
    expect(page.locator("#chosen")).to_contain_text("3 chosen")
    press("k")
    press("x")
    expect(page.locator("#chosen")).to_contain_text("2 chosen")
    press("x")
    press("r")
    expect(page.locator("#notices")).to_contain_text("Retried 3 runs")
    retried = [run_id for run_id in chosen if run_id in failed]
    settle(place, page, retried, "succeeded")


def test_a_cancellation_is_undone_by_its_key(place: Place, person: Callable[..., Person]) -> None:
    from datetime import UTC, datetime, timedelta

    due = datetime.now(UTC) + timedelta(days=1)
    run_ids = [place.jobs.create("send-email", {"template": "x", "to": "y"}, run_at=due) for _ in range(3)]
    before = {run_id: (place.table.item(run_id) or {})["scheduled_for"] for run_id in run_ids}
    page = person(place.served).goes_to("/runs?status=scheduled")

    expect(page.locator("tr[data-row]")).to_have_count(3)
    page.keyboard.press("Shift+X")
    page.keyboard.press("c")
    expect(page.locator("#notices")).to_contain_text("Canceled 3 runs")
    assert statuses(place, run_ids) == {"canceled"}
    page.keyboard.press("u")
    expect(page.locator("#notices")).to_contain_text("Undone: 3 runs as before")
    assert statuses(place, run_ids) == {"scheduled"}
    assert {run_id: (place.table.item(run_id) or {})["scheduled_for"] for run_id in run_ids} == before
