"""Which occurrences of a schedule are due, and which were missed. Pure: ``now`` is an argument."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kumofire_core.model.schedule import Missed, Timing
from kumofire_core.rules.recurrence import next_occurrence, require_aware_time

# Later than this, an occurrence was missed: the dispatcher looks once a minute.
MISSED_AFTER = timedelta(seconds=60)


def due_occurrences(
    timing: Timing,
    *,
    next_run_at: datetime,
    now: datetime,
    missed: Missed,
    limit: int,
    ahead: timedelta = timedelta(0),
) -> tuple[list[datetime], datetime | None]:
    """Give the occurrences to run, oldest first, and the ``next_run_at`` to store once their runs exist.

    ``next_run_at`` is the schedule's first occurrence that has no run yet, as stored. Of those up to ``now``, `ALL`
    gives each, `LATEST` the newest, and `SKIP` those at most ``MISSED_AFTER`` late. Occurrences in the ``ahead`` after
    ``now`` are given too, for a caller who sends before the time; they are never missed. At most ``limit`` are given;
    the returned next run time is then due already and the rest comes with the next call. `None` means that the schedule
    is exhausted. The work grows with ``limit`` and with the logarithm of the time missed, not with the number missed.

    A naive time or a ``limit`` below 1 is a `ValueError`.
    """
    require_aware_time(next_run_at, "next_run_at")
    require_aware_time(now, "now")
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    upcoming: datetime | None = next_run_at.astimezone(UTC)
    now = now.astimezone(UTC)
    horizon = now + ahead
    if next_run_at < now:
        if missed == Missed.LATEST:
            upcoming = _latest_occurrence(timing, since=next_run_at.astimezone(UTC), until=now)
        elif missed == Missed.SKIP and next_run_at < now - MISSED_AFTER:
            upcoming = next_occurrence(timing, now - MISSED_AFTER - timedelta(microseconds=1))
    due: list[datetime] = []
    while upcoming is not None and upcoming <= horizon and len(due) < limit:
        due.append(upcoming)
        upcoming = next_occurrence(timing, upcoming)
    return due, upcoming


def _latest_occurrence(timing: Timing, *, since: datetime, until: datetime) -> datetime:
    """Give the last occurrence up to ``until``, knowing that ``since`` is one.

    Halves the time in question with every step instead of walking through it.
    """
    latest = since
    while (following := next_occurrence(timing, latest)) is not None and following <= until:
        latest = following
        middle = latest + (until - latest) / 2
        found = next_occurrence(timing, middle)
        if found is not None and found <= until:
            latest = found
        else:
            until = middle
    return latest
