"""What a person at the keyboard relies on: rows on every list, keys that do what is said, a focus that stays."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Person, Place


@pytest.fixture
def schedule(place: Place) -> str:
    """Arrange a failed run and a schedule, and return the schedule's id."""
    place.table.a_run(
        "failed-1",
        status="failed",
        job_name="send-email",
        attempt=3,
        error_type="ValueError",
        last_error="ValueError: no such address",
        finished_at=1,
        list_shard="failed#1",
        list_at=1,
    )
    place.jobs.pause("resize-image", reason="the service moves")
    return place.jobs.create_schedule(
        "export-report", {"pages": 2}, schedule_type="cron", schedule_expr="0 6 * * *", timezone="Europe/Berlin"
    )


def keys_told(page: Page) -> list[str]:
    """Return the keys that the dialog of keys names, and close it."""
    page.keyboard.press("?")
    told = page.locator("#keys .keys div:visible dt").all_inner_texts()
    page.keyboard.press("Escape")
    return told


@pytest.mark.parametrize("path", ["/", "/runs", "/jobs", "/schedules"])
def test_j_and_enter_open_a_row_of_every_list(
    place: Place, person: Callable[..., Person], schedule: str, path: str
) -> None:
    page = person(place.served).goes_to(path)
    row = page.locator("tr[data-row]").first
    expect(row).to_be_visible()
    target = row.locator("a[data-open]").get_attribute("href")

    page.keyboard.press("j")
    page.keyboard.press("Enter")

    expect(page).to_have_url(f"http://127.0.0.1:{place.served.port}{target}")


def test_the_keys_that_are_told_are_those_that_the_page_has(
    place: Place, person: Callable[..., Person], schedule: str
) -> None:
    someone = person(place.served)

    told = {path: keys_told(someone.goes_to(path)) for path in ("/runs", "/jobs", "/dead-letters", "/runs/failed-1")}

    always = {"t", "Esc", "?", "g then o r j s d"}
    assert {path: set(keys) - always for path, keys in told.items()} == {
        "/runs": {"/", "j k", "Enter", "x", "r", "c", "l"},
        "/jobs": {"j k", "Enter", "l"},
        "/dead-letters": {"l"},
        "/runs/failed-1": {"r", "l"},
    }


def test_the_focus_stays_on_the_button_that_was_pressed(
    place: Place, person: Callable[..., Person], schedule: str
) -> None:
    page = person(place.served).goes_to(f"/schedules/{schedule}")

    page.get_by_role("button", name="Disable").press("Enter")

    expect(page.locator("#notices")).to_contain_text("is disabled")
    expect(page.get_by_role("button", name="Enable")).to_be_focused()


def test_the_focus_goes_to_what_stands_in_the_place_of_what_was_pressed(
    place: Place, person: Callable[..., Person], schedule: str
) -> None:
    page = person(place.served).goes_to("/runs/failed-1")

    page.get_by_role("link", name="Show payload").press("Enter")

    expect(page.locator("#run-payload .tree")).to_be_visible()
    assert page.evaluate("document.querySelector('#run-payload').contains(document.activeElement)")


def test_the_actions_of_a_schedule_follow_what_another_person_does(
    place: Place, person: Callable[..., Person], schedule: str
) -> None:
    page = person(place.served).goes_to(f"/schedules/{schedule}")
    expect(page.locator(".heading").get_by_role("button", name="Disable")).to_be_visible()

    place.jobs.disable_schedule(schedule)
    page.evaluate("document.body.dispatchEvent(new Event('refresh'))")

    expect(page.locator(".heading").get_by_role("button", name="Enable")).to_be_visible()
    expect(page.locator("#schedule")).to_contain_text("disabled")


def test_a_ranking_keeps_its_rows_while_somebody_points_at_it(
    place: Place, person: Callable[..., Person], schedule: str
) -> None:
    page = person(place.served).goes_to("/")
    row = page.locator("[data-still] tr[data-row]").first
    row.hover()
    page.evaluate("document.querySelector('[data-still] tr[data-row]').dataset.mark = 'as it was'")
    page.evaluate("document.querySelector('#as-of').textContent = 'as it was'")

    page.evaluate("document.body.dispatchEvent(new Event('refresh'))")
    expect(page.locator("#as-of")).to_contain_text("UTC")
    assert row.get_attribute("data-mark") == "as it was"

    page.mouse.move(0, 0)
    page.evaluate("document.body.dispatchEvent(new Event('refresh'))")
    expect(page.locator("[data-mark]")).to_have_count(0)


def test_what_asks_says_so_and_its_question_names_the_act(
    place: Place, person: Callable[..., Person], schedule: str
) -> None:
    page = person(place.served).goes_to("/runs/failed-1")

    page.get_by_role("button", name="Delete…", exact=True).press("Enter")

    expect(page.locator("#dialog button")).to_have_text(["Don\u2019t", "Delete"])
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Delete…", exact=True)).to_be_focused()


def test_a_key_that_is_pressed_twice_acts_once(place: Place, person: Callable[..., Person], schedule: str) -> None:
    page = person(place.served).goes_to("/runs?status=failed")
    posts: list[Route] = []
    page.route("**/runs/chosen", lambda route: posts.append(route))

    page.keyboard.press("j")
    page.keyboard.press("r")
    page.keyboard.press("r")
    page.wait_for_function("document.querySelector('#chosen button').disabled")
    posts[0].continue_()

    expect(page.locator("#notices .notice")).to_have_text(re.compile("Retried 1 run"))
    expect(page.locator("#chosen")).to_be_hidden()
    assert len(posts) == 1
    assert page.evaluate("document.activeElement.matches('tr[data-current] a[data-open]')")


def test_chosen_colours_come_with_every_page_and_from_the_first_paint(
    place: Place, person: Callable[..., Person]
) -> None:
    someone = person(place.served, color_scheme="light")
    page = someone.goes_to("/jobs")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)

    page.keyboard.press("t")
    page.keyboard.press("t")
    dark = page.evaluate(background)
    someone.goes_to("/schedules")
    html = page.evaluate("fetch(location.href).then((answer) => answer.text())")

    assert light != dark
    assert page.evaluate(background) == dark
    assert '<html lang="en" data-theme="dark">' in html
    page.keyboard.press("t")
    someone.goes_to("/schedules")
    assert page.evaluate(background) == light


def test_live_update_can_be_stopped_and_stays_so(place: Place, person: Callable[..., Person]) -> None:
    someone = person(place.served)
    page = someone.goes_to("/jobs")

    page.keyboard.press("l")
    expect(page.locator("[data-live-toggle]")).to_have_text("Not live")
    someone.goes_to("/")
    expect(page.locator("[data-live-toggle]")).to_have_text("Not live")
    page.locator("[data-live-toggle]").click()
    expect(page.locator("[data-live-toggle]")).to_have_text("Live")


def test_the_focus_returns_to_what_opened_a_dialog(place: Place, person: Callable[..., Person]) -> None:
    page = person(place.served).goes_to("/jobs")
    opener = page.get_by_text("Pause all jobs…")

    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")

    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()


def test_keys_of_the_page_do_nothing_while_somebody_writes(place: Place, person: Callable[..., Person]) -> None:
    page = person(place.served).goes_to("/runs")

    page.keyboard.press("/")
    page.keyboard.type("gjxrlt?")

    expect(page.get_by_label("Id or key")).to_have_value("gjxrlt?")
    expect(page.locator("#keys")).to_be_hidden()
    expect(page.locator("[data-live-toggle]")).to_have_text("Live")
