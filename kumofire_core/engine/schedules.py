"""The operations of a person on schedules: create, change, list and delete."""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict, TypeVar, Unpack

from kumofire_core.engine.create import RunCreator
from kumofire_core.engine.run_store import new_token
from kumofire_core.engine.schedule_store import ScheduleStore
from kumofire_core.errors import (
    InvalidArgumentError,
    InvalidScheduleError,
    KumofireError,
    ScheduleChangedError,
    ScheduleConflictError,
    ScheduleExistsError,
    short_repr,
    unknown_names,
)
from kumofire_core.model import json_codec
from kumofire_core.model.run import derived_run_id
from kumofire_core.model.schedule import Missed, Overlap, Schedule, ScheduleType, StoredSchedule, Timing, read_schedule
from kumofire_core.model.times import from_ms, require_aware, to_ms
from kumofire_core.model.write import Attributes, Value
from kumofire_core.rules import schedule_writes
from kumofire_core.rules.recurrence import first_occurrence, occurrences, parse_timing, timing_of
from kumofire_core.rules.validation import (
    UNCHANGED,
    may_be_key,
    may_exist,
    require_group,
    require_key,
    require_max_attempts,
    require_page_limit,
)

log = logging.getLogger("kumofire_core")

_chance = random.Random()
"""Not the module's own generator, whose state belongs to the application."""

CHANGE_TRIES = 200
"""The most tries of one change. In each round one writer succeeds, so a hundred concurrent writers need fewer."""


class ScheduleSettings(TypedDict, total=False):
    """The arguments of ``upsert_schedule`` besides job, payload and key."""

    schedule_type: ScheduleType | str
    schedule_expr: str | timedelta | datetime
    timezone: str | None
    max_attempts: int | None
    group: str | None
    enabled: bool
    missed: Missed | str
    overlap: Overlap | str
    start_at: datetime | None
    end_at: datetime | None


class ScheduleChanges(ScheduleSettings, total=False):
    """The arguments of ``update_schedule``. Settings that are left out keep their value."""

    name: str
    payload: Any


Option = TypeVar("Option", Missed, Overlap)

_CHANGEABLE = tuple(sorted(ScheduleChanges.__optional_keys__))

