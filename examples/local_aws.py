"""The local AWS of ``kumofire dev``, which here has every service and runs functions; with clients for it.

``examples/emulator.py``, which its process runs, corrects MiniStack where it differs from AWS. Nothing of the
surrounding AWS configuration gets in (profiles, credentials, proxies).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from kumofire_core.cli.dev.local_aws import REGION, LocalAwsError, emulator, listening, log_lines

__all__ = ["REGION", "LocalAws", "LocalAwsError", "interpreter_of", "interpreters", "local_aws", "local_aws_at"]

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
EMULATOR = Path(__file__).with_name("emulator.py")
RUNTIMES = ("python3.11", "python3.12", "python3.13")
"""The runtimes of the functions that the local AWS runs; those of the template."""


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
        return "\n".join(log_lines(self.directory)[-lines:]) if self.directory else ""


def local_aws_at(endpoint_url: str) -> LocalAws:
    """Return the local AWS that another process keeps at this address."""
    return LocalAws(endpoint_url=endpoint_url, directory=None, session=_session())


@contextlib.contextmanager
def local_aws(settings: Mapping[str, str] | None = None) -> Iterator[LocalAws]:
    """Run a local AWS for the length of the block. ``settings`` are environment variables for it (``AUTH=true``, …).

    Raises ``LocalAwsError`` when it ends or stays silent while it starts.
    """
    # The functions inherit its environment, and call back at its address.
    given = {"LAMBDA_EXECUTOR": "local", "PYTHONPATH": str(EMULATOR.parents[1]), **KEYS, **(settings or {})}
    program = [str(EMULATOR), json.dumps(interpreters())]
    with listening(0) as listener, emulator(listener, program, settings=given) as (address, directory):
        yield LocalAws(endpoint_url=address, directory=directory, session=_session())


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
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
        botocore_session=core,
    )
