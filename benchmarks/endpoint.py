"""Starts the endpoint that answers as DynamoDB and SQS, from a can, in a process of its own.

It is a small C program, compiled into a temporary folder. Without a C compiler a Python one takes its place: correct,
but so slow that it, and not the client, limits what is measured with threads.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("endpoint.c")


class Endpoint:
    """An endpoint that runs. ``note`` says what is odd about it, or is empty."""

    def __init__(self, port: int, note: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.note = note
        self._control = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def set(self, *, latency_ms: float = 0, due_in_a_shard: int = 0) -> None:
        """Answer from now on after ``latency_ms``, with so many due runs in each partition of the index."""
        self._ask(f"/-/set?latency_us={round(latency_ms * 1000)}&due={due_in_a_shard}")

    def counts(self) -> dict[str, int]:
        """Return the requests since the last call, by operation."""
        return self._ask("/-/counts")

    def _ask(self, path: str) -> dict[str, int]:
        self._control.request("GET", path)
        answer: dict[str, int] = json.loads(self._control.getresponse().read())
        return answer


@contextmanager
def running_endpoint(core: int | None = None) -> Iterator[Endpoint]:
    """Run an endpoint, on one ``core`` where one is given; it ends with the block, or with this process."""
    with tempfile.TemporaryDirectory(prefix="kumofire-bench-") as folder:
        command, note = _command(Path(folder))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            assert process.stdout is not None
            port = process.stdout.readline()
            if not port:
                raise RuntimeError("the endpoint did not start; what it said is above")
            yield Endpoint(int(port), note)
        finally:
            process.terminate()
            process.communicate()


def _command(folder: Path) -> tuple[list[str], str]:
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is not None:
        program = folder / "endpoint"
        subprocess.run([compiler, "-O2", "-o", str(program), str(SOURCE)], check=True)
        return [str(program)], ""
    slow = [sys.executable, "-m", "benchmarks.slow_endpoint"]
    return slow, "no C compiler was found: the endpoint is a slow one in Python, which blurs what threads gain"
