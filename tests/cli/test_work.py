"""``kumofire work``: a worker in a process of its own, on a local AWS, ended in every way that a process ends."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from examples.local_aws import LocalAws
from kumofire_core import Jobs, Run
from tests import waiting
from tests.builders import Aws, make_aws
from tests.chaos.proxy import CuttingProxy
from tests.cli.conftest import Kumofire

PROGRAM = [sys.executable, "-m", "kumofire_core.cli"]
PROJECT = Path(__file__).parents[2]
PATIENCE_SECONDS = 90
LEASE = 15

JOBS = """
import asyncio
import time
from datetime import timedelta
from pathlib import Path

from kumofire_core import JobContext, Jobs, Snooze

jobs = Jobs.from_env()


@jobs.handler("greet")
def greet(ctx: JobContext):
    return f"Hello, {ctx.payload}!"


@jobs.handler("long", max_attempts=2)
def long(ctx: JobContext):
    with Path("begun").open("a") as begun:
        begun.write(f"{ctx.attempt} {ctx.fencing_token}\\n")
    while not Path("go").exists():
        time.sleep(0.05)
    return [ctx.attempt, ctx.fencing_token, ctx.time_left() == timedelta.max]


@jobs.handler("coroutine", max_attempts=1)
async def coroutine(ctx: JobContext):
    try:
        while not Path("go").exists():
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        Path("canceled").touch()
        raise
    return ctx.attempt


@jobs.handler("polite", max_attempts=1)
def polite(ctx: JobContext):
    Path("begun").touch()
    while not ctx.stop_requested() and not Path("go").exists():
        time.sleep(0.05)
    if ctx.stop_requested():
        raise Snooze(0)


@jobs.handler("deaf", timeout=timedelta(seconds=1), max_attempts=1)
def deaf(ctx: JobContext):
    time.sleep(1000)
