"""``kumofire work``: a worker in a container or on a machine, in place of the consumer function or beside it.

See docs/worker.md. Its runs are executed as the consumer function does it; only the loop and its end are this module's
and ``engine.worker``'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kumofire_core.cli.exits import CommandError, Exit, UsageError
from kumofire_core.cli.invocation import STACK_NAME, Here, Invocation
from kumofire_core.text import plain, plain_lines

if TYPE_CHECKING:
    from kumofire_core.engine.sqs_batch import SqsBatchReport
    from kumofire_core.engine.worker import Worker
    from kumofire_core.jobs import Jobs

LEASE_SECONDS = 60
GRACE_SECONDS = 30
VISIBILITY_MARGIN_SECONDS = 10
"""How much longer than the lease SQS hides a message: by then the lease was renewed, or the attempt is over."""

IDLE_SECONDS = 0.5
"""How long it waits before it asks again, where SQS does not wait for a message."""

PASS_SECONDS = 60.0
"""How often the dispatcher's pass is made, where it is this process's to make."""

WAIT_FOR_HOOKS = timedelta(seconds=1)

FIELDS = ("job_name", "job_run_id", "attempt")

log = logging.getLogger("kumofire_core")


def work(
    *,
    jobs: Annotated[
        str | None, Parameter(help="Where your Jobs is, as module:attribute (or KUMOFIRE_JOBS; handler.jobs:jobs).")
    ] = None,
    concurrency: Annotated[
        int | None, Parameter(help="Runs that are executed at once (or KUMOFIRE_CONCURRENCY; 10).")
    ] = None,
    lease: Annotated[
        int, Parameter(help="Seconds after which a run counts as lost whose process has died.")
    ] = LEASE_SECONDS,
    grace: Annotated[
        int, Parameter(help="Seconds that runs under way may take to end when the process is told to.")
    ] = GRACE_SECONDS,
    poll: Annotated[int, Parameter(help="Seconds that SQS waits for a message, from 0 to 20.")] = 20,
    dispatch: Annotated[bool, Parameter(negative=(), help="Make the dispatcher's passes too, once a minute.")] = False,
    health_file: Annotated[
        Path | None, Parameter(help="A file that is touched every second while the worker is alive.")
    ] = None,
    here: Here,
) -> int:
    """Execute the runs of a queue in this process, until it is told to end.

    SIGTERM and Ctrl-C let the runs under way end; a second one ends the process at once.
    """
    _check(here, concurrency=concurrency, lease=lease, grace=grace, poll=poll, health_file=health_file)
    if jobs is not None:
        os.environ["KUMOFIRE_JOBS"] = jobs
    if concurrency is not None:
        os.environ["KUMOFIRE_CONCURRENCY"] = str(concurrency)  # so that ``from_env`` makes as many connections
    _name_deployment(here)
    on_report = _set_up_output()
    found = _find_jobs()
    made = _make_worker(
        found, concurrency or found._concurrency, lease=lease, poll=poll, on_report=on_report, health_file=health_file
    )
    _end_by_signals(made)
    log.info("the worker has started with the jobs %s", ", ".join(sorted(found._registry.names())) or "(none)")
    if dispatch:
        threading.Thread(target=_dispatch, args=(found,), name="kumofire-dispatcher", daemon=True).start()
    ended = made.run(grace)
    found.wait_for_hooks(WAIT_FOR_HOOKS)
    log.info("the worker has ended; %d runs were interrupted, %d were left", ended.interrupted, ended.unfinished)
    sys.stdout.flush()
    sys.stderr.flush()
    # Code that was cut and does not stop must not keep the process.
    os._exit(Exit.STUCK if ended.stuck else Exit.NOT_DONE if ended.unfinished else Exit.DONE)


def _check(
    here: Invocation,
    *,
    concurrency: int | None,
    lease: int,
    grace: int,
    poll: int,
    health_file: Path | None,
) -> None:
    """Raise ``UsageError`` for what can't be done."""
    if here.as_json:
        raise UsageError("kumofire work logs JSON by itself where its output is not a terminal; leave out --json")
    for option, value, least, most in (
        ("--concurrency", concurrency, 1, 100),
        ("--lease", lease, 15, 3600),
        ("--grace", grace, 0, 86_400),
        ("--poll", poll, 0, 20),
    ):
        if value is not None and not least <= value <= most:
            raise UsageError(f"{option} is {value}; it must be a number from {least} to {most}")
    if health_file is not None and not health_file.absolute().parent.is_dir():
        raise UsageError(f"--health-file is {str(health_file)!r}, whose folder does not exist")


