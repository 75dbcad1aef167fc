"""Runs as people see them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from kumofire_core.cli.display import BOLD, DIM, RED, Cell, Column, status_cell, styled
from kumofire_core.cli.invocation import Invocation
from kumofire_core.cli.text import as_shown_json, both, plain_lines, relative

if TYPE_CHECKING:
    from kumofire_core.model.run import Run

RUN_COLUMNS = (
    Column("ID"),
    Column("JOB", least=8),
    Column("STATUS"),
    Column("ATTEMPTS", right=True),
    Column("WHEN"),
    Column("ERROR", least=10),
)


def run_row(run: Run, now: datetime) -> list[Cell | str]:
    """Return a run's line of a table."""
    return [
        run.id,
        run.job_name,
        status_cell(run.status.value),
        f"{run.failed_attempts}/{run.max_attempts}" if run.failed_attempts else "",
        when(run, now),
        (run.last_error or run.cancel_reason or "").split("\n", 1)[0],
    ]


def when(run: Run, now: datetime) -> str:
    """Return the time that matters most of a run: when it ended, started, or is due."""
    if run.finished_at is not None:
        return relative(run.finished_at, now)
    if run.status.value == "running" and run.started_at is not None:
        return f"since {relative(run.started_at, now).removesuffix(' ago')}"
    return f"due {relative(run.scheduled_for, now)}"


def show_run(here: Invocation, run: Run, *, payload: bool, output: bool) -> None:
    """Print all that is known of a run."""
    now = here.now()

    def time(moment: datetime | None) -> str | None:
        return None if moment is None else both(moment, now)

    here.show_fields(
        [
            ("id", run.id),
            ("job", run.job_name),
            ("status", status_cell(run.status.value)),
            ("failed attempts", f"{run.failed_attempts} of {run.max_attempts}"),
            ("due", time(run.scheduled_for)),
            ("created", time(run.created_at)),
            ("started", time(run.started_at)),
            ("finished", time(run.finished_at)),
            ("schedule", run.schedule_id),
            ("dedupe key", run.dedupe_key),
            ("cancellation", ("asked for" if run.cancel_requested else None)),
            ("cancel reason", run.cancel_reason),
        ]
    )
    if run.last_error:
        _section(here, "last error", plain_lines(run.last_error), RED)
    for ending in run.history:
        ended = "" if ending.finished_at is None else f" {both(ending.finished_at, now)}"
        lines = plain_lines(ending.last_error) if ending.last_error else []
        lines += [f"reason: {line}" for line in plain_lines(ending.cancel_reason or "") if line]
        _section(here, f"before a retry: {ending.status}{ended}, {ending.attempt} failed attempts", lines, DIM)
    if payload:
        _section(here, "payload", value_lines(run.payload))
    if output:
        _section(here, "output", value_lines(run.output))


def value_lines(value: Any) -> list[str]:
    """Return a payload or an output as lines for people."""
    from kumofire_core.model.encrypted_text import ENCRYPTED

    if value is ENCRYPTED:
        return ["encrypted, and this process does not have the key (KUMOFIRE_PAYLOAD_KEY_ARN)"]
    return as_shown_json(value)


def _section(here: Invocation, title: str, lines: list[str], style: str = "") -> None:
    color = here.color
    here.lines(["", styled(title, BOLD, color=color), *(f"  {styled(line, style, color=color)}" for line in lines)])
