"""The pages of ``--help``: two columns, as wide as the terminal, without boxes."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

LEFT = 26
WIDEST = 110


class HelpPages:
    """Prints the panels of a page as lists of names and descriptions.

    What Cyclopts asks of a formatter; not a subclass of one of its own, which every command would have to import.
    """

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one panel."""
        if not panel.entries:
            return
        width = min(console.width, WIDEST)
        lines = [f"{panel.title}:"]
        for entry in panel.entries:
            names = ", ".join(entry.display_labels_with_metavar if panel.format == "parameter" else entry.all_options)
            left = f"  {names}"
            right = textwrap.wrap(_description(entry), max(20, width - LEFT - 2)) or [""]
            if len(left) > LEFT:
                lines.append(left)
                left = ""
            lines.append(f"{left.ljust(LEFT)}  {right[0]}".rstrip())
            lines += [f"{' ' * LEFT}  {line}" for line in right[1:]]
        self._write(console, [*lines, ""])

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print how a command is called."""
        self._write(console, [f"Usage: {_text(usage).removeprefix('Usage: ')}", ""])

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Print what a command does, wrapped; its paragraphs stay apart."""
        paragraphs = [" ".join(paragraph.split()) for paragraph in _text(description).split("\n\n")]
        lines: list[str] = []
        for paragraph in filter(None, paragraphs):
            lines += [*textwrap.wrap(paragraph, min(console.width, WIDEST)), ""]
        self._write(console, lines)

    def _write(self, console: Console, lines: list[str]) -> None:
        if lines:
            console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _description(entry: HelpEntry) -> str:
    parts = [_text(entry.description)]
    if entry.choices:
        parts.append(f"({', '.join(entry.choices)})")
    if entry.default not in (None, "False"):
        parts.append(f"[default: {entry.default}]")
    return " ".join(filter(None, parts))


def _text(description: Any) -> str:
    """Return a description's plain text; Cyclopts hands it over wrapped in what Rich renders."""
    inner = getattr(description, "primary_renderable", description)
    return "" if inner is None else str(getattr(inner, "plain", inner)).strip()
