"""Pages that are old, and people who act at once: nothing is harmed, and the page says what happened."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from examples.console_demo import deliver
from tests.browser.conftest import Person, Place

MAIL = {"to": "c@example.com", "template": "receipt"}


def stop_live_update(page: Page) -> None:
    """Keep the page as it is now."""
    page.keyboard.press("l")
    expect(page.locator("[data-live-toggle]")).to_have_attribute("aria-pressed", "false")


def a_failed_run(place: Place) -> str:
    place.world.template_is_broken = True
    run_id = place.jobs.create("send-email", MAIL, max_attempts=1)
    deliver(place.jobs, [run_id])
    place.world.template_is_broken = False
    return run_id


def test_an_old_page_s_cancellation_of_a_run_that_has_ended_says_so(
    place: Place, person: Callable[..., Person]
) -> None:
    run_id = place.jobs.create("send-email", MAIL)
    someone = person(place.served)
    someone.expected = ["409"]
    page = someone.goes_to(f"/runs/{run_id}")
    stop_live_update(page)
    deliver(place.jobs, [run_id])
    stored = place.table.item(run_id)

    page.locator("[data-key='c']").click()

    expect(page.locator("#notices")).to_contain_text("has succeeded meanwhile")
    expect(page.locator(".run-head .status")).to_have_text("succeeded")
    assert place.table.item(run_id) == stored


def test_an_old_list_leaves_runs_that_have_changed(place: Place, person: Callable[..., Person]) -> None:
    run_ids = [a_failed_run(place) for _ in range(3)]
    page = person(place.served).goes_to("/runs?status=failed")
    expect(page.locator("tr[data-row]")).to_have_count(3)
    stop_live_update(page)
    place.jobs.retry(run_ids[0])
    deliver(place.jobs, run_ids[:1])
    stored = place.table.item(run_ids[0])

    page.get_by_label("Choose all rows").check()
    page.locator("#chosen").get_by_role("button", name="Retry").click()

    expect(page.locator("#notices")).to_contain_text("Retried 2 runs")
    expect(page.locator("#notices")).to_contain_text("1 has changed meanwhile")
    assert place.table.item(run_ids[0]) == stored


def test_two_people_retry_the_same_run_and_it_is_retried_once(place: Place, person: Callable[..., Person]) -> None:
    run_id = a_failed_run(place)
    alice, bob = person(place.served), person(place.served)
    bob.expected = ["409"]
    for each in (alice, bob):
        stop_live_update(each.goes_to(f"/runs/{run_id}"))

    alice.page.keyboard.press("r")
    expect(alice.page.locator("#notices .notice.done")).to_be_visible()
    bob.page.keyboard.press("r")

    expect(bob.page.locator("#notices .notice.stale")).to_contain_text("Nothing was changed")
    assert (place.table.item(run_id) or {})["retries"] == 1
    expect(bob.page.locator(".run-head .status")).to_have_text("queued")


def test_a_schedule_that_somebody_else_changed_is_not_overwritten(place: Place, person: Callable[..., Person]) -> None:
    schedule_id = place.jobs.create_schedule("send-email", MAIL, schedule_type="cron", schedule_expr="0 6 * * *")
    alice, bob = person(place.served), person(place.served)
    bob.expected = ["409", "422"]
    for each in (alice, bob):
        each.goes_to(f"/schedules/{schedule_id}").get_by_text("Edit", exact=True).click()
        each.page.get_by_label("Expression").fill(f"0 {7 if each is alice else 8} * * *")

    alice.page.get_by_role("button", name="Save").click()
    expect(alice.page.locator("main")).to_contain_text("At 07:00")
    bob.page.get_by_role("button", name="Save").click()

    expect(bob.page.locator("body")).to_contain_text("changed")
    schedule = place.jobs.get_schedule(schedule_id)
    assert schedule is not None
    assert schedule.schedule_expr == "0 7 * * *"


def test_a_row_stays_in_its_place_while_its_run_changes_and_what_is_chosen_stays_chosen(
    place: Place, person: Callable[..., Person]
) -> None:
    run_ids = [a_failed_run(place) for _ in range(4)]
    page = person(place.served).goes_to("/runs?status=failed")
    rows = page.locator("tr[data-row]")
    expect(rows).to_have_count(4)
    order = [row.get_attribute("data-row") for row in rows.all()]
    page.keyboard.press("j")
    page.keyboard.press("x")
    box = rows.nth(2).bounding_box()

    place.jobs.retry(str(order[1]))
    a_failed_run(place)
    page.evaluate("document.body.dispatchEvent(new Event('refresh'))")

    expect(rows.nth(1).locator(".status")).to_have_text("queued")
    assert [row.get_attribute("data-row") for row in rows.all()] == order
    expect(rows.first.locator("input[data-choice]")).to_be_checked()
    expect(page.locator("#chosen")).to_contain_text("1 chosen")
    expect(page.get_by_text("Newer runs")).to_be_visible()
    assert run_ids
    assert box is not None
    moved = rows.nth(2).bounding_box()
    assert moved is not None
    assert abs(moved["y"] - box["y"]) < 60
