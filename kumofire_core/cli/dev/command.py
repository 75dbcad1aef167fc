"""``kumofire dev``: starts the local AWS, the worker and the console, and a new worker when a file has changed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kumofire_core.cli.dev.local_aws import REGION, end_group, environment_for, local_aws
from kumofire_core.cli.dev.worker import GRACE_SECONDS, NOT_IMPORTED, PROGRAM, Terminal
from kumofire_core.cli.display import DIM, RED, YELLOW
from kumofire_core.cli.exits import CommandError, UsageError
from kumofire_core.cli.invocation import Here, Invocation

if TYPE_CHECKING:
    from kumofire_core.console.local import LocalConsole

AWS_PORT = 8391
NAME = "jobs"
LOOK_MS = 200
"""How often it looks whether the worker still runs."""

KILL_SECONDS = GRACE_SECONDS + 2


def dev(
    *,
    source: Annotated[
        Path | None, Parameter(help="The folder that your jobs are imported from; by default src, or else this one.")
    ] = None,
    timeout: Annotated[int, Parameter(help="Seconds that an attempt may take, as the stack's FunctionTimeout.")] = 60,
    concurrency: Annotated[int, Parameter(help="Runs that are executed at once.")] = 10,
    port: Annotated[int | None, Parameter(help="The console's port; by default 8390, or a free one.")] = None,
    aws_port: Annotated[int, Parameter(help="The local AWS's port; 0 for a free one.")] = AWS_PORT,
    no_console: Annotated[bool, Parameter(negative=(), help="Do not serve the console.")] = False,
    here: Here,
) -> None:
    """Execute your jobs on a local AWS, again whenever a file changes, and serve the console beside it.

    It needs no AWS account, and asks nothing of yours. Its data is gone at the end. Ctrl-C ends it.
    """
    _check(here, timeout=timeout, concurrency=concurrency, ports=(port, aws_port))
    folder = _folder(source)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    terminal = Terminal()
    terminal.line(PROGRAM, None, "starting a local AWS", DIM)
    with local_aws(aws_port) as address, contextlib.ExitStack() as ending:
        settings = environment_for(address)
        _leave_no_way_to_aws()
        os.environ.update(settings)
        settings |= {"KUMOFIRE_TABLE": NAME, "KUMOFIRE_QUEUE_URL": _make_table_and_queues(address, timeout)}
        os.environ.update(settings)
        here.lines(["", "To reach it from another terminal:", ""])
        here.lines([f"export {name}={value}" for name, value in settings.items()])
        if not no_console:
            console = ending.enter_context(_console(here, port))
            here.lines(["", f"The console is for you alone: {console.address}"])
        here.lines([""])
        worker = ending.enter_context(_Worker(folder, concurrency, timeout).ended())
        _watch(folder, worker, terminal, stop)


def _check(here: Invocation, *, timeout: int, concurrency: int, ports: tuple[int | None, ...]) -> None:
    """Raise ``UsageError`` for what can't be done, and ``CommandError`` where something is not installed."""
    if here.stack_name or here.table or here.queue_url or os.environ.get("KUMOFIRE_PAYLOAD_KEY_ARN"):
        raise UsageError(
            "kumofire dev makes a table and a queue of its own, without a key; leave out --stack-name, --table, "
            "--queue-url and KUMOFIRE_PAYLOAD_KEY_ARN"
        )
    if here.as_json:
        raise UsageError("--json is for programs and kumofire dev for people")
    if not 1 <= timeout <= 900:
        raise UsageError(f"--timeout is {timeout}; it must be a number of seconds from 1 to 900")
    if not 1 <= concurrency <= 100:
        raise UsageError(f"--concurrency is {concurrency}; it must be a number from 1 to 100")
    for option, port in zip(("--port", "--aws-port"), ports, strict=True):
        if port is not None and not 0 <= port <= 65535:
            raise UsageError(f"{option} is {port}; it must be a number from 0 to 65535")
    if sys.platform == "win32":
        raise CommandError("dev needs Linux or macOS; on Windows, use it in WSL")
    missing = [name for name in ("ministack", "watchfiles", "starlette") if find_spec(name) is None]
    if missing:
        raise CommandError(
            f"dev needs {' and '.join(missing)}, which is not installed; "
            "install it with: pip install 'kumofire-jobs[local]'"
        )


