"""``kumofire stats``: what the system holds and does."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kumofire_core.cli.display import BOLD, RED, YELLOW, Cell, Column, field_lines, status_cell, styled, table_lines
from kumofire_core.cli.display import width_of as terminal_width
from kumofire_core.cli.exits import UsageError
from kumofire_core.cli.invocation import Here, Invocation
from kumofire_core.cli.pausing import ALL, pause_form
from kumofire_core.text import iso, length, relative

if TYPE_CHECKING:
    from kumofire_core.engine.stats import OutcomeCounts, Stats, StatusCount

STATUSES = ("scheduled", "queued", "running", "failed", "canceled", "succeeded")
OUTCOMES = ("succeeded", "retried", "failed", "canceled")
MOST_JOBS_NAMED = 8
MOST_FAILURES_SHOWN = 8

STATUS_COLUMNS = (Column("RUNS"), Column("", right=True), Column("JOBS", least=20))
FAILURE_COLUMNS = (Column("FAILED", least=8), Column("ERROR", least=10), Column("RUNS", right=True))
JOB_COLUMNS = (
    Column("JOB", least=8),
    *(Column(name.upper(), right=True) for name in OUTCOMES),
    Column("A MINUTE", right=True),
    Column("EACH TOOK", right=True),
)


def stats(
    *,
    minutes: Annotated[int, Parameter(help="Add up what happened in so many minutes, from 1 to 60.")] = 5,
    watch: Annotated[bool, Parameter(negative=(), help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, Parameter(help="Seconds between two looks of --watch.")] = 5.0,
    here: Here,
) -> None:
    """Show how many runs there are of each status and job, what waits, and what happened in the last minutes."""
    if not watch:
        found = here.jobs.stats(minutes=minutes)
        if here.as_json:
            here.emit(stats_form(found))
        else:
            here.lines(_lines(here, found))
        return
    if here.as_json:
        raise UsageError("--watch is for people and --json for programs; call it again and again instead")
    if not 1 <= interval <= 3600:
        raise UsageError(f"--interval is {interval}; it must be from 1 to 3600 seconds")
    _watch(here, minutes, interval)


def stats_form(found: Stats) -> dict[str, Any]:
    """Return the JSON form of the counts."""
    return {
        "as_of": iso(found.as_of),
        "by_status": {status.value: _count_form(count) for status, count in found.by_status.items()},
        "failures": [each._asdict() for each in found.failures],
        "unfinished": found.unfinished._asdict(),
        "paused": _count_form(found.paused),
        "pauses": [pause_form(each) for each in found.pauses],
        "oldest_due": None
        if found.oldest_due is None
        else {
            "run_id": found.oldest_due.run_id,
            "job_name": found.oldest_due.job_name,
            "since": iso(found.oldest_due.since),
        },
        "queue": None if found.queue is None else found.queue._asdict(),
        "dead_letters": found.dead_letters,
        "consumers": None
        if found.consumers is None
        else {"sent_at": iso(found.consumers.sent_at), "moved_at": iso(found.consumers.moved_at)},
        "minutes": [
            {
                "start": iso(minute.start),
                "by_job": {job: counts._asdict() for job, counts in minute.by_job.items()},
            }
            for minute in found.minutes
        ],
    }


def _count_form(count: StatusCount) -> dict[str, Any]:
    return {"total": count.total, "by_job": dict(count.by_job), "complete": count.complete}


def _watch(here: Invocation, minutes: int, interval: float) -> None:
    if not sys.stdout.isatty():
        while True:
            here.lines([*_lines(here, here.jobs.stats(minutes=minutes)), ""])
            here.wait(interval)
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        while True:
            lines = _lines(here, here.jobs.stats(minutes=minutes))
            live.update(Text.from_ansi("\n".join(lines), no_wrap=True), refresh=True)
            here.wait(interval)


def _lines(here: Invocation, found: Stats) -> list[str]:
    color, width = here.color, terminal_width(sys.stdout)
    counts = {status.value: count for status, count in found.by_status.items()}
    rows = [_status_row(status, counts[status]) for status in STATUSES if status in counts]
    if found.paused.total:
        rows.append(_status_row("paused", found.paused))
    lines = table_lines(STATUS_COLUMNS, rows, width=width, color=color)
    if not found.unfinished.complete:
        lines.append(f"there are more than {found.unfinished.total:,} unfinished runs")
    if found.unfinished.examined < found.unfinished.total:
        lines.append(
            f"of {found.unfinished.total:,} unfinished runs the first {found.unfinished.examined:,} were looked at"
        )
    lines += ["", *field_lines(_fields(here, found), color=color), ""]
    return [*lines, *_failure_lines(found, width=width, color=color), *_minute_lines(found, width=width, color=color)]


def _status_row(status: str, count: StatusCount) -> list[Cell | str]:
    total = f"{count.total:,}{'' if count.complete else '+'}"
    return [status_cell(status), total, _jobs(count.by_job)]


def _jobs(by_job: Mapping[str, int]) -> str:
    most = sorted(by_job.items(), key=lambda each: -each[1])
    named = [f"{job} {count:,}" for job, count in most[:MOST_JOBS_NAMED]]
    return ", ".join(named) + (", …" if len(most) > MOST_JOBS_NAMED else "")


def _fields(here: Invocation, found: Stats) -> list[tuple[str, Cell | str | None]]:
    now = here.now()
    queue = "not known: these credentials may not ask it" if found.queue is None else _queue(found.queue)
    dead = None if found.dead_letters is None else f"{found.dead_letters:,}"
    paused = ", ".join(each.job_name or ALL for each in found.pauses)
    oldest = None
    if found.oldest_due is not None:
        due = found.oldest_due
        oldest = f"{due.run_id} of {due.job_name}, due {relative(due.since, now)}"
    return [
        ("queue", queue),
        ("dead letters", None if dead is None else Cell(dead, RED if found.dead_letters else "")),
        ("oldest due", None if oldest is None else Cell(oldest, YELLOW)),
        ("paused jobs", Cell(paused, YELLOW) if paused else None),
    ]


def _queue(queue: Any) -> str:
    return f"{queue.waiting:,} waiting, {queue.in_flight:,} in flight, {queue.delayed:,} delayed"


def _failure_lines(found: Stats, *, width: int | None, color: bool) -> list[str]:
    """Return the errors with which most runs have failed, where any have."""
    if not found.failures:
        return []
    rows: list[list[Cell | str]] = [
        [each.job_name, each.error_type or "", Cell(f"{each.count:,}", RED)]
        for each in found.failures[:MOST_FAILURES_SHOWN]
    ]
    lines = table_lines(FAILURE_COLUMNS, rows, width=width, color=color)
    if more := len(found.failures) - len(rows):
        lines.append(f"and {more} more; --json has them")
    return [*lines, ""]


def _minute_lines(found: Stats, *, width: int | None, color: bool) -> list[str]:
    """Return what happened, by job, over all minutes that were asked for."""
    head = styled(f"the last {len(found.minutes)} minutes", BOLD, color=color)
    by_job: dict[str, list[OutcomeCounts]] = {}
    for minute in found.minutes:
        for job, counts in minute.by_job.items():
            by_job.setdefault(job, []).append(counts)
    if not by_job:
        return [f"{head}: nothing happened"]
    rows = [_job_row(job, counts, len(found.minutes)) for job, counts in by_job.items()]
    return [head, *table_lines(JOB_COLUMNS, rows, width=width, color=color)]


def _job_row(job: str, counts: Iterable[OutcomeCounts], minutes: int) -> list[Cell | str]:
    sums = {name: sum(getattr(each, name) for each in counts) for name in (*OUTCOMES, "milliseconds")}
    attempts = sum(sums[name] for name in OUTCOMES)
    cells: list[Cell | str] = [
        Cell(f"{sums[name]:,}", RED if name == "failed" and sums[name] else "") for name in OUTCOMES
    ]
    took = length(sums["milliseconds"] / 1000 / attempts) if attempts else ""
    return [job, *cells, f"{attempts / minutes:,.1f}", took]
