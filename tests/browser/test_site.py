"""The documentation's site in a real browser: nothing from another host, no finding of axe, diagrams and search work.

It looks at build/site, which `make docs` builds.
"""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from examples.deployment import PROJECT

SITE = PROJECT / "build/site"
LOOKED_AT = ["index.html", "runs.html", "reference/runs.html"]
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    # With a keyboard: where a screen is touched, the theme takes wide code out of the order of the tab key.
    "narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
"""What is asked of the theme; its landmarks are its own."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    """The address of the built site, served on the loopback interface."""
    if not (SITE / "index.html").is_file():
        pytest.fail("there is no build/site; call `make docs`, which `make test-browser` does")
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def opened(browser: Browser, address: str, complaints: list[str], **look: Any) -> Page:
    """Return an open page; requests to other places than its own, and what the browser complains of, are noted."""
    page = browser.new_context(**look).new_page()
    place = address.rpartition("/")[0] if address.startswith("file:") else "/".join(address.split("/")[:3])

    def note_request(request: Any) -> None:
        if not request.url.startswith((place, "data:", "blob:")):
            complaints.append(f"{address} requests {request.url}")

    page.on("request", note_request)
    page.on("pageerror", lambda error: complaints.append(f"{address}: {error}"))
    page.on("console", lambda said: said.type == "error" and complaints.append(f"{address}: {said.text}"))
    page.goto(address)
    return page


@pytest.mark.parametrize("look", LOOKS)
def test_no_page_has_a_finding_nor_is_wider_than_the_screen(browser: Browser, root: str, look: str) -> None:
    findings: list[str] = []

    for name in LOOKED_AT:
        page = opened(browser, f"{root}/{name}", findings, **LOOKS[look])
        findings += [
            f"{name}: {found['id']}: {node['html'][:200]} ({node['failureSummary']})"
            for found in Axe().run(page, options=WCAG).response["violations"]
            for node in found["nodes"]
        ]
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            findings.append(f"{name}: it is {wide} px wider than the screen")
        page.context.close()

    assert findings == []


def test_every_diagram_is_drawn_without_a_request_elsewhere(browser: Browser, root: str) -> None:
    sources = {path: path.read_text(encoding="utf-8").count('<pre class="mermaid">') for path in SITE.rglob("*.html")}
    complaints: list[str] = []

    for path, count in sources.items():
        if count:
            page = opened(browser, f"{root}/{path.relative_to(SITE).as_posix()}", complaints)
            # A drawn diagram is in a closed shadow root, so its height tells.
            page.wait_for_function("document.querySelectorAll('pre.mermaid').length === 0")
            heights = page.evaluate("[...document.querySelectorAll('div.mermaid')].map(each => each.offsetHeight)")
            if len(heights) != count or min(heights) < 50:
                complaints.append(f"{path.name} has {count} diagrams, drawn {heights} px high")
            page.context.close()

    assert complaints == []


@pytest.mark.parametrize("by", ["http", "file"])
def test_the_search_finds_a_page_and_a_call_also_without_a_server(browser: Browser, root: str, by: str) -> None:
    complaints: list[str] = []
    address = f"{root}/index.html" if by == "http" else f"{SITE.as_uri()}/index.html"
    page = opened(browser, address, complaints)

    # Its list is in a closed shadow root, and there when the index was read: Enter opens the first entry then. On a
    # busy machine that may be an entry for the first letters only, or the page not ready: the next try begins anew,
    # and waits longer.
    for attempt in range(20):
        page.keyboard.press("Escape")
        page.keyboard.press("Control+k")
        page.wait_for_timeout(200)
        page.keyboard.press("Control+a")
        page.keyboard.type("create_in_transaction")
        page.wait_for_timeout(500 + 300 * attempt)
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)
        if page.url.partition("?")[0].endswith("/reference/runs.html"):
            break
        if "reference" in page.url:
            page.goto(address)

    assert page.url.partition("?")[0].endswith("/reference/runs.html")
    assert complaints == []
