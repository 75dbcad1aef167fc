"""A real browser on a real console: Chromium, a console on the loopback, and a table in a local AWS behind it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from examples.console_demo import World, add_handlers, make_jobs, make_table_and_queues, serving, working
from examples.local_aws import LocalAws
from examples.screenshots import find_chromium
from kumofire_core import Jobs
from kumofire_core.console.local import LocalConsole
from tests.builders import Aws
from tests.emulators import ministack
from tests.faults import Recorded

__all__ = ["ministack"]

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, and keep those of one process together: they share a browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium for the session; tests are skipped where there is none."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("there is no Chromium here: install chromium, or name one by CHROMIUM")
    with sync_playwright() as playwright:
        # Chromium's sandbox does not start as root; these pages are our own.
        found = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield found
        found.close()


@dataclass
class Place:
    """A deployment in the local AWS, with a console on it."""

    aws: LocalAws
    jobs: Jobs
    table: Aws
    """The table and the queue, to arrange runs and to look at what is stored."""
    world: World
    served: LocalConsole
    closing: ExitStack

    def start_work(self) -> None:
        """Let a thread take the consumer's and the dispatcher's place from now on."""
        self.closing.enter_context(working(self.jobs, self.aws.client("sqs")))


@pytest.fixture
def place(ministack: LocalAws) -> Iterator[Place]:
    """A deployment of this test's own, and a console for who may do everything."""
    name = f"console-{os.getpid()}-{next(_numbers)}"
    table, queue_url = make_table_and_queues(ministack, name)
    world = World(datetime.now(UTC))
    jobs = make_jobs(ministack, table, queue_url, lambda: datetime.now(UTC), allow_unknown_jobs=True)
    add_handlers(jobs, world)
    stored = Aws(
        dynamodb=Recorded(ministack.client("dynamodb")),
        sqs=Recorded(ministack.client("sqs")),
        table=table,
        queue_url=queue_url,
    )
    with ExitStack() as closing:
        served = closing.enter_context(serving(jobs, title="nightly"))
        yield Place(aws=ministack, jobs=jobs, table=stored, world=world, served=served, closing=closing)


@dataclass
class Person:
    """A person with a browser of their own, who has opened the console."""

    page: Page
    root: str
    complaints: list[str] = field(default_factory=list)
    """What the browser complained of: errors of scripts, and what the content security policy has blocked."""
    expected: list[str] = field(default_factory=list)
    """Parts of complaints that the test provokes."""

    def goes_to(self, path: str) -> Page:
        """Open a page of the console."""
        self.page.goto(self.root + path)
        return self.page

    def unexpected(self) -> list[str]:
        """Return the complaints that neither the test provoked, nor a page that ended before its request."""
        expected = [*self.expected, "htmx:afterRequest", "htmx:sendAbort"]
        return [each for each in self.complaints if not any(part in each for part in expected)]


@pytest.fixture
def person(browser: Browser) -> Iterator[Callable[..., Person]]:
    """Return a function that lets a person open a console. At the end nobody's browser may have complained."""
    people: list[Person] = []
    with ExitStack() as closing:

        def arrives(served: LocalConsole, **options: Any) -> Person:
            context = browser.new_context(**({"viewport": {"width": 1280, "height": 860}} | options))
            closing.callback(context.close)
            context.set_default_timeout(15_000)
            page = context.new_page()
            found = Person(page=page, root=f"http://127.0.0.1:{served.port}")
            page.on("pageerror", lambda error: found.complaints.append(f"script: {error}"))
            page.on("console", lambda said: said.type == "error" and found.complaints.append(f"console: {said.text}"))
            page.goto(served.address)
            people.append(found)
            return found

        yield arrives
        complaints = [each for found in people for each in found.unexpected()]
    assert complaints == []
