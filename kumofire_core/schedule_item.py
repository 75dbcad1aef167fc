"""A schedule: its public form, its form in the table, and every write to it. Free of AWS, clocks and the engine.

Its rules of time are in ``schedule``. All schedules are in one partition of the wake-up index, apart from the runs: the
enabled ones at their next run time, the others parked at a time that never comes, so that the index can list them all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict

from kumofire_core import sealing
from kumofire_core.errors import CorruptItemError, NewerSchemaError
from kumofire_core.schedule import MAX_EXPRESSION_LENGTH, Missed, Overlap, ScheduleType, Timing
from kumofire_core.times import LAST_MS, from_ms, to_ms
from kumofire_core.write import SCHEMA, Attributes, Value, Write, number, present, read_moment, read_number, read_text

SCHEDULE_SHARD = -1
"""The index partition of all schedules. One takes 1,000 writes a second, which is 60,000 occurrences a minute.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html"""

PARKED = LAST_MS
"""The wake-up of a schedule that has no next run time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A rule that makes runs, as the application sees it. Times are aware UTC datetimes."""

    id: str
    schedule_key: str | None
    job_name: str
    payload: Any = field(repr=False)
    schedule_type: ScheduleType
    schedule_expr: str
    timezone: str | None
    enabled: bool
    next_run_at: datetime | None
    """The next occurrence that has no run yet; ``None`` where it is disabled or there is none left."""
    last_scheduled_at: datetime | None
    """The latest occurrence that became a run."""
    max_attempts: int | None
    """What its runs get; ``None`` leaves it to the job."""
    missed: Missed
    overlap: Overlap
    start_at: datetime | None
    end_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSchedule:
    """A schedule with what the table knows beside."""

    schedule: Schedule
    timing: Timing
    payload_text: str
    revision: int
    """Raised by every change that a person makes."""
    last_run_id: str | None
    """The run of the latest occurrence."""
    intended_run_id: str | None
    """The run of an occurrence that was decided on, where the schedule has not gone on since."""


def create(
    *,
    create_token: str,
    schedule_key: str | None,
    job_name: str,
    payload: str,
    timing: Timing,
    enabled: bool,
    next_run_at: datetime | None,
    max_attempts: int | None,
    missed: Missed,
    overlap: Overlap,
    now_ms: int,
) -> dict[str, Value]:
    """Return the attributes of a new schedule; they are put on the condition that the id is new."""
    return present(
        {
            "schema": SCHEMA,
            "create_token": create_token,
            "schedule_key": schedule_key,
            "job_name": job_name,
            "payload": payload,
            **timing_attributes(timing),
            "enabled": int(enabled),
            "max_attempts": max_attempts,
            "missed": missed,
            "overlap": overlap,
            "created_at": now_ms,
            "updated_at": now_ms,
            "revision": 1,
            **next_attributes(next_run_at),
        }
    )


def change(stored: StoredSchedule, token: str, *, now_ms: int, changes: dict[str, Value | None]) -> Write:
    """Change what a person asked for, and nothing else; refused where somebody else changed it since it was read."""
    return Write(
        holds={"revision": stored.revision},
        sets=present({**changes, "changed_by": token, "revision": stored.revision + 1, "updated_at": now_ms}),
        removes=tuple(name for name, value in changes.items() if value is None),
        evidence=("changed_by", token),
    )


def intend(stored: StoredSchedule, token: str, *, run_id: str) -> Write:
    """Write down that the next occurrence becomes the run ``run_id``, before that run is put.

    Only a schedule whose runs must not overlap needs this. Refused where another dispatcher has decided about this
    occurrence already; and once it is written, so is every other decision about it.
    """
    return Write(
        **_as_read(stored), sets={"intended_run_id": run_id, "intended_by": token}, evidence=("intended_by", token)
    )


def advance(
    stored: StoredSchedule,
    token: str,
    *,
    next_run_at: datetime | None,
    fired: datetime | None,
    last_run_id: str | None,
) -> Write:
    """Go on to the next occurrence, once the runs of those before it exist; ``fired`` is the latest of these.

    Refused where another dispatcher has done so, or a person changed the schedule since it was read: that change has
    computed a next run time of its own.
    """
    nexts = next_attributes(next_run_at)
    sets = {
        **nexts,
        "last_scheduled_at": None if fired is None else to_ms(fired),
        "last_run_id": last_run_id,
        "advanced_by": token,
    }
    gone = tuple(name for name, value in nexts.items() if value is None)
    if last_run_id is not None and stored.intended_run_id is not None:
        gone += ("intended_run_id", "intended_by")
    return Write(**_as_read(stored), sets=present(sets), removes=gone, evidence=("advanced_by", token))


class _Read(TypedDict):
    holds: dict[str, Value]
    absent: tuple[str, ...]


def _as_read(stored: StoredSchedule) -> _Read:
    """Return the conditions that nobody moved or changed the schedule, or began an occurrence, since it was read."""
    schedule = stored.schedule
    if schedule.next_run_at is None:
        raise ValueError(f"schedule {schedule.id} has no next run time to go on from")
    holds: dict[str, Value] = {"next_run_at": to_ms(schedule.next_run_at), "revision": stored.revision}
    if stored.intended_run_id is None:
        return {"holds": holds, "absent": ("intended_run_id",)}
    return {"holds": holds | {"intended_run_id": stored.intended_run_id}, "absent": ()}


def read_schedule(schedule_id: str, attributes: Attributes) -> StoredSchedule:
    """Return the schedule that ``attributes`` hold.

    Raises ``NewerSchemaError`` for an item of a later release, ``CorruptItemError`` for one that can't be read.
    """
    key = f"schedule#{schedule_id}"
    try:
        schema = number(attributes, "schema")
        if schema > SCHEMA:
            raise NewerSchemaError(key, schema, SCHEMA)
        payload_text = str(attributes["payload"])
        if len(str(attributes["schedule_expr"])) > MAX_EXPRESSION_LENGTH:
            raise ValueError("schedule_expr")
        timing = Timing(
            schedule_type=ScheduleType(str(attributes["schedule_type"])),
            expr=str(attributes["schedule_expr"]),
            timezone=read_text(attributes, "timezone"),
            start_at=read_moment(attributes, "start_at"),
            end_at=read_moment(attributes, "end_at"),
            anchor=read_moment(attributes, "anchor"),
        )
        schedule = Schedule(
            id=schedule_id,
            schedule_key=read_text(attributes, "schedule_key"),
            job_name=str(attributes["job_name"]),
            payload=sealing.read(payload_text),
            schedule_type=timing.schedule_type,
            schedule_expr=timing.expr,
            timezone=timing.timezone,
            enabled=bool(number(attributes, "enabled")),
            next_run_at=read_moment(attributes, "next_run_at"),
            last_scheduled_at=read_moment(attributes, "last_scheduled_at"),
            max_attempts=read_number(attributes, "max_attempts"),
            missed=Missed(str(attributes["missed"])),
            overlap=Overlap(str(attributes["overlap"])),
            start_at=timing.start_at,
            end_at=timing.end_at,
            created_at=from_ms(number(attributes, "created_at")),
            updated_at=from_ms(number(attributes, "updated_at")),
        )
        return StoredSchedule(
            schedule=schedule,
            timing=timing,
            payload_text=payload_text,
            revision=number(attributes, "revision"),
            last_run_id=read_text(attributes, "last_run_id"),
            intended_run_id=read_text(attributes, "intended_run_id"),
        )
    except KeyError as error:
        raise CorruptItemError(key, f"it has no attribute {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptItemError(key, f"an attribute holds a wrong value ({type(error).__name__})") from None


def timing_attributes(timing: Timing) -> dict[str, Value | None]:
    """Return the attributes that hold a timing."""
    return {
        "schedule_type": timing.schedule_type,
        "schedule_expr": timing.expr,
        "timezone": timing.timezone,
        "start_at": None if timing.start_at is None else to_ms(timing.start_at),
        "end_at": None if timing.end_at is None else to_ms(timing.end_at),
        "anchor": None if timing.anchor is None else to_ms(timing.anchor),
    }


def next_attributes(next_run_at: datetime | None) -> dict[str, Value | None]:
    """Return the attributes that hold a next run time, and the wake-up that goes with it."""
    return {
        "next_run_at": None if next_run_at is None else to_ms(next_run_at),
        "wake_shard": SCHEDULE_SHARD,
        "wake_at": PARKED if next_run_at is None else to_ms(next_run_at),
    }
