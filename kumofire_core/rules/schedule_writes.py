"""Every write to a schedule: one function for each, which returns one conditional write.

All schedules are in one partition of the wake-up index, which holds no runs. The wake-up of a schedule is its next run
time or, if it does not have one, a time that never comes. So the index lists all schedules.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from kumofire_core.model.schedule import Missed, Overlap, StoredSchedule, Timing
from kumofire_core.model.times import LAST_MS, to_ms
from kumofire_core.model.write import SCHEMA, Value, Write, present

SCHEDULE_SHARD = -1
"""The index partition of all schedules. A partition takes 1,000 write units a second: 30,000 occurrences a minute.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html"""

PARKED = LAST_MS
"""The wake-up of a schedule that has no next run time."""


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
    group: str | None = None,
) -> dict[str, Value]:
    """Return the attributes of a new schedule, for a put on the condition that the id is new."""
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
            "group": group,
            "created_at": now_ms,
            "updated_at": now_ms,
            "revision": 1,
            **next_attributes(next_run_at),
        }
    )


def change(stored: StoredSchedule, token: str, *, now_ms: int, changes: dict[str, Value | None]) -> Write:
    """Change the attributes in ``changes`` (``None`` removes one); refused if another change came first."""
    return Write(
        equals={"revision": stored.revision},
        sets=present({**changes, "changed_by": token, "revision": stored.revision + 1, "updated_at": now_ms}),
        removes=tuple(name for name, value in changes.items() if value is None),
        write_token=("changed_by", token),
    )


def intend(stored: StoredSchedule, token: str, *, run_id: str, now_ms: int) -> Write:
    """Store that the next occurrence becomes the run ``run_id``, and when that was decided, before that run is put.

    Only a schedule whose runs must not overlap needs this. DynamoDB refuses this write if another dispatcher has
    decided about the occurrence. After this write it refuses every other decision about the occurrence.
    """
    return Write(
        **_as_read(stored),
        sets={"intended_run_id": run_id, "intended_at": now_ms, "intended_by": token},
        write_token=("intended_by", token),
    )


def advance(
    stored: StoredSchedule,
    token: str,
    *,
    next_run_at: datetime | None,
    fired: datetime | None,
    last_run_id: str | None,
) -> Write:
    """Advance to the next occurrence, once the runs of the earlier ones exist; ``fired`` is the latest of these.

    Refused if another dispatcher advanced the schedule, or a person changed it, since it was read. Such a change has
    computed the next run time itself.
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
        gone += ("intended_run_id", "intended_at", "intended_by")
    return Write(**_as_read(stored), sets=present(sets), removes=gone, write_token=("advanced_by", token))


class _Read(TypedDict):
    equals: dict[str, Value]
    not_exists: tuple[str, ...]


def _as_read(stored: StoredSchedule) -> _Read:
    """Return the conditions that, since it was read, nobody advanced or changed the schedule or stored an intent."""
    schedule = stored.schedule
    if schedule.next_run_at is None:
        raise ValueError(f"schedule {schedule.id} has no next run time to go on from")
    equals: dict[str, Value] = {"next_run_at": to_ms(schedule.next_run_at), "revision": stored.revision}
    if stored.intended_run_id is None:
        return {"equals": equals, "not_exists": ("intended_run_id",)}
    return {"equals": equals | {"intended_run_id": stored.intended_run_id}, "not_exists": ()}


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
    """Return the attributes of a next run time and of its wake-up."""
    return {
        "next_run_at": None if next_run_at is None else to_ms(next_run_at),
        "wake_shard": SCHEDULE_SHARD,
        "wake_at": PARKED if next_run_at is None else to_ms(next_run_at),
    }
