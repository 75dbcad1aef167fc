"""A local AWS in a process of its own: MiniStack on 127.0.0.1, with clients for it. Free of this project's code.

``examples/emulator.py``, which that process runs, corrects MiniStack where it differs from AWS.

Nothing of the surrounding AWS configuration gets in (profiles, credentials, proxies), and nothing is left behind: all
files are in one temporary directory, and the process group ends with the ``with`` block or with this process, even
when this process is killed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

REGION = "us-east-1"
START_TIMEOUT_SECONDS = 60
EMULATOR = Path(__file__).with_name("emulator.py")
RUNTIMES = ("python3.11", "python3.12", "python3.13")
"""The runtimes of the functions that the local AWS runs; those of the template."""


class LocalAwsError(Exception):
    """The local AWS did not start; the text holds the end of its log."""


@dataclass(frozen=True, kw_only=True)
class LocalAws:
    """A running local AWS."""

    endpoint_url: str
    directory: Path | None
    """The folder of its files and its log; ``None`` if another process started this local AWS."""
    session: Any = field(repr=False)

    def client(self, service: str) -> Any:
        """Return a boto3 client of this AWS for ``service``."""
        from botocore.config import Config

        return self.session.client(
            service,
            endpoint_url=self.endpoint_url,
            # Empty proxies: one set for the outside world must not see loopback requests.
            config=Config(proxies={}, max_pool_connections=32, s3={"addressing_style": "path"}),
        )

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of its log."""
        return _tail(self.directory, lines) if self.directory else ""


def local_aws_at(endpoint_url: str) -> LocalAws:
    """Return the local AWS that another process keeps at this address."""
    return LocalAws(endpoint_url=endpoint_url, directory=None, session=_session())


@contextlib.contextmanager
def local_aws(settings: Mapping[str, str] | None = None) -> Iterator[LocalAws]:
    """Run a local AWS for the length of the block. ``settings`` are environment variables for it (``AUTH=true``, …).

    Raises ``LocalAwsError`` when it ends or stays silent while it starts.
    """
    # It inherits the listening socket, so there is no moment at which another process could take the port.
    with (
        tempfile.TemporaryDirectory(prefix="kumofire-local-aws-", ignore_cleanup_errors=True) as name,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        directory = Path(name)
        port = listener.getsockname()[1]
        process = _start(listener, directory, {**_environment(directory, port), **(settings or {})})
        try:
            listener.close()
            _wait_until_healthy(process, port, directory)
            yield LocalAws(endpoint_url=f"http://127.0.0.1:{port}", directory=directory, session=_session())
        finally:
            _end(process)


@cache
def interpreters() -> dict[str, str]:
    """Return the interpreters that functions run under here, by runtime; a runtime that has none here is not in it."""
    return {runtime: found for runtime in RUNTIMES if (found := interpreter_of(runtime))}


def interpreter_of(runtime: str) -> str | None:
    """Return an interpreter of the runtime's version: this one, ``BYTECODE_PYTHON``, or one on the path; or ``None``.

    A build looks for the same one to make byte code with.
    """
    wanted = runtime.removeprefix("python")
    for candidate in (sys.executable, os.environ.get("BYTECODE_PYTHON"), runtime):
        if not candidate:
            continue
        # pyenv's python3.13 answers only where that version is chosen.
        environment = {**os.environ, "PYENV_VERSION": wanted}
        ask = [candidate, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
        with contextlib.suppress(OSError):
            answer = subprocess.run(ask, env=environment, capture_output=True, text=True, check=False)
            version, _, path = answer.stdout.strip().partition(" ")
            if answer.returncode == 0 and version == wanted:
                return path
    return None


def _start(listener: socket.socket, directory: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with open(directory / "log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", EMULATOR, str(listener.fileno()), json.dumps(interpreters())],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            # A group of its own: Ctrl-C in the terminal does not reach it, and one kill reaches its functions.
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    # The group's id is its leader's, which can't be given away while the leader has not been waited for.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    process.wait()


def _environment(directory: Path, port: int) -> dict[str, str]:
    for folder in ("home", "tmp", "state", "s3"):
        (directory / folder).mkdir()
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(directory / "home"),
        "TMPDIR": str(directory / "tmp"),
        "STATE_DIR": str(directory / "state"),
        "S3_DATA_DIR": str(directory / "s3"),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        # The functions inherit it, and so call back here.
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "LAMBDA_EXECUTOR": "local",
        # Its IoT broker would listen on a fixed port.
        "IOT_MTLS_ENABLED": "0",
    }


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/_ministack/health")
                if "services" in json.loads(connection.getresponse().read()):
                    return
            finally:
                connection.close()
        # Not poll(): it would reap the group's leader, whose id _end still needs.
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            raise LocalAwsError(f"the local AWS ended while it started; its log:\n{_tail(directory)}")
        time.sleep(0.05)
    raise LocalAwsError(f"the local AWS was silent for {START_TIMEOUT_SECONDS} s; its log:\n{_tail(directory)}")


def _tail(directory: Path, lines: int = 40) -> str:
    return "\n".join((directory / "log").read_text(errors="replace").splitlines()[-lines:])


def _session() -> Any:
    import boto3
    import botocore.session

    # A profile of the surrounding environment must neither be used nor be missed.
    core = botocore.session.Session(
        session_vars={
            "profile": (None, [], None, None),
            "config_file": (None, [], os.devnull, None),
            "credentials_file": (None, [], os.devnull, None),
        }
    )
    return boto3.Session(
        aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION, botocore_session=core
    )
