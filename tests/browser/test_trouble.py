"""A table that does not answer: the page keeps what it shows, says that it is old, and goes on when it can."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import AWSResponse
from playwright.sync_api import expect

from examples.console_demo import serving
from kumofire_core import Jobs
from kumofire_core.console.local import LocalConsole
from tests.browser.conftest import Person, Place
from tests.chaos.proxy import CuttingProxy


class Refusal:
    """DynamoDB's answer to a request that comes too fast, as its service gives it."""

    body = b'{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"too fast"}'

    def __init__(self) -> None:
        self.is_on = False
        self.count = 0

    def __call__(self, request: Any, **_: Any) -> AWSResponse | None:
        if not self.is_on:
            return None
        self.count += 1
        raw = _Raw(self.body)
        return AWSResponse(request.url, 400, {"content-type": "application/x-amz-json-1.0"}, raw)


class _Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self._body


@pytest.fixture
def proxied(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LocalConsole, Jobs, CuttingProxy]]:
    """A console whose own clients reach the table through a proxy that can cut them off."""
    there = urlsplit(place.aws.endpoint_url)
    with ExitStack() as closing:
        proxy = closing.enter_context(CuttingProxy(seed=1))
        proxy.target = (str(there.hostname), int(there.port or 80))
        for name, value in {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        jobs = Jobs(table=place.table.table, queue_url=place.table.queue_url, allow_unknown_jobs=True)
        yield closing.enter_context(serving(jobs, title="nightly")), jobs, proxy


def a_failed_run(place: Place, run_id: str) -> None:
    place.table.a_run(
        run_id,
        status="failed",
        attempt=3,
        error_type="ValueError",
        last_error="ValueError: no such address",
        finished_at=1,
        updated_at=1,
        list_shard="failed#0",
        list_at=1,
    )


def refresh(someone: Person) -> None:
    someone.page.evaluate("document.body.dispatchEvent(new Event('refresh'))")


def test_a_table_out_of_reach_leaves_the_page_as_it_was_until_it_is_back(
    place: Place, person: Callable[..., Person], proxied: tuple[LocalConsole, Jobs, CuttingProxy]
) -> None:
    served, _, proxy = proxied
    a_failed_run(place, "failed-1")
    someone = person(served)
    someone.expected = ["503", "409"]  # the first retry may still be repeated when the table is back: then it is done
    page = someone.goes_to("/runs?status=failed")
    expect(page.locator("tr[data-row]")).to_have_count(1)

    proxy.cutting = 1.0
    refresh(someone)
    expect(page.locator("#trouble")).to_contain_text("What you see is as it was before", timeout=30_000)
    expect(page.locator("tr[data-row]")).to_have_count(1)
    stored = place.table.item("failed-1")
    page.keyboard.press("j")
    page.keyboard.press("r")
    page.wait_for_timeout(500)
    expect(page.locator("#trouble")).to_contain_text(re.compile("not reached|did not answer|failed"), timeout=30_000)
    assert place.table.item("failed-1") == stored

    proxy.cutting = 0.0
    refresh(someone)
    expect(page.locator("#trouble")).to_be_empty(timeout=30_000)
    page.keyboard.press("r")
    expect(page.locator("#notices")).to_contain_text("Retried 1 run")


def test_a_page_that_can_not_be_read_says_why_and_works_when_it_is_tried_again(
    place: Place, person: Callable[..., Person], proxied: tuple[LocalConsole, Jobs, CuttingProxy]
) -> None:
    served, _, proxy = proxied
    a_failed_run(place, "failed-1")
    someone = person(served)
    someone.expected = ["503"]
    proxy.cutting = 1.0

    page = someone.goes_to("/runs/failed-1")
    expect(page.get_by_role("alert").filter(has_text="the service")).to_be_visible()
    proxy.cutting = 0.0
    page.get_by_role("link", name="Try again").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("email")


def test_a_throttled_table_is_told_as_such_and_nothing_is_half_done(
    place: Place, person: Callable[..., Person], proxied: tuple[LocalConsole, Jobs, CuttingProxy]
) -> None:
    served, jobs, _ = proxied
    for number in range(3):
        a_failed_run(place, f"failed-{number}")
    someone = person(served)
    someone.expected = ["503"]
    page = someone.goes_to("/runs?status=failed")
    expect(page.locator("tr[data-row]")).to_have_count(3)
    stored = [place.table.item(f"failed-{number}") for number in range(3)]
    refusal = Refusal()
    jobs._clients.dynamodb().meta.events.register("before-send.dynamodb", refusal)
    refusal.is_on = True

    page.keyboard.press("Shift+X")
    page.keyboard.press("r")

    expect(page.locator("#trouble")).to_contain_text("asked too fast", timeout=60_000)
    assert refusal.count > 0
    assert [place.table.item(f"failed-{number}") for number in range(3)] == stored
    expect(page.locator("#chosen")).to_contain_text("3 chosen")
    refusal.is_on = False
    page.keyboard.press("r")
    expect(page.locator("#notices")).to_contain_text("Retried 3 runs")


def test_a_console_that_has_ended_is_told_on_its_page(place: Place, person: Callable[..., Person]) -> None:
    someone = person(place.served)
    someone.expected = ["ERR_CONNECTION_REFUSED", "htmx:sendError"]
    page = someone.goes_to("/jobs")
    page.wait_for_load_state("networkidle")
    place.served.stop()
    page.wait_for_timeout(1_500)

    refresh(someone)

    expect(page.locator("#trouble")).to_contain_text("The console does not answer")
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
