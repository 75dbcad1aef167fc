"""The console's page of jobs: what each holds and does, which are paused, pausing and resuming."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup
from starlette.responses import Response

from kumofire_core.console.expressions import moment
from kumofire_core.console.sparklines import sparkline
from kumofire_core.console.visit import WRONG_INPUT, Page, Visit
from kumofire_core.console.words import things
from kumofire_core.model.run import RunStatus
from kumofire_core.text import iso, relative

if TYPE_CHECKING:
    from kumofire_core.engine.pauses import Pause
    from kumofire_core.engine.stats import FailureCount, MinuteCounts, OutcomeCounts, Stats

MINUTES = 60
"""Shown of the past. The current one is not over, so rates leave it out."""
RATE_MINUTES = 5

MOST_ERRORS = 2
"""Types of errors that a row names."""

OTHER = "(other)"
ALL_JOBS = "All jobs"

STATUSES = (RunStatus.SCHEDULED, RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.FAILED)


def show(visit: Visit) -> Response:
    """Show one row for each job that the counts know; a part of the page for the live update."""
    stats = visit.jobs.stats(minutes=MINUTES)
    pauses = visit.jobs.pauses()  # the counts are up to some seconds old, and an action must be seen at once
    return visit.page(
        "jobs_table.html" if visit.is_partial else "jobs.html",
        rows=job_rows(stats, pauses),
        all_paused=next((each for each in pauses if each.job_name is None), None),
        stats=stats,
        seen=seen,
        minutes=RATE_MINUTES,
    )


# Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCount:
    """How many runs of a job have a status, and whether these are all."""

    status: str
    total: int
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """What the page says of one job."""

    name: str
    is_other: bool
    pause: Pause | None
    counts: tuple[JobCount, ...]
    aside: int
    """Runs that were put aside because it is paused."""
    rate: float
    """Attempts a minute in the last minutes."""
    rate_hour: float
    ended: int
    """Runs that succeeded or failed within the hour."""
    failed: int
    errors: tuple[FailureCount, ...]
    """What most of its failed runs failed with."""
    mean_seconds: float | None
    """Of an attempt; ``None`` if there was none."""
    chart: Markup

    @property
    def row_id(self) -> str:
        """An id for the row that any name gives."""
        return f"job-{hashlib.sha256(self.name.encode(errors='surrogatepass')).hexdigest()[:16]}"


def job_rows(stats: Stats, pauses: Sequence[Pause]) -> list[JobRow]:
    """Return the rows by name, and what is not counted by name last. Their order does not depend on what happens."""
    paused = {each.job_name: each for each in pauses if each.job_name is not None}
    names = {*paused, *stats.paused.by_job}
    for count in stats.by_status.values():
        names |= set(count.by_job)
    for minute in stats.minutes:
        names |= set(minute.by_job)
    return [
        _row(name, stats, paused.get(name))
        for name in sorted(names, key=lambda name: (name == OTHER, name.lower(), name))
    ]


def _row(name: str, stats: Stats, pause: Pause | None) -> JobRow:
    over = stats.minutes[:-1]
    hour = [_of(minute, name) for minute in over]
    recent = hour[-RATE_MINUTES:]
    ended = sum(each.succeeded + each.failed for each in hour)
    failed = sum(each.failed for each in hour)
    attempts = sum(map(_attempts, hour))
    milliseconds = sum(each.milliseconds for each in hour)
    shown = [_of(minute, name) for minute in stats.minutes]
    return JobRow(
        name=name,
        is_other=name == OTHER,
        pause=pause,
        counts=tuple(
            JobCount(status=status.value, total=count.by_job.get(name, 0), complete=count.complete)
            for status in STATUSES
            if (count := stats.by_status.get(status)) is not None
        ),
        aside=stats.paused.by_job.get(name, 0),
        rate=sum(map(_attempts, recent)) / len(recent) if recent else 0.0,
        rate_hour=attempts / len(hour) if hour else 0.0,
        ended=ended,
        failed=failed,
        errors=tuple(each for each in stats.failures if each.job_name == name and each.error_type)[:MOST_ERRORS],
        mean_seconds=milliseconds / 1000 / attempts if attempts else None,
        chart=sparkline(
            [_attempts(each) for each in shown],
            [each.failed + each.retried for each in shown],
            label=f"{things(sum(map(_attempts, shown)), 'attempt')} in the last {len(shown)} minutes, "
            f"{sum(each.failed + each.retried for each in shown):,} of them without success",
        ),
    )


def _of(minute: MinuteCounts, name: str) -> OutcomeCounts:
    from kumofire_core.engine.stats import OutcomeCounts

    return minute.by_job.get(name) or OutcomeCounts()


def _attempts(counts: OutcomeCounts) -> int:
    return counts.succeeded + counts.retried + counts.failed + counts.canceled


# Pausing


def seen(pause: Pause | None) -> str:
    """Return a text that is another one for each pause: what a person saw, for the form with which they change it."""
    if pause is None:
        return "none"
    text = f"{iso(pause.since)} {iso(pause.until)} {pause.reason!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def show_form(visit: Visit) -> Response:
    """Ask for how long, and why, a job is to be paused; all jobs without a name."""
    name = visit.query("job") or None
    found = _pause_of(visit, name)
    written = {
        "reason": (found.reason or "") if found and visit.access.payloads else "",
        "until": (iso(found.until) or "") if found else "",
    }
    return _form(visit, name, found, written, seen=seen(found))


def _form(
    visit: Visit,
    name: str | None,
    found: Pause | None,
    written: Mapping[str, str],
    *,
    seen: str,
    status: int = 200,
    problem: str | None = None,
) -> Response:
    return visit.page(
        "pause_form.html" if visit.is_partial else "pause_page.html",
        status=status,
        name=name,
        found=found,
        written=written,
        seen=seen,
        problem=problem,
    )


def pause(visit: Visit) -> Response:
    """Pause a job, or all without a name."""
    if "job" not in visit.form:  # an empty name means all jobs, a form without one nothing
        return visit.done("Say which job.", kind="wrong")
    name = visit.field("job") or None
    before = _pause_of(visit, name)
    if stale := _stale(visit, name, before):
        return stale
    written = {"reason": visit.field("reason").strip(), "until": visit.field("until")}
    # Who does not see the reason does not take it away by leaving its field empty.
    hidden = before.reason if before is not None and not visit.access.payloads else None
    try:
        until = moment("the end", written["until"], "UTC", visit.now)
        visit.jobs.pause(name, reason=written["reason"] or hidden, until=until)
    except WRONG_INPUT as error:
        return _form(visit, name, before, written, seen=seen(before), status=422, problem=str(error))
    visit.record("paused all jobs" if name is None else f"paused job {name!r}")
    after = _pause_of(visit, name)
    ends = "" if until is None else f", and it ends {relative(until, visit.now)}"
    undo: dict[str, object] = {"job": name or "", "seen": seen(after)}
    if before is not None:
        undo |= _settings(visit, before)
    what, it = ("are paused", "them") if name is None else ("is paused", "it")
    return visit.done(
        f"{name or ALL_JOBS} {what}{ends}. Within a minute nothing of {it} starts any more.",
        undo=undo,
        undo_at=None if hidden and written["reason"] else visit.url("jobs", "resume" if before is None else "pause"),
    )


def resume(visit: Visit) -> Response:
    """Let a paused job go on, or end the pause of all without a name."""
    if "job" not in visit.form:  # an empty name means all jobs, a form without one nothing
        return visit.done("Say which job.", kind="wrong")
    name = visit.field("job") or None
    before = _pause_of(visit, name)
    if stale := _stale(visit, name, before):
        return stale
    if before is None or not visit.jobs.resume(name):
        return visit.done(
            "All jobs are not paused together; nothing was changed."
            if name is None
            else f"{name} is not paused; nothing was changed.",
            kind="stale",
        )
    visit.record("resumed all jobs" if name is None else f"resumed job {name!r}")
    waits = name is not None and _pause_of(visit, None) is not None
    return visit.done(
        f"{name or ALL_JOBS} {'go' if name is None else 'goes'} on"
        + (" as soon as all jobs are resumed, too." if waits else "; what waits is sent within a minute."),
        undo={"job": name or "", "seen": seen(None), **_settings(visit, before)},
        # The form would have to carry the reason, which this person may not see.
        undo_at=None if before.reason and not visit.access.payloads else visit.url("jobs", "pause"),
    )


def _settings(visit: Visit, pause: Pause) -> dict[str, object]:
    return {"reason": (pause.reason or "") if visit.access.payloads else "", "until": iso(pause.until) or ""}


def _pause_of(visit: Visit, name: str | None) -> Pause | None:
    return next((each for each in visit.jobs.pauses() if each.job_name == name), None)


def _stale(visit: Visit, name: str | None, found: Pause | None) -> Response | None:
    """Return the answer to a form of a pause that is another one by now, ``None`` for one that is as it was seen."""
    was = visit.field("seen")
    if not was or was == seen(found):
        return None
    who = name or ALL_JOBS
    if found is None:
        text = f"{who}: somebody has resumed it meanwhile; nothing was changed."
    else:
        text = f"{who}: somebody has {'paused it' if was == seen(None) else 'changed the pause'} meanwhile"
        text += f", {_said(visit, found)}; nothing was changed."
    return visit.done(text, kind="stale")


def _said(visit: Visit, pause: Pause) -> str:
    until = "until somebody resumes it" if pause.until is None else f"and it ends {relative(pause.until, visit.now)}"
    return until + (f" ({pause.reason})" if pause.reason and visit.access.payloads else "")


GET, POST = ["GET"], ["POST"]

PAGES: list[tuple[str, list[str], Page]] = [
    ("/jobs", GET, show),
    ("/jobs/pause", GET, show_form),
    ("/jobs/pause", POST, pause),
    ("/jobs/resume", POST, resume),
]
