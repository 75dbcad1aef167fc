"""What was measured, as Markdown tables and as plots. Free of measuring."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.plots import Bar, bars

TITLES = {
    "consume": "CPU per record",
    "worker": "A worker process",
    "batch": "A batch of ten, 4 ms to the services",
    "cold": "Cold start and memory",
    "create": "Creating runs",
    "aio": "Creating runs from an event loop",
    "dispatch": "One pass of the dispatcher",
    "write_units": "Write units",
    "batches": "Batches",
    "steps": "Steps",
    "large": "Large payloads",
    "limits": "Limits and rates",
    "listing": "Lists and counts",
    "units": "Single things, counted",
    "command_line": "The command line",
    "console": "The console",
    "testing": "A test of an application",
}

BEGIN, END = "<!-- measured -->\n", "<!-- end of measured -->"


def tables(measured: Mapping[str, Sequence[Row]]) -> str:
    """Return one table for each benchmark."""
    return "\n".join(f"### {TITLES[name]}\n\n{table(rows)}" for name, rows in measured.items())


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| what | measured | middle half | must reach | medians |", "|---|---|---|---|---|"]
    for row in rows:
        value = "not measured" if row.value is None else f"{row.value:,.4g}"
        half = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        reached = {True: " ✓", False: " ✗", None: ""}[row.reached]
        lines.append(f"| {row.what} | {value}{reached} | {half} | {_target(row)} | {row.detail} |")
    return "\n".join(lines) + "\n"


def folder_of(page: str) -> Callable[[str], Path]:
    """Return the check of a command line's argument that it is a folder with this page, before anything is measured."""

    def folder(text: str) -> Path:
        if not os.path.isfile(os.path.join(text, page)):
            raise argparse.ArgumentTypeError(f"{text!r} is no folder with a {page}")
        return Path(text)

    return folder


def write(folder: Path, measured: Mapping[str, Sequence[Row]], *, heading: str) -> None:
    """Write plots into ``folder``, and tables into its ``benchmarks.md``, between the marks.

    What was not measured now stays on the page as it is: each table says when it was measured.
    """
    page = folder / "benchmarks.md"
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    found, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks {BEGIN.strip()!r} and {END!r}")
    sections = {text.partition("\n")[0]: text.partition("\n")[2].strip() for text in f"\n{found}".split("\n### ")[1:]}
    for name, rows in measured.items():
        if not rows:  # it failed, or was left out
            continue
        plotted = [row for row in rows if row.value is not None and (row.low is not None or name == "write_units")]
        parts = [f"Measured {heading}."]
        if plotted:
            picture = f"benchmark-{name.replace('_', '-')}.svg"
            (folder / picture).write_text(bars(TITLES[name], [_bar(row) for row in plotted]), encoding="utf-8")
            parts.append(f"![{TITLES[name]}]({picture})")
        sections[TITLES[name]] = "\n\n".join([*parts, table(rows).strip()])
    ordered = [title for title in TITLES.values() if title in sections]
    ordered += [title for title in sections if title not in ordered]
    text = "\n\n".join(f"### {title}\n\n{sections[title]}" for title in ordered)
    page.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")


def _bar(row: Row) -> Bar:
    assert row.value is not None
    target = row.at_most if row.at_most is not None else row.at_least
    return Bar(label=row.what, value=row.value, low=row.low, high=row.high, target=target, reached=row.reached)


def _target(row: Row) -> str:
    if row.at_most is not None and row.at_most == row.at_least:
        return f"{row.at_most:g}"
    if row.at_most is not None:
        return f"≤ {row.at_most:g}"
    return "" if row.at_least is None else f"≥ {row.at_least:g}"
