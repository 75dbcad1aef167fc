"""Schedules: made, changed, listed and deleted by people, and fired by the dispatcher. Free of boto3.

When a schedule is due is decided in ``schedule``; what is written is in ``schedule_item``.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypedDict, TypeVar, Unpack

from kumofire_core import jsontext, schedule_item, transitions
from kumofire_core.arguments import (
    UNCHANGED,
    may_be_key,
    may_exist,
    payload_text,
    require_key,
    require_max_attempts,
    require_room,
)
from kumofire_core.creation import Creation, NewRun
from kumofire_core.errors import (
    CorruptItemError,
    InvalidArgumentError,
    InvalidScheduleError,
    KumofireError,
    ScheduleConflictError,
    ScheduleExistsError,
    shown,
    unknown_names,
)
from kumofire_core.run import FINAL, derived_run_id, new_run_id
from kumofire_core.runs import Runs, new_token, owner
from kumofire_core.schedule import Missed, Overlap, ScheduleType, Timing, due_occurrences, next_occurrence, parse_timing
from kumofire_core.schedule_item import SCHEDULE_SHARD, Schedule, StoredSchedule, read_schedule
from kumofire_core.sealing import is_sealed, seal, unseal
from kumofire_core.table import Key
from kumofire_core.times import EPOCH, from_ms, to_ms
from kumofire_core.write import Attributes, Value, Write

log = logging.getLogger("kumofire_core")

SCHEDULE = "schedule"

OCCURRENCES_AT_ONCE = 10
"""How many occurrences of one schedule are made into runs before it is advanced: as many as an SQS batch takes."""

CLOCKS_APART = timedelta(days=1)
"""How far two machines' clocks may be apart, at the very most: AWS refuses the requests of one that is 15 minutes off.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html"""

CHANGE_TRIES = 200
"""How often a change is tried against others' changes. A hundred writers at once need fewer: each round one gets on."""

PAGE_LIMIT = 100
"""https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html (items per request)"""


class ScheduleSettings(TypedDict, total=False):
    """What ``upsert_schedule`` may be given beside job, payload and key."""

    schedule_type: ScheduleType | str
    schedule_expr: str | timedelta | datetime
    timezone: str | None
    max_attempts: int | None
    enabled: bool
    missed: Missed | str
    overlap: Overlap | str
    start_at: datetime | None
    end_at: datetime | None


class ScheduleChanges(ScheduleSettings, total=False):
    """What ``update_schedule`` may be given. What is left out keeps its value."""

    name: str
    payload: Any


Option = TypeVar("Option", Missed, Overlap)

_CHANGEABLE = tuple(sorted(ScheduleChanges.__optional_keys__))

