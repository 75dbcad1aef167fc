"""The console's first paint with 100,000 failed runs in the table, in a real Chromium, on DynamoDB Local.

It needs Java, DynamoDB Local (``tools.dynamodb_local``) and a Chromium. The times are of this machine; each is shown
beside the same page's time with a hundred failed runs in the table.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.counted import AnyQueue
from benchmarks.endpoint import Endpoint
from benchmarks.filled import FEW, MANY, fill
from benchmarks.measure import Row
from tools.dynamodb_local import NotThereError, beside_dynamodb_local, running

PAINT_MS = 200
PAGES = {"the overview": "/", "the list of failed runs": "/runs?status=failed", "a run": "/runs/failed-7"}

FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure in a process of its own, without a network."""
    what = f"first paint in ms with {MANY:,} failed runs in the table"
    many, times = (1_000, 3) if quick else (MANY, 9)
    try:
        found = json.loads(beside_dynamodb_local("benchmarks.console", str(many), str(times)))
    except NotThereError as reason:
        return [Row(what=what, value=None, detail=str(reason))]
    rows = []
    for name in PAGES:
        few_ms, many_ms = found[str(FEW)][name], found[str(many)][name]
        rows.append(
            Row(
                what=f"{name}: first paint in ms, {many:,} failed runs in the table",
                value=round(many_ms),
                at_most=PAINT_MS,
                detail=f"{few_ms:.0f} ms with {FEW}",
            )
        )
    return rows


def main() -> None:
    """Fill a table for each size, open the pages in a browser, and print the middle of their first paints as JSON."""
    from playwright.sync_api import sync_playwright

    from examples.screenshots import find_chromium

    many, times = int(sys.argv[3]), int(sys.argv[4])
    chromium = find_chromium()
    if chromium is None:
        sys.exit("a Chromium was not found")
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    painted: dict[str, dict[str, float]] = {}
    with running(sys.argv[1], Path(sys.argv[2])) as url, sync_playwright() as playwright:
        os.environ["AWS_ENDPOINT_URL"] = url
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for count in (FEW, many):
            painted[str(count)] = _first_paints(browser, count, times)
        browser.close()
    print(json.dumps(painted))


def _first_paints(browser: Any, count: int, times: int) -> dict[str, float]:
    from benchmarks.material import plain_client
    from examples.console_demo import serving
    from kumofire_core import Jobs

    table = f"console-{count}"
    fill(plain_client(), table, count)
    jobs = Jobs(table=table, queue_url="queue", dynamodb=plain_client(), sqs=AnyQueue(), allow_unknown_jobs=True)  # type: ignore[arg-type]
    found: dict[str, float] = {}
    with serving(jobs) as served:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        page = context.new_page()
        page.goto(served.address)
        for name, path in PAGES.items():
            paints = []
            for _ in range(times + 1):
                page.goto("about:blank")
                page.goto(f"http://127.0.0.1:{served.port}{path}")
                # Not wait_for_function: the page's content security policy forbids what it evaluates.
                while (painted := page.evaluate(FIRST_PAINT)) is None:
                    page.wait_for_timeout(20)
                paints.append(painted)
            found[name] = statistics.median(paints[1:])  # the first one finds nothing in the browser's cache
        context.close()
    return found


if __name__ == "__main__":
    main()
