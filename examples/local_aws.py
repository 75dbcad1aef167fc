"""A local AWS in a process of its own: MiniStack on 127.0.0.1, with clients for it. Free of this project's code.

Nothing of the surrounding AWS configuration gets in (profiles, credentials, proxies), and nothing is left behind: all
files are in one temporary directory, and the process group ends with the ``with`` block or with this process, even
when this process is killed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REGION = "us-east-1"
START_TIMEOUT_SECONDS = 60


class LocalAwsError(Exception):
    """The local AWS did not start; the text holds the end of its log."""


@dataclass(frozen=True, kw_only=True)
class LocalAws:
    """A running local AWS."""

    endpoint_url: str
    directory: Path
    """Private to it; holds its files and its log."""
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
        return _tail(self.directory, lines)


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


def _start(listener: socket.socket, directory: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with open(directory / "log", "wb") as log:
        return subprocess.Popen(
            # -P keeps this folder off its path; the functions that it runs shall see their artifact alone.
            [sys.executable, "-P", __file__, str(listener.fileno())],
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


def _serve(descriptor: int) -> None:
    """Be the local AWS on an inherited listening socket, until standard input ends with the process at its far end."""
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack.app import app

    threading.Thread(target=_end_with_parent, daemon=True).start()
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.keep_alive_timeout = 75
    asyncio.run(serve(app, config))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    shutil.rmtree(os.getcwd(), ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
