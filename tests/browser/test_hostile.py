"""Hostile payloads, names and errors in a real browser: text, whatever they hold."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from examples.console_demo import deliver
from kumofire_core import JobContext
from tests.browser.conftest import Person, Place

MARKUP = "<img src=x onerror=window.hacked=1><script>window.hacked=2</script>\"'><svg onload=window.hacked=3>{{7*7}}"
TURNING = "\u202egnp.exe\u2066 \u0627\u0644\u0639\u0631\u0628\u064a\u0629"
CONTROL = "bell\x07 escape\x1b[31mred null\x00 end"
LONG = "<b>x" * 75_000
JOB = f"mail/{MARKUP}"[:200]


class HostileError(Exception):
    """An error whose text is markup."""


HostileError.__name__ = HostileError.__qualname__ = "<u>Error</u>"


def is_unharmed(page: Page) -> None:
    """Check that nothing of a text became an element, ran, or turned what follows it."""
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, main u, main b, svg[onload], [onerror], [style]").count() == 0
    text = page.locator("main").inner_text()
    assert not {"\u202e", "\u2066", "\x07", "\x1b"} & set(text)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0


def test_whatever_a_run_holds_is_shown_as_text(place: Place, person: Callable[..., Person]) -> None:
    @place.jobs.handler(JOB, max_attempts=1)
    def fail(ctx: JobContext) -> None:
        raise HostileError(f"{MARKUP} {TURNING} {CONTROL} {LONG}")

    payload = {MARKUP: [MARKUP, TURNING, CONTROL, LONG], "deep": {"number": 2**70, TURNING: None}}
    run_id = place.jobs.create(JOB, payload, dedupe_key=MARKUP)
    waiting = place.jobs.create(JOB, payload)
    deliver(place.jobs, [run_id])
    place.jobs.cancel(waiting, reason=f"{MARKUP} {TURNING}")
    place.jobs.pause(JOB, reason=f"{MARKUP} {TURNING}")
    schedule_id = place.jobs.create_schedule(
        JOB, payload, schedule_type="cron", schedule_expr="0 6 * * *", schedule_key=MARKUP
    )
    place.aws.client("sqs").send_message(
        QueueUrl=f"{place.jobs.queue_url}-dead", MessageBody=f"{MARKUP} {TURNING[0:8]}"
    )
    someone = person(place.served)
    someone.expected = ["422"]
    page = someone.page
    page.on("dialog", lambda dialog: someone.complaints.append(f"dialog: {dialog.message}"))

    for path in ("/", "/runs", "/jobs", "/schedules", f"/schedules/{schedule_id}", f"/runs/{waiting}"):
        someone.goes_to(path)
        page.wait_for_load_state("networkidle")
        expect(page.locator("main")).to_contain_text("<img src=x" if path != "/schedules" else "<img")
        is_unharmed(page)

    someone.goes_to(f"/runs/{run_id}")
    page.get_by_text("Show payload").click()
    expect(page.locator(".tree")).to_contain_text(str(2**70))
    expect(page.locator(".tree")).to_contain_text("<script>window.hacked=2</script>")
    expect(page.locator(".tree")).to_contain_text("\\u202e")
    expect(page.locator("main")).to_contain_text("<u>Error</u>")
    is_unharmed(page)
    assert len(page.content()) < 200_000

    someone.goes_to("/runs?q=%3Cimg+src%3Dx+onerror%3Dwindow.hacked%3D1%3E&job=%22%3E%3Cb%3E&since=%3Cb%3E")
    is_unharmed(page)
    someone.goes_to("/dead-letters")
    page.get_by_text("Look at them").click()
    expect(page.locator("main")).to_contain_text("<img src=x")
    is_unharmed(page)


def test_an_action_on_a_hostile_run_works_and_tells_it_as_text(place: Place, person: Callable[..., Person]) -> None:
    run_id = place.jobs.create(JOB, None, dedupe_key=f"{MARKUP}2")
    page = person(place.served).goes_to("/jobs")
    row = page.get_by_role("row").filter(has_text="<img src=x").first

    row.get_by_text("Pause…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill(MARKUP)
    dialog.get_by_role("button", name="Pause").click()

    expect(page.locator("#notices")).to_contain_text("<img src=x")
    assert [(each.job_name, each.reason) for each in place.jobs.pauses()] == [(JOB, MARKUP)]
    assert page.evaluate("window.hacked") is None
    assert page.locator("#notices img, #notices script").count() == 0
    assert run_id
