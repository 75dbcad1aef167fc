"""The bad night of docs/bad-night.md, start to end, by the command line alone, on a stack in a local AWS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.local_aws import LocalAws
from tests.built import build_artifact
from tests.deploy.test_deploy import BUCKET, PARAMETERS, Deployed, deploy, eventually, packaged, upload

BROKEN = """
from kumofire_core import Jobs

jobs = Jobs.from_env()

@jobs.handler("email", max_attempts=2)
def send_email(ctx):
    return "to " + ctx.payload["name"]

@jobs.handler("report")
def report(ctx):
    return "reported"
"""
MENDED = BROKEN.replace('ctx.payload["name"]', 'ctx.payload.get("name", "customer")')

RUNS, FAILING = 150, 30


@dataclass(frozen=True)
class CommandLine:
    """The program ``kumofire``, as a person starts it."""

    stack: Deployed

    def __call__(self, *words: str, code: int = 0) -> str:
        """Return what a command prints; fail unless it ends with ``code``."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KUMOFIRE_", "AWS_"))}
        environment |= {
            "AWS_ENDPOINT_URL": self.stack.aws.endpoint_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "KUMOFIRE_STACK_NAME": self.stack.name,
        }
        command = [str(Path(sys.executable).with_name("kumofire")), *words]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert ended.returncode == code, f"{words}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def form(self, *words: str, code: int = 0) -> Any:
        """Return the object that a command prints with ``--json``."""
        return json.loads(self(*words, "--json", code=code))


@pytest.mark.long
def test_the_bad_night(ministack: LocalAws, tmp_path: Path) -> None:
    artifact = build_artifact(tmp_path / "artifact", deployed=BROKEN)
    if BUCKET not in {bucket["Name"] for bucket in ministack.client("s3").list_buckets()["Buckets"]}:
        ministack.client("s3").create_bucket(Bucket=BUCKET)
    stack = deploy(ministack, "bad-night", packaged(upload(ministack, artifact, "night-1.zip")), PARAMETERS)
    kumofire = CommandLine(stack)
    application = stack.jobs()
    payloads: list[dict[str, str]] = [{} if number < FAILING else {"name": f"n{number}"} for number in range(RUNS)]
    created = application.create_many([{"name": "email", "payload": payload} for payload in payloads])
    the_thirty = set(created[:FAILING])

    # Find them: the alarm says that runs failed, and nobody kept an id.
    def are_done() -> bool:
        stats = kumofire.form("stats")
        failed = stats["by_status"]["failed"]["by_job"]
        return bool(failed == {"email": FAILING} and not stats["unfinished"]["total"])

    eventually(are_done)
    found = kumofire.form("runs", "list", "--status", "failed", "--job", "email", "--since", "2h", "--limit", "100")
    assert {run["id"] for run in found["runs"]} == the_thirty
    assert {run["error_type"] for run in found["runs"]} == {"KeyError"}

    # Read why.
    run_id = found["runs"][0]["id"]
    [*_, last] = kumofire.form("runs", "show", run_id)["attempts"]
    assert (last["number"], last["ended"], last["message"]) == (2, "raised", "'name'")
    assert 'return "to " + ctx.payload["name"]' in last["traceback"]
    assert "KeyError" in kumofire("runs", "show", run_id)

    # Stop the damage.
    kumofire("pause", "email", "--reason", "KeyError since the deployment")
    assert "email" in kumofire("pauses")

    def is_put_aside() -> str | None:
        """Create e-mails until one is put aside: a consumer may not have read yet that its job is paused."""
        new = application.create("email", {"name": "late"})
        run = eventually(lambda: (run := application.get_status(new)) and (run.finished_at or run.paused) and run)
        return new if run.paused else None

    waiting = eventually(is_put_aside)
    assert stack.ended(application.create("report")).status == "succeeded", "other jobs go on"
    [paused] = kumofire.form("runs", "list", "--status", "scheduled", "--job", "email")["runs"]
    assert (paused["id"], paused["paused"]) == (waiting, True)

    # Deploy.
    changed = upload(ministack, artifact, "night-2.zip", deployed=MENDED)
    deploy(ministack, "bad-night", packaged(changed), PARAMETERS, update=True)

    # Go on.
    kumofire("resume", "email")
    kumofire("dispatch")
    assert stack.ended(waiting).status == "succeeded"
    those = ("--status", "failed", "--job", "email", "--since", "2h")
    assert kumofire.form("runs", "retry", *those, "--dry-run")["matched"] == FAILING
    bulk = kumofire.form("runs", "retry", *those, "--over", "5s", "--yes")
    assert (bulk["matched"], bulk["changed"]) == (FAILING, FAILING)

    # Watch them.
    kumofire("runs", "watch", *sorted(the_thirty))
    assert kumofire.form("runs", "list", "--status", "failed")["runs"] == []

    # See the run's two histories.
    run = kumofire.form("runs", "show", run_id)
    assert (run["status"], run["retries"]) == ("succeeded", 1)
    assert [(each["retries"], each["number"], each["ended"]) for each in run["attempts"]] == [
        (0, 1, "raised"),
        (0, 2, "raised"),
        (1, 1, "succeeded"),
    ]
    assert [(past["status"], past["failed_attempts"]) for past in run["history"]] == [("failed", 2)]
