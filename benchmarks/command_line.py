"""How long ``kumofire`` takes to its first line, from the start of its process; beside it, Python with nothing to do.

Every start is a new process with its byte code in place, as after an installation. The table and the queue are the
endpoint's, which answers at once.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.endpoint import Endpoint
from benchmarks.measure import Row, rounds

FIRST_LINE_SECONDS = 0.35
COMMANDS = {
    "kumofire --version": ("--version",),
    "kumofire --help": ("--help",),
    "kumofire runs show, of a run that is not there": ("runs", "show", "no-such-run"),
}


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure, on one core."""
    program = [sys.executable, "-m", "kumofire_core.cli"]
    cases = {what: _first_line_ms([*program, *arguments]) for what, arguments in COMMANDS.items()}
    cases["nothing"] = _first_line_ms([sys.executable, "-c", "print()"])
    samples = rounds(cases, 3 if quick else 21)
    bare = statistics.median(samples["nothing"])
    return [
        Row(
            what=f"{what}: seconds to the first line",
            value=statistics.median(samples[what]) / 1000,
            at_most=FIRST_LINE_SECONDS,
            detail=f"{statistics.median(samples[what]):.3g} and {bare:.3g} ms",
        )
        for what in COMMANDS
    ]


def _first_line_ms(command: Sequence[str]) -> Callable[[], float]:
    def case() -> float:
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            took = (time.perf_counter() - begun) * 1000
            rest = process.stdout.read()
        assert line, rest
        return took

    return case
