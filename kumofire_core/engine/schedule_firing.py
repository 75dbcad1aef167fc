"""Firing schedules: occurrences that are due become runs, and then the schedule advances to its next occurrence.

These steps are idempotent. A run's id is derived from schedule and occurrence, so a second put finds the first run. A
schedule advances only after the runs exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.engine.schedule_store import SCHEDULE, ScheduleStore
from kumofire_core.errors import CorruptItemError
from kumofire_core.model.message import Sending
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
"""The most occurrences of a schedule that become runs before it advances: the size of an SQS batch.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html"""

CLOCKS_APART = timedelta(days=1)
"""More than two machines' clocks can differ: AWS refuses requests of a machine whose clock is 15 minutes off.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html"""

PUT_ENDS = timedelta(minutes=20)
"""How long after a decision its run may still be put: AWS refuses a request 15 minutes after it was signed.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """One firing of a schedule: its runs are put. Send their messages next, and then advance the schedule."""

    schedule_id: str
    write: Write | None
    """The write that advances the schedule; ``None`` if another dispatcher is handling this occurrence."""
    more: bool
    """Whether the schedule is due again after this firing."""


def occurrence_run_id(schedule_id: str, occurrence: datetime) -> str:
    """Return the id of the run that this occurrence of a schedule makes."""
    return derived_run_id("occurrence", schedule_id, str(to_ms(occurrence)))


class ScheduleFiring:
    """Makes the runs of one ``Jobs``'s schedules. Raises botocore's errors of the table unchanged."""

    def __init__(self, runs: RunStore, schedules: ScheduleStore) -> None:
        self._runs = runs
        self._schedules = schedules

    def trigger(self, schedule_id: str) -> str | None:
        """Make a run of a schedule now, without advancing it; return its id, or ``None`` for an unknown schedule."""
        stored = self._schedules.find(schedule_id) if may_exist("a schedule id", schedule_id) else None
        if stored is None:
            return None
        run_id, now = new_run_id(), from_ms(self._runs.now_ms())
        self._runs.add(self._new_run(stored, run_id, now, now))
        return run_id

    def fire(self, schedule_id: str, sendings: dict[str, Sending], *, look_ahead: timedelta) -> Firing | None:
        """Put the runs of the occurrences that are due within ``look_ahead``; ``None`` if none is.

        For each run that this call puts, ``sendings`` gets the id and how its message is sent, even if an error
        ends this call. The caller sends these messages, and then calls ``advance``. After a crash before that, the next
        pass repeats the firing: its puts find the existing runs by their ids.
        """
        stored = self._schedules.find(schedule_id)
        now = from_ms(self._runs.now_ms())
        if stored is None or stored.schedule.next_run_at is None or stored.schedule.next_run_at > now + look_ahead:
            return None
        _require_possible(stored.schedule, stored.schedule.next_run_at)
        fire = self._fire_one if stored.schedule.overlap is Overlap.SKIP else self._fire_some
        return fire(stored, stored.schedule.next_run_at, now, look_ahead, sendings)

    def advance(self, firing: Firing) -> bool:
        """Advance a schedule, once a firing's messages are sent; return whether the schedule is due again."""
        if firing.write is None:
            return firing.more
        return self._schedules.apply(firing.schedule_id, firing.write).applied and firing.more

    def _fire_some(
        self,
        stored: StoredSchedule,
        next_run_at: datetime,
        now: datetime,
        look_ahead: timedelta,
        sendings: dict[str, Sending],
    ) -> Firing:
        """Put the runs of the next occurrences."""
        occurrences, upcoming = _due(stored, next_run_at, now, look_ahead)
        self._put_runs(stored, occurrences, now, sendings)
        return _firing(stored, upcoming, now + look_ahead, fired=occurrences[-1] if occurrences else None)

    def _fire_one(
        self,
        stored: StoredSchedule,
        next_run_at: datetime,
        now: datetime,
        look_ahead: timedelta,
        sendings: dict[str, Sending],
    ) -> Firing | None:
        """Decide about the next occurrence of a schedule whose runs must not overlap, and put its run.

        The decision is stored before the run is put. Once it is stored, DynamoDB refuses every other decision. So if a
        pass dies between the two steps, the next pass completes its decision, even if it would decide otherwise by
        then. And a slower dispatcher can't skip an occurrence that a faster one has begun.
        """
        run_id, horizon = occurrence_run_id(stored.schedule.id, next_run_at), now + look_ahead
        if stored.intended_run_id != run_id:
            due, upcoming = _due(stored, next_run_at, now, look_ahead)
            first = due[0] if due else upcoming
            if first != next_run_at:  # the occurrence was missed, and must not run late
                return _firing(stored, first, horizon, fired=None)
            # A pass that hangs may still put what it decided about before a person changed the schedule.
            may_come = stored.intended_at is not None and now < stored.intended_at + PUT_ENDS
            if not (self._is_over(stored.last_run_id) and self._is_over(stored.intended_run_id, may_come=may_come)):
                if next_run_at > now:
                    return None  # the last run may still end in time: decide when this occurrence is due
                return _firing(stored, next_occurrence(stored.timing, now), horizon, fired=None)
            intent = schedule_writes.intend(stored, new_token(), run_id=run_id, now_ms=to_ms(now))
            answer = self._schedules.apply(stored.schedule.id, intent, read_back=True)
            if answer.item is None:
                return None
            found = read_schedule(stored.schedule.id, answer.item)
            if not answer.applied:
                # Another dispatcher changed the schedule: fire again. If it did not, leave that to the next pass.
                return None if found == stored else Firing(schedule_id=stored.schedule.id, write=None, more=True)
            stored = found
        self._put_runs(stored, [next_run_at], now, sendings)
        if stored.schedule.next_run_at != next_run_at:
            # The reply was lost, and a person has given the schedule another time before it was asked for again.
            return Firing(schedule_id=stored.schedule.id, write=None, more=True)
        return _firing(stored, next_occurrence(stored.timing, next_run_at), horizon, fired=next_run_at)

    def _put_runs(
        self, stored: StoredSchedule, occurrences: Sequence[datetime], now: datetime, sendings: dict[str, Sending]
    ) -> None:
        """Put the runs of occurrences; add those that did not exist yet to ``sendings``."""
        for occurrence in occurrences:
            new_run = self._new_run(stored, occurrence_run_id(stored.schedule.id, occurrence), occurrence, now)
            delay_seconds = message_delay_seconds(new_run.due_ms, new_run.now_ms)
            if self._runs.put(new_run) and delay_seconds is not None:
                sendings[new_run.id] = Sending(delay_seconds, new_run.group)

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
            occurrence_ms=to_ms(due),
            group=schedule.group,
        )

    def _is_over(self, run_id: str | None, *, may_come: bool = False) -> bool:
        """Return whether a run has ended. A missing run has, since TTL deletes only those, unless it ``may_come``."""
        if run_id is None:
            return True
        found = self._runs.find(run_id)
        return not may_come if found is None else found.run.status in FINAL


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
    """Return the firing that advances to ``upcoming``; ``fired`` is the latest occurrence that became a run."""
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
    """Raise ``CorruptItemError`` if the next run time is before the schedule's creation.

    Only a ``once`` may have an occurrence that is older than its schedule. Without this check, a stored time of 0 could
    make a run for each minute since 1970.
    """
    if schedule.schedule_type is not ScheduleType.ONCE and next_run_at < schedule.created_at - CLOCKS_APART:
        key = f"{SCHEDULE}#{schedule.id}"
        raise CorruptItemError(key, "its next_run_at is before its created_at, which disabling and enabling it mends")
