"""``kumofire dev``: jobs on a local AWS, in real processes, as their author sees them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from kumofire_core import Jobs, Run
from kumofire_core.cli.dev import command
from kumofire_core.cli.dev.local_aws import REGION
from kumofire_core.cli.dev.worker import TOLD_LATER
from tests import waiting
from tests.cli.conftest import Kumofire

PROGRAM = Path(sys.executable).with_name("kumofire")
PATIENCE_SECONDS = 60

JOBS = """
import os
import time
from kumofire_core import JobContext, Jobs, Snooze

jobs = Jobs.from_env()

@jobs.handler("greet", max_attempts=2)
def greet(ctx: JobContext):
    ctx.logger.info("greeting")
    return f"Hello, {ctx.payload['name']}!"

@jobs.handler("environment")
def environment(ctx: JobContext):
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}

@jobs.handler("snooze")
def snooze(ctx: JobContext):
    if ctx.payload == "wait":
        ctx.wait_for("go")
    raise Snooze(3600)

@jobs.handler("slow")
def slow(ctx: JobContext):
    ctx.logger.info("begins")
    time.sleep(60)
"""


eventually = partial(waiting.eventually, seconds=PATIENCE_SECONDS)


@dataclass
class Dev:
    """A ``kumofire dev`` under way."""

    process: subprocess.Popen[bytes]
    output: Path
    project: Path

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def says(self, pattern: str, times: int = 1) -> None:
        """Wait until the terminal shows a pattern so often."""

        def look() -> bool:
            found = len(re.findall(pattern, self.said()))
            assert self.process.poll() is None or found >= times, self.said()
            return found >= times

        try:
            eventually(look)
        except AssertionError:
            raise AssertionError(f"{pattern!r} is not in:\n{self.said()}") from None

    @property
    def settings(self) -> dict[str, str]:
        return dict(re.findall(r"^export (\w+)=(.*)$", self.said(), re.MULTILINE))

    def jobs(self, **settings: Any) -> Jobs:
        """Return a ``Jobs`` by what was printed for another terminal."""
        return Jobs(
            table=self.settings["KUMOFIRE_TABLE"],
            queue_url=self.settings["KUMOFIRE_QUEUE_URL"],
            allow_unknown_jobs=True,
            dynamodb=self.client("dynamodb"),
            sqs=self.client("sqs"),
            **settings,
        )

    def client(self, service: str) -> Any:
        settings = self.settings
        session = boto3.Session(
            aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
            region_name=settings["AWS_REGION"],
        )
        config = Config(proxies={}, retries={"total_max_attempts": 1})
        return session.client(service, endpoint_url=settings["AWS_ENDPOINT_URL"], config=config)

    def ended(self, run_id: str, jobs: Jobs | None = None) -> Run:
        jobs = jobs or self.jobs()
        return eventually(lambda: (run := jobs.get_status(run_id)) and run.finished_at and run)

    def change(self, old: str, new: str) -> None:
        place = self.project / "src/handler/jobs.py"
        text = place.read_text()
        assert old in text
        place.write_text(text.replace(old, new))

    def children(self) -> list[int]:
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in listed.stdout.split()]


def lives(pid: int) -> bool:
    try:
        # A process that ended and was not waited for is still listed.
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def developing(folder: Path, *options: str, jobs: str = JOBS, **environment: str) -> Iterator[Dev]:
    """Have a project with these jobs, and ``kumofire dev`` in it; everything that it leaves behind fails the test."""
    project, temporary = folder / "project", folder / "tmp"
    (project / "src/handler").mkdir(parents=True)
    temporary.mkdir()
    (project / "src/handler/__init__.py").write_text("")
    (project / "src/handler/jobs.py").write_text(jobs)
    output = folder / "output"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KUMOFIRE_"))}
    with output.open("wb") as writing:
        process = subprocess.Popen(
            [PROGRAM, "dev", "--aws-port", "0", "--port", "0", *options],
            cwd=project,
            env={**inherited, "TMPDIR": str(temporary), **environment},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.STDOUT,
        )
    dev = Dev(process, output, project)
    try:
        dev.says("are ready|can't be imported|has to take both")
        assert dev.children()
        yield dev
    finally:
        children = dev.children()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_SECONDS)
        eventually(lambda: not any(lives(pid) for pid in children))
        assert not list(temporary.iterdir())
    port = int(dev.settings["AWS_ENDPOINT_URL"].rpartition(":")[2])
    # A killed process is listed as ended a moment before its threads have closed what they share.
    eventually(lambda: not listens(port))


@pytest.mark.long
def test_runs_are_executed_shown_and_follow_the_file_that_they_are_in(tmp_path: Path) -> None:
    with developing(tmp_path) as dev:
        jobs = dev.jobs()
        first = jobs.create("greet", {"name": "Ada"})
        assert dev.ended(first).output == "Hello, Ada!"
        dev.says(f"greet {first} greeting")
        dev.says(f"greet {first} succeeded in ")

        fails = jobs.create("greet", {})
        assert dev.ended(fails).status == "failed"
        dev.says(rf"greet {fails} attempt 1 failed, the next one is in .*: KeyError: 'name'\n    .*handler/jobs.py")
        dev.says(rf"greet {fails} failed: KeyError: 'name'")
        assert TOLD_LATER not in dev.said()

        snoozes, waits = jobs.create("snooze"), jobs.create("snooze", "wait")
        dev.says(f"snooze {snoozes} snoozed, the next attempt is in (1h|59m|60m)")
        dev.says(f"snooze {waits} the run is suspended")
        assert f"{snoozes} attempt" not in dev.said()
        assert f"{waits} attempt" not in dev.said()

        dev.change("Hello", "Goodbye")
        dev.says("src/handler/jobs.py changed")
        dev.says("are ready: environment, greet, slow, snooze", times=2)
        assert dev.ended(jobs.create("greet", {"name": "Ada"})).output == "Goodbye, Ada!"

        every_second = jobs.create_schedule(
            "greet", {"name": "again"}, schedule_type="interval", schedule_expr="rate(1 second)"
        )
        dev.says("greet [0-9a-f]{40} succeeded in ", times=4)
        assert jobs.delete_schedule(every_second)
    assert dev.process.returncode == 130


@pytest.mark.long
def test_jobs_that_can_not_be_imported_are_shown_and_tried_again_and_their_runs_wait(tmp_path: Path) -> None:
    with developing(tmp_path, jobs=f"import no_such_module\n{JOBS}") as dev:
        dev.says(
            r"can't be imported:\n    Traceback.*\n .*handler/jobs.py.*line 1(.|\n)*No module named 'no_such_module'"
        )
        dev.says("waiting for a change")
        assert "importlib" not in dev.said()
        assert "worker.py" not in dev.said()
        waits = dev.jobs().create("greet", {"name": "Ada"})

        dev.change("import no_such_module\n", "def (")
        dev.says("SyntaxError")
        dev.says("waiting for a change", times=2)
        assert dev.jobs().get_status(waits).status == "queued"

        dev.change("def (", "")
        assert dev.ended(waits).output == "Hello, Ada!"
        assert dev.said().count("waiting for a change") == 2


@pytest.mark.long
def test_a_run_that_a_change_cuts_is_executed_again(tmp_path: Path) -> None:
    with developing(tmp_path, "--timeout", "12") as dev:
        cut = dev.jobs().create("slow")
        dev.says(f"slow {cut} begins")

        dev.change("time.sleep(60)", "return 'fast'")

        ended = dev.ended(cut)
        assert (ended.status, ended.output) == ("succeeded", "fast")
        assert [attempt.ended.value for attempt in ended.attempts] == ["worker_lost", "succeeded"]


@pytest.mark.long
def test_a_process_that_a_handler_ends_is_started_again(tmp_path: Path) -> None:
    with developing(tmp_path, jobs=JOBS.replace("time.sleep(60)", "os._exit(7)")) as dev:
        dev.jobs().create("slow")

        dev.says("ended .with status 7., and is started again")

        assert dev.ended(dev.jobs().create("greet", {"name": "Ada"})).output == "Hello, Ada!"


@pytest.mark.long
def test_no_setting_of_an_account_reaches_the_jobs(tmp_path: Path) -> None:
    account = {
        "AWS_PROFILE": "production",
        "AWS_SESSION_TOKEN": "secret",
        "AWS_ACCESS_KEY_ID": "of-the-account",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_S3": "https://s3.example",
        "KUMOFIRE_TABLE": "production",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    with developing(tmp_path, **account) as dev:
        seen = dev.ended(dev.jobs().create("environment")).output

        assert seen == {
            **{name: value for name, value in dev.settings.items() if name.startswith("AWS_")},
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        assert seen["AWS_REGION"] == REGION
        assert seen["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")


@pytest.mark.long
def test_large_payloads_find_their_bucket(tmp_path: Path) -> None:
    with developing(tmp_path, "--no-console", KUMOFIRE_BUCKET="of-the-stack") as dev:
        jobs = dev.jobs(bucket="of-the-stack", s3=dev.client("s3"))

        ended = dev.ended(jobs.create("greet", {"name": "x" * 500_000}), jobs)

        assert ended.output == f"Hello, {'x' * 500_000}!"


@pytest.mark.long
def test_the_local_aws_executes_no_code_for_other_users_of_the_machine(tmp_path: Path) -> None:
    with developing(tmp_path, "--no-console") as dev:
        dev.client("s3").create_bucket(Bucket="mine")

        for service, ask in {
            "lambda": "list_functions",
            "ecs": "list_clusters",
            "stepfunctions": "list_state_machines",
        }.items():
            with pytest.raises(ClientError):
                getattr(dev.client(service), ask)()


@pytest.mark.long
def test_jobs_with_a_table_of_their_own_are_told_what_to_do(tmp_path: Path) -> None:
    own = JOBS.replace("from_env()", "from_env(table='mine')")
    with developing(tmp_path, "--no-console", jobs=own) as dev:
        dev.says("handler.jobs:jobs names a table or a queue itself; it has to take both from the environment")
        assert "The console" not in dev.said()


@pytest.mark.long
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_whatever_ends_it_nothing_stays(tmp_path: Path, end: signal.Signals) -> None:
    with developing(tmp_path) as dev:
        children = dev.children()
        assert len(children) == 2

        dev.process.send_signal(end)

        dev.process.wait(PATIENCE_SECONDS)
        eventually(lambda: not any(lives(pid) for pid in children))
    assert dev.process.returncode == (0 if end == signal.SIGTERM else -end)


@pytest.mark.parametrize(("option", "advice"), [("--aws-port", "--aws-port"), ("--port", "--port")])
@pytest.mark.long
def test_a_port_that_is_taken_is_told_and_nothing_stays(tmp_path: Path, option: str, advice: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = {"--aws-port": "0", "--port": "0", option: port}

        ended = subprocess.run(
            [PROGRAM, "dev", *(word for pair in given.items() for word in pair)],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert ended.returncode == 3
    assert f"port {port} can't be listened on (Address already in use" in ended.stderr
    assert f"give another {advice}" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--timeout", "0"], "--timeout is 0"),
        (["--timeout", "901"], "--timeout is 901"),
        (["--concurrency", "0"], "--concurrency is 0"),
        (["--concurrency", "many"], "--concurrency"),
        (["--aws-port", "65536"], "--aws-port is 65536"),
        (["--port", "-1"], "--port is -1"),
        (["--source", "no/such/folder"], "--source is 'no/such/folder'"),
        (["--json"], "--json"),
        (["--stack-name", "mine"], "leave out --stack-name"),
        (["--table", "mine"], "leave out --stack-name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_starts_nothing(
    kumofire: Kumofire, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.setattr(command, "local_aws", None)

    ended = kumofire("dev", *words)

    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err


def test_a_missing_extra_is_named(kumofire: Kumofire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "watchfiles" else object())
    monkeypatch.setattr(command, "local_aws", None)

    ended = kumofire("dev")

    assert (ended.code, ended.out) == (3, "")
    assert "kumofire: dev needs watchfiles" in ended.err
    assert "pip install 'kumofire-jobs[local]'" in ended.err
