"""Takes the pictures of the console that the documentation shows: each page, light and dark.

``python -m examples.screenshots FOLDER`` plays the morning of ``examples.console_demo`` on a local AWS, opens the
console in a Chromium, and writes ``console-PAGE-light.png`` and ``console-PAGE-dark.png``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from examples.console_demo import World, add_handlers, arrange, make_jobs, make_table_and_queues
from examples.local_aws import local_aws
from kumofire_core import Jobs
from kumofire_core.console.local import LocalConsole
from kumofire_core.deployment.dead_letters import DeadLetters
from kumofire_core.deployment.discovery import deployment_of_jobs

SIZE = {"width": 1280, "height": 800}
LOOKS = ("light", "dark")


def find_chromium() -> str | None:
    """Return a Chromium of this machine: ``CHROMIUM``, Playwright's own, or one on the path; ``None`` without one."""
    if named := os.environ.get("CHROMIUM"):
        return named
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    if Path(own).exists():
        return own
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def failed_run(jobs: Jobs) -> str:
    """Return a run whose page has much to show: one that failed after several attempts."""
    found = jobs.list_runs(status="failed", job_name="charge-card", error_type="PaymentServiceError", limit=1)
    return f"/runs/{found.runs[0].id}"


def first_schedule(jobs: Jobs) -> str:
    """Return the page of the morning's report."""
    schedule = jobs.get_schedule_by_key("reports/morning")
    assert schedule is not None
    return f"/schedules/{schedule.id}"


PAGES: dict[str, Callable[[Jobs], str]] = {
    "overview": lambda jobs: "/",
    "runs": lambda jobs: "/runs?status=failed",
    "run": failed_run,
    "jobs": lambda jobs: "/jobs",
    "schedules": lambda jobs: "/schedules",
    "schedule": first_schedule,
    "dead-letters": lambda jobs: "/dead-letters",
}


@contextmanager
def morning() -> Iterator[tuple[Jobs, LocalConsole]]:
    """Play the morning on a local AWS, and serve a console on it."""
    with local_aws() as aws:
        table, queue_url = make_table_and_queues(aws)
        world = World(datetime.now(UTC))
        past = make_jobs(aws, table, queue_url, world.clock, concurrency=1)
        add_handlers(past, world)
        arrange(past, world, until=datetime.now(UTC))
        aws.client("sqs").send_message(QueueUrl=f"{queue_url}-dead", MessageBody='{"order": 4242}')
        jobs = make_jobs(aws, table, queue_url, lambda: datetime.now(UTC), allow_unknown_jobs=True)
        served = LocalConsole(
            jobs,
            port=0,
            read_only=False,
            payloads=True,
            title="production",
            dead_letters=lambda: DeadLetters(deployment_of_jobs(jobs)),
        )
        thread = threading.Thread(target=served.serve, daemon=True)
        thread.start()
        yield jobs, served
        served.stop()
        thread.join(10)


def take(page: Page, path: Path) -> None:
    """Write a picture of a page once nothing on it changes any more."""
    page.wait_for_load_state("networkidle")
    page.screenshot(path=path, animations="disabled")


def main(given: Sequence[str] | None = None) -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args(given)
    executable = find_chromium()
    if executable is None:
        print("error: there is no Chromium here: install chromium, or name one by CHROMIUM", file=sys.stderr)
        return 1
    with morning() as (jobs, served), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for look in LOOKS:
            context = browser.new_context(viewport=SIZE, color_scheme=look, timezone_id="Europe/Berlin")
            page = context.new_page()
            page.goto(served.address)
            for name, path_of in PAGES.items():
                page.goto(f"http://127.0.0.1:{served.port}{path_of(jobs)}")
                take(page, arguments.folder / f"console-{name}-{look}.png")
            context.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
