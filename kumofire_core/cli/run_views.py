"""Runs as people see them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kumofire_core.cli.display import BOLD, DIM, RED, STATUS_STYLES, Cell, Column, status_cell, styled
from kumofire_core.cli.invocation import Invocation
from kumofire_core.text import absolute, as_shown_json, both, length, plain, plain_lines, relative

if TYPE_CHECKING:
    from kumofire_core.model.run_view import Attempt, RetriedRun, Run
    from kumofire_core.model.steps import Step

RUN_COLUMNS = (
    Column("ID"),
    Column("JOB", least=8),
    Column("STATUS"),
    Column("FAILED", right=True),
    Column("WHEN"),
    Column("ERROR", least=10),
)

ENDINGS = {
    "succeeded": "succeeded",
    "raised": "raised",
    "timed_out": "timed out",
    "worker_lost": "lost its consumer",
    "snoozed": "snoozed",
    "canceled": "canceled",
}


def run_row(run: Run, now: datetime) -> list[Cell | str]:
    """Return a run's line of a table."""
    return [
        run.id,
        run.job_name,
        status_cell("paused" if run.paused else "limited" if run.waiting_for_limit else run.status.value),
        f"{run.failed_attempts}/{run.max_attempts}" if run.failed_attempts else "",
        when(run, now),
        progress_text(run) or (run.last_error or run.cancel_reason or "").split("\n", 1)[0],
    ]


def when(run: Run, now: datetime) -> str:
    """Return the time that matters most of a run: when it ended, started, or is due."""
    if run.finished_at is not None:
        return relative(run.finished_at, now)
    if run.status.value == "running" and run.started_at is not None:
        return f"for {relative(run.started_at, now).removesuffix(' ago')}"
    return f"due {relative(run.scheduled_for, now)}"


def progress_text(run: Run) -> str:
    """Return how far a running run has come, by its own word."""
    if run.progress is None or run.finished_at is not None:
        return ""
    return f"{run.progress.fraction:.0%} {run.progress.note or ''}".rstrip()


def show_run(here: Invocation, run: Run, steps: Sequence[Step], *, payload: bool, output: bool) -> None:
    """Print all that is known of a run."""
    now = here.now()

    def time(moment: datetime | None) -> str | None:
        return None if moment is None else both(moment, now)

    here.show_fields(
        [
            ("id", run.id),
            ("job", run.job_name),
            ("status", status_cell(run.status.value)),
            ("paused", "it waits until its job is resumed" if run.paused else None),
            ("limited", "it waits for its turn, by its job's limit or rate" if run.waiting_for_limit else None),
            ("attempts", f"{run.failed_attempts} of {run.max_attempts} failed"),
            ("retries", f"{run.retries} by a person" if run.retries else None),
            ("progress", _progress(run, now)),
            ("waits for", None if run.waiting_for is None else f"the signal {run.waiting_for!r}"),
            ("due", time(run.scheduled_for)),
            ("created", time(run.created_at)),
            ("created by", run.created_by),
            ("parent", run.parent_id),
            ("started", time(run.started_at)),
            ("finished", time(run.finished_at)),
            ("schedule", run.schedule_id),
            ("occurrence", time(run.occurrence)),
            ("dedupe key", run.dedupe_key),
            ("group", run.group),
            ("batch", None if run.batch_id is None else f"{run.batch_id}, member {run.batch_index}"),
            ("callback of", run.callback_of),
            ("cancellation", "asked for" if run.cancel_requested and run.finished_at is None else None),
            ("reason", run.cancel_reason),
            ("log group", here.deployment.consumer_log_group if run.attempts else None),
        ]
    )
    if run.last_error and not any(attempt.message for attempt in run.attempts[-1:]):
        _section(here, "last error", [styled(line, RED, color=here.color) for line in plain_lines(run.last_error)])
    if steps:
        _section(here, "steps", [line for step in steps for line in _step_lines(step, now, result=output)])
    if run.attempts or run.history:
        _section(here, "attempts", _timeline(here, run, now))
    if payload:
        _section(here, "payload", value_lines(run.payload))
    if output:
        _section(here, "output", value_lines(run.output))


