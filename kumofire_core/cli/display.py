"""What people see: tables that fit the terminal, colours where there is a terminal, and lists of fields.

Rich draws what moves (``live.py``). It takes a tenth of a second to import, so what is printed once does without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from shutil import get_terminal_size
from typing import TextIO

from rich.cells import cell_len, set_cell_size

from kumofire_core.text import plain

BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"
NO_STYLE = ""
GAP = "  "

STATUS_STYLES: Mapping[str, str] = {
    "succeeded": GREEN,
    "failed": RED,
    "canceled": YELLOW,
    "running": CYAN,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A text of a table and its style."""

    text: str
    style: str = NO_STYLE


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. ``least`` is the width to which a narrow terminal may cut it; ``None`` cuts nothing."""

    title: str
    least: int | None = None
    right: bool = False


def colors(stream: TextIO) -> bool:
    """Return whether to write colours: on a terminal that knows them, unless ``NO_COLOR`` is set (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    if sys.platform == "win32" and not os.environ.get("WT_SESSION"):
        return False
    return stream.isatty()


def styled(text: str, style: str, *, color: bool) -> str:
    """Return a text in a style, or as it is where there are no colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if color and style and text else text


def status_cell(status: str) -> Cell:
    """Return a run's status in its colour."""
    return Cell(status, STATUS_STYLES.get(status, NO_STYLE))


def width_of(stream: TextIO) -> int | None:
    """Return a terminal's width; ``None`` for what is not a terminal, where nothing is cut."""
    return get_terminal_size().columns if stream.isatty() else None


def table_lines(
    columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]], *, width: int | None, color: bool
) -> list[str]:
    """Return the lines of a table. Texts are made safe here. Columns that are empty in every row are left out."""
    cells = [[_safe(cell) for cell in row] for row in rows]
    kept = [index for index in range(len(columns)) if any(row[index].text for row in cells)]
    heads = [columns[index] for index in kept]
    lines = [[Cell(head.title, BOLD) for head in heads], *([row[index] for index in kept] for row in cells)]
    widths = _widths(heads, lines, width)
    return [_line(heads, line, widths, color) for line in lines]


def field_lines(fields: Iterable[tuple[str, Cell | str | None]], *, color: bool) -> list[str]:
    """Return a line for each field that has a value: its name, and its text, made safe."""
    given = [(name, _safe(value)) for name, value in fields if value is not None]
    longest = max((len(name) for name, _ in given), default=0)
    return [
        f"{styled(name.ljust(longest), DIM, color=color)}{GAP}{styled(value.text, value.style, color=color)}"
        for name, value in given
    ]


def _safe(cell: Cell | str) -> Cell:
    return Cell(plain(cell)) if isinstance(cell, str) else Cell(plain(cell.text), cell.style)


def _widths(heads: Sequence[Column], lines: Sequence[Sequence[Cell]], width: int | None) -> list[int]:
    """Return each column's width: as wide as its texts, and the widest that may be cut are, until all fits."""
    widths = [max(cell_len(line[index].text) for line in lines) for index in range(len(heads))]
    if width is None:
        return widths
    over = sum(widths) + len(GAP) * (len(widths) - 1) - width
    while over > 0:
        room = {index: widths[index] - head.least for index, head in enumerate(heads) if head.least is not None}
        widest = max((index for index in room if room[index] > 0), key=lambda index: widths[index], default=None)
        if widest is None:
            break  # the terminal wraps the lines: a run's id must be there to be copied
        widths[widest] -= 1
        over -= 1
    return widths


def _line(heads: Sequence[Column], cells: Sequence[Cell], widths: Sequence[int], color: bool) -> str:
    parts = []
    for head, cell, width in zip(heads, cells, widths, strict=True):
        text = cell.text
        if cell_len(text) > width:
            text = set_cell_size(text, max(0, width - 1)) + "…"
        padding = " " * (width - cell_len(text))
        shown = styled(text, cell.style, color=color)
        parts.append(padding + shown if head.right else shown + padding)
    return GAP.join(parts).rstrip()
