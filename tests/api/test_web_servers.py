"""Worker processes and threads of real web servers create runs: each request gets its own, none is lost or mixed up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from examples.local_aws import LocalAws
from tests.builders import make_aws

PROJECT = Path(__file__).parents[2]
APPLICATION = "tests.api.web_application"

SERVERS = {
    "uvicorn, two processes": ("uvicorn", "--workers", "2", "--port", "{port}", f"{APPLICATION}:asgi"),
    "gunicorn, forked after the import, threads": (
        *("gunicorn", "--preload", "--workers", "2", "--threads", "4", "--bind", "127.0.0.1:{port}"),
        f"{APPLICATION}:wsgi",
    ),
}

REQUESTS = 80


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("server", SERVERS)
def test_each_request_to_a_web_server_s_workers_creates_the_run_whose_id_it_gets(
    server: str, ministack: LocalAws, tmp_path: Path
):
    aws = make_aws(ministack.client("dynamodb"), ministack.client("sqs"), name=f"web-{uuid.uuid4().hex[:8]}")
    port = _free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *(word.format(port=port) for word in SERVERS[server])],
            cwd=PROJECT,
            env={
                "PATH": os.environ["PATH"],
                "AWS_ENDPOINT_URL": ministack.endpoint_url,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "KUMOFIRE_TABLE": aws.table,
                "KUMOFIRE_QUEUE_URL": aws.queue_url,
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(port, process, tmp_path / "log")
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda number: _ask(port, number), range(REQUESTS)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    stored = {item["pk"].removeprefix("run#"): item for item in aws.items() if item["sk"] == "run"}
    assert {run_id: json.loads(stored[run_id]["payload"]) for run_id, _ in answers} == {
        run_id: f"number={number}" for number, (run_id, _) in enumerate(answers)
    }
    assert len({run_id for run_id, _ in answers}) == REQUESTS
    assert len({process for _, process in answers}) == 2, "both workers answered"
    importers = {json.loads(item["payload"]) for item in stored.values() if item["job_name"] == "imported"}
    assert importers, "the application created a run while it was imported"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _ask(port: int, number: int) -> tuple[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/?number={number}", timeout=60) as reply:
        found: dict[str, Any] = json.load(reply)
    return found["run_id"], found["process"]


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until two processes have answered, so that the requests which follow reach both."""
    give_up, seen = time.monotonic() + 120, set[int]()
    while time.monotonic() < give_up and process.poll() is None:
        try:
            seen.add(_ask(port, -1)[1])
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
        if len(seen) == 2:
            return
    raise AssertionError(f"the server did not answer by two processes: {log.read_text(errors='replace')[-2000:]}")
