"""A JSON value as markup that a person reads: a tree whose branches open and close, bounded in what it shows.

A payload may be anything of 400 KB, so the tree says where it was cut. The download has all of it.
"""

from __future__ import annotations

import json
import math
from typing import Any

from markupsafe import Markup

from kumofire_core.text import plain

MOST_NODES = 2_000
"""How many values are shown in all."""
MOST_CHILDREN = 100
"""How many members of one array or object are shown."""
MOST_DEPTH = 20
MOST_CHARACTERS = 2_000
"""How much of a text is shown, and of a key ``MOST_KEY_CHARACTERS``."""
MOST_KEY_CHARACTERS = 200
ALL_OPEN = 60
"""Up to so many values are shown without a click. Of a larger one, the first two levels."""


def readable(value: Any) -> str:
    """Return a value as JSON on several lines. It is printable but for its line ends, and equal after it was parsed.

    Letters stay as they are. Control characters, those that turn the direction of writing, and halves of surrogate
    pairs become JSON's escapes. Not-a-number and infinities, which a foreign writer may have stored, stay as Python's
    JSON has them.
    """
    return "\n".join(map(_escaped, json.dumps(value, indent=2, ensure_ascii=False).split("\n")))


def exact(value: Any) -> str:
    """Return a value as JSON in the form in which it is stored."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: only an escape can hold it
        return json.dumps(value, separators=(",", ":"))
    return text


def tree(value: Any) -> Markup:
    """Return a JSON value as markup. Nothing in it acts as markup, steers a display, or turns what follows."""
    return _Tree(all_open=_size(value, ALL_OPEN) <= ALL_OPEN).of(value)


class _Tree:
    def __init__(self, *, all_open: bool) -> None:
        self._all_open = all_open
        self._left = MOST_NODES

    def of(self, value: Any) -> Markup:
        # One text, joined once: to join marked texts copies them at each level.
        parts: list[str] = []
        self._add(parts, "", value, 0)
        return Markup(f'<ul class="tree">{"".join(parts)}</ul>')

    def _add(self, parts: list[str], key: str, value: Any, depth: int) -> None:
        """Add a value under the markup of its key."""
        self._left -= 1
        if not isinstance(value, dict | list):
            parts.append(f"<li>{key}{_scalar(value)}</li>")
            return
        begins, ends = "{}" if isinstance(value, dict) else "[]"
        if not value:
            parts.append(f'<li>{key}<span class="mark">{begins}{ends}</span></li>')
            return
        noun = "key" if isinstance(value, dict) else "item"
        size = f"{len(value):,} {noun}{'' if len(value) == 1 else 's'}"
        head = f'{key}<span class="mark">{begins}</span> <span class="size">{size}</span>'
        if depth >= MOST_DEPTH:
            parts.append(
                f'<li>{head} <span class="cut-off">not shown: nested deeper than {MOST_DEPTH} levels</span></li>'
            )
            return
        is_open = " open" if self._all_open or depth < 2 else ""
        parts.append(f"<li><details{is_open}><summary>{head}</summary><ul>")
        shown = 0
        for index, child in enumerate(value.items() if isinstance(value, dict) else value):
            if shown >= MOST_CHILDREN or self._left <= 0:
                break
            if isinstance(value, dict):
                self._add(
                    parts, f'<span class="key">{_text(child[0], MOST_KEY_CHARACTERS)}</span>: ', child[1], depth + 1
                )
            else:
                self._add(parts, f'<span class="index">{index}:</span> ', child, depth + 1)
            shown += 1
        if shown < len(value):
            parts.append(f'<li class="cut-off">and {len(value) - shown:,} more, not shown</li>')
        parts.append("</ul></details></li>")


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return f'<span class="string">{_text(value, MOST_CHARACTERS)}</span>'
    if value is None:
        return '<span class="null">null</span>'
    if isinstance(value, bool):
        return f'<span class="boolean">{"true" if value else "false"}</span>'
    if isinstance(value, float) and not math.isfinite(value):
        return f'<span class="number">{"NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}</span>'
    return f'<span class="number">{Markup.escape(plain(json.dumps(value)))}</span>'


def _text(text: str, most: int) -> str:
    """Return a text as markup, in quotes, as JSON writes it; a long one is cut, with its length."""
    shown = Markup.escape(_escaped(json.dumps(text[:most], ensure_ascii=False)))
    if len(text) <= most:
        return f"<bdi>{shown}</bdi>"
    return f'<bdi>{shown[:-5]}…</bdi> <span class="cut-off">{len(text):,} characters</span>'


def _escaped(line: str) -> str:
    """Return a line of JSON with an escape for each character that is not printable. In JSON only texts hold such."""
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)


def _size(value: Any, most: int) -> int:
    """Count the values within a value, up to about ``most``."""
    pending, size = [value], 0
    while pending and size <= most:
        here = pending.pop()
        size += 1
        if isinstance(here, dict | list):
            # No more than can matter, so that a list of a million is not copied.
            members = here.values() if isinstance(here, dict) else here
            pending += [each for each, _ in zip(members, range(most + 1), strict=False)]
    return size
