"""``make deploy-local``, ``make local-invoke`` and ``sam local invoke`` in real containers, as somebody types them.

``make test-container`` runs it; it is skipped where no container engine answers, or Lambda's image can't be had.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from examples.containers import ContainersError, Engine, find_engine
from examples.deployment import PROJECT
from examples.local_aws import REGION
from examples.local_invoke import FOR_PLAIN_SAM, base_image, batch_of
from kumofire_core import Jobs
from tests.built import ARCHITECTURE

pytestmark = pytest.mark.container

SAM = PROJECT / ".venv-sam/bin/sam"
PULL_SECONDS = 600
READY = "To reach it from another terminal"


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """A terminal in which what ``make deploy-local`` printed is exported."""

    deploy_local: subprocess.Popen[str]
    exported: Mapping[str, str]
    printed: str

    def jobs(self, **settings: Any) -> Jobs:
        """Return a ``Jobs`` of an application, without any handler."""
        from botocore.session import get_session

        clients = {
            service: get_session().create_client(
                service,
                endpoint_url=self.exported["AWS_ENDPOINT_URL"],
                region_name=REGION,
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
            for service in ("dynamodb", "sqs")
        }
        table, queue_url = self.exported["KUMOFIRE_TABLE"], self.exported["KUMOFIRE_QUEUE_URL"]
        return Jobs(table=table, queue_url=queue_url, dynamodb=clients["dynamodb"], sqs=clients["sqs"], **settings)

    def make(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run make with these arguments."""
        return self.run("make", *arguments, **changed)

    def run(self, *command: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        environment = {**os.environ, **self.exported, "SAM_CLI_TELEMETRY": "0", **changed}
        return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def engine() -> Engine:
    try:
        return find_engine()
    except ContainersError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def terminal(engine: Engine) -> Iterator[Terminal]:
    """Leave the consumer off the queue, so that nobody but the container executes a run."""
    with subprocess.Popen(
        ["make", "deploy-local", "DEPLOY_ARGS=--no-consumer"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if READY in "".join(lines) and "ontainers of" in line:
                    break
            printed = "".join(lines)
            assert READY in printed, printed
            need_image(engine)
            exported = dict(re.findall(r"^export (\w+)=(.*)$", printed, re.MULTILINE))
            yield Terminal(deploy_local=process, exported=exported, printed=printed)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def need_image(engine: Engine) -> None:
    name = base_image(PROJECT)
    if not engine.has_image(name):
        cli = shutil.which("docker") or shutil.which("podman")
        pulled = subprocess.run(
            [cli or "docker", "pull", name], capture_output=True, text=True, timeout=PULL_SECONDS, check=False
        )
        if pulled.returncode:
            pytest.skip(f"{name} is neither here nor can it be pulled: {pulled.stderr.strip()[-200:]}")


def test_a_run_created_beforehand_is_executed_by_the_container(terminal: Terminal) -> None:
    jobs = terminal.jobs()
    run_id = jobs.create("hello", {"name": "container"})

    invoked = terminal.make("local-invoke", f"RUN={run_id}")

    assert invoked.returncode == 0, invoked.stderr
    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.output) == ("succeeded", {"greeting": "Hello, container!", "attempt": 1})
    assert f"architecture: {ARCHITECTURE}" in invoked.stderr


def test_plain_sam_local_invoke_executes_a_run_too(terminal: Terminal, tmp_path: Path) -> None:
    jobs = terminal.jobs()
    run_id = jobs.create("hello", {"name": "sam"})
    event = tmp_path / "event.json"
    event.write_text(json.dumps(batch_of([run_id])))

    invoked = terminal.run(str(SAM), "local", "invoke", "Consumer", "--event", str(event), "--skip-pull-image")

    assert invoked.returncode == 0, invoked.stderr
    run = jobs.get_status(run_id)
    assert run is not None
    assert run.output == {"greeting": "Hello, sam!", "attempt": 1}, invoked.stderr


def test_the_dispatcher_in_a_container_sends_what_is_due(terminal: Terminal) -> None:
    an_hour_ago = terminal.jobs(clock=lambda: datetime.now(UTC) - timedelta(hours=1))
    run_id = an_hour_ago.create("hello", {"name": "late"}, delay=timedelta(minutes=30))

    invoked = terminal.make("local-invoke", "FUNCTION=Dispatcher", "EVENT=events/empty.json")

    assert invoked.returncode == 0, invoked.stderr
    run = terminal.jobs().get_status(run_id)
    assert run is not None
    # Its own tick may have come first; then there was nothing left to send.
    assert run.status == "queued"
    assert '"dispatched":' in invoked.stdout


def test_malformed_records_are_no_failure_of_the_set_up(terminal: Terminal) -> None:
    invoked = terminal.make("local-invoke", "EVENT=events/mixed.json")

    assert invoked.returncode == 0, invoked.stderr


def test_a_table_that_is_not_there_is_not_green_and_the_error_names_the_endpoint(terminal: Terminal) -> None:
    invoked = terminal.make("local-invoke", KUMOFIRE_TABLE="not-there")

    assert invoked.returncode != 0
    assert "2 of 2 valid records came back as failures" in invoked.stderr
    assert terminal.exported["AWS_ENDPOINT_URL"] in invoked.stderr
    assert "'not-there'" in invoked.stderr


def test_a_local_aws_out_of_reach_is_not_green(terminal: Terminal) -> None:
    # RFC 5737: an address that nobody has.
    invoked = terminal.make("local-invoke", "HOST_FROM_CONTAINER=192.0.2.1")

    assert invoked.returncode != 0
    assert "http://192.0.2.1:" in invoked.stderr


def test_sigterm_ends_the_local_aws_and_with_it_the_way_for_containers(terminal: Terminal) -> None:
    """The last one: it ends what the others use."""
    [relayed] = re.findall(r"reach it at (\S+?)\.\s", terminal.printed)
    assert answers(terminal.exported["AWS_ENDPOINT_URL"])
    assert (PROJECT / FOR_PLAIN_SAM).is_dir()

    terminal.deploy_local.terminate()
    terminal.deploy_local.wait(timeout=60)

    assert not answers(terminal.exported["AWS_ENDPOINT_URL"])
    assert not answers(relayed)
    assert not (PROJECT / FOR_PLAIN_SAM).exists()
    assert terminal.make("local-invoke").returncode != 0
    assert terminal.run(str(SAM), "local", "invoke", "Consumer").returncode != 0


def answers(url: str) -> bool:
    """Say whether the local AWS answers there."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/_ministack/health")
            return connection.getresponse().status == 200
        except (TimeoutError, OSError, http.client.HTTPException):
            return False
