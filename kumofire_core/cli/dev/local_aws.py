"""A local AWS: MiniStack in a process of its own, on the loopback; with what ``kumofire dev`` needs of it.

It sees nothing of the surrounding AWS settings. Its files are in one temporary folder, and it ends with the ``with``
block or with this process, even when this process is killed.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kumofire_core.cli.exits import CommandError

LOOPBACK = "127.0.0.1"
REGION = "us-east-1"
START_SECONDS = 60
EMULATOR = Path(__file__).with_name("emulator.py")

SERVICES = (
    *("dynamodb", "events", "firehose", "iam", "kinesis", "kms", "logs", "monitoring", "s3", "secretsmanager", "ses"),
    *("sns", "sqs", "ssm", "sts"),
)
"""What the local AWS has. None of them executes code: every user of this machine can reach the loopback, and what is
executed there would be so as this user."""


def environment_for(endpoint_url: str) -> dict[str, str]:
    """Return the variables by which every AWS tool and SDK reaches the local AWS, and nothing else."""
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class LocalAwsError(CommandError):
    """The local AWS did not start; the text says why, with the end of its log."""


@contextlib.contextmanager
def local_aws(port: int) -> Iterator[str]:
    """Run the local AWS of ``kumofire dev`` for the length of the block, and give its address.

    ``port`` is 0 for a free one. Raises ``LocalAwsError`` where the port is taken, or the local AWS does not start.
    """
    with (
        listening(port) as listener,
        emulator(listener, [str(EMULATOR)], settings={"SERVICES": ",".join(SERVICES)}) as (address, _),
    ):
        yield address


def listening(port: int) -> socket.socket:
    """Return a socket that listens on a port of the loopback; raises ``LocalAwsError`` where it is taken."""
    try:
        return socket.create_server((LOOPBACK, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LocalAwsError(
            f"port {port} can't be listened on ({reason}): another `kumofire dev` may be running; end it, or give "
            "another --aws-port"
        ) from None


@contextlib.contextmanager
def emulator(
    listener: socket.socket, program: Sequence[str], *, settings: Mapping[str, str]
) -> Iterator[tuple[str, Path]]:
    """Run an emulator on a listening socket for the length of the block; give its address, and the folder of its files.

    ``program`` is a file of Python and its arguments; the socket's descriptor comes before these. ``settings`` are
    environment variables, beside the address, a folder for each kind of file, and dummy credentials. ``log`` in the
    folder is what the process prints. Raises ``LocalAwsError`` where it ends, or stays silent, while it starts.
    """
    # It inherits the listening socket, so there is no moment at which another process could take the port.
    with tempfile.TemporaryDirectory(prefix="kumofire-local-aws-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), listener.getsockname()[1]
        process = _start(listener, folder, port, program, settings)
        try:
            listener.close()
            _wait_until_healthy(process, port, folder)
            yield f"http://{LOOPBACK}:{port}", folder
        finally:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started; it leads a group of its own."""
    # The group's id is its leader's, which can't be given away while the leader has not been waited for.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    process.wait()


def _start(
    listener: socket.socket, folder: Path, port: int, program: Sequence[str], settings: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    for below in ("home", "tmp", "state", "s3"):
        (folder / below).mkdir()
    environment = {
        **environment_for(f"http://{LOOPBACK}:{port}"),
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "STATE_DIR": str(folder / "state"),
        "S3_DATA_DIR": str(folder / "s3"),
        "BIND_HOST": LOOPBACK,
        "MINISTACK_HOST": LOOPBACK,
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": REGION,
        # Its IoT broker would listen on a fixed port.
        "IOT_MTLS_ENABLED": "0",
        **settings,
    }
    with open(folder / "log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", program[0], str(listener.fileno()), *program[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            # A group of its own: Ctrl-C in the terminal does not reach it, and one kill reaches its functions.
            start_new_session=True,
        )


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
            try:
                connection.request("GET", "/_ministack/health")
                if "services" in json.loads(connection.getresponse().read()):
                    return
            finally:
                connection.close()
        # Not poll(): it would reap the group's leader, whose id end_group still needs.
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            raise LocalAwsError(f"the local AWS ended while it started; the end of its log: {_tail(folder)}")
        time.sleep(0.05)
    raise LocalAwsError(f"the local AWS did not answer within {START_SECONDS} s; the end of its log: {_tail(folder)}")


def _tail(folder: Path) -> str:
    return " | ".join(log_lines(folder)[-10:])


def log_lines(folder: Path) -> list[str]:
    """Return the lines that the emulator with this folder has logged."""
    return (folder / "log").read_text(errors="replace").splitlines()
