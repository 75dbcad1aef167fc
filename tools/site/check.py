"""Looks through the built site: every link leads, every picture is there, and no page makes a request elsewhere.

The builder checks links between the pages' Markdown. What it makes of docstrings, of HTML in a page and of the theme,
only the built pages show.
"""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

REQUESTED = {"src", "srcset", "data", "poster"}
"""Attributes whose address a browser requests by itself."""

REQUESTED_BY_LINK = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload"}
STYLE_ADDRESS = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")
HAS_HOST = re.compile(r"(?:[a-z][a-z+.-]*:)?//", re.IGNORECASE)


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what a browser requests for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.requests: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names."""
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        for name in REQUESTED & given.keys():
            parts = given[name].split(",") if name == "srcset" else [given[name]]
            self.requests += [part.split()[0] for part in parts if part.strip()]
        if "href" not in given:
            return
        is_requested = tag == "link" and REQUESTED_BY_LINK & set(given.get("rel", "").split())
        (self.requests if is_requested else self.links).append(given["href"])


def problems_of(site: Path) -> list[str]:
    """Return what is wrong with a built site, a line each."""
    pages = {
        path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    found = []
    for name, page in pages.items():
        for address in page.requests:
            if HAS_HOST.match(address):
                found.append(f"{name} requests {address}; ship the file with the site")
        for address in {*page.links, *page.requests}:
            problem = None if HAS_HOST.match(address) else _wrong_with(address, name, pages, files)
            if problem is not None:
                found.append(f"{name} links to {address!r}: {problem}")
    for path in sorted(site.rglob("*.css")):
        for one, other in STYLE_ADDRESS.findall(path.read_text(encoding="utf-8")):
            if HAS_HOST.match(one or other):
                found.append(
                    f"{path.relative_to(site).as_posix()} requests {one or other}; ship the file with the site"
                )
    return found


def _wrong_with(address: str, page: str, pages: dict[str, Page], files: set[str]) -> str | None:
    if re.match(r"(mailto|data|javascript):", address):
        return None
    path, _, anchor = unquote(address).partition("#")
    path = path.partition("?")[0]
    # The page of a missing address is served at any depth, so its links begin at the site's root.
    folder = "." if path.startswith("/") else posixpath.dirname(page)
    target = posixpath.normpath(posixpath.join(folder, path.lstrip("/"))) if path else page
    if target not in files:
        target = posixpath.normpath(f"{target}/index.html")
    if target not in files:
        return "there is no such file"
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "that page has no such anchor"
    return None
