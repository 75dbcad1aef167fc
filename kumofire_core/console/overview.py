"""The first page: whether anything needs a person, what waits and what failed, and which jobs make trouble.

All of it is one answer of ``Jobs.stats``, which may take seconds where there is much to count. So the page itself shows
what was known last and asks AWS for nothing; its live part looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from kumofire_core import RunStatus
from kumofire_core.console.charts import Chart, Minute, stacked
from kumofire_core.console.visit import Page, Visit

if TYPE_CHECKING:
    from kumofire_core import OutcomeCounts, Pause, Stats

MINUTES = 60
KNOWN = "overview"
"""Where the latest answer is kept for the next visitor."""
RECENT = timedelta(seconds=5)
"""How old an answer may be that a page shows without looking again at once; as long as ``Jobs.stats`` shares one."""
OLD = timedelta(minutes=1)
"""The page says that what it shows is old."""

LATE = timedelta(minutes=2)
"""The dispatcher looks once a minute, so a run that is due may wait for one without anything being wrong."""
VERY_LATE = timedelta(minutes=10)
STILL = timedelta(minutes=3)
"""Consumers say how far they are about once a minute. After so long it is silence."""

OTHER = "(other)"
"""The jobs that are not told apart. Runs can't be looked for by it."""
MOST_JOBS = 10
MOST_ERRORS = 10
FEW = 10
"""So many successes are added to what a job has done before its failed share is ranked: 1 of 1 is not yet trouble."""

SERIES = ("failed", "retried", "succeeded")
"""What is drawn, from the base line up: failures stand on it, where their heights can be compared."""
CHART_PIXELS = 140
COUNTED_LATE_SECONDS = 10


def show(visit: Visit) -> Response:
    """Show the page with what was known last. Only ``?wait=1``, for browsers without scripts, waits for AWS."""
    return _answer(visit, "overview.html", _look(visit) if visit.query("wait") else visit.desk.memory.get(KNOWN))


def part(visit: Visit) -> Response:
    """Return the live part of the page. Those who ask within five seconds share an answer."""
    return _answer(visit, "overview_part.html" if visit.is_partial else "overview.html", _look(visit))


PAGES: list[tuple[str, list[str], Page]] = [("/overview", ["GET"], part)]


def _look(visit: Visit) -> Stats:
    stats = visit.jobs.stats(minutes=MINUTES)
    known = visit.desk.memory.get(KNOWN)
    if known is None or known.as_of <= stats.as_of:
        visit.desk.memory[KNOWN] = stats
    return stats