"""

_names = itertools.count(1)


eventually = partial(waiting.eventually, seconds=PATIENCE_SECONDS)


@dataclass
class Place:
    """A folder with jobs, and a table and a queue for them."""

    folder: Path
    aws: Aws
    local: LocalAws
    workers: list[subprocess.Popen[bytes]]

    def jobs(self) -> Jobs:
        return self.aws.jobs(clock=_now, allow_unknown_jobs=True)

    def work(self, *options: str, endpoint: str | None = None) -> subprocess.Popen[bytes]:
        """Start a worker."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KUMOFIRE_"))}
        credentials = self.local.session.get_credentials()
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*PROGRAM, "work", "--jobs", "my_jobs:jobs", "--poll", "1", "--lease", str(LEASE), *options],
                cwd=self.folder,
                env={
                    **inherited,
                    "PYTHONPATH": str(PROJECT),
                    "KUMOFIRE_TABLE": self.aws.table,
                    "KUMOFIRE_QUEUE_URL": self.aws.queue_url,
                    "AWS_REGION": "us-east-1",
                    "AWS_DEFAULT_REGION": "us-east-1",
                    "AWS_ACCESS_KEY_ID": credentials.access_key,
                    "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
                    "AWS_ENDPOINT_URL": endpoint or self.local.endpoint_url,
                    "NO_PROXY": "127.0.0.1",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(process)
        return process

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def says(self, pattern: str) -> None:
        """Wait until a pattern is in the log."""
        try:
            eventually(lambda: re.search(pattern, self.said()))
        except AssertionError:
            raise AssertionError(f"{pattern!r} is not in:\n{self.said()}") from None

    def has(self, name: str) -> None:
        """Wait until there is a file."""
        eventually((self.folder / name).exists)

    def ended(self, run_id: str) -> Run:
        jobs = self.jobs()

        def look() -> Run | None:
            run = jobs.get_status(run_id)
            if run is None or run.finished_at is None:
                assert any(worker.poll() in (None, 5) for worker in self.workers), self.said()
                return None
            return run

        return eventually(look)

    def messages(self) -> int:
        """Return how many messages the queue has, in flight or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.aws.sqs.client.get_queue_attributes(QueueUrl=self.aws.queue_url, AttributeNames=names)
        return sum(map(int, found["Attributes"].values()))


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


@pytest.fixture
def place(ministack: LocalAws, tmp_path: Path) -> Iterator[Place]:
    aws = make_aws(ministack.client("dynamodb"), ministack.client("sqs"), name=f"work-{next(_names)}")
    (tmp_path / "my_jobs.py").write_text(JOBS)
    (tmp_path / "log").touch()
    found = Place(tmp_path, aws, ministack, [])
    yield found
    for process in found.workers:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.long
def test_runs_are_executed_their_messages_deleted_and_their_logs_are_json(place: Place) -> None:
    worker = place.work("--health-file", "alive")
    jobs = place.jobs()
    run_ids = jobs.create_many([{"name": "greet", "payload": number} for number in range(25)])

    assert [place.ended(run_id).output for run_id in run_ids] == [f"Hello, {number}!" for number in range(25)]
    eventually(lambda: place.messages() == 0)
    place.has("alive")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_SECONDS) == 0
    lines = [json.loads(line) for line in place.said().splitlines()]
    assert any(line.get("RunsSucceeded") for line in lines)
    assert any("greet" in str(line.get("message")) for line in lines)


@pytest.mark.long
def test_a_run_that_takes_longer_than_its_lease_keeps_it_and_its_message_is_gone(place: Place) -> None:
    place.work()
    run_id = place.jobs().create("long")
    place.has("begun")
    first = place.aws.item(run_id)
    assert first is not None

    renewed = eventually(
        lambda: (item := place.aws.item(run_id)) and item["lease_until"] > first["lease_until"] + LEASE * 1000 and item
    )
    place.jobs().dispatch()

    assert renewed["lease_token"] == first["lease_token"]
    assert renewed["wake_at"] == renewed["lease_until"]
    assert place.messages() == 0
    (place.folder / "go").touch()
    assert place.ended(run_id).output == [1, 1, True]
    assert (place.folder / "begun").read_text() == "1 1\n"


@pytest.mark.long
def test_a_run_whose_worker_was_killed_is_executed_again_by_another(place: Place) -> None:
    worker = place.work()
    run_id = place.jobs().create("long")
    place.has("begun")
    eventually(lambda: place.messages() == 0)  # the lease alone holds the run now
    worker.kill()
    (place.folder / "go").touch()
    place.work("--dispatch")

    jobs = place.jobs()

    def recovered() -> Run | None:
        jobs.dispatch()
        run = jobs.get_status(run_id)
        return run if run is not None and run.finished_at else None

    run = eventually(recovered)
    assert (run.status, run.output) == ("succeeded", [2, 2, True])
    assert [attempt.ended for attempt in run.attempts] == ["worker_lost", "succeeded"]


@pytest.mark.long
@pytest.mark.parametrize("job", ["long", "coroutine"])
def test_a_run_that_goes_on_after_the_grace_is_interrupted_and_no_attempt_is_counted(place: Place, job: str) -> None:
    worker = place.work("--grace", "15")
    jobs = place.jobs()
    run_id = jobs.create(job)
    eventually(lambda: (run := jobs.get_status(run_id)) and run.status == "running")
    time.sleep(1)
    worker.send_signal(signal.SIGTERM)

    assert worker.wait(PATIENCE_SECONDS) == 0
    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.failed_attempts, run.attempts) == ("scheduled", 0, ())
    assert (place.folder / "canceled").exists() == (job == "coroutine")
    (place.folder / "go").touch()
    place.work()
    assert place.ended(run_id).status == "succeeded"


@pytest.mark.long
def test_a_worker_that_is_told_to_end_lets_its_runs_end_and_takes_no_others(place: Place) -> None:
    worker = place.work("--grace", "60")
    jobs = place.jobs()
    run_id = jobs.create("long")
    place.has("begun")
    worker.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    later = jobs.create("greet", "later")
    (place.folder / "go").touch()

    assert place.ended(run_id).status == "succeeded"
    assert worker.wait(PATIENCE_SECONDS) == 0
    run = jobs.get_status(later)
    assert run is not None
    assert run.status == "queued"
    place.work()
    assert place.ended(later).status == "succeeded"


@pytest.mark.long
def test_a_handler_that_is_told_of_the_end_goes_on_elsewhere(place: Place) -> None:
    worker = place.work("--grace", "60")
    run_id = place.jobs().create("polite")
    place.has("begun")
    worker.send_signal(signal.SIGTERM)

    assert worker.wait(PATIENCE_SECONDS) == 0
    run = place.jobs().get_status(run_id)
    assert run is not None
    assert (run.status, run.failed_attempts) == ("scheduled", 0)


@pytest.mark.long
def test_a_second_signal_ends_the_worker_at_once(place: Place) -> None:
    worker = place.work("--grace", "1000")
    place.jobs().create("long")
    place.has("begun")
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    worker.send_signal(signal.SIGTERM)

    assert worker.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM


@pytest.mark.long
def test_a_worker_ends_whose_places_are_all_held_by_code_that_does_not_stop(place: Place) -> None:
    worker = place.work("--concurrency", "1")
    run_id = place.jobs().create("deaf")

    assert worker.wait(PATIENCE_SECONDS) == 5
    run = place.ended(run_id)
    assert (run.status, run.attempts[-1].ended) == ("failed", "timed_out")


@pytest.mark.long
def test_an_outage_of_aws_does_not_end_a_worker(place: Place) -> None:
    with CuttingProxy(seed=1, cutting=1.0) as proxy:
        proxy.target = ("127.0.0.1", int(place.local.endpoint_url.rpartition(":")[2]))
        worker = place.work(endpoint=proxy.url)
        place.says("messages could not be received")
        assert worker.poll() is None
        proxy.cutting = 0.0
        run_id = place.jobs().create("greet", "again")
        assert place.ended(run_id).output == "Hello, again!"
        worker.kill()
        worker.wait()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--concurrency", "0"], "--concurrency is 0; it must be a number from 1 to 100"),
        (["--lease", "5"], "--lease is 5; it must be a number from 15 to 3600"),
        (["--grace", "-1"], "--grace is -1; it must be a number from 0 to 86400"),
        (["--poll", "21"], "--poll is 21; it must be a number from 0 to 20"),
        (["--health-file", "/no/such/folder/file"], "whose folder does not exist"),
        (["--json"], "leave out --json"),
    ],
)
def test_what_can_not_be_done_is_said(kumofire: Kumofire, words: list[str], said: str) -> None:
    ended = kumofire("work", *words)

    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
