"""One call of ``kumofire``: its global options, the deployment it works on, and where it writes."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kumofire_core.cli.display import Cell, Column, colors, field_lines, styled, table_lines, width_of
from kumofire_core.cli.exits import CommandError, Exit, NotDoneError, UsageError
from kumofire_core.edge import collector_paused
from kumofire_core.text import as_json, plain

if TYPE_CHECKING:
    from kumofire_core.deployment.discovery import Deployment
    from kumofire_core.jobs import Jobs

STACK_NAME = "KUMOFIRE_STACK_NAME"
KEY = "KUMOFIRE_PAYLOAD_KEY_ARN"


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """The global options, and what every command does with them."""

    stack_name: str | None = None
    table: str | None = None
    queue_url: str | None = None
    as_json: bool = False

    def wait(self, seconds: float) -> None:
        """Wait before the next look at what is watched."""
        time.sleep(seconds)

    @cached_property
    def color(self) -> bool:
        """Whether standard output gets colours."""
        return colors(sys.stdout)

    def now(self) -> datetime:
        """Return the current time."""
        return datetime.now(UTC)

    @cached_property
    def deployment(self) -> Deployment:
        """The deployment that is named, which takes a request where it is named by its stack.

        Raises ``UsageError`` where none is named, ``DiscoveryError`` where there is no such stack.
        """
        if self.stack_name and (self.table or self.queue_url):
            raise UsageError(
                "--stack-name is given together with --table or --queue-url, which could mean two deployments; "
                "give the stack's name alone, or the table and the queue"
            )
        stack_name = self.stack_name
        if not (self.table or self.queue_url or os.environ.get("KUMOFIRE_TABLE")):
            stack_name = stack_name or os.environ.get(STACK_NAME)
        missing = [
            f"{option} (or {variable})"
            for option, value, variable in (
                ("--table", self.table, "KUMOFIRE_TABLE"),
                ("--queue-url", self.queue_url, "KUMOFIRE_QUEUE_URL"),
            )
            if not value and not os.environ.get(variable)
        ]
        if missing and not stack_name:
            raise UsageError(
                f"no deployment is named ({' and '.join(missing)} missing); "
                "name its stack with --stack-name, or its table and its queue"
            )
        from kumofire_core.deployment.discovery import find_deployment

        return find_deployment(stack_name=stack_name, table=self.table, queue_url=self.queue_url)

    @cached_property
    def jobs(self) -> Jobs:
        """The deployment's ``Jobs``, with its DynamoDB client made.

        Without the encryption library, what is encrypted reads as ``ENCRYPTED``.
        """
        found = self.deployment
        settings = {
            "KUMOFIRE_TABLE": found.table,
            "KUMOFIRE_QUEUE_URL": found.queue_url,
            "KUMOFIRE_BUCKET": found.bucket,
            KEY: found.payload_key_arn,
        }
        environment = {**os.environ, **{name: value or "" for name, value in settings.items()}}
        if not self._can_encrypt:
            environment.pop(KEY)
        if found.retention_days is not None:
            # A run that is canceled from here is kept for as long as any other.
            environment.setdefault("KUMOFIRE_RETENTION_DAYS", found.retention_days)
        _log_on_one_line()
        # Jobs makes its clients itself, without boto3, from AWS's variables, which the global options have set.
        with collector_paused(freeze=gc.get_freeze_count() > 0):  # where ``main`` has done so, the process is its own
            from kumofire_core.jobs import Jobs

            jobs = Jobs.from_env(environment, allow_unknown_jobs=True, clock=self.now)
            jobs.make_clients(sqs=False)
        return jobs

    @property
    def writing_jobs(self) -> Jobs:
        """The ``Jobs`` of a command that stores a payload; it must be able to encrypt where the deployment does.

        Raises ``CommandError`` where it is not.
        """
        if self.deployment.payload_key_arn and not self._can_encrypt:
            raise CommandError(
                "this deployment encrypts payloads, and the library for it is not installed, so nothing was stored; "
                "install it with: pip install 'kumofire-jobs[cli,encryption]'"
            )
        return self.jobs

    @cached_property
    def _can_encrypt(self) -> bool:
        from importlib.util import find_spec

        return find_spec("aws_encryption_sdk") is not None

    def say(self, text: str) -> None:
        """Write a sentence to standard error: it is no part of the result."""
        print(plain(text), file=sys.stderr, flush=True)

    def lines(self, lines: Sequence[str]) -> None:
        """Write lines that are safe already to standard output."""
        if lines:
            print("\n".join(lines), flush=True)

    def show(self, text: str, style: str = "") -> None:
        """Write a text of others, made safe, to standard output."""
        self.lines([styled(plain(text), style, color=self.color)])

    def emit(self, form: dict[str, Any]) -> None:
        """Write the one object of ``--json``."""
        self.lines([as_json(form)])

    def show_table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]]) -> None:
        """Write a table as wide as the terminal."""
        self.lines(table_lines(columns, rows, width=width_of(sys.stdout), color=self.color))

    def show_fields(self, fields: Sequence[tuple[str, Cell | str | None]]) -> None:
        """Write the fields that have a value, a line each."""
        self.lines(field_lines(fields, color=self.color))

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask a person and return if the answer is yes; raises ``NotDoneError`` for any other.

        ``yes`` is the answer given on the command line. Raises ``UsageError`` where nobody can answer.
        """
        if yes:
            return
        if not sys.stdin.isatty():
            raise UsageError(f"nobody can answer the question {question!r} here; answer it with --yes")
        print(f"{plain(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            print(file=sys.stderr)
        if answer.strip().lower() not in ("y", "yes"):
            raise NotDoneError("nothing was changed")


def _log_on_one_line() -> None:
    """Let what the library warns of reach standard error as a safe line each, unless somebody handles its logs."""
    import logging

    class OneLine(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"kumofire: {plain(record.getMessage())}"

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(OneLine())


Here = Annotated[Invocation, Parameter(parse=False)]
"""The parameter of a command by which it gets its ``Invocation``."""

Yes = Annotated[bool, Parameter(name=("--yes", "-y"), negative=(), help="Do not ask.")]


def number(count: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def outcome(done: Sequence[object], not_done: Sequence[object]) -> int:
    """Return the exit code of a command that was given several things to do."""
    return Exit.NOT_DONE if not_done or not done else Exit.DONE
