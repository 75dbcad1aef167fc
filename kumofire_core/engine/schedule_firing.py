"""Firing schedules: occurrences that are due become runs, and then the schedule advances to its next occurrence.

The order makes it safe to repeat. A run's id is derived from schedule and occurrence, so a second put of it finds the
first one; and a schedule advances only after the runs exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.engine.schedule_store import SCHEDULE, ScheduleStore
from kumofire_core.errors import CorruptItemError
from kumofire_core.model.run import FINAL, NewRun, derived_run_id, new_run_id
from kumofire_core.model.schedule import Overlap, Schedule, ScheduleType, StoredSchedule, read_schedule
from kumofire_core.model.times import from_ms, to_ms
from kumofire_core.model.write import Write
from kumofire_core.rules import schedule_writes
from kumofire_core.rules.occurrences import due_occurrences
from kumofire_core.rules.recurrence import next_occurrence
from kumofire_core.rules.validation import may_exist
from kumofire_core.rules.wake_ups import message_delay_seconds

OCCURRENCES_AT_ONCE = 10
"""How many occurrences of one schedule are made into runs before it is advanced: as many as an SQS batch takes."""

CLOCKS_APART = timedelta(days=1)
"""How far two machines' clocks may be apart, at the very most: AWS refuses the requests of one that is 15 minutes off.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """Runs of a schedule that were put; their messages are sent next, and then the schedule is advanced."""

    schedule_id: str
    write: Write | None
    """Advances the schedule; ``None`` where another dispatcher was faster."""
    more: bool
    """Whether the schedule is due again after this."""


def occurrence_run_id(schedule_id: str, occurrence: datetime) -> str:
    """Return the id of the one run that an occurrence of a schedule makes."""
    return derived_run_id("occurrence", schedule_id, str(to_ms(occurrence)))