def _answer(visit: Visit, template: str, stats: Stats | None) -> Response:
    return visit.page(
        template,
        stats=stats,
        is_recent=stats is not None and visit.now - stats.as_of < RECENT,
        is_old=stats is not None and visit.now - stats.as_of >= OLD,
        state=None if stats is None else state_of(stats),
        hour=None if stats is None else hour_of(stats),
        rows=[] if stats is None else by_trouble(stats)[:MOST_JOBS],
        errors=errors_of(stats),
        throughput=chart_of(stats, SERIES),
        failures=chart_of(stats, SERIES[:1]),
        minutes=[] if stats is None else [(each.start, _sum([each.total])) for each in reversed(stats.minutes)],
        still=STILL,
        other=OTHER,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What of the system needs a person."""

    late: timedelta | None
    """How late the oldest run that is due was, when the answer was found; ``None`` where no run is due."""
    lateness: str
    """``""``, ``warn`` or ``bad``."""
    is_still: bool
    """Nothing has moved for minutes, although a run is due."""
    running: int
    all_paused: Pause | None
    """The pause of all jobs."""
    paused: tuple[Pause, ...]
    """The pauses of single jobs."""

    @property
    def is_calm(self) -> bool:
        """Whether there is nothing to tell but dead letters, which the answer itself has."""
        return not (self.is_still or self.lateness == "bad" or self.all_paused or self.paused)


def state_of(stats: Stats) -> State:
    """Judge an answer by what it knew, however old it is by now."""
    due = stats.oldest_due
    late = None if due is None else max(timedelta(0), stats.as_of - due.since)
    all_paused = next((pause for pause in stats.pauses if pause.job_name is None), None)
    # Until a consumer has put a run of a paused job aside, it counts as due.
    must_wait = due is not None and any(pause.job_name in (None, due.job_name) for pause in stats.pauses)
    since = stats.as_of - STILL - timedelta(minutes=1)
    has_counted = any(sum(minute.total[:5]) for minute in stats.minutes if minute.start > since)
    has_moved = stats.consumers is not None and stats.as_of - stats.consumers.moved_at < STILL
    running = stats.by_status.get(RunStatus.RUNNING)
    return State(
        late=late,
        lateness="" if late is None or late < LATE or must_wait else "warn" if late < VERY_LATE else "bad",
        is_still=late is not None and late >= STILL and not (has_counted or has_moved or must_wait),
        running=0 if running is None else running.total,
        all_paused=all_paused,
        paused=tuple(pause for pause in stats.pauses if pause.job_name is not None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """What became of messages in the minutes that were asked for."""

    succeeded: int
    retried: int
    failed: int
    attempts: int
    """Calls of a handler."""
    mean_seconds: float | None
    """How long a call took."""

    @property
    def share(self) -> float | None:
        """How many of the runs that ended failed, from 0 to 1."""
        ended = self.succeeded + self.failed
        return self.failed / ended if ended else None

    @property
    def a_minute(self) -> float:
        """Calls in a minute."""
        return self.attempts / MINUTES


def hour_of(stats: Stats) -> Hour:
    """Return the sum over all minutes and jobs."""
    return _sum(minute.total for minute in stats.minutes)


def _sum(counts: Iterable[OutcomeCounts]) -> Hour:
    each = list(counts)
    succeeded, retried, failed, canceled, milliseconds = (
        sum(getattr(one, name) for one in each)
        for name in ("succeeded", "retried", "failed", "canceled", "milliseconds")
    )
    attempts = succeeded + retried + failed + canceled
    return Hour(
        succeeded=succeeded,
        retried=retried,
        failed=failed,
        attempts=attempts,
        mean_seconds=milliseconds / 1000 / attempts if attempts else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as the page ranks it."""

    name: str
    hour: Hour
    listed: int
    """Failed runs that are there now, of those that were counted."""
    late_since: datetime | None
    """Of the job of the oldest run that is due: since when that is."""
    is_paused: bool


def by_trouble(stats: Stats) -> list[JobRow]:
    """Return the jobs that are known, those with most trouble first.

    By the share of runs that failed in the last hour, where few runs weigh less; then by the failed runs that are
    there; then the job of the run that waits for longest, and those that are paused.
    """
    counts: dict[str, list[OutcomeCounts]] = {}
    for minute in stats.minutes:
        for job, outcome in minute.by_job.items():
            counts.setdefault(job, []).append(outcome)
    failed = stats.by_status.get(RunStatus.FAILED)
    listed = {} if failed is None else failed.by_job
    paused = {pause.job_name for pause in stats.pauses if pause.job_name is not None} | set(stats.paused.by_job)
    due = stats.oldest_due
    names = {*counts, *listed, *paused, *(() if due is None else (due.job_name,))}
    rows = [
        JobRow(
            name=name,
            hour=_sum(counts.get(name, ())),
            listed=listed.get(name, 0),
            late_since=due.since if due is not None and due.job_name == name else None,
            is_paused=name in paused,
        )
        for name in names
    ]
    # Messages of runs that are not there count as ignored, of other jobs; that is no job of which to tell anything.
    return sorted((row for row in rows if row.name != OTHER or row.hour.attempts or row.listed), key=_rank)


def _rank(row: JobRow) -> tuple[Any, ...]:
    weight = row.hour.failed / (row.hour.succeeded + row.hour.failed + FEW)
    return (-weight, -row.listed, row.late_since is None, not row.is_paused, row.name == OTHER, row.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """What the failed runs failed by."""

    most: tuple[Any, ...]
    """The errors of most runs: job, type and count."""
    total: int
    """Failed runs that were counted."""
    kinds: int
    """How many different errors they are."""
    complete: bool


def errors_of(stats: Stats | None) -> Errors:
    """Return what the failed runs that were counted failed by."""
    if stats is None:
        return Errors(most=(), total=0, kinds=0, complete=True)
    count = stats.by_status.get(RunStatus.FAILED)
    return Errors(
        most=tuple(stats.failures[:MOST_ERRORS]),
        total=sum(each.count for each in stats.failures),
        kinds=len(stats.failures),
        complete=count is None or count.complete,
    )


def chart_of(stats: Stats | None, series: tuple[str, ...]) -> Chart:
    """Return the chart of some outcomes by minute; one without bars where nothing is known yet.

    The current minute is not over, and consumers write some ten seconds late, so the one before may not be, either.
    """
    minutes = () if stats is None else stats.minutes
    return stacked(
        [
            Minute(minute.start, {name: getattr(total, name) for name in series})
            for minute in minutes
            for total in (minute.total,)
        ],
        height=CHART_PIXELS,
        partial=2 if stats is not None and stats.as_of.second < COUNTED_LATE_SECONDS else 1,
    )
