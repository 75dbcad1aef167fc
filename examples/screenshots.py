"""Takes the pictures that the documentation shows: each page of the console, light and dark, and the command line.

``python -m examples.screenshots FOLDER`` plays the morning of ``examples.console_demo`` on a local AWS. It opens the
console in a Chromium, and writes ``console-PAGE-light.png`` and ``console-PAGE-dark.png``. It calls ``kumofire`` in a
terminal, and writes ``terminal.svg``.
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, ViewportSize, sync_playwright

from examples.console_demo import played_morning, serving
from examples.local_aws import LocalAws, local_aws
from kumofire_core import Jobs

SIZE: ViewportSize = {"width": 1280, "height": 800}
LOOKS: tuple[Literal["light", "dark"], ...] = ("light", "dark")


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


COLUMNS = 112
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def in_a_terminal(command: Sequence[str], environment: dict[str, str]) -> str:
    """Return what a command writes to a terminal of ``COLUMNS`` columns, colours included."""
    mine, its = pty.openpty()
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        written = bytearray()
        while True:
            try:
                read = os.read(mine, 65_536)
            except OSError:  # Linux says so when the last one has closed the other side
                break
            if not read:
                break
            written += read
    os.close(mine)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}: {written.decode(errors='replace')}")
    return written.decode().replace("\r\n", "\n")


def terminal(aws: LocalAws, jobs: Jobs) -> str:
    """Return a picture, as SVG, of a terminal in which somebody looks for what failed."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    environment = {
        "PATH": os.environ["PATH"],
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
        "TZ": "Europe/Berlin",
        "AWS_ENDPOINT_URL": aws.endpoint_url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "KUMOFIRE_TABLE": jobs.table_name,
        "KUMOFIRE_QUEUE_URL": jobs.queue_url,
    }
    run_id = failed_run(jobs).rpartition("/")[2]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for arguments in (
        ("runs", "list", "--status", "failed", "--limit", "3"),
        ("runs", "show", run_id),
        ("runs", "retry", run_id),
    ):
        console.print(Text.assemble(("$ ", "bold green"), f"kumofire {' '.join(arguments)}"))
        console.print(
            Text.from_ansi(in_a_terminal([sys.executable, "-m", "kumofire_core.cli", *arguments], environment))
        )
    # Its fonts are asked of another host, which a page here never does.
    return FONT.sub("", console.export_svg(title="kumofire", theme=MONOKAI))


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
    with local_aws() as aws, sync_playwright() as playwright, ExitStack() as closing:
        jobs = played_morning(aws)
        served = closing.enter_context(serving(jobs, title="production"))
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
        (arguments.folder / "terminal.svg").write_text(terminal(aws, jobs), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