def _folder(given: Path | None) -> Path:
    folder = given or (Path("src") if Path("src").is_dir() else Path())
    if not folder.is_dir():
        raise UsageError(f"--source is {str(folder)!r}, which is no folder")
    return folder.resolve()


def _leave_no_way_to_aws() -> None:
    """Forget every AWS setting of this process: no request may reach an account."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))


def _make_table_and_queues(address: str, timeout: int) -> str:
    """Make what the stack makes, for as far as jobs see it; return the queue's URL."""
    import json

    from kumofire_core.deployment.discovery import AwsClients
    from kumofire_core.deployment.table import make_table

    clients = AwsClients(region=REGION, endpoint_url=address)
    make_table(clients.client("dynamodb"), NAME)
    sqs = clients.client("sqs")
    dead = sqs.create_queue(QueueName=f"{NAME}-dead-letters")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    attributes = {
        # AWS asks for six times the timeout. Here it is just longer than a lease, so that a run that was cut by a
        # change comes again soon.
        "VisibilityTimeout": str(timeout + 10),
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 200}),
    }
    if bucket := os.environ.get("KUMOFIRE_BUCKET"):
        clients.client("s3").create_bucket(Bucket=bucket)
    return str(sqs.create_queue(QueueName=NAME, Attributes=attributes)["QueueUrl"])


@contextlib.contextmanager
def _console(here: Invocation, port: int | None) -> Iterator[LocalConsole]:
    """Serve the console in a thread for the length of the block. Raises ``CommandError`` where its port is taken."""
    from kumofire_core.cli.console import PORT
    from kumofire_core.console.local import LocalConsole

    def listening(on: int) -> LocalConsole:
        return LocalConsole(here.jobs, port=on, title="kumofire dev")

    try:
        served = listening(PORT if port is None else port)
    except OSError as error:
        if port is not None:
            raise CommandError(f"port {port} can't be listened on ({error.strerror}); give another --port") from None
        served = listening(0)
    thread = threading.Thread(target=served.serve, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.stop()
        thread.join(3)


class _Worker:
    """The process that executes the jobs; there is one at most."""

    def __init__(self, folder: Path, concurrency: int, timeout: int) -> None:
        self._command: list[Any] = [sys.executable, "-m", "kumofire_core.cli.dev.worker", folder, concurrency, timeout]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. Its lines go where this process's go."""
        self._process = subprocess.Popen(
            [str(word) for word in self._command],
            stdin=subprocess.PIPE,
            # Ctrl-C in the terminal does not reach it: its runs get the time to end.
            start_new_session=True,
        )

    def stop(self) -> None:
        """Let the runs under way end, and then end it."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_SECONDS)
        end_group(self._process)
        self._process = None

    def exit_code(self) -> int | None:
        """Return how it ended; ``None`` while it runs, and where it was not started."""
        return None if self._process is None else self._process.poll()

    @property
    def started(self) -> bool:
        """Whether it was started, and not stopped."""
        return self._process is not None

    @contextlib.contextmanager
    def ended(self) -> Iterator[_Worker]:
        """End it with the block."""
        try:
            yield self
        finally:
            self.stop()


def _watch(folder: Path, worker: _Worker, terminal: Terminal, stop: threading.Event) -> None:
    """Keep a worker with the newest files until ``stop`` is set, or a person interrupts this process."""
    from watchfiles import PythonFilter, watch

    told = False
    # It begins to watch before it yields for the first time, so no change is missed between the two.
    for changes in watch(
        folder,
        watch_filter=PythonFilter(extra_extensions=(".json", ".toml", ".yaml", ".yml", ".txt", ".html", ".env")),
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
        stop_event=stop,
        raise_interrupt=True,
    ):
        if changes:
            names = sorted({os.path.relpath(path) for _, path in changes})
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            terminal.line(PROGRAM, None, f"{names[0]}{more} changed", DIM)
            worker.stop()
        code = worker.exit_code()
        if not worker.started:
            worker.start()
            told = False
        elif code == NOT_IMPORTED:
            if not told:
                terminal.line(PROGRAM, None, "waiting for a change; runs wait too", YELLOW)
                told = True
        elif code is not None:
            terminal.line(PROGRAM, None, f"the process of the jobs ended ({_how(code)}), and is started again", RED)
            worker.stop()
            if stop.wait(1):
                return


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
