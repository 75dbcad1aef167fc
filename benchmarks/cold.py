"""Cold start and memory: fresh interpreters that import a function and answer their first batch.

The floor imports everything that this project's consumer imports, other than this project, and makes raw calls.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.endpoint import Endpoint
from benchmarks.material import event, first_batch_requests, run_ids
from benchmarks.measure import Row, ratio, rounds

PROJECT = Path(__file__).resolve().parent.parent
OURS = ("handler", "kumofire_core", "benchmarks")

# Started with -I -S: nothing on the path but what is given, in the repository as in the artifact.
PRELUDE = """
import importlib, os, sys, time, json
given = json.loads(sys.stdin.read())
sys.path[:0] = given["path"]
before, begun = set(sys.modules), time.process_time()
class Context:
    function_name, memory_limit_in_mb, aws_request_id = "bench", 512, "request"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:bench"
    def get_remaining_time_in_millis(self): return 60000
"""
FUNCTION = """
def start():
    handler = importlib.import_module(given["function"]).handler
    imported = time.process_time()
    handler(given["event"], Context())
    return imported
"""
FLOOR = """
def start():
    for name in given["imports"]: importlib.import_module(name)
    from botocore.config import Config
    from botocore.session import get_session
    client = get_session().create_client("dynamodb", config=Config(**given["config"]))
    imported = time.process_time()
    for operation, parameters in given["requests"]: getattr(client, operation)(**parameters)
    return imported
"""
REPORT = """
def below(depth): return below(depth - 1) if depth else start()
imported, ready = below(given["depth"]), time.process_time()
with open("/proc/self/statm") as file: resident_mb = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
sys.stdout = sys.__stdout__
print(json.dumps({"ready": (ready - begun) * 1000, "imported": (imported - begun) * 1000,
                  "resident_mb": resident_mb, "modules": [name for name in sys.modules if name not in before]}))
"""
STARTS = 15
"""Python's stack of frames grows in chunks, and code that runs just at the end of one makes and frees the next one all
the time: up to a tenth of a start, by luck of its depth. So each start of a case is made at another depth."""


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure, on one core."""
    packages = [str(PROJECT), *site.getsitepackages()]
    rows = _rows("", packages, quick)
    with tempfile.TemporaryDirectory(prefix="kumofire-bench-") as folder:
        artifact, problem = _artifact(Path(folder)) if not quick else (None, "left out of a quick run")
        if artifact is None:
            return [*rows, Row(what="cold start in the built artifact, over the peer's", value=None, detail=problem)]
        return rows + _rows("in the built artifact", packages, quick, artifact=artifact)


def _rows(where: str, packages: list[str], quick: bool, artifact: list[str] | None = None) -> list[Row]:
    path = artifact or packages
    modules = _start("handler.consumer", 1, path=path)["modules"]
    imports = [name for name in modules if name.partition(".")[0] not in OURS and not name.startswith("_")]
    count = 2 if quick else STARTS

    def case(key: str, function: str | None, records: int, path: list[str]) -> Callable[[], float]:
        depths = itertools.cycle(range(STARTS))
        return lambda: float(_start(function, records, path=path, imports=imports, depth=next(depths))[key])

    starts = rounds(
        {
            "ours": case("ready", "handler.consumer", 1, path),
            "floor": case("ready", None, 1, path),
            "peer": case("ready", "benchmarks.peer", 1, packages),
        },
        count,
    )
    title = f"cold start {where}".strip()
    rows = [
        ratio(starts, "ours", "peer", f"{title}, over the peer's", at_most=0.80 if artifact else None),
        ratio(starts, "ours", "floor", f"{title}, over its imports and raw calls", at_most=1.05),
        ratio(starts, "floor", "peer", f"{title}: its imports and raw calls, over the peer's"),
    ]
    if artifact is None:
        held = rounds(
            {
                "ours": case("resident_mb", "handler.consumer", 10, path),
                "floor": case("resident_mb", None, 10, path),
                "peer": case("resident_mb", "benchmarks.peer", 10, path),
            },
            2 if quick else 5,
        )
        rows += [
            ratio(held, "ours", "floor", "memory after a batch of ten, over raw calls", unit="MB", at_most=1.10),
            ratio(held, "peer", "floor", "memory of the peer, over raw calls", unit="MB"),
        ]
    return rows


def _start(
    function: str | None, records: int, *, path: Sequence[str], imports: Sequence[str] = (), depth: int = 0
) -> dict[str, Any]:
    """Start an interpreter, let it become ready, and return what it reports."""
    ids = run_ids(records)
    given = {
        "path": list(path),
        "function": function,
        "event": event(ids),
        "imports": list(imports),
        "requests": [] if function else first_batch_requests(ids),
        "config": _own_config(),
        "depth": depth,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KUMOFIRE_JOBS")}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PRELUDE + (FUNCTION if function else FLOOR) + REPORT],
        input=json.dumps(given),
        env={**environment, "KUMOFIRE_JOBS": "handler.jobs:jobs"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{function or 'the floor'} did not start:\n{done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _own_config() -> dict[str, Any]:
    """Return the options of the clients that this project makes."""
    from benchmarks.material import own_clients

    supplied: dict[str, Any] = dict(own_clients()._config._user_provided_options)
    return supplied


def _artifact(folder: Path) -> tuple[list[str] | None, str]:
    """Build what is deployed, for this machine and interpreter; ``None`` and why not where it can't be."""
    runtime = f"python{sys.version_info.major}.{sys.version_info.minor}"
    architecture = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
    command = [
        sys.executable,
        "-m",
        "tools.artifact",
        str(folder.absolute()),
        "--runtime",
        runtime,
        "--architecture",
        architecture,
    ]
    command += ["--services", "dynamodb sqs sts lambda"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        return None, f"it could not be built ({(done.stderr or done.stdout).strip()[-200:]})"
    return [str(folder)], ""
