"""The process of ``kumofire dev`` that executes an application's jobs: consumer, dispatcher and log in one.

``command`` starts it as ``python -m``, with the variables of the local AWS, and starts a new one when a file has
changed. It ends with its parent, whichever way that one ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kumofire_core.cli.display import BOLD, CYAN, DIM, GREEN, RED, YELLOW, colors, styled
from kumofire_core.text import length, plain, plain_lines

if TYPE_CHECKING:
    from kumofire_core.engine.sqs_batch import RecordReport, SqsBatchReport
    from kumofire_core.jobs import Jobs

NOT_IMPORTED = 3
"""The exit code of a worker whose jobs can't be imported. It has said why."""

GRACE_SECONDS = 5.0
"""How long runs under way may take to end when the process is told to."""

POLL_SECONDS = 0.1
TICK_SECONDS = 1.0
TOLD_LATER = "attempt failed with"
CANCELED = "the handler canceled the run"
"""How lines of the consumer begin that ``DevelopmentWorker`` replaces by one with the error's text and traceback."""

PROGRAM = "kumofire"
PACKAGE = Path(__file__).parents[2]

log = logging.getLogger("kumofire_core")


class Terminal:
    """Writes lines of one form, from any thread: the time, who it is about, the run's id, and a text."""

    def __init__(self) -> None:
        self._color = colors(sys.stdout)

    def line(self, who: str, run_id: str | None, text: str, style: str = "") -> None:
        """Write a line, made safe."""
        parts = [styled(time.strftime("%H:%M:%S"), DIM, color=self._color)]
        parts.append(styled(plain(who), CYAN if run_id else BOLD, color=self._color))
        if run_id:
            parts.append(styled(plain(run_id), DIM, color=self._color))
        parts.append(styled(plain(text), style, color=self._color))
        self._write(" ".join(parts))

    def block(self, text: str) -> None:
        """Write a text of several lines below such a line, made safe."""
        lines = plain_lines(text.rstrip()) if text else []
        if lines:
            self._write("\n".join(f"    {styled(line, DIM, color=self._color)}" for line in lines))

    def _write(self, line: str) -> None:
        # One write each, so that lines of two threads do not mix.
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class _Lines(logging.Handler):
    """Shows what is logged, with the run that it is about."""

    STYLES = ((logging.ERROR, RED), (logging.WARNING, YELLOW))

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, str) and record.msg.startswith((TOLD_LATER, CANCELED)):
            return
        try:
            style = next((style for level, style in self.STYLES if record.levelno >= level), "")
            run_id = getattr(record, "job_run_id", None)
            who = getattr(record, "job_name", None) or (PROGRAM if run_id is None else "run")
            self._terminal.line(who, run_id, record.getMessage(), style)
            if record.exc_info:
                self._terminal.block("".join(traceback.format_exception(*record.exc_info)))
        except Exception:
            self.handleError(record)