def value_lines(value: Any) -> list[str]:
    """Return a payload or an output as lines for people."""
    from kumofire_core.model.encrypted_text import ENCRYPTED
    from kumofire_core.model.large_value import LargeValue

    if isinstance(value, LargeValue):
        return [f"{value.size:,} bytes in S3, and no bucket is named here (KUMOFIRE_BUCKET)"]
    if value is ENCRYPTED:
        return ["encrypted, and this process does not have the key (KUMOFIRE_PAYLOAD_KEY_ARN)"]
    return as_shown_json(value)


def _step_lines(step: Step, now: datetime, *, result: bool) -> list[str]:
    """Return the lines of a kept step, a sleep, a wait or a signal."""
    place = "-" if step.position is None else str(step.position)
    text = f"{place}  {step.kind}  {plain(step.name)}, {both(step.at, now)}"
    if step.duration is not None:
        text += f", took {length(step.duration.total_seconds())}"
    if step.timed_out:
        text += ", no signal came in time"
    elif step.signaled_at is not None and step.kind.value == "wait":
        text += f", signaled {both(step.signaled_at, now)}"
    elif step.until is not None:
        text += f", until {both(step.until, now)}"
    shown = result and (step.kind.value in ("step", "signal") or step.signaled_at is not None)
    return [text, *(f"   {line}" for line in value_lines(step.result))] if shown else [text]


def _progress(run: Run, now: datetime) -> str | None:
    if run.progress is None:
        return None
    return f"{run.progress.fraction:.0%} {run.progress.note or ''}".rstrip() + f" ({relative(run.progress.at, now)})"


def _timeline(here: Invocation, run: Run, now: datetime) -> list[str]:
    """Return the lines of all attempts in their order, and between them how the run ended before it was retried."""
    lines: list[str] = []
    first_kept = run.retries - len(run.history)
    lives = sorted({attempt.retries for attempt in run.attempts} | set(range(max(0, first_kept), run.retries + 1)))
    for life in lives:
        for attempt in run.attempts:
            if attempt.retries == life:
                lines += _attempt_lines(here, attempt, now)
        if 0 <= life - first_kept < len(run.history):
            lines += _ending_lines(here, run.history[life - first_kept], attempts_shown=bool(run.attempts))
    return lines


def _attempt_lines(here: Invocation, attempt: Attempt, now: datetime) -> list[str]:
    ended = "is running" if attempt.ended is None else ENDINGS[attempt.ended.value]
    style = STATUS_STYLES["running"] if attempt.ended is None else "" if ended == "snoozed" else RED
    style = STATUS_STYLES.get(ended, style)
    head = f"{attempt.number}  {styled(ended, style, color=here.color)}"
    if attempt.error_type and ended == "raised":
        head += f" {styled(plain(attempt.error_type), style, color=here.color)}"
    if attempt.started_at is not None:
        head += f", started {both(attempt.started_at, now)}"
        if attempt.ended_at is not None:
            head += f", took {length(max(0.0, (attempt.ended_at - attempt.started_at).total_seconds()))}"
    elif attempt.ended_at is not None:
        head += f", ended {both(attempt.ended_at, now)}"
    lines = [head]
    lines += [f"   {line}" for line in plain_lines(attempt.message or "") if line]
    lines += [f"   {styled(line, DIM, color=here.color)}" for line in plain_lines(attempt.traceback or "") if line]
    log = [f"request {attempt.request_id}"] if attempt.request_id else []
    log += [f"stream {attempt.log_stream}"] if attempt.log_stream else []
    return [*lines, styled(f"   log: {plain(', '.join(log))}", DIM, color=here.color)] if log else lines


def _ending_lines(here: Invocation, ending: RetriedRun, *, attempts_shown: bool) -> list[str]:
    when_ended = "" if ending.finished_at is None else f" at {absolute(ending.finished_at)}"
    text = f"-- {ending.status} after {ending.attempt} failed attempts{when_ended}, then retried by a person --"
    lines = [styled(text, BOLD, color=here.color)]
    if ending.cancel_reason:
        lines.append(f"   reason: {plain(ending.cancel_reason)}")
    if ending.last_error and not attempts_shown:
        lines += [f"   {line}" for line in plain_lines(ending.last_error)]
    return lines


def _section(here: Invocation, title: str, lines: list[str]) -> None:
    here.lines(["", styled(title, BOLD, color=here.color), *(f"  {line}" for line in lines)])
