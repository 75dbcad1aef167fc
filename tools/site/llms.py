"""Writes the lists for programs that read documentation: llms.txt, and the text of all pages in one file.

The form is that of https://llmstxt.org: a title, a summary, and sections of links with a line each. Sections, titles
and lines are those of zensical.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tools.environment import PROJECT, ToolError

LLMS = PROJECT / "docs/llms.txt"


@dataclass(frozen=True)
class Entry:
    """A page in the navigation."""

    section: str
    title: str
    path: str
    """Its place on the site."""
    about: str
    """What it is about, in a line."""

    @property
    def source(self) -> str | None:
        """The file in docs/, or ``None`` for a page of the root or of the API reference."""
        return self.path if "/" not in self.path else None


def configuration() -> dict[str, Any]:
    """Return what zensical.toml has for the project."""
    found: dict[str, Any] = tomllib.loads((PROJECT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    return found


def navigation() -> list[Entry]:
    """Return the pages of the navigation, in order. Raises ``ToolError`` for a page of docs/ without a line on it."""
    project = configuration()
    about = project["extra"]["about"]
    found = [Entry(section, title, path, about.get(path, "")) for section, title, path in _entries(project["nav"], "")]
    for entry in found:
        if entry.source and not entry.about:
            raise ToolError(f"zensical.toml has {entry.path!r} in nav; say in extra.about what it is about")
    return found


def summary() -> str:
    """Return llms.txt. Its links are relative: it is in docs/, and at the root of the site."""
    project = configuration()
    lines = [f"# {project['site_name']}", "", f"> {project['site_description']}", "", project["extra"]["for_programs"]]
    section = None
    for entry in navigation():
        if entry.source is None:
            continue
        if entry.section != section:
            section = entry.section
            lines += ["", f"## {section}", ""]
        lines.append(f"- [{entry.title}]({entry.path}): {entry.about}")
    return "\n".join(lines) + "\n"


def full_text() -> str:
    """Return the text of all pages of docs/ in the navigation's order, each after a line with its name."""
    texts = [
        f"<!-- docs/{entry.source} -->\n\n{(PROJECT / 'docs' / entry.source).read_text(encoding='utf-8').rstrip()}\n"
        for entry in navigation()
        if entry.source
    ]
    return "\n".join(texts)


def _entries(nav: list[Any], section: str) -> Iterator[tuple[str, str, str]]:
    for each in nav:
        ((title, below),) = each.items()
        if isinstance(below, str):
            yield section, title, below
        else:
            yield from _entries(below, section or title)