class _Ends:
    """Lambda's context object, for as far as a batch asks it: when the invocation ends."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        """Return the time left, in milliseconds."""
        return max(0, int((self._end - time.monotonic()) * 1000))


class DevelopmentWorker:
    """Executes what the queue delivers, ``concurrency`` runs at once, and makes the dispatcher's passes.

    An attempt takes ``timeout`` seconds at most, as in a function of the stack.
    """

    def __init__(self, jobs: Jobs, terminal: Terminal, *, concurrency: int, timeout: float) -> None:
        from kumofire_core.engine.worker import Worker

        self._jobs = jobs
        self._terminal = terminal
        self._stopping = threading.Event()
        self._worker = Worker(
            jobs._consumer.queue,
            jobs._consumer.pool,
            lambda event: jobs.run_batch(event, _Ends(timeout)),
            concurrency=concurrency,
            # The local AWS would give a message to a process that was killed while SQS waits for one.
            poll_seconds=0,
            idle_seconds=POLL_SECONDS,
            on_report=self._tell_all,
        )

    def stop(self) -> None:
        """Let ``run`` return."""
        self._stopping.set()
        self._worker.stop()

    def run(self) -> None:
        """Work until ``stop`` is called; then wait for the runs under way, for ``GRACE_SECONDS`` at most."""
        threading.Thread(target=self._tick, daemon=True).start()
        if self._worker.run(GRACE_SECONDS).stuck:
            self._terminal.line(PROGRAM, None, "handlers that were cut do not stop, so this process ends", RED)

    def _tell_all(self, report: SqsBatchReport) -> None:
        if report.stray_handlers:
            log.warning("a handler goes on although its time is over; on AWS its process would end now")
        try:
            for each in report.records:
                self._tell(each)
        except Exception as error:
            log.warning("what became of a run could not be read: %s", error)

    def _tell(self, report: RecordReport) -> None:
        """Show how an attempt ended. What else there is to tell, the consumer has logged."""
        from kumofire_core.model.run import AttemptEnding, Outcome

        result = report.result
        if result is None or result.outcome is Outcome.IGNORED:
            return
        name, run_id = result.job_name or PROGRAM, result.job_run_id
        if result.outcome is Outcome.SUCCEEDED:
            took = "" if result.duration is None else f" in {length(result.duration.total_seconds())}"
            self._terminal.line(name, run_id, f"succeeded{took}", GREEN)
            return
        run = self._jobs.get_status(run_id)
        last = run.attempts[-1] if run and run.attempts else None
        error = (run.last_error if run else None) or result.reason or ""
        first, _, rest = error.partition("\n")
        if result.outcome is Outcome.RETRIED:
            if run is None or last is None or last.number != result.attempt:
                return  # it was suspended or put back, and the consumer has logged why
            due = length(max(0.0, (run.scheduled_for - datetime.now(UTC)).total_seconds()))
            if last.ended is AttemptEnding.SNOOZED:
                self._terminal.line(name, run_id, f"snoozed, the next attempt is in {due}", YELLOW)
                return
            self._terminal.line(
                name, run_id, f"attempt {last.number} failed, the next one is in {due}: {first}", YELLOW
            )
        elif result.outcome is Outcome.FAILED:
            self._terminal.line(name, run_id, f"failed: {first}", RED)
        else:
            self._terminal.line(name, run_id, f"{result.outcome.value}: {first}", YELLOW)
        self._terminal.block((last.traceback if last else None) or rest)

    def _tick(self) -> None:
        """Make the dispatcher's passes."""
        while not self._stopping.wait(TICK_SECONDS):
            try:
                result = self._jobs.dispatch()
            except Exception as error:
                if not self._stopping.is_set():
                    log.warning("a pass of the dispatcher failed: %s", error)
                continue
            if result.recovered or result.failed:
                log.warning("%d runs were found whose process had been cut", result.recovered + result.failed)


def main(source: str, concurrency: int, timeout: float) -> int:
    """Import the jobs and execute their runs until SIGTERM; return ``NOT_IMPORTED`` where they can't be imported."""
    from kumofire_core.edge import DEFAULT_JOBS, find_jobs
    from kumofire_core.errors import ConfigurationError

    threading.Thread(target=_end_with_parent, daemon=True).start()
    terminal = Terminal()
    _show_logs(terminal)
    # `python -m` has put the folder here first; the application's is the one to import from.
    sys.path.insert(0, source)
    place = os.environ.get("KUMOFIRE_JOBS") or DEFAULT_JOBS
    try:
        jobs = find_jobs()
        if (jobs.table_name, jobs.queue_url) != (os.environ["KUMOFIRE_TABLE"], os.environ["KUMOFIRE_QUEUE_URL"]):
            raise ConfigurationError(
                [f"{place} names a table or a queue itself; it has to take both from the environment, by from_env()"]
            )
    except ConfigurationError as error:
        terminal.line(PROGRAM, None, str(error), RED)
        return NOT_IMPORTED
    except BaseException as error:
        terminal.line(PROGRAM, None, f"the jobs of {place} can't be imported:", RED)
        terminal.block(_traceback_of(error))
        return NOT_IMPORTED
    worker = DevelopmentWorker(jobs, terminal, concurrency=concurrency, timeout=timeout)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    names = ", ".join(sorted(jobs._registry.names())) or "none is registered"
    terminal.line(PROGRAM, None, f"the jobs of {place} are ready: {names}", GREEN)
    worker.run()
    jobs.wait_for_hooks()
    return 0


def _show_logs(terminal: Terminal) -> None:
    from kumofire_core.handlers.context import AttemptLogFilter

    handler = _Lines(terminal)
    handler.addFilter(AttemptLogFilter())
    root = logging.getLogger()
    root.addHandler(handler)
    wanted = os.environ.get("POWERTOOLS_LOG_LEVEL", "").upper()
    root.setLevel(logging.getLevelNamesMapping().get(wanted, logging.INFO))
    for name in ("boto3", "botocore", "urllib3", "s3transfer"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they quote whole requests


def _traceback_of(error: BaseException) -> str:
    """Return a traceback without the frames of what imports."""
    told = traceback.TracebackException.from_exception(error)
    told.stack = traceback.StackSummary.from_list(
        [
            frame
            for frame in told.stack
            if not frame.filename.startswith("<frozen importlib")
            and not Path(frame.filename).is_relative_to(PACKAGE)
            and not frame.filename.endswith("importlib/__init__.py")
        ]
    )
    return "".join(told.format())


def _end_with_parent() -> None:
    with contextlib.suppress(Exception):
        sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    code = main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    sys.stdout.flush()
    sys.stderr.flush()
    # A handler that goes on must not keep the process.
    os._exit(code)