def _name_deployment(here: Invocation) -> None:
    """Set the variables that ``Jobs.from_env`` reads, where options or a stack's name say what they are."""
    named = here.stack_name or here.table or here.queue_url
    known = os.environ.get("KUMOFIRE_TABLE") and os.environ.get("KUMOFIRE_QUEUE_URL")
    if not named and (known or not os.environ.get(STACK_NAME)):
        return
    deployment = here.deployment
    settings = {
        "KUMOFIRE_TABLE": deployment.table,
        "KUMOFIRE_QUEUE_URL": deployment.queue_url,
        "KUMOFIRE_BUCKET": deployment.bucket,
        "KUMOFIRE_PAYLOAD_KEY_ARN": deployment.payload_key_arn,
    }
    os.environ.update({name: value for name, value in settings.items() if value})


def _set_up_output() -> Callable[[SqsBatchReport], object]:
    """Send logs to standard output: lines for a person in a terminal, and JSON with metrics everywhere else.

    Returns what records the metrics of a report.
    """
    if not sys.stdout.isatty():
        if find_spec("aws_lambda_powertools") is None:
            raise CommandError(
                "kumofire work logs JSON by aws-lambda-powertools, which is not installed; "
                "install it with: pip install 'kumofire-jobs[cli,lambda]'"
            )
        from kumofire_core.edge.telemetry import record_batch, set_up_logging

        set_up_logging()
        lock = threading.Lock()

        def record(report: SqsBatchReport) -> None:
            with lock:  # Powertools collects the metrics of a process in one place
                record_batch(report)

        return record
    from kumofire_core.handlers.context import AttemptLogFilter

    output = logging.StreamHandler(sys.stdout)
    output.addFilter(AttemptLogFilter())
    output.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers = [output]
    wanted = os.environ.get("POWERTOOLS_LOG_LEVEL", "").upper()
    root.setLevel(logging.getLevelNamesMapping().get(wanted, logging.INFO))
    for name in ("boto3", "botocore", "urllib3", "s3transfer"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they quote whole requests
    return lambda report: None


class _Lines(logging.Formatter):
    """Adds job, run and attempt to a line, where it is of one."""

    def format(self, record: logging.LogRecord) -> str:
        line = plain_lines(super().format(record))
        of = " ".join(f"{name}={getattr(record, name)}" for name in FIELDS if getattr(record, name, None) is not None)
        return plain(f"{line[0]} {of}".rstrip()) + "".join(f"\n    {each}" for each in line[1:])


def _find_jobs() -> Jobs:
    """Import the application's ``Jobs``, also from the folder that the command is called in."""
    from kumofire_core.edge import DEFAULT_JOBS, find_jobs
    from kumofire_core.errors import ConfigurationError

    sys.path.insert(0, str(Path.cwd()))
    try:
        return find_jobs()
    except ConfigurationError:
        raise
    except Exception as error:
        place = os.environ.get("KUMOFIRE_JOBS") or DEFAULT_JOBS
        log.exception("the jobs of %s can't be imported", place)
        raise CommandError(f"the jobs of {place} can't be imported: {type(error).__name__}: {error}") from error


def _make_worker(
    jobs: Jobs,
    concurrency: int,
    *,
    lease: int,
    poll: int,
    on_report: Callable[[SqsBatchReport], object],
    health_file: Path | None,
) -> Worker:
    from kumofire_core.engine.renewal import Renewal
    from kumofire_core.engine.worker import Worker

    jobs.make_clients()
    consumer = jobs._consumer
    consumer.renewal = Renewal(lease * 1000)

    def look() -> None:
        if health_file is not None and made.is_alive():
            with contextlib.suppress(OSError):  # a full disk must not end the worker; who looks at the file will
                health_file.touch()

    made = Worker(
        consumer.queue,
        consumer.pool,
        jobs.run_batch,
        concurrency=concurrency,
        renewal=consumer.renewal,
        poll_seconds=poll,
        idle_seconds=0.0 if poll else IDLE_SECONDS,
        visibility_seconds=lease + VISIBILITY_MARGIN_SECONDS,
        on_report=on_report,
        on_look=look,
    )
    return made


def _end_by_signals(worker: Worker) -> None:
    """Let SIGTERM and SIGINT stop the worker; the second of them ends the process at once."""
    told: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if told:
            os._exit(128 + number)
        told.append(number)
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _dispatch(jobs: Jobs) -> None:
    """Make a pass of the dispatcher about once a minute, for as long as the process lives."""
    time.sleep(random.uniform(0, 1))
    while True:
        began = time.monotonic()
        try:
            result = jobs.dispatch()
        except Exception as error:  # the next pass does what this one did not
            from kumofire_core.aws.errors import note_of
            from kumofire_core.model.error_text import error_name

            log.error("a pass of the dispatcher failed (%s). %s", error_name(error), note_of(error))
        else:
            if any(value for name, value in asdict(result).items() if name != "complete") or not result.complete:
                log.info("dispatched", extra=asdict(result))
        time.sleep(max(1.0, PASS_SECONDS * random.uniform(0.9, 1.0) - (time.monotonic() - began)))
