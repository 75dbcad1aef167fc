"""Runs the benchmarks, each in a process of its own, and prints what they measured as tables.

``python -m benchmarks [names…] [--quick] [--docs docs]``
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report
from benchmarks.measure import Row

PROJECT = Path(__file__).resolve().parent.parent

BENCHMARKS = {
    "consume": (1,),
    "worker": (1,),
    "batch": (1, 2),
    "cold": (1,),
    "aio": (1,),
    "create": (1,),
    "dispatch": (1,),
    "write_units": (1,),
    "batches": (1,),
    "steps": (1,),
    "large": (1,),
    "limits": (2,),
    "listing": (1,),
    "units": (1,),
    "command_line": (1,),
    "console": (2,),
    "testing": (1,),
}
"""Which there are, and on how many cores each is run."""


def main(given: Sequence[str] | None = None) -> int:
    """Run what the command line names; return 1 where one could not be run, whatever its numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="names", help=f"which to run: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that they run; numbers mean little")
    parser.add_argument(
        "--docs",
        type=report.folder_of("benchmarks.md"),
        metavar="FOLDER",
        help="write the plots there, and the tables into its benchmarks.md",
    )
    arguments = parser.parse_args(given)
    names = arguments.names or list(BENCHMARKS)
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    # As after an installation: without byte code each start would compile the sources, and that is no part of it.
    for folder in ("kumofire_core", "handler", "benchmarks", "examples"):
        compileall.compile_dir(PROJECT / folder, quiet=1)
    available = len(os.sched_getaffinity(0))
    measured: dict[str, list[Row]] = {}
    failed, lacking = 0, set[str]()
    begun = time.monotonic()
    for name in names:
        for cores in BENCHMARKS[name]:
            if cores > available:
                print(f"{name}: left out on {cores} cores, because this process may use {available}", file=sys.stderr)
                lacking.add(name)
                continue
            rows = run(name, cores, quick=arguments.quick)
            failed += rows is None
            if rows is None:
                lacking.add(name)
            measured.setdefault(name, []).extend(rows or [])
    print(report.tables(measured))
    print(f"{time.monotonic() - begun:.0f} s on {machine()}")
    if arguments.docs is not None:
        measured = {name: rows for name, rows in measured.items() if name not in lacking}
        report.write(arguments.docs, measured, heading=f"{datetime.now(UTC):%Y-%m-%d}, {machine()}")
    return 1 if failed else 0


def run(name: str, cores: int, *, quick: bool) -> list[Row] | None:
    """Run one benchmark; return its rows, or ``None`` after saying why there are none."""
    command = [sys.executable, "-m", "benchmarks.child", name, str(cores), "quick" if quick else "full"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name} on {cores} cores failed:\n{done.stderr}", file=sys.stderr)
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    if found["note"]:
        print(found["note"], file=sys.stderr)
    return [Row(**row) for row in found["rows"]]


def machine() -> str:
    """Return what the numbers were measured on, as far as it matters to them."""
    import botocore

    cores = len(os.sched_getaffinity(0))
    return f"Python {platform.python_version()}, botocore {botocore.__version__}, {platform.machine()}, {cores} cores"


if __name__ == "__main__":
    sys.exit(main())
