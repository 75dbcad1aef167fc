"""What a page does by itself: its keys, its colours, its live update, and where the focus goes."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.conftest import Person, Place


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