TIMING = ("schedule_type", "schedule_expr", "timezone", "start_at", "end_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePage:
    """Some of the schedules, and where the next ones begin."""

    schedules: tuple[Schedule, ...]
    next_page: str | None
    """What to pass as ``page`` for the next ones; ``None`` after the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is left to do of a step of a schedule, once the messages of the runs it put are sent."""

    schedule_id: str
    advance: Write | None
    """What lets the schedule go on; ``None`` where another dispatcher was faster."""
    more: bool
    """Whether the schedule is due again after this step."""


def schedule_key_id(schedule_key: str) -> str:
    """Return the id of the schedule that has a key."""
    return derived_run_id("schedule_key", schedule_key)


def occurrence_run_id(schedule_id: str, occurrence: datetime) -> str:
    """Return the id of the one run that an occurrence of a schedule makes."""
    return derived_run_id("occurrence", schedule_id, str(to_ms(occurrence)))


class Schedules:
    """The schedules of one ``Jobs``. Errors of the table leave as botocore raised them."""

    def __init__(self, runs: Runs, creation: Creation) -> None:
        self._runs = runs
        self._creation = creation

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
        enabled: bool = True,
        missed: Missed | str = Missed.ALL,
        overlap: Overlap | str = Overlap.ALLOW,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
    ) -> str:
        """Store a schedule and return its id, in one request; see ``Jobs.create_schedule``."""
        self._creation.require_job(name)
        require_max_attempts(max_attempts)
        text = payload_text(payload)
        if schedule_key is not None:
            require_key("schedule_key", schedule_key)
        now = from_ms(self._runs.now_ms())
        timing = parse_timing(
            schedule_type=schedule_type,
            schedule_expr=schedule_expr,
            timezone=timezone,
            start_at=start_at,
            end_at=end_at,
            anchor=now,
        )
        schedule_id = uuid.uuid4().hex if schedule_key is None else schedule_key_id(schedule_key)
        attributes = schedule_item.create(
            create_token=new_token(),
            schedule_key=schedule_key,
            job_name=name,
            payload=self._sealed(schedule_id, text),
            timing=timing,
            enabled=_flag("enabled", enabled),
            next_run_at=_first(timing, now) if enabled else None,
            max_attempts=max_attempts,
            missed=_option(Missed, "missed", missed),
            overlap=_option(Overlap, "overlap", overlap),
            now_ms=to_ms(now),
        )
        if not self._runs.table.put_new(Key(SCHEDULE, schedule_id), attributes).applied:
            raise ScheduleExistsError(str(schedule_key), schedule_id)
        return schedule_id

    def get(self, schedule_id: str) -> Schedule | None:
        """Return a schedule as it is now, or ``None``."""
        if not may_exist("a schedule id", schedule_id):
            return None
        stored = self._find(schedule_id)
        return None if stored is None else self._opened(stored)

    def get_by_key(self, schedule_key: str) -> Schedule | None:
        """Return the schedule of a key as it is now, or ``None``."""
        return self.get(schedule_key_id(schedule_key)) if may_be_key("schedule_key", schedule_key) else None

    def update_by_key(self, schedule_key: str, **changes: Unpack[ScheduleChanges]) -> Schedule | None:
        """Do what ``update`` does to the schedule of a key."""
        # A key that nothing can have is an id that nothing has: the changes are checked all the same.
        return self.update(schedule_key_id(schedule_key) if may_be_key("schedule_key", schedule_key) else "", **changes)

    def update(self, schedule_id: str, **changes: Unpack[ScheduleChanges]) -> Schedule | None:
        """Change what is given and keep the rest; see ``Jobs.update_schedule``."""
        exists = may_exist("a schedule id", schedule_id)
        self._check(changes)
        if not exists:
            return None
        for attempt in range(CHANGE_TRIES):
            stored = self._find(schedule_id)
            if stored is None:
                return None
            now_ms = self._runs.now_ms()
            attributes = self._differences(stored, changes, now_ms)
            if not attributes:
                return self._opened(stored)
            write = schedule_item.change(stored, new_token(), now_ms=now_ms, changes=attributes)
            answer = self._runs.table.apply(Key(SCHEDULE, schedule_id), write, read_back=True)
            if answer.applied and answer.item is not None:
                return self._opened(read_schedule(schedule_id, answer.item))
            # Somebody else changed it since it was read. Wait a random while, so that many writers don't meet again.
            time.sleep(random.uniform(0, min(0.005 * 2 ** min(attempt, 6), 0.2)))
        raise ScheduleConflictError(schedule_id, CHANGE_TRIES)

    def upsert(self, name: str, payload: Any, *, schedule_key: str, **settings: Unpack[ScheduleSettings]) -> str:
        """Create the schedule of a key, or change it to what is given; see ``Jobs.upsert_schedule``."""
        require_key("schedule_key", schedule_key)
        schedule_id = schedule_key_id(schedule_key)
        if problem := unknown_names("upsert_schedule", settings, tuple(ScheduleSettings.__annotations__)):
            raise InvalidArgumentError(problem)
        given: dict[str, Any] = {} if payload is UNCHANGED else {"payload": payload}
        while self.update(schedule_id, name=name, **given, **settings) is None:
            missing = [setting for setting in ("schedule_type", "schedule_expr") if setting not in settings]
            if missing:
                raise InvalidArgumentError(
                    f"schedule_key {shown(schedule_key)} is new, so it needs {', '.join(missing)}"
                )
            try:
                return self.create(name, given.get("payload"), schedule_key=schedule_key, **settings)
            except ScheduleExistsError:
                continue  # another upsert was first: now it is there to be updated
        return schedule_id

    def delete(self, schedule_id: str) -> bool:
        """Delete a schedule; say whether there was one. Runs it has made stay."""
        return may_exist("a schedule id", schedule_id) and self._runs.table.delete(Key(SCHEDULE, schedule_id))

    def page(self, *, limit: int, after: str | None) -> SchedulePage:
        """Return a page of schedules, those that run next first; see ``Jobs.list_schedules``."""
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_LIMIT:
            raise InvalidArgumentError(f"limit must be a whole number from 1 to {PAGE_LIMIT}, not {shown(limit)}")
        keys, last = self._runs.table.page(SCHEDULE_SHARD, limit=limit, after=_decode_page(after))
        found = {key.id: item for key, item in self._runs.table.get_many(keys).items()}
        schedules = []
        for key in keys:
            try:
                if key.id in found:
                    schedules.append(self._opened(read_schedule(key.id, found[key.id])))
            except KumofireError as error:
                log.error("a schedule is left out of the list: %s", error)
        return SchedulePage(schedules=tuple(schedules), next_page=_encode_page(last))

    def trigger(self, schedule_id: str) -> str | None:
        """Make a run of a schedule now, without moving it; return the run's id, or ``None`` for an unknown schedule."""
        stored = self._find(schedule_id) if may_exist("a schedule id", schedule_id) else None
        if stored is None:
            return None
        run_id, now = new_run_id(), from_ms(self._runs.now_ms())
        self._runs.add(self._new_run(stored, run_id, now, now))
        return run_id

    def begin(self, schedule_id: str, delays: dict[str, int], *, look_ahead: timedelta) -> Step | None:
        """Put the runs of the next occurrences that are due, or will be within ``look_ahead``; ``None`` for none.

        Their ids and delays are added to ``delays``, those without a run by an earlier pass, also where an error ends
        this. The caller sends their messages, and then calls ``finish``. A crash before that is repaired by the next
        pass, whose puts find the runs: their ids are derived from schedule and occurrence.
        """
        stored = self._find(schedule_id)
        now = from_ms(self._runs.now_ms())
        if stored is None or stored.schedule.next_run_at is None or stored.schedule.next_run_at > now + look_ahead:
            return None
        _require_possible(stored.schedule, stored.schedule.next_run_at)
        step = self._fire_one if stored.schedule.overlap is Overlap.SKIP else self._fire_some
        return step(stored, stored.schedule.next_run_at, now, look_ahead, delays)

    def finish(self, step: Step) -> bool:
        """Let a schedule go on, once the messages of its step are sent; say whether more of it is due by now."""
        if step.advance is None:
            return step.more
        return self._runs.table.apply(Key(SCHEDULE, step.schedule_id), step.advance).applied and step.more

    def _fire_some(
        self,
        stored: StoredSchedule,
        next_run_at: datetime,
        now: datetime,
        look_ahead: timedelta,
        delays: dict[str, int],
    ) -> Step:
        """Put the runs of the next occurrences."""
        occurrences, upcoming = _due(stored, next_run_at, now, look_ahead)
        self._put_runs(stored, occurrences, now, delays)
        return _step(stored, upcoming, now + look_ahead, fired=occurrences[-1] if occurrences else None)

    def _fire_one(
        self,
        stored: StoredSchedule,
        next_run_at: datetime,
        now: datetime,
        look_ahead: timedelta,
        delays: dict[str, int],
    ) -> Step | None:
        """Decide about the next occurrence of a schedule whose runs must not overlap, and put its run.

        What was decided is written before the run is put, and every other step is refused once it is. So a pass that
        died between the two is finished by the next one, whatever would be decided by then; and a slower dispatcher
        can't skip what a faster one has begun.
        """
        run_id, horizon = occurrence_run_id(stored.schedule.id, next_run_at), now + look_ahead
        if stored.intended_run_id != run_id:
            due, upcoming = _due(stored, next_run_at, now, look_ahead)
            first = due[0] if due else upcoming
            if first != next_run_at:  # it was missed, and is not made up for
                return _step(stored, first, horizon, fired=None)
            if not (self._is_over(stored.last_run_id) and self._is_over(stored.intended_run_id)):
                if next_run_at > now:
                    return None  # its predecessor may yet end in time: decide when the occurrence is due
                return _step(stored, next_occurrence(stored.timing, now), horizon, fired=None)
            intent = schedule_item.intend(stored, new_token(), run_id=run_id)
            answer = self._runs.table.apply(Key(SCHEDULE, stored.schedule.id), intent, read_back=True)
            if answer.item is None:
                return None
            found = read_schedule(stored.schedule.id, answer.item)
            if not answer.applied:
                # Another dispatcher is at it: look again. Where nobody has moved it, that is left to the next pass.
                return None if found == stored else Step(schedule_id=stored.schedule.id, advance=None, more=True)
            stored = found
        self._put_runs(stored, [next_run_at], now, delays)
        return _step(stored, next_occurrence(stored.timing, next_run_at), horizon, fired=next_run_at)

    def _put_runs(
        self, stored: StoredSchedule, occurrences: Sequence[datetime], now: datetime, delays: dict[str, int]
    ) -> None:
        """Put the runs of occurrences; add those that no earlier pass had put to ``delays``."""
        for occurrence in occurrences:
            new_run = self._new_run(stored, occurrence_run_id(stored.schedule.id, occurrence), occurrence, now)
            delay_seconds = transitions.message_delay_seconds(new_run.due_ms, new_run.now_ms)
            if self._runs.put(new_run) and delay_seconds is not None:
                delays[new_run.id] = delay_seconds

    def _new_run(self, stored: StoredSchedule, run_id: str, due: datetime, now: datetime) -> NewRun:
        schedule = stored.schedule
        return NewRun(
            id=run_id,
            job_name=schedule.job_name,
            payload=self._runs.sealed_payload(run_id, self._unsealed(stored)),
            max_attempts=schedule.max_attempts,
            due_ms=to_ms(due),
            now_ms=to_ms(now),
            schedule_id=schedule.id,
        )

    def _is_over(self, run_id: str | None) -> bool:
        """Say whether a run has ended; one that is gone was kept for as long as it should be after it had."""
        found = None if run_id is None else self._runs.find(run_id)
        return found is None or found.run.status in FINAL

    def _sealed(self, schedule_id: str, text: str) -> str:
        sealed = seal(self._runs.cipher, text, owner=owner(SCHEDULE, schedule_id, "payload"))
        require_room(sealed)
        return sealed

    def _unsealed(self, stored: StoredSchedule) -> str:
        """Return a schedule's payload as JSON text; ``SealedError`` where that is impossible."""
        return unseal(self._runs.cipher, stored.payload_text, owner=owner(SCHEDULE, stored.schedule.id, "payload"))

    def _opened(self, stored: StoredSchedule) -> Schedule:
        """Return a schedule with its payload decrypted, or ``SEALED`` where this process has no cipher."""
        if self._runs.cipher is None or not is_sealed(stored.payload_text):
            return stored.schedule
        return replace(stored.schedule, payload=jsontext.decode(self._unsealed(stored)))

    def _find(self, schedule_id: str) -> StoredSchedule | None:
        item = self._runs.table.get(Key(SCHEDULE, schedule_id))
        return None if item is None else read_schedule(schedule_id, item)

    def _check(self, changes: ScheduleChanges) -> None:
        """Refuse what can be refused before the schedule is read."""
        if problem := unknown_names("update_schedule", changes, _CHANGEABLE):
            raise InvalidArgumentError(problem)
        if "name" in changes:
            self._creation.require_job(changes["name"])
        require_max_attempts(changes.get("max_attempts"))

    def _differences(self, stored: StoredSchedule, changes: ScheduleChanges, now_ms: int) -> dict[str, Value | None]:
        """Return the attributes that ``changes`` makes different; a changed timing gets a new next run time."""
        schedule, now = stored.schedule, from_ms(now_ms)
        wanted: dict[str, Value | None] = {}
        if "name" in changes:
            wanted["job_name"] = changes["name"]
        if "payload" in changes:
            wanted["payload"] = payload_text(changes["payload"])
        if "max_attempts" in changes:
            wanted["max_attempts"] = changes["max_attempts"]
        if "missed" in changes:
            wanted["missed"] = _option(Missed, "missed", changes["missed"])
        if "overlap" in changes:
            wanted["overlap"] = _option(Overlap, "overlap", changes["overlap"])
        enabled = _flag("enabled", changes["enabled"]) if "enabled" in changes else schedule.enabled
        wanted["enabled"] = int(enabled)
        timing = _changed_timing(stored, changes, now)
        if timing != stored.timing:
            wanted |= schedule_item.timing_attributes(timing)
            wanted |= schedule_item.next_attributes(_first(timing, now) if enabled else None)
        elif enabled != schedule.enabled:
            # One whose last occurrence has become a run may be enabled all the same: it has nothing left to do.
            upcoming = _upcoming(timing, now, fired=schedule.last_scheduled_at) if enabled else None
            wanted |= schedule_item.next_attributes(upcoming)
        have: dict[str, Value | None] = {
            "job_name": schedule.job_name,
            "payload": self._unsealed(stored) if "payload" in changes else None,
            "max_attempts": schedule.max_attempts,
            "missed": schedule.missed,
            "overlap": schedule.overlap,
            "enabled": int(schedule.enabled),
            **schedule_item.timing_attributes(stored.timing),
            **schedule_item.next_attributes(schedule.next_run_at),
        }
        # A dispatcher may have advanced it since it was read, which refuses no change. So a next run time that was
        # computed anew is written in any case, and not only where it differs from the one that was read.
        moved = "next_run_at" in wanted
        always = ("next_run_at", "wake_shard", "wake_at") if moved else ()
        different = {name: value for name, value in wanted.items() if value != have[name] or name in always}
        if "payload" in different:
            different["payload"] = self._sealed(schedule.id, str(different["payload"]))
        return different