class ScheduleFiring:
    """Makes the runs of the schedules of one ``Jobs``. Errors of the table leave as botocore raised them."""

    def __init__(self, runs: RunStore, schedules: ScheduleStore) -> None:
        self._runs = runs
        self._schedules = schedules

    def trigger(self, schedule_id: str) -> str | None:
        """Make a run of a schedule now, without moving it; return the run's id, or ``None`` for an unknown schedule."""
        stored = self._schedules.find(schedule_id) if may_exist("a schedule id", schedule_id) else None
        if stored is None:
            return None
        run_id, now = new_run_id(), from_ms(self._runs.now_ms())
        self._runs.add(self._new_run(stored, run_id, now, now))
        return run_id

    def fire(self, schedule_id: str, delays: dict[str, int], *, look_ahead: timedelta) -> Firing | None:
        """Put the runs of the next occurrences that are due, or will be within ``look_ahead``; ``None`` for none.

        Their ids and delays are added to ``delays``, those without a run by an earlier pass, also where an error ends
        this. The caller sends their messages, and then calls ``advance``. A crash before that is repaired by the next
        pass, whose puts find the runs: their ids are derived from schedule and occurrence.
        """
        stored = self._schedules.find(schedule_id)
        now = from_ms(self._runs.now_ms())
        if stored is None or stored.schedule.next_run_at is None or stored.schedule.next_run_at > now + look_ahead:
            return None
        _require_possible(stored.schedule, stored.schedule.next_run_at)
        fire = self._fire_one if stored.schedule.overlap is Overlap.SKIP else self._fire_some
        return fire(stored, stored.schedule.next_run_at, now, look_ahead, delays)

    def advance(self, firing: Firing) -> bool:
        """Let a schedule go on, once the messages of a firing are sent; say whether more of it is due by now."""
        if firing.write is None:
            return firing.more
        return self._schedules.apply(firing.schedule_id, firing.write).applied and firing.more

    def _fire_some(
        self,
        stored: StoredSchedule,
        next_run_at: datetime,
        now: datetime,
        look_ahead: timedelta,
        delays: dict[str, int],
    ) -> Firing:
        """Put the runs of the next occurrences."""
        occurrences, upcoming = _due(stored, next_run_at, now, look_ahead)
        self._put_runs(stored, occurrences, now, delays)
        return _firing(stored, upcoming, now + look_ahead, fired=occurrences[-1] if occurrences else None)

    def _fire_one(
        self,
        stored: StoredSchedule,
        next_run_at: datetime,
        now: datetime,
        look_ahead: timedelta,
        delays: dict[str, int],
    ) -> Firing | None:
        """Decide about the next occurrence of a schedule whose runs must not overlap, and put its run.

        What was decided is written before the run is put, and every other decision is refused once it is. So a pass
        that died between the two is finished by the next one, whatever would be decided by then. And a slower
        dispatcher can't skip what a faster one has begun.
        """
        run_id, horizon = occurrence_run_id(stored.schedule.id, next_run_at), now + look_ahead
        if stored.intended_run_id != run_id:
            due, upcoming = _due(stored, next_run_at, now, look_ahead)
            first = due[0] if due else upcoming
            if first != next_run_at:  # it was missed, and is not made up for
                return _firing(stored, first, horizon, fired=None)
            if not (self._is_over(stored.last_run_id) and self._is_over(stored.intended_run_id)):
                if next_run_at > now:
                    return None  # its predecessor may yet end in time: decide when the occurrence is due
                return _firing(stored, next_occurrence(stored.timing, now), horizon, fired=None)
            intent = schedule_writes.intend(stored, new_token(), run_id=run_id)
            answer = self._schedules.apply(stored.schedule.id, intent, read_back=True)
            if answer.item is None:
                return None
            found = read_schedule(stored.schedule.id, answer.item)
            if not answer.applied:
                # Another dispatcher is at it: look again. Where nobody has moved it, that is left to the next pass.
                return None if found == stored else Firing(schedule_id=stored.schedule.id, write=None, more=True)
            stored = found
        self._put_runs(stored, [next_run_at], now, delays)
        return _firing(stored, next_occurrence(stored.timing, next_run_at), horizon, fired=next_run_at)

    def _put_runs(
        self, stored: StoredSchedule, occurrences: Sequence[datetime], now: datetime, delays: dict[str, int]
    ) -> None:
        """Put the runs of occurrences; add those that no earlier pass had put to ``delays``."""
        for occurrence in occurrences:
            new_run = self._new_run(stored, occurrence_run_id(stored.schedule.id, occurrence), occurrence, now)
            delay_seconds = message_delay_seconds(new_run.due_ms, new_run.now_ms)
            if self._runs.put(new_run) and delay_seconds is not None:
                delays[new_run.id] = delay_seconds

    def _new_run(self, stored: StoredSchedule, run_id: str, due: datetime, now: datetime) -> NewRun:
        schedule = stored.schedule
        return NewRun(
            id=run_id,
            job_name=schedule.job_name,
            payload=self._runs.encrypted_payload(run_id, self._schedules.payload_text(stored)),
            max_attempts=schedule.max_attempts,
            due_ms=to_ms(due),
            now_ms=to_ms(now),
            schedule_id=schedule.id,
        )

    def _is_over(self, run_id: str | None) -> bool:
        """Say whether a run has ended; one that is gone was kept for as long as it should be after it had."""
        found = None if run_id is None else self._runs.find(run_id)
        return found is None or found.run.status in FINAL


def _due(
    stored: StoredSchedule, next_run_at: datetime, now: datetime, look_ahead: timedelta
) -> tuple[list[datetime], datetime | None]:
    return due_occurrences(
        stored.timing,
        next_run_at=next_run_at,
        now=now,
        missed=stored.schedule.missed,
        limit=OCCURRENCES_AT_ONCE,
        ahead=look_ahead,
    )


def _firing(stored: StoredSchedule, upcoming: datetime | None, horizon: datetime, *, fired: datetime | None) -> Firing:
    """Return the firing that advances to the ``upcoming`` occurrence; ``fired`` is the latest that became a run."""
    schedule_id = stored.schedule.id
    advance = schedule_writes.advance(
        stored,
        new_token(),
        next_run_at=upcoming,
        fired=fired,
        last_run_id=None if fired is None else occurrence_run_id(schedule_id, fired),
    )
    return Firing(schedule_id=schedule_id, write=advance, more=upcoming is not None and upcoming <= horizon)


def _require_possible(schedule: Schedule, next_run_at: datetime) -> None:
    """Raise ``CorruptItemError`` for a next run time from before the schedule was made.

    No occurrence is older than its schedule, but for a ``once``. Taken at its word, a time of 0 would make a run of
    each minute since 1970.
    """
    if schedule.schedule_type is not ScheduleType.ONCE and next_run_at < schedule.created_at - CLOCKS_APART:
        key = f"{SCHEDULE}#{schedule.id}"
        raise CorruptItemError(key, "its next_run_at is before its created_at, which disabling and enabling it mends")
