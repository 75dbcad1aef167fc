"""The page of a run: what it shows, what it costs, whom it hides payloads from, and what its actions do and refuse."""

from __future__ import annotations

import html
import json
import logging
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from starlette.testclient import TestClient

from kumofire_core import Fail, JobContext, Jobs, Snooze
from kumofire_core.console import Access, run_pages
from kumofire_core.console.app import build
from kumofire_core.console.guard import COOKIE, HEADER
from kumofire_core.console.timeline import Frame, frames_of
from kumofire_core.model.encrypted_text import PREFIX
from tests.builders import NOW, NOW_MS, Aws, Clock, message, raises
from tests.console.conftest import Browser
from tests.faults import Interrupted

SECRET = "4111 1111 1111 1111"
PAYLOAD = {"card": SECRET}

INLINE = frozenset({"a", "span", "strong", "time", "bdi", "kbd"})
OURS = INLINE | {
    *("html", "head", "meta", "title", "link", "script", "body", "header", "nav", "main", "h1", "h2", "section", "div"),
    *("p", "pre", "ol", "ul", "li", "dl", "dt", "dd", "details", "summary", "dialog", "svg", "path", "rect"),
    *("form", "input", "label", "textarea", "button", "progress"),
}
"""Every element that the page may have. The scripts are those of its head."""

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x1b[31m\x00\x9b\ud800 שלום & \"'"


class Page(HTMLParser):
    """A page as a browser reads it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.forms: dict[str, dict[str, str]] = {}
        """The fields of each form by its address."""
        self.links: list[str] = []
        self.text = ""
        self._at = ""
        self.feed(text)
        self.close()
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append(tag)
        self.text += " " if tag not in INLINE else ""
        self.attributes += given.items()
        if tag == "script":
            self.scripts.append(given.get("src", "inline"))
        if tag == "form":
            self._at = given.get("action", "")
            self.forms[self._at] = {}
        if tag == "input" and self._at:
            self.forms[self._at][given["name"]] = given.get("value", "")
        if tag == "a":
            self.links.append(given.get("href", ""))

    def handle_data(self, data: str) -> None:
        self.text += data


class Console:
    """The console as a person with these rights uses it, on the clock of the test."""

    def __init__(self, jobs: Jobs, clock: Clock, *, scripts: bool = True, **access: bool) -> None:
        given = Access(**{"act": True, "payloads": True, "user": "alice"} | access)
        app = build(
            jobs,
            authorize=lambda request: given,
            read_only=False,
            hosts=None,
            title="test",
            dead_letters_of=lambda: pytest.fail("nobody asked for dead letters"),
            clock=clock,
        )
        self.client = TestClient(app, base_url="http://console.example", follow_redirects=False)
        self.client.get("/missing")
        self.client.headers[HEADER] = self.client.cookies[COOKIE]
        self._scripts = {"HX-Request": "true"} if scripts else {}

    def page(self, path: str, *, status: int = 200) -> Page:
        """Return a whole page."""
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return Page(answer.text)

    def part(self, path: str, *, status: int = 200) -> Page:
        """Return what a script asks for."""
        answer = self.client.get(path, headers={"HX-Request": "true"})
        assert answer.status_code == status, answer.text
        return Page(answer.text)

    def press(self, page: Page, path: str, *, status: int = 200, **fields: str) -> Page:
        """Send a form of a page."""
        return self.send(path, page.forms[path] | fields, status=status)

    def send(self, path: str, fields: dict[str, str], *, status: int = 200) -> Page:
        """Send a form that need not be on a page."""
        answer = self.client.post(path, data=fields, headers=self._scripts)
        assert answer.status_code == status, answer.text
        return Page(answer.text)


@pytest.fixture
def console(jobs: Jobs, clock: Clock) -> Console:
    return Console(jobs, clock)


def failed(jobs: Jobs, clock: Clock, error: Exception | None = None, payload: Any = None) -> str:
    """Return a run that has failed after its three attempts."""
    jobs.handler("charge")(raises(error or ValueError(f"refused {SECRET}")))
    run_id = jobs.create("charge", PAYLOAD if payload is None else payload)
    for _ in range(3):
        jobs.consume(message(run_id))
        clock.advance(minutes=5)
    return run_id


def scheduled(jobs: Jobs, **settings: Any) -> str:
    """Return a run that is due in two hours."""
    jobs.handler("charge")(lambda ctx: None)
    return jobs.create("charge", PAYLOAD, run_at=NOW + timedelta(hours=2), **settings)


def actions(page: Page, run_id: str) -> set[str]:
    """Return which actions a page offers, as buttons or as links to their forms."""
    known = {"retry", "run-now", "delete", "cancel", "reschedule", "change-payload"}
    found = {
        path.partition("?")[0].rpartition("/")[2]
        for path in (*page.forms, *page.links)
        if path.startswith(f"/runs/{run_id}/")
    }
    return found & known


# What the page shows.


def test_it_says_what_happened_in_its_order(jobs: Jobs, clock: Clock, console: Console):
    calls: list[int] = []

    @jobs.handler("charge", max_attempts=2)
    def charge(ctx: JobContext) -> None:
        calls.append(1)
        clock.advance(seconds=1.5)
        if len(calls) == 1:
            raise Snooze(timedelta(seconds=40))
        raise TypeError("no card")

    run_id = jobs.create("charge", PAYLOAD)
    clock.advance(seconds=12)
    for _ in range(3):
        jobs.consume(message(run_id))
        clock.advance(minutes=10)
    jobs.retry(run_id)
    jobs.consume(message(run_id))
    clock.advance(seconds=8)

    text = console.page(f"/runs/{run_id}").text

    told = [
        "Created",
        "waited 12s",
        "Attempt 1 snoozed after 1.5s",
        "waited 10m",
        "Attempt 1 raised TypeError after 1.5s",
        "waited 10m",
        "Attempt 2 raised TypeError after 1.5s",
        "Failed after 2 failed attempts",
        "Retried by a person",
        "Attempt 1 raised TypeError after 1.5s 8s ago",
        "no card",
        "Waits for attempt 2, due",
    ]
    places, start = [], text.index("Timeline")
    for each in told:
        start = text.find(each, start)
        places.append((each, start))
    assert all(place >= 0 for _, place in places), places


def test_a_run_under_way_shows_its_progress_and_that_its_cancellation_is_asked_for(
    jobs: Jobs, clock: Clock, console: Console
):
    shown: list[Page] = []

    @jobs.handler("export")
    def export(ctx: JobContext) -> None:
        ctx.progress(0.4, "page 4 of 10")
        clock.advance(seconds=5)
        jobs.cancel(ctx.run.id, "not needed")
        shown.append(console.page(f"/runs/{ctx.run.id}"))

    jobs.consume(message(jobs.create("export")))

    page = shown[0]
    assert "Attempt 1 is executing" in page.text
    assert "40% page 4 of 10 told 5s ago" in page.text
    assert ("value", "0.400") in page.attributes
    assert "Cancellation is asked for" in page.text
    assert "not needed" in page.text


@pytest.mark.parametrize("waits", [{"awaits_slot": "abc", "limited": "abc"}, {"reserved": "abc 1773489600000000"}])
def test_a_run_that_waits_for_its_turn_says_so(aws: Aws, console: Console, waits: dict[str, str]):
    run_id = aws.a_run(status="scheduled", **waits)

    page = console.page(f"/runs/{run_id}")

    assert "limited" in page.text
    assert "It waits for its turn" in page.text


def test_a_run_that_waits_for_its_job_to_be_resumed_says_so_and_leads_to_the_jobs(
    jobs: Jobs, aws: Aws, console: Console
):
    run_id = aws.a_run(status="scheduled", parked="email")

    page = console.page(f"/runs/{run_id}")

    assert "paused" in page.text
    assert "Waits until its job is resumed" in page.text
    assert page.links.count("/jobs") == 2, "in the menu and in the text"


@pytest.mark.parametrize(
    ("fields", "told", "link"),
    [
        ({}, "Made by an application", None),
        ({"schedule_id": "s/1"}, "Made by a schedule", "/schedules/s%2F1"),
        ({"parent_id": "p-1", "created_by": "worker"}, "Made by run p-1, in worker", "/runs/p-1"),
        ({"created_by": "shop"}, "Made by shop", None),
        ({"schedule_id": "s", "occurrence": 1_767_225_600_000}, "00:00:00 UTC Created", "/schedules/s"),
        ({"group": "tenant-42"}, "Group tenant-42", None),
    ],
)
def test_it_says_what_made_it(aws: Aws, console: Console, fields: dict[str, str], told: str, link: str | None):
    page = console.page(f"/runs/{aws.a_run(**fields)}")

    assert told in page.text
    assert link is None or link in page.links


def test_a_traceback_shows_function_file_line_and_code(jobs: Jobs, clock: Clock, console: Console):
    def inner() -> None:
        raise KeyError("card")

    jobs.handler("charge", max_attempts=1)(lambda ctx: inner())
    run_id = jobs.create("charge")
    jobs.consume(message(run_id))

    text = console.page(f"/runs/{run_id}").text

    assert re.search(r'inner tests/console/test_run_page\.py:\d+ ?raise KeyError\("card"\)', text)


def test_what_is_no_frame_of_a_traceback_is_shown_as_it_is():
    stored = '  File "a.py", line 3, in f\n    g()\n  …\n  File "b.py", line 4, in <module>\n    odd\nand more'

    assert list(frames_of(stored)) == [
        Frame(file="a.py", line="3", function="f", code="g()"),
        Frame(is_gap=True),
        Frame(file="b.py", line="4", function="<module>", code="odd"),
        Frame(other="and more"),
    ]
    assert list(frames_of("")) == []


def test_the_last_failure_is_open_and_the_earlier_ones_are_closed(jobs: Jobs, clock: Clock, console: Console):
    run_id = failed(jobs, clock)

    answer = console.client.get(f"/runs/{run_id}").text
    timeline = answer[answer.index("Timeline") : answer.index("Facts")]

    assert re.findall(r"<details( open)?>", timeline) == ["", "", " open"]


def test_where_an_attempt_logged_can_be_copied_with_the_command_that_shows_it(aws: Aws, console: Console):
    record = [0, 1, NOW_MS, NOW_MS + 800, "raised", "TypeError", "request-1 2026/03/14/[$LATEST]abc", None]
    run_id = aws.a_run("id with blank", status="failed", attempt=1, attempts=json.dumps([record]), finished_at=NOW_MS)

    page = console.page(f"/runs/{quote(run_id)}")

    copied = [value for name, value in page.attributes if name == "data-copy"]
    assert copied == [
        run_id,
        "request-1",
        "2026/03/14/[$LATEST]abc",
        "kumofire runs logs 'id with blank' --attempt 1",
    ]


def test_attempts_that_are_not_kept_are_counted(aws: Aws, console: Console):
    record = [1, 5, NOW_MS, NOW_MS + 800, "raised", "TypeError", None, None]
    ending = ["failed", 3, NOW_MS, "boom", None]
    run_id = aws.a_run(
        status="failed",
        attempt=5,
        max_attempts=5,
        retries=1,
        attempts=json.dumps([record]),
        history=json.dumps([ending]),
        finished_at=NOW_MS,
    )

    text = console.page(f"/runs/{run_id}").text

    assert "3 earlier attempts are not kept Failed after 3 failed attempts" in text
    assert "4 earlier attempts are not kept Attempt 5 raised TypeError after 800ms" in text


def test_why_it_failed_with_attempts_left(jobs: Jobs, console: Console):
    jobs.handler("charge")(raises(Fail("no such card")))
    run_id = jobs.create("charge")
    jobs.consume(message(run_id))

    assert "Failed with 2 attempts left: such an error is not attempted again" in console.page(f"/runs/{run_id}").text


def test_a_run_that_failed_without_an_attempt_says_why(aws: Aws, console: Console):
    run_id = aws.a_run(status="failed", error_type="UnknownJobError", last_error="no handler", finished_at=NOW_MS)

    assert "Failed without an attempt: UnknownJobError now no handler" in console.page(f"/runs/{run_id}").text


def test_an_id_that_does_not_exist_is_a_readable_answer(console: Console):
    assert "There is no run unknown" in console.page("/runs/unknown", status=404).text
    assert "There is no run" in console.page("/runs/%E2%80%AE", status=404).text
    assert "There is no run" in console.page(f"/runs/{'x' * 2_000}", status=404).text


def test_an_item_that_cannot_be_read_is_a_readable_answer(aws: Aws, console: Console):
    run_id = aws.a_run(status="dancing")

    assert "can't be read" in console.page(f"/runs/{run_id}", status=409).text


def test_the_page_of_a_run_whose_payload_is_damaged_can_be_read(aws: Aws, console: Console):
    run_id = aws.a_run(payload="{")

    assert "queued" in console.page(f"/runs/{run_id}").text
    assert "can't be read" in console.part(f"/runs/{run_id}/payload", status=409).text


# What it costs.


def test_the_page_and_each_look_at_it_cost_one_read_that_leaves_payload_and_output_out(aws: Aws, console: Console):
    run_id = aws.a_run(payload='"a payload"', status="succeeded", output='"an output"', finished_at=NOW_MS)
    for path in (f"/runs/{run_id}", f"/runs/{run_id}/live"):
        aws.dynamodb.requests.clear()

        console.page(path)

        assert aws.dynamodb.count() == {"get_item": 1}
        (asked,) = aws.dynamodb.parameters("get_item")
        names = set(asked["ExpressionAttributeNames"].values()) if "ExpressionAttributeNames" in asked else set()
        assert asked["ProjectionExpression"]
        assert not {"payload", "output"} & (names | set(re.findall(r"\w+", asked["ProjectionExpression"])))
    assert not aws.sqs.requests


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"status": "queued"}, 2),
        ({"status": "scheduled", "scheduled_for": NOW_MS + 30_000}, 2),
        ({"status": "scheduled", "scheduled_for": NOW_MS + 3_600_000}, 10),
        ({"status": "scheduled", "parked": "email"}, 10),
        ({"status": "failed", "finished_at": NOW_MS}, 15),
    ],
)
def test_a_page_asks_less_often_where_no_change_is_near(
    aws: Aws, console: Console, fields: dict[str, Any], seconds: int
):
    page = console.part(f"/runs/{aws.a_run(**fields)}/live")

    triggers = [value for name, value in page.attributes if name == "hx-trigger"]
    assert triggers == [f"every {seconds}s, refresh from:body"]


def test_a_page_of_a_run_that_was_deleted_says_so_and_stops_asking(jobs: Jobs, console: Console):
    answer = console.client.get("/runs/gone/live", headers={"HX-Request": "true"})

    assert (answer.status_code, "HX-Trigger" in answer.headers) == (200, False), "a refresh would ask again, for ever"
    page = Page(answer.text)
    assert "Run gone was deleted" in page.text
    assert "data-live" not in dict(page.attributes)


# Payload and output.


def test_payload_and_output_are_shown_when_they_are_asked_for_and_that_is_logged(
    jobs: Jobs, console: Console, caplog: pytest.LogCaptureFixture
):
    jobs.handler("charge")(lambda ctx: {"charged": "all of it"})
    run_id = jobs.create("charge", PAYLOAD)
    jobs.consume(message(run_id))
    page = console.page(f"/runs/{run_id}")
    assert SECRET not in page.text
    assert "all of it" not in page.text

    with caplog.at_level(logging.INFO, "kumofire_core.console"):
        assert f'"card": "{SECRET}"' in console.part(f"/runs/{run_id}/payload").text
        assert '"charged": "all of it"' in console.part(f"/runs/{run_id}/output").text

    told = [record.getMessage() for record in caplog.records if record.name == "kumofire_core.console"]
    assert told == [f"alice looked at the payload of run {run_id}", f"alice looked at the output of run {run_id}"]


def test_a_browser_without_scripts_gets_the_whole_page_with_the_payload(jobs: Jobs, clock: Clock, console: Console):
    run_id = scheduled(jobs)

    page = console.page(f"/runs/{run_id}/payload")

    assert "Timeline" in page.text
    assert SECRET in page.text


def test_a_person_without_the_right_sees_error_types_and_nothing_that_may_quote_a_payload(
    jobs: Jobs, clock: Clock, aws: Aws
):
    blind = Console(jobs, clock, payloads=False)
    run_id = failed(jobs, clock)
    jobs.retry(run_id)
    jobs.cancel(run_id, f"reason {SECRET}")
    other = aws.a_running_run(
        progress=json.dumps([1, 400, f"note {SECRET}", NOW_MS]),
        last_error=f"boom {SECRET}",
        cancel_requested_at=NOW_MS,
        cancel_reason=f"reason {SECRET}",
    )

    answers = [blind.client.get(f"/runs/{each}{part}").text for each in (run_id, other) for part in ("", "/live")]

    assert all(SECRET not in answer for answer in answers)
    text = Page(answers[0]).text
    assert "ValueError" in text
    assert "Payloads and outputs are hidden from you" in text
    assert "Traceback" not in text
    assert "tests/builders.py" not in text
    assert "40%" in Page(answers[2]).text


@pytest.mark.parametrize("scripts", [True, False])
def test_the_addresses_of_payloads_refuse_a_person_without_the_right(jobs: Jobs, clock: Clock, scripts: bool):
    run_id = scheduled(jobs)
    blind = Console(jobs, clock, payloads=False, scripts=scripts)
    ask = blind.part if scripts else blind.page

    for path in ("payload", "payload.json", "output", "output.json", "change-payload"):
        page = ask(f"/runs/{run_id}/{path}", status=403)
        assert "hidden from you" in page.text
        assert SECRET not in page.text
    blind.send(f"/runs/{run_id}/change-payload", {"seen": "scheduled.0.0", "payload": "1", "was": ""}, status=403)

    run = jobs.get_status(run_id)
    assert run is not None
    assert run.payload == PAYLOAD
    assert "change-payload" not in actions(blind.page(f"/runs/{run_id}"), run_id)


def test_the_download_is_the_stored_text_as_a_file(aws: Aws, console: Console):
    stored = '{"n":12345678901234567890123,"t":"שלום </script>","f":1.5,"e":"\\u001b"}'
    run_id = aws.a_run('odd"id/\\', payload=stored)

    answer = console.client.get(f"/runs/{quote(run_id, safe='')}/payload.json")

    assert answer.status_code == 200
    assert answer.text == stored
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="run-odd_id__-payload.json"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "[" * 190 + "]" * 190, '{"a": 1, "b": [1e400]}'])
def test_odd_values_are_shown_and_downloaded(aws: Aws, console: Console, value: str):
    run_id = aws.a_run(payload=value)

    console.part(f"/runs/{run_id}/payload")
    answer = console.client.get(f"/runs/{run_id}/payload.json")

    assert answer.status_code == 200
    assert str(json.loads(answer.text)) == str(json.loads(value))


def test_what_this_process_cannot_decrypt_is_said_to_be_so(aws: Aws, console: Console):
    run_id = aws.a_run(payload=f"{PREFIX}abc", status="succeeded", output=f"{PREFIX}def", finished_at=NOW_MS)

    for what in ("payload", "output"):
        assert "encrypted, and this process does not have the key" in console.part(f"/runs/{run_id}/{what}").text
        assert "encrypted" in console.part(f"/runs/{run_id}/{what}.json", status=422).text


def test_an_encrypted_payload_is_not_replaced_by_one_that_is_not(aws: Aws, console: Console):
    run_id = aws.a_run(payload=f"{PREFIX}abc")

    assert "encrypted" in console.part(f"/runs/{run_id}/change-payload", status=422).text
    console.send(f"/runs/{run_id}/change-payload", {"seen": "queued.0.0", "payload": "1", "was": ""}, status=422)

    item = aws.item(run_id)
    assert item is not None
    assert item["payload"] == f"{PREFIX}abc"


def test_a_run_that_has_not_succeeded_has_no_output(jobs: Jobs, clock: Clock, console: Console):
    run_id = scheduled(jobs)

    assert "It has no output" in console.part(f"/runs/{run_id}/output").text
    console.page(f"/runs/{run_id}/output.json", status=404)


# Actions.


@pytest.mark.parametrize(
    ("fields", "offered"),
    [
        ({"status": "scheduled"}, {"run-now", "reschedule", "change-payload", "cancel"}),
        ({"status": "queued"}, {"reschedule", "change-payload", "cancel"}),
        ({"status": "running", "lease_token": "t", "lease_until": NOW_MS}, {"cancel"}),
        ({"status": "running", "lease_token": "t", "lease_until": NOW_MS, "cancel_requested_at": NOW_MS}, set()),
        ({"status": "succeeded"}, {"delete"}),
        ({"status": "failed"}, {"retry", "delete"}),
        ({"status": "canceled"}, {"retry", "delete"}),
    ],
)
def test_the_actions_are_those_of_its_status_and_none_for_who_may_only_look(
    aws: Aws, jobs: Jobs, clock: Clock, console: Console, fields: dict[str, Any], offered: set[str]
):
    run_id = aws.a_run(**fields)

    assert actions(console.page(f"/runs/{run_id}"), run_id) == offered
    assert actions(console.part(f"/runs/{run_id}/live"), run_id) == offered, "they follow its status"
    assert actions(Console(jobs, clock, act=False).page(f"/runs/{run_id}"), run_id) == set()


def test_retry_queues_the_run_again_and_says_so(jobs: Jobs, clock: Clock, console: Console):
    run_id = failed(jobs, clock)

    told = console.press(console.page(f"/runs/{run_id}"), f"/runs/{run_id}/retry")

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.retries) == ("queued", 1)
    assert "The run is queued now" in told.text


def test_a_page_that_is_old_changes_nothing_and_says_what_happened(
    jobs: Jobs, clock: Clock, aws: Aws, console: Console
):
    run_id = failed(jobs, clock)
    page = console.page(f"/runs/{run_id}")
    jobs.retry(run_id)
    aws.change(run_id, status="succeeded", finished_at=NOW_MS + 900_000)
    clock.now = NOW + timedelta(seconds=912)
    before = aws.item(run_id)

    for action in ("retry", "delete"):
        told = console.press(page, f"/runs/{run_id}/{action}", status=409)
        assert "This run was retried meanwhile, and has succeeded, 12s ago. Nothing was changed." in told.text

    assert aws.item(run_id) == before


def test_the_form_of_an_old_page_is_not_shown_but_what_happened(jobs: Jobs, aws: Aws, console: Console):
    run_id = scheduled(jobs)
    links = [link for link in console.page(f"/runs/{run_id}").links if "?seen=" in link]
    assert len(links) == 3
    assert all(console.part(link).forms for link in links), "they are shown while it is as it was"
    jobs.cancel(run_id)

    for link in links:
        page = console.part(link, status=409)
        assert "was canceled meanwhile" in page.text
        assert not page.forms


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"status": "succeeded", "finished_at": NOW_MS}, "has succeeded meanwhile, 12s ago"),
        ({"status": "failed", "finished_at": NOW_MS}, "has failed meanwhile, 12s ago"),
        ({"status": "canceled", "finished_at": NOW_MS}, "was canceled meanwhile, 12s ago"),
        ({"status": "running", "lease_token": "t", "lease_until": NOW_MS}, "is executing its attempt 1 meanwhile"),
        ({"attempt": 1, "scheduled_for": NOW_MS + 72_000}, "waits meanwhile for its attempt 2, due in 60s"),
        ({"status": "queued", "attempt": 1}, "is on the queue meanwhile"),
        ({"status": "queued", "retries": 1}, "was retried meanwhile, and is on the queue"),
    ],
)
def test_no_action_of_an_old_page_touches_the_run(
    aws: Aws, clock: Clock, console: Console, fields: dict[str, Any], told: str
):
    run_id = aws.a_run(status="scheduled", scheduled_for=NOW_MS + 7_200_000)
    aws.change(run_id, **fields)
    clock.advance(seconds=12)
    before = aws.item(run_id)
    given = {"seen": "scheduled.0.0", "after": "1h", "payload": "1", "was": "", "reason": "late"}

    for action in ("retry", "run-now", "reschedule", "change-payload", "cancel", "delete"):
        page = console.send(f"/runs/{run_id}/{action}", given, status=409)
        assert f"This run {told}" in page.text
        assert "Nothing was changed" in page.text

    assert aws.item(run_id) == before
    assert not aws.sqs.requests


def test_a_form_that_does_not_say_what_it_saw_changes_nothing(jobs: Jobs, console: Console):
    run_id = scheduled(jobs)

    for seen in ("", "scheduled", "scheduled.0", "failed.0.0", "scheduled.0.00", "scheduled.-1.0"):
        console.send(f"/runs/{run_id}/cancel", {"seen": seen}, status=409)

    run = jobs.get_status(run_id)
    assert run is not None
    assert run.status == "scheduled"


def test_a_run_that_came_on_the_queue_meanwhile_still_waits_for_a_person(aws: Aws, console: Console):
    run_id = aws.a_run(status="queued")

    console.send(f"/runs/{run_id}/cancel", {"seen": "scheduled.0.0"})

    item = aws.item(run_id)
    assert item is not None
    assert item["status"] == "canceled"


def test_a_person_who_was_faster_between_the_look_and_the_change_is_told_of(jobs: Jobs, aws: Aws, clock: Clock):
    run_id = failed(jobs, clock)
    others = aws.jobs(clock=clock)
    slow = aws.jobs(
        clock=clock, dynamodb=Interrupted(aws.dynamodb, lambda: others.retry(run_id), at=3)
    )  # after the page's own read and the library's
    console = Console(slow, clock)

    told = console.send(f"/runs/{run_id}/retry", {"seen": "failed.0.3"}, status=409)

    run = jobs.get_status(run_id)
    assert run is not None
    assert run.retries == 1, "retried once"
    assert "This run was retried meanwhile, and is on the queue. Nothing was changed." in told.text


def test_an_action_on_a_run_that_was_deleted_says_so(console: Console):
    for action in ("retry", "run-now", "reschedule", "cancel", "delete", "change-payload"):
        told = console.send(f"/runs/gone/{action}", {"seen": "failed.0.0", "after": "1h"}, status=409)
        assert "There is no run gone" in told.text


def test_cancel_stores_the_reason_and_can_be_undone_to_the_time_it_had(jobs: Jobs, clock: Clock, console: Console):
    run_id = scheduled(jobs)
    form = console.part(f"/runs/{run_id}/cancel")

    told = console.press(form, f"/runs/{run_id}/cancel", reason="  wrong address ")

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.cancel_reason) == ("canceled", "wrong address")

    console.press(told, f"/runs/{run_id}/retry")

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.scheduled_for) == ("scheduled", NOW + timedelta(hours=2))


def test_cancel_of_a_run_with_an_attempt_behind_it_cannot_be_undone(jobs: Jobs, clock: Clock, console: Console):
    jobs.handler("charge")(raises(ValueError("no")))
    run_id = jobs.create("charge")
    jobs.consume(message(run_id))

    told = console.press(console.part(f"/runs/{run_id}/cancel"), f"/runs/{run_id}/cancel")

    assert not told.forms, "a retry would give it all its attempts again"


def test_cancel_of_a_run_under_way_is_a_request(aws: Aws, console: Console):
    run_id = aws.a_running_run()

    told = console.press(console.part(f"/runs/{run_id}/cancel"), f"/runs/{run_id}/cancel", reason="stop")

    item = aws.item(run_id)
    assert item is not None
    assert item["status"] == "running"
    assert "cancel_requested_at" in item
    assert "Cancellation is asked for" in told.text
    assert not told.forms


def test_a_reason_that_is_too_long_comes_back_in_the_form(jobs: Jobs, console: Console):
    run_id = scheduled(jobs)
    path = f"/runs/{run_id}/cancel"

    form = console.press(console.part(path), path, status=422, reason="x" * 1_001)

    assert "1000 characters" in form.text
    assert form.forms[path]["reason"] == "x" * 1_001
    console.press(form, path, reason="short")
    run = jobs.get_status(run_id)
    assert run is not None
    assert run.cancel_reason == "short"


@pytest.mark.parametrize(
    ("given", "due"),
    [
        ({"after": "90m"}, NOW + timedelta(minutes=90)),
        ({"at": "2026-03-15T09:30"}, datetime(2026, 3, 15, 9, 30, tzinfo=UTC)),
        ({"at": "2026-03-15T09:30+01:00"}, datetime(2026, 3, 15, 8, 30, tzinfo=UTC)),
    ],
)
def test_reschedule_gives_it_another_time_and_undo_the_former(
    jobs: Jobs, console: Console, given: dict[str, str], due: datetime
):
    run_id = scheduled(jobs)
    path = f"/runs/{run_id}/reschedule"
    form = console.part(path)
    assert "At, in UTC" in form.text

    told = console.press(form, path, **given)

    run = jobs.get_status(run_id)
    assert run is not None
    assert run.scheduled_for == due
    assert f"{due:%Y-%m-%d %H:%M:%S}.000 UTC" in told.text

    console.press(told, path)

    run = jobs.get_status(run_id)
    assert run is not None
    assert run.scheduled_for == NOW + timedelta(hours=2)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"at": "soon"},
        {"after": "soon"},
        {"at": "2026-03-15T09:30", "after": "1h"},
        {"after": "999999999w"},
        {"after": "9999999d"},
        {"at": "0001-01-01T00:00+14:00"},
    ],
)
def test_a_time_that_is_none_comes_back_in_the_form_and_changes_nothing(
    jobs: Jobs, console: Console, given: dict[str, str]
):
    run_id = scheduled(jobs)
    path = f"/runs/{run_id}/reschedule"

    form = console.press(console.part(path), path, status=422, **given)

    assert {name: form.forms[path][name] for name in given} == given
    run = jobs.get_status(run_id)
    assert run is not None
    assert run.scheduled_for == NOW + timedelta(hours=2)


def test_run_now_queues_it_and_undo_gives_it_its_time_again(jobs: Jobs, aws: Aws, console: Console):
    run_id = scheduled(jobs)

    told = console.press(console.page(f"/runs/{run_id}"), f"/runs/{run_id}/run-now")

    assert aws.sent() == [(run_id, 0)]
    console.press(told, f"/runs/{run_id}/reschedule")
    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.scheduled_for) == ("scheduled", NOW + timedelta(hours=2))


def test_run_now_is_not_undone_once_it_has_started(jobs: Jobs, console: Console):
    run_id = scheduled(jobs)
    told = console.press(console.page(f"/runs/{run_id}"), f"/runs/{run_id}/run-now")
    jobs.consume(message(run_id))

    late = console.press(told, f"/runs/{run_id}/reschedule", status=409)

    assert "has succeeded meanwhile" in late.text


def test_the_payload_is_changed_to_what_was_written(jobs: Jobs, console: Console):
    run_id = scheduled(jobs)
    path = f"/runs/{run_id}/change-payload"
    form = console.part(path)
    assert SECRET in form.text

    console.press(form, path, payload='{"n": 12345678901234567890123, "t": "שלום"}')

    run = jobs.get_status(run_id)
    assert run is not None
    assert run.payload == {"n": 12345678901234567890123, "t": "שלום"}


@pytest.mark.parametrize("payload", ["", "{", "NaN", "[" * 5_000, "1" * 5_000, f'"{"x" * 420_000}"'])
def test_a_payload_that_is_not_json_comes_back_in_the_form_and_changes_nothing(
    jobs: Jobs, console: Console, payload: str
):
    run_id = scheduled(jobs)
    path = f"/runs/{run_id}/change-payload"

    form = console.press(console.part(path), path, status=422, payload=payload)

    assert "the payload" in form.text
    assert payload in form.text
    run = jobs.get_status(run_id)
    assert run is not None
    assert run.payload == PAYLOAD


def test_two_people_who_change_a_payload_do_not_overwrite_each_other(jobs: Jobs, console: Console):
    run_id = scheduled(jobs)
    path = f"/runs/{run_id}/change-payload"
    first, second = console.part(path), console.part(path)

    console.press(first, path, payload='"first"')
    told = console.press(second, path, status=409, payload='"second"')

    assert "Somebody has changed this run's payload meanwhile" in told.text
    run = jobs.get_status(run_id)
    assert run is not None
    assert run.payload == "first"


def test_delete_asks_first_and_leads_to_the_list(jobs: Jobs, clock: Clock, aws: Aws, console: Console):
    run_id = failed(jobs, clock)
    page = console.page(f"/runs/{run_id}")
    assert any(name == "data-confirm" and "Delete" in value for name, value in page.attributes)

    given = page.forms[f"/runs/{run_id}/delete"]
    question = console.client.post(f"/runs/{run_id}/delete", data=given)
    assert "be undone." in question.text
    assert aws.item(run_id) is not None, "without scripts a page asks"
    answer = console.client.post(f"/runs/{run_id}/delete", data=given | {"sure": "yes"})

    assert aws.item(run_id) is None
    assert 'href="/runs"' in answer.text


def test_a_retry_that_a_newer_run_of_its_key_forbids_says_so(jobs: Jobs, aws: Aws, clock: Clock, console: Console):
    jobs.handler("charge", max_attempts=1)(raises(ValueError("no")))
    old = jobs.create("charge", dedupe_key="order-1", dedupe="unfinished")
    jobs.consume(message(old))
    newer = jobs.create("charge", dedupe_key="order-1", dedupe="unfinished")

    told = console.press(console.page(f"/runs/{old}"), f"/runs/{old}/retry", status=409)

    assert f"run {newer} is newer" in told.text


def test_without_scripts_each_action_works_and_answers_with_a_page(jobs: Jobs, clock: Clock):
    plain = Console(jobs, clock, scripts=False)
    run_id = scheduled(jobs)
    for action, given in (("reschedule", {"after": "3h"}), ("change-payload", {"payload": "1"}), ("cancel", {})):
        path = f"/runs/{run_id}/{action}"
        form = plain.page(path)
        assert "h1" in form.elements
        assert "h1" in plain.press(form, path, **given).elements
    plain.press(plain.page(f"/runs/{run_id}"), f"/runs/{run_id}/retry")

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.payload, run.retries, run.status) == (1, 1, "queued")


def test_every_change_is_logged_with_who_made_it(
    jobs: Jobs, clock: Clock, console: Console, caplog: pytest.LogCaptureFixture
):
    run_id = scheduled(jobs)
    with caplog.at_level(logging.INFO, "kumofire_core.console"):
        for action, given in (("reschedule", {"after": "3h"}), ("change-payload", {"payload": "1"}), ("cancel", {})):
            path = f"/runs/{run_id}/{action}"
            console.press(console.part(path), path, **given)
        console.press(console.page(f"/runs/{run_id}"), f"/runs/{run_id}/retry")

    told = [record.getMessage() for record in caplog.records if record.name == "kumofire_core.console"]
    assert told == [
        f"alice rescheduled run {run_id} to 2026-03-14 15:00:00.000 UTC",
        f"alice looked at the payload of run {run_id}",
        f"alice changed the payload of run {run_id}",
        f"alice canceled run {run_id}",
        f"alice retried run {run_id}",
    ]


# Hostile content.


def hostile_fields() -> dict[str, Any]:
    text = HOSTILE.replace("\ud800", "\ufdd0")  # the table holds whole characters only; JSON in it may hold halves
    texts = json.dumps([HOSTILE * 3, f'  File "{HOSTILE}", line 3, in {HOSTILE}\n    {HOSTILE}\n  …\n{HOSTILE}'])
    log = f"{HOSTILE.replace(' ', '_')} {HOSTILE}"
    record = [1, 1, NOW_MS, NOW_MS + 800, "raised", HOSTILE, log, texts]
    return {
        "status": "failed",
        "job_name": text,
        "dedupe_key": text,
        "schedule_id": text,
        "last_error": text * 50,
        "error_type": text,
        "cancel_reason": text,
        "created_by": text,
        "parent_id": text,
        "attempt": 2,
        "retries": 1,
        "finished_at": NOW_MS,
        "history": json.dumps([["failed", 10**12, NOW_MS, HOSTILE, HOSTILE]]),
        "attempts": json.dumps([[0, *record[1:]], record]),
        "payload": json.dumps({HOSTILE: [HOSTILE, HOSTILE * 800, 10**4_000], "deep": json.loads("[" * 90 + "]" * 90)}),
    }


@pytest.mark.parametrize("status", ["failed", "canceled", "scheduled", "queued", "running", "succeeded"])
def test_whatever_an_item_holds_is_shown_as_text(aws: Aws, console: Console, status: str):
    fields = hostile_fields() | {"status": status, "lease_token": "t", "lease_until": NOW_MS, "started_at": NOW_MS}
    fields |= {
        "progress": json.dumps([0, 400, HOSTILE, NOW_MS]),
        "output": fields["payload"],
        "log": HOSTILE[:40].replace("\ud800", ""),
    }
    run_id = aws.a_run("<i>/../" + "a\"'&?#;%", **fields)
    address = f"/runs/{quote(run_id, safe='')}"
    answers = [console.client.get(address + part) for part in ("", "/payload", "/output", "/cancel")]
    answers += [console.client.get(f"{address}/live", headers={"HX-Request": "true"})]
    if status in ("scheduled", "queued"):
        answers += [console.client.get(address + part) for part in ("/reschedule", "/change-payload")]

    for answer in answers:
        assert answer.status_code == 200, answer.text
        page = Page(answer.text)
        assert set(page.elements) <= OURS
        assert all(source.startswith("/static/") for source in page.scripts), "none but the page's own"
        assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("style", "srcdoc")]
        assert all(link.startswith(("/", "#")) for link in page.links)
        assert page.text.isprintable()
        assert answer.text.count("<script") == len(page.scripts)
    assert html.escape("<script>alert(1)</script>") in answers[0].text


@pytest.mark.parametrize(
    "fields",
    [
        {"retries": -1},
        {"retries": 10**30},
        {"attempt": -5, "max_attempts": -5},
        {"attempts": json.dumps([[9, -3, NOW_MS, -(10**13), "raised", None, None, None]])},
        {"attempts": json.dumps([[0, 10**40, None, NOW_MS, "timed_out", None, None, "not JSON"]]), "retries": 5},
        {"attempts": "[]", "history": "[]"},
        {"created_at": 253_402_300_799_999, "finished_at": 0},
        {"scheduled_for": -62_135_596_800_000},
    ],
)
@pytest.mark.parametrize("status", ["failed", "scheduled", "succeeded"])
def test_numbers_that_cannot_be_do_not_break_the_page(aws: Aws, console: Console, fields: dict[str, Any], status: str):
    run_id = aws.a_run(**{"status": status, "started_at": NOW_MS} | fields)

    assert "Timeline" in console.page(f"/runs/{run_id}").text


def test_300_kb_of_payload_make_a_small_page(aws: Aws, console: Console):
    run_id = aws.a_run(payload=json.dumps([{"name": "x" * 30, "n": index} for index in range(5_000)]))

    answer = console.client.get(f"/runs/{run_id}/payload", headers={"HX-Request": "true"})

    assert answer.status_code == 200
    assert len(answer.content) < 100_000
    assert "and 4,900 more, not shown" in answer.text
    assert "data-copy" not in answer.text
    assert len(console.client.get(f"/runs/{run_id}/payload.json").content) > 200_000


LARGE = {"text": "ä" * 3_000}


@pytest.fixture
def keeper(aws: Aws, clock: Clock) -> Jobs:
    """A ``Jobs`` with a bucket."""
    s3 = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1").client("s3")
    s3.create_bucket(Bucket="large-values")
    return aws.jobs(clock=clock, bucket="large-values", s3=s3)


@pytest.mark.moto
def test_a_value_in_s3_is_shown_up_to_a_bound_and_downloaded_beyond(
    keeper: Jobs, browser: Browser, monkeypatch: pytest.MonkeyPatch
):
    client, run_id = browser(of=keeper), keeper.create("email", LARGE, delay=3_600)

    assert "ääää" in client.get(f"/runs/{run_id}/payload").text
    monkeypatch.setattr(run_pages, "MOST_SHOWN_BYTES", 1_000)
    shown = client.get(f"/runs/{run_id}/payload").text

    assert "It has 6,011 bytes and is kept in S3" in shown
    assert f"/runs/{run_id}/payload.json" in shown
    assert "ääää" not in shown
    assert client.get(f"/runs/{run_id}/payload.json").json() == LARGE


@pytest.mark.moto
def test_a_value_in_s3_is_said_to_be_there_where_there_is_no_bucket(keeper: Jobs, jobs: Jobs, browser: Browser):
    client, run_id = browser(of=jobs), keeper.create("email", LARGE, delay=3_600)

    assert "this process has no bucket" in client.get(f"/runs/{run_id}/payload").text
    answer = client.get(f"/runs/{run_id}/payload.json")
    assert (answer.status_code, "no bucket" in answer.text) == (422, True)


@pytest.mark.moto
def test_a_payload_that_is_too_large_for_a_form_is_not_changed_in_one(
    keeper: Jobs, browser: Browser, monkeypatch: pytest.MonkeyPatch
):
    client, run_id = browser(of=keeper), keeper.create("email", LARGE, delay=3_600)
    assert "ääää" in client.get(f"/runs/{run_id}/change-payload").text
    monkeypatch.setattr(run_pages, "MOST_CHANGED_BYTES", 1_000)

    asked = client.get(f"/runs/{run_id}/change-payload")
    sent = client.post(f"/runs/{run_id}/change-payload", data={"seen": "scheduled.0.0", "payload": "1", "was": ""})

    assert "too large to be changed here" in asked.text
    assert sent.status_code == 422
    assert keeper.get_status(run_id).payload == LARGE
