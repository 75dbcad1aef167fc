"""A schedule: its public form, and reading it from its stored item."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from kumofire_core.errors import CorruptItemError, NewerSchemaError
from kumofire_core.model import encrypted_text
from kumofire_core.model.message import is_group
from kumofire_core.model.times import from_ms
from kumofire_core.model.write import SCHEMA, Attributes, number, read_moment, read_number, read_text

MAX_EXPRESSION_LENGTH = 256


class ScheduleType(StrEnum):
    """How to read ``schedule_expr``."""

    CRON = "cron"
    INTERVAL = "interval"
    ONCE = "once"


class Missed(StrEnum):
    """What happens to occurrences that the dispatcher finds late."""

    ALL = "all"  # each of them runs, late
    LATEST = "latest"  # only the newest runs
    SKIP = "skip"  # those more than MISSED_AFTER late do not run


class Overlap(StrEnum):
    """What happens to an occurrence while the previous occurrence's run is unfinished."""

    ALLOW = "allow"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a schedule fires; `parse_timing` validates and makes it.

    ``expr`` is the canonical text: parsed again with the other fields, it gives an equal timing. Times are aware UTC
    datetimes in whole milliseconds, as stored. ``anchor`` is the time that an interval counts from, and ``None`` for
    other types.
    """

    schedule_type: ScheduleType
    expr: str
    timezone: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    anchor: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A rule that makes runs of a job, as the application sees it. Times are aware UTC datetimes."""

    id: str
    schedule_key: str | None
    job_name: str
    payload: Any = field(repr=False)
    schedule_type: ScheduleType
    schedule_expr: str
    timezone: str | None
    enabled: bool
    next_run_at: datetime | None
    """The next occurrence without a run; ``None`` if the schedule is disabled or has no occurrence left."""
    last_scheduled_at: datetime | None
    """The latest occurrence that became a run."""
    max_attempts: int | None
    """The ``max_attempts`` of its runs; ``None`` if the job decides."""
    missed: Missed
    overlap: Overlap
    start_at: datetime | None
    end_at: datetime | None
    created_at: datetime
    updated_at: datetime
    group: str | None = None
    """The ``group`` of its runs (docs/fairness.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSchedule:
    """A schedule with the stored attributes that its public form does not have."""

    schedule: Schedule
    timing: Timing
    payload_text: str
    revision: int
    """A number that grows with every change by a person."""
    last_run_id: str | None
    """The run of the latest occurrence."""
    intended_run_id: str | None
    """The run that a dispatcher decided to make, until the schedule advances past its occurrence."""
    intended_at: datetime | None
    """When it decided so; ``None`` also where an earlier release stored the decision."""


def read_schedule(schedule_id: str, attributes: Attributes) -> StoredSchedule:
    """Return the schedule that ``attributes`` hold.

    Raises ``NewerSchemaError`` if a later release wrote the item, ``CorruptItemError`` if it can't be read.
    """
    key = f"schedule#{schedule_id}"
    try:
        schema = number(attributes, "schema")
        if schema > SCHEMA:
            raise NewerSchemaError(key, schema, SCHEMA)
        payload_text = str(attributes["payload"])
        if len(str(attributes["schedule_expr"])) > MAX_EXPRESSION_LENGTH:
            raise ValueError("schedule_expr")
        group = read_text(attributes, "group")
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
            payload=encrypted_text.read(payload_text),
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
            group=group if is_group(group) else None,
        )
        return StoredSchedule(
            schedule=schedule,
            timing=timing,
            payload_text=payload_text,
            revision=number(attributes, "revision"),
            last_run_id=read_text(attributes, "last_run_id"),
            intended_run_id=read_text(attributes, "intended_run_id"),
            intended_at=read_moment(attributes, "intended_at"),
        )
    except KeyError as error:
        raise CorruptItemError(key, f"it has no attribute {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptItemError(key, f"an attribute holds a wrong value ({type(error).__name__})") from None