TIMING = ("schedule_type", "schedule_expr", "timezone", "start_at", "end_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePage:
    """One page of ``list_schedules``."""

    schedules: tuple[Schedule, ...]
    next_page: str | None
    """The value of ``page`` for the next page; ``None`` on the last."""


MOST_OCCURRENCES = 1000
"""In one call. Each takes up to a millisecond to find."""


def next_occurrences(schedule: Schedule, count: int) -> tuple[datetime, ...]:
    """Return the next occurrences of a schedule; see ``Jobs.next_occurrences``."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_OCCURRENCES:
        raise InvalidArgumentError(
            f"count must be a whole number from 1 to {MOST_OCCURRENCES}, not {short_repr(count)}"
        )
    if not isinstance(schedule, Schedule):
        raise InvalidArgumentError(
            f"schedule must be a Schedule, as get_schedule returns it, not {type(schedule).__name__}"
        )
    return tuple(occurrences(timing_of(schedule), schedule.next_run_at, count))


def schedule_key_id(schedule_key: str) -> str:
    """Return the id of the schedule with this key."""
    return derived_run_id("schedule_key", schedule_key)


class Schedules:
    """The schedules of one ``Jobs``. Raises botocore's errors of the table unchanged."""

    def __init__(self, schedules: ScheduleStore, creator: RunCreator, now_ms: Callable[[], int]) -> None:
        self._schedules = schedules
        self._creator = creator
        self._registry = creator.store.registry
        self._now_ms = now_ms

    def create(
        self,
        name: str,
        payload: Any,
        *,
        schedule_type: ScheduleType | str,
        schedule_expr: str | timedelta | datetime,
        schedule_key: str | None = None,
        timezone: str | None = None,
        max_attempts: int | None = None,
        group: str | None = None,
        enabled: bool = True,
        missed: Missed | str = Missed.ALL,
        overlap: Overlap | str = Overlap.ALLOW,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
    ) -> str:
        """Store a schedule and return its id, in one request; see ``Jobs.create_schedule``."""
        self._creator.require_job(name)
        require_max_attempts(max_attempts)
        require_group(group)
        text = self._registry.payload_text(name, payload)
        if schedule_key is not None:
            require_key("schedule_key", schedule_key)
        now = from_ms(self._now_ms())
        timing = parse_timing(
            schedule_type=schedule_type,
            schedule_expr=schedule_expr,
            timezone=timezone,
            start_at=start_at,
            end_at=end_at,
            anchor=now,
        )
        schedule_id = uuid.uuid4().hex if schedule_key is None else schedule_key_id(schedule_key)
        attributes = schedule_writes.create(
            create_token=new_token(),
            schedule_key=schedule_key,
            job_name=name,
            payload=self._schedules.encrypted_payload(schedule_id, text),
            timing=timing,
            enabled=_flag("enabled", enabled),
            next_run_at=_first(timing, now) if enabled else None,
            max_attempts=max_attempts,
            group=group,
            missed=_option(Missed, "missed", missed),
            overlap=_option(Overlap, "overlap", overlap),
            now_ms=to_ms(now),
        )
        if not self._schedules.put(schedule_id, attributes):
            raise ScheduleExistsError(str(schedule_key), schedule_id)
        return schedule_id

    def get(self, schedule_id: str) -> Schedule | None:
        """Return a schedule as it is now, or ``None`` for an unknown id."""
        if not may_exist("a schedule id", schedule_id):
            return None
        stored = self._schedules.find(schedule_id)
        return None if stored is None else self._schedules.decrypted(stored)

    def get_by_key(self, schedule_key: str) -> Schedule | None:
        """Return the schedule that has this key as it is now, or ``None``."""
        return self.get(schedule_key_id(schedule_key)) if may_be_key("schedule_key", schedule_key) else None

    def update_by_key(self, schedule_key: str, **changes: Unpack[ScheduleChanges]) -> Schedule | None:
        """Do what ``update`` does, to the schedule that has this key."""
        # For a key that no schedule can have, pass an id that no schedule has: update still checks the changes.
        return self.update(schedule_key_id(schedule_key) if may_be_key("schedule_key", schedule_key) else "", **changes)

    def update(
        self, schedule_id: str, *, unchanged_since: datetime | None = None, **changes: Unpack[ScheduleChanges]
    ) -> Schedule | None:
        """Change the given settings and keep the others; see ``Jobs.update_schedule``."""
        seen_at = None if unchanged_since is None else require_aware("unchanged_since", unchanged_since)
        exists = may_exist("a schedule id", schedule_id)
        self._check(changes)
        if not exists:
            return None
        for attempt in range(CHANGE_TRIES):
            stored = self._schedules.find(schedule_id)
            if stored is None:
                return None
            if seen_at is not None and stored.schedule.updated_at != seen_at:
                raise ScheduleChangedError(schedule_id, stored.schedule.updated_at)
            now_ms = self._now_ms()
            attributes = self._differences(stored, changes, now_ms)
            if not attributes:
                return self._schedules.decrypted(stored)
            write = schedule_writes.change(stored, new_token(), now_ms=now_ms, changes=attributes)
            answer = self._schedules.apply(schedule_id, write, read_back=True)
            if answer.applied and answer.item is not None:
                return self._schedules.decrypted(read_schedule(schedule_id, answer.item))
            # Another writer changed the schedule since it was read. A random wait avoids further collisions.
            time.sleep(_chance.uniform(0, min(0.005 * 2 ** min(attempt, 6), 0.2)))
        raise ScheduleConflictError(schedule_id, CHANGE_TRIES)

    def upsert(self, name: str, payload: Any, *, schedule_key: str, **settings: Unpack[ScheduleSettings]) -> str:
        """Create or change the schedule that has this key; see ``Jobs.upsert_schedule``."""
        require_key("schedule_key", schedule_key)
        schedule_id = schedule_key_id(schedule_key)
        if problem := unknown_names("upsert_schedule", settings, tuple(ScheduleSettings.__annotations__)):
            raise InvalidArgumentError(problem)
        given: dict[str, Any] = {} if payload is UNCHANGED else {"payload": payload}
        while self.update(schedule_id, name=name, **given, **settings) is None:
            missing = [setting for setting in ("schedule_type", "schedule_expr") if setting not in settings]
            if missing:
                raise InvalidArgumentError(
                    f"schedule_key {short_repr(schedule_key)} is new, so it needs {', '.join(missing)}"
                )
            try:
                return self.create(name, given.get("payload"), schedule_key=schedule_key, **settings)
            except ScheduleExistsError:
                continue  # another upsert was faster: the schedule exists now, so update it
        return schedule_id

    def delete(self, schedule_id: str) -> bool:
        """Delete a schedule; return whether it existed. The runs that it has made stay."""
        return may_exist("a schedule id", schedule_id) and self._schedules.delete(schedule_id)

    def page(self, *, limit: int, after: str | None) -> SchedulePage:
        """Return a page of schedules, ordered by next run time; see ``Jobs.list_schedules``."""
        require_page_limit(limit)
        found, last = self._schedules.page(limit=limit, after=_decode_page(after))
        schedules = []
        for schedule_id, item in found:
            try:
                schedules.append(self._schedules.decrypted(read_schedule(schedule_id, item)))
            except KumofireError as error:
                log.error("a schedule is left out of the list: %s", error)
        return SchedulePage(schedules=tuple(schedules), next_page=_encode_page(last))

    def _check(self, changes: ScheduleChanges) -> None:
        """Check the arguments that can be checked before the schedule is read; raises ``InvalidArgumentError``."""
        if problem := unknown_names("update_schedule", changes, _CHANGEABLE):
            raise InvalidArgumentError(problem)
        if "name" in changes:
            self._creator.require_job(changes["name"])
        require_max_attempts(changes.get("max_attempts"))
        require_group(changes.get("group"))

    def _differences(self, stored: StoredSchedule, changes: ScheduleChanges, now_ms: int) -> dict[str, Value | None]:
        """Return the attributes whose values ``changes`` changes; a changed timing gets a new next run time."""
        schedule, now = stored.schedule, from_ms(now_ms)
        wanted: dict[str, Value | None] = {}
        if "name" in changes:
            wanted["job_name"] = changes["name"]
        if "payload" in changes:
            name = changes.get("name", schedule.job_name)
            wanted["payload"] = self._registry.payload_text(name, changes["payload"])
        elif "name" in changes and changes["name"] != schedule.job_name:
            self._registry.require_fit(changes["name"], json_codec.decode(self._schedules.payload_text(stored)))
        if "max_attempts" in changes:
            wanted["max_attempts"] = changes["max_attempts"]
        if "group" in changes:
            wanted["group"] = changes["group"]
        if "missed" in changes:
            wanted["missed"] = _option(Missed, "missed", changes["missed"])
        if "overlap" in changes:
            wanted["overlap"] = _option(Overlap, "overlap", changes["overlap"])
        enabled = _flag("enabled", changes["enabled"]) if "enabled" in changes else schedule.enabled
        wanted["enabled"] = int(enabled)
        timing = _changed_timing(stored, changes, now)
        if timing != stored.timing:
            wanted |= schedule_writes.timing_attributes(timing)
            wanted |= schedule_writes.next_attributes(_first(timing, now) if enabled else None)
        elif enabled != schedule.enabled:
            # A schedule without an occurrence left may be enabled too; it makes no more runs.
            upcoming = first_occurrence(timing, now, fired=schedule.last_scheduled_at) if enabled else None
            wanted |= schedule_writes.next_attributes(upcoming)
        have: dict[str, Value | None] = {
            "job_name": schedule.job_name,
            "payload": self._schedules.payload_text(stored) if "payload" in changes else None,
            "max_attempts": schedule.max_attempts,
            "group": schedule.group,
            "missed": schedule.missed,
            "overlap": schedule.overlap,
            "enabled": int(schedule.enabled),
            **schedule_writes.timing_attributes(stored.timing),
            **schedule_writes.next_attributes(schedule.next_run_at),
        }
        # A dispatcher may have advanced the schedule since it was read, which does not make this write fail. So always
        # write a recomputed next run time, even if it equals the one that was read.
        moved = "next_run_at" in wanted
        always = ("next_run_at", "wake_shard", "wake_at") if moved else ()
        different = {name: value for name, value in wanted.items() if value != have[name] or name in always}
        if "payload" in different:
            different["payload"] = self._schedules.encrypted_payload(schedule.id, str(different["payload"]))
        return different


def _changed_timing(stored: StoredSchedule, changes: ScheduleChanges, now: datetime) -> Timing:
    """Return the timing after ``changes``; the old timing if they do not change its meaning.

    A changed interval counts from now. An unchanged interval keeps its anchor.
    """
    if not any(name in changes for name in TIMING):
        return stored.timing
    old = stored.timing

    def parsed(anchor: datetime) -> Timing:
        return parse_timing(
            schedule_type=changes.get("schedule_type", old.schedule_type),
            schedule_expr=changes.get("schedule_expr", old.expr),
            timezone=changes.get("timezone", old.timezone),
            start_at=changes.get("start_at", old.start_at),
            end_at=changes.get("end_at", old.end_at),
            anchor=anchor,
            stored=old,
        )

    same = parsed(old.anchor or stored.schedule.created_at)
    return same if same == old else parsed(now)


def _first(timing: Timing, now: datetime) -> datetime:
    """Return the first occurrence of a new timing; raises ``InvalidScheduleError`` if it would never fire."""
    first = first_occurrence(timing, now)
    if first is None:
        raise InvalidScheduleError(
            f"schedule_expr {short_repr(timing.expr)} has no occurrence after {now.isoformat(timespec='seconds')}"
            + ("" if timing.end_at is None else f" and up to end_at {timing.end_at.isoformat()}")
            + "; create it with enabled=False to keep it all the same"
        )
    return first


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} must be True or False, not {short_repr(value)}")
    return value


def _option(kind: type[Option], name: str, value: object) -> Option:
    try:
        return kind(str(value))
    except ValueError:
        known = ", ".join(repr(option.value) for option in kind)
        raise InvalidScheduleError(f"{name} must be one of {known}, not {short_repr(value)}") from None


def _encode_page(last: Attributes | None) -> str | None:
    return None if last is None else json_codec.encode("the page", dict(last))


def _decode_page(page: str | None) -> Attributes | None:
    if page is None:
        return None
    try:
        last = json_codec.decode(page)
    except (ValueError, TypeError):
        last = None
    kinds = {"pk": str, "sk": str, "wake_shard": int, "wake_at": int}
    if (
        not isinstance(last, dict)
        or set(last) != set(kinds)
        or any(type(last[name]) is not kind for name, kind in kinds.items())
        or not f"{last['pk']}{last['sk']}".isprintable()
    ):
        raise InvalidArgumentError("page must be the next_page of an earlier call")
    return last
