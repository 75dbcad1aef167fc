"""Parts of pages that update themselves: nothing flickers or jumps, and nothing that a person does gets lost by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, Route, expect

from kumofire_core.model.times import to_ms
from tests.browser.conftest import Person, Place


@pytest.fixture
def failures(place: Place) -> None:
    for number in range(3):
        place.table.a_run(
            f"failed-{number}",
            without=("wake_shard", "wake_at"),
            status="failed",
            job_name="send-email",
            error_type="ValueError",
            finished_at=to_ms(datetime.now(UTC)),
            list_shard=f"failed#{number}",
            list_at=to_ms(datetime.now(UTC) - timedelta(minutes=number)),
        )


def loaded(page: Page) -> None:
    expect(page.locator("#card-failed .value")).to_have_text("3")


@pytest.mark.usefixtures("failures")
def test_the_overview_is_loaded_at_once_even_where_live_update_is_off(
    place: Place, person: Callable[..., Person]
) -> None:
    someone = person(place.served)
    someone.page.evaluate("localStorage.setItem('kumofire-live', 'off')")

    page = someone.goes_to("/")

    loaded(page)
    assert page.locator("[data-live-toggle]").get_attribute("aria-pressed") == "false"
    assert page.locator("[data-pending]").count() == 0


@pytest.mark.usefixtures("failures")
def test_what_a_person_has_opened_and_looks_at_stays_when_the_overview_looks_again(
    place: Place, person: Callable[..., Person]
) -> None:
    page = person(place.served).goes_to("/")
    loaded(page)
    page.locator("#minutes summary").click()
    page.evaluate("for (const e of document.querySelectorAll('#overview *')) e.isTheSame = true")
    place.jobs.delete("failed-0")

    expect(page.locator("#card-failed .value")).to_have_text("2", timeout=20_000)
    new = page.evaluate(
        "[...document.querySelectorAll('#overview *')].filter(e => !e.isTheSame).map(e => e.outerHTML.slice(0, 80))"
    )
    # A minute may have begun meanwhile: its bars and its row are new.
    assert [each for each in new if not any(name in each for name in ("<g", "<rect", "<title", "<t", "<line"))] == []
    assert page.locator("#minutes").get_attribute("open") is not None


@pytest.mark.usefixtures("failures")
def test_the_overview_does_not_jump_when_what_it_counts_arrives(place: Place, person: Callable[..., Person]) -> None:
    someone = person(place.served)
    place.jobs.pause("resize-image")
    page = someone.page
    places = """Object.fromEntries([...document.querySelectorAll('.card, .charts .panel, .plot .chart')].map(
        (e, index) => [e.id || index, JSON.stringify(e.getBoundingClientRect())]))"""
    page.route("**/overview", lambda route: None)
    someone.goes_to("/")
    before = page.evaluate(places)
    page.unroute("**/overview")
    someone.goes_to("/")
    loaded(page)

    assert {name: json.loads(each) for name, each in page.evaluate(places).items()} == {
        name: json.loads(each) for name, each in before.items()
    }


def test_a_button_within_a_part_that_updates_itself_says_what_it_did(
    place: Place, person: Callable[..., Person]
) -> None:
    sqs = place.aws.client("sqs")
    sqs.send_message(QueueUrl=f"{place.jobs.queue_url}-dead", MessageBody="of others")
    page = person(place.served).goes_to("/dead-letters")

    page.get_by_role("button", name="Delete all").click()
    expect(page.locator("#dialog")).to_contain_text("Delete about 1 message")
    page.locator("#dialog button.danger").click()

    expect(page.locator("#notices .notice")).to_contain_text("About 1 message deleted.")
    expect(page.locator("#dead-letters")).to_contain_text("0 messages")


def test_a_slow_answer_is_waited_for_and_not_asked_for_again(place: Place, person: Callable[..., Person]) -> None:
    run_id = place.jobs.create("send-email")
    page = person(place.served).page
    page.clock.install()
    page.goto(page.url + f"runs/{run_id}")
    asked: list[Route] = []
    page.route("**/live", lambda route: asked.append(route))

    page.clock.run_for(20_000)

    assert len(asked) == 1, "it is asked for every two seconds, and there was no answer yet"
    place.jobs.cancel(run_id)
    asked[0].continue_()
    expect(page.locator("#run .run-head .status")).to_have_text("canceled")


def test_a_page_whose_schedule_was_deleted_says_so_once_and_asks_no_more(
    place: Place, person: Callable[..., Person]
) -> None:
    schedule_id = place.jobs.create_schedule("send-email", schedule_type="cron", schedule_expr="0 7 * * *")
    page = person(place.served).page
    page.clock.install()
    page.goto(page.url + f"schedules/{schedule_id}")
    asked: list[str] = []
    page.on("request", lambda request: "/schedules/" in request.url and asked.append(request.url))
    place.jobs.delete_schedule(schedule_id)

    page.clock.run_for(15_500)
    expect(page.locator("#notices .notice")).to_contain_text("There is no schedule with this id.")
    page.clock.run_for(60_000)

    assert len(asked) == 1
