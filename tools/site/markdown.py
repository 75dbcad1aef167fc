"""Reads what links and headings a Markdown text has, as GitHub reads them. Pure: it opens no file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

FENCE = re.compile(
    r"^(?P<indent> *)(?P<mark>```+|~~~+)(?P<language>[\w-]*).*\n(?P<text>(?:.*\n)*?) *(?P=mark) *$", re.M
)
CODE = re.compile(r"(?<!`)(`+)(?!`)(?:.|\n(?!\n))*?(?<!`)\1(?!`)")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")
ATTRIBUTE = re.compile(r"(?P<name>\b(?:src|srcset|href)=)\"(?P<target>[^\"]+)\"")
HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *#* *$", re.MULTILINE)
OTHER_HOST = re.compile(r"[a-z][a-z+.-]*:|//")


@dataclass(frozen=True)
class Link:
    """A link or a picture of a page."""

    target: str
    text: str
    """What is shown, as Markdown; empty for an attribute of HTML."""
    written: str
    """The whole link, as it is in the page."""

    @property
    def path(self) -> str:
        """The target without its anchor; empty where the page links to itself."""
        return self.target.partition("#")[0]

    @property
    def anchor(self) -> str:
        """What follows the ``#``, or an empty text."""
        return self.target.partition("#")[2]

    @property
    def leaves(self) -> bool:
        """Whether it leads to another host."""
        return OTHER_HOST.match(self.target) is not None


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    """The number of its first line in the page, from 1."""


def blocks_of(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order, their indent taken off."""
    found = []
    for match in FENCE.finditer(page):
        indent = len(match["indent"])
        text = "".join(line[indent:] if line.strip() else line for line in match["text"].splitlines(keepends=True))
        found.append(Block(match["language"], text, page.count("\n", 0, match.start("text")) + 1))
    return found


def links_of(page: str) -> list[Link]:
    """Return the links and pictures of a page, in order; code and comments have none."""
    found: list[Link] = []

    def note(link: Link) -> None:
        found.append(link)

    replace_links(page, note)
    return found


def replace_links(page: str, replacement: Callable[[Link], str | None]) -> str:
    """Return a page with each link replaced by what ``replacement`` returns for it; ``None`` leaves it as it is."""
    hidden: list[str] = []

    def hide(match: re.Match[str]) -> str:
        hidden.append(match[0])
        return f"\0{len(hidden) - 1}\0"

    whole = "".join(
        re.sub(r"(?s).+", hide, text) if is_code else CODE.sub(hide, text) for text, is_code in _parts(page)
    )

    def replaced(match: re.Match[str]) -> str:
        link = Link(match["target"], match.groupdict().get("text") or "", match[0])
        found = replacement(link)
        return match[0] if found is None else found

    # A link's text may have code in it, so code is put back after the links were found.
    whole = ATTRIBUTE.sub(replaced, LINK.sub(replaced, whole))
    return re.sub("\0(\\d+)\0", lambda match: hidden[int(match[1])], whole)


def outside_blocks(page: str, change: Callable[[str], str]) -> str:
    """Return a page with ``change`` made to what is between its fenced blocks."""
    return "".join(text if is_code else change(text) for text, is_code in _parts(page))


def anchors_of(page: str) -> list[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: list[str] = []
    counts: dict[str, int] = {}
    without_blocks = COMMENT.sub("", FENCE.sub("", page))
    for match in HEADING.finditer(without_blocks):
        slug = slug_of(match["text"])
        number = counts.get(slug, 0)
        counts[slug] = number + 1
        found.append(f"{slug}-{number}" if number else slug)
    return found


def slug_of(heading: str) -> str:
    """Return the anchor of a heading that is the first of its text: lower case, no punctuation, ``-`` for a space."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def _parts(page: str) -> Iterator[tuple[str, bool]]:
    """Yield the page in pieces, and whether each is a fenced block or a comment."""
    end = 0
    for match in re.compile(f"{FENCE.pattern}|{COMMENT.pattern}", re.MULTILINE).finditer(page):
        yield page[end : match.start()], False
        yield match[0], True
        end = match.end()
    yield page[end:], False
