"""The occurrences of a schedule that are due or were missed. Pure: ``now`` is an argument."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kumofire_core.model.schedule import Missed, Timing
from kumofire_core.rules.recurrence import next_occurrence, require_aware_time

# An occurrence that is later than this was missed: the dispatcher runs once a minute.
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
    """Return the occurrences to run, oldest first, and the ``next_run_at`` to store once their runs exist.

    ``next_run_at`` is the stored time of the first occurrence without a run. Of the occurrences up to ``now``, `ALL`
    returns each, `LATEST` the newest, and `SKIP` those at most ``MISSED_AFTER`` late. Occurrences within ``ahead``
    after ``now`` are returned too, because the caller sends their messages with a delay. If ``limit`` cuts the list,
    the returned next run time may be due already, and the next call returns the rest. A next run time of `None` means
    that no occurrence is left. The work grows with ``limit`` and with the logarithm of the missed time, not with the
    number of missed occurrences.

    Raises `ValueError` for a naive time or a ``limit`` below 1.
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
    """Return the last occurrence up to ``until``; ``since`` is an occurrence. A binary search over the time between."""
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