def _changed_timing(stored: StoredSchedule, changes: ScheduleChanges, now: datetime) -> Timing:
    """Return the timing after ``changes``: the old one, to the letter, where they say the same.

    A changed interval counts from now, and an unchanged one from where it has counted so far.
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


def _step(stored: StoredSchedule, upcoming: datetime | None, horizon: datetime, *, fired: datetime | None) -> Step:
    """Return the step on to the ``upcoming`` occurrence; ``fired`` is the latest one that became a run by it."""
    schedule_id = stored.schedule.id
    advance = schedule_item.advance(
        stored,
        new_token(),
        next_run_at=upcoming,
        fired=fired,
        last_run_id=None if fired is None else occurrence_run_id(schedule_id, fired),
    )
    return Step(schedule_id=schedule_id, advance=advance, more=upcoming is not None and upcoming <= horizon)


def _require_possible(schedule: Schedule, next_run_at: datetime) -> None:
    """Raise ``CorruptItemError`` for a next run time from before the schedule was made.

    No occurrence is older than its schedule, but for a ``once``. Taken at its word, a time of 0 would make a run of
    each minute since 1970.
    """
    if schedule.schedule_type is not ScheduleType.ONCE and next_run_at < schedule.created_at - CLOCKS_APART:
        key = f"{SCHEDULE}#{schedule.id}"
        raise CorruptItemError(key, "its next_run_at is before its created_at, which disabling and enabling it mends")


def _first(timing: Timing, now: datetime) -> datetime:
    """Return the first occurrence of a new timing; ``InvalidScheduleError`` where a schedule would never run."""
    first = _upcoming(timing, now, fired=None)
    if first is None:
        raise InvalidScheduleError(
            f"schedule_expr {shown(timing.expr)} has no occurrence after {now.isoformat(timespec='seconds')}"
            + ("" if timing.end_at is None else f" and up to end_at {timing.end_at.isoformat()}")
            + "; create it with enabled=False to keep it all the same"
        )
    return first


def _upcoming(timing: Timing, now: datetime, *, fired: datetime | None) -> datetime | None:
    """Return the next occurrence, after now or, for the one of a ``once``, whenever it is: unless it has been fired."""
    if timing.schedule_type is ScheduleType.ONCE:
        return next_occurrence(timing, fired or EPOCH)
    if timing.start_at is not None and timing.start_at >= now:
        return next_occurrence(timing, EPOCH)  # the window's beginning belongs to it, also where that is just now
    return next_occurrence(timing, now)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} must be True or False, not {shown(value)}")
    return value


def _option(kind: type[Option], name: str, value: object) -> Option:
    try:
        return kind(str(value))
    except ValueError:
        known = ", ".join(repr(option.value) for option in kind)
        raise InvalidScheduleError(f"{name} must be one of {known}, not {shown(value)}") from None


def _encode_page(last: Attributes | None) -> str | None:
    return None if last is None else jsontext.encode("the page", dict(last))


def _decode_page(page: str | None) -> Attributes | None:
    if page is None:
        return None
    try:
        last = jsontext.decode(page)
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
