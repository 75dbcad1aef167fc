"""The console's pages of schedules: the list, a schedule with its next occurrences, and its form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from kumofire_core.console.expressions import (
    MISSED_WORDS,
    OVERLAP_WORDS,
    Explained,
    explained,
    in_words,
    moved,
    read_timing,
    settings,
)
from kumofire_core.console.tree import readable, tree
from kumofire_core.console.visit import WRONG_INPUT, Page, Visit
from kumofire_core.errors import InvalidArgumentError, InvalidJSONError, ScheduleChangedError
from kumofire_core.model.encrypted_text import ENCRYPTED
from kumofire_core.model.schedule import Schedule, ScheduleType, Timing
from kumofire_core.rules.recurrence import timing_of
from kumofire_core.text import iso

if TYPE_CHECKING:
    from kumofire_core.jobs import Jobs

AT_ONCE = 50
"""Schedules that the list shows first, and that each "More" adds."""
MOST_SHOWN = 500
"""Schedules on one page of the list, which is read again while somebody looks at it. What is over is on the next."""

NEXT_SHOWN = 10
NEXT_TRIED = 5
"""Occurrences that a schedule's page shows, and its form while somebody writes an expression."""

ZONES = ("UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/Los_Angeles", "Asia/Tokyo")
"""Examples that the form's field offers; it takes every IANA name."""

# The list


def show_list(visit: Visit) -> Response:
    """Show the schedules, those that run next first; a part of a page for a script that asks for the rows alone."""
    wanted = _count_of(visit.query("count"))
    page = visit.query("page") or None
    found, next_page = _listed(visit.jobs, wanted, page)
    more = None
    if next_page is not None:
        more = wanted + AT_ONCE if wanted < MOST_SHOWN else None
    return visit.page(
        "schedules_rows.html" if visit.is_partial else "schedules.html",
        rows=[_Row(each) for each in found],
        count=wanted,
        page=page,
        more=more,
        next_page=next_page if more is None else None,
    )


def _count_of(text: str) -> int:
    given = int(text) if text.isascii() and text.isdecimal() and len(text) < 5 else AT_ONCE
    return max(AT_ONCE, min(given, MOST_SHOWN))


def _listed(jobs: Jobs, wanted: int, page: str | None) -> tuple[list[Schedule], str | None]:
    """Return schedules and the next page. One that fires between two reads may come twice, and is shown once."""
    found: dict[str, Schedule] = {}
    left = wanted
    while left > 0:
        part = jobs.list_schedules(limit=min(left, 100), page=page)
        found |= {each.id: each for each in part.schedules}
        left -= min(left, 100)
        page = part.next_page
        if page is None:
            break
    return list(found.values()), page


@dataclass(frozen=True, slots=True)
class _Row:
    """A schedule with what the pages say of it."""

    schedule: Schedule

    @property
    def name(self) -> str:
        """Its key, or else its id."""
        return self.schedule.schedule_key or self.schedule.id

    @property
    def state(self) -> str:
        """``enabled``, ``disabled``, or ``ended`` if it is enabled and has no occurrence left."""
        if not self.schedule.enabled:
            return "disabled"
        return "ended" if self.schedule.next_run_at is None else "enabled"

    @property
    def seen(self) -> str:
        """What a form remembers of it: which change was the last."""
        return iso(self.schedule.updated_at) or ""

    @property
    def zone(self) -> str:
        """The zone that it follows."""
        return self.schedule.timezone or "UTC"

    @property
    def words(self) -> str:
        """When it fires."""
        return in_words(timing_of(self.schedule))

    def local(self, moment: datetime | None) -> str:
        """Return a time in its zone, with the offset."""
        return "" if moment is None else in_zone(moment, self.zone)


def in_zone(moment: datetime, zone: str) -> str:
    """Return a time in a zone, with its weekday and offset."""
    there = moved(moment, zone)
    offset = f"{there:%z}"
    return f"{there:%a %Y-%m-%d %H:%M:%S} {offset[:3]}:{offset[3:5]}"


# A schedule


def show(visit: Visit) -> Response:
    """Show a schedule; a part of its page for the live update."""
    schedule = _found(visit)
    if schedule is None:
        return visit.missing("schedule with this id")
    return visit.page(
        "schedule_part.html" if visit.is_partial else "schedule.html",
        row=_Row(schedule),
        missed=MISSED_WORDS[schedule.missed],
        overlap=OVERLAP_WORDS[schedule.overlap],
        occurrences=occurrences_shown(visit.jobs.next_occurrences(schedule, NEXT_SHOWN), schedule.timezone or "UTC"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """A time at which a schedule fires."""

    at: datetime
    local: str
    utc: str
    change: str | None
    """How the clocks of its zone have changed since the occurrence before: ``+02:00 to +01:00``."""


def occurrences_shown(times: tuple[datetime, ...], zone: str) -> list[Occurrence]:
    """Return occurrences as they are shown, each with the change of the zone's offset before it."""
    found: list[Occurrence] = []
    before = None
    for at in times:
        local = in_zone(at, zone)
        offset = local[-6:]
        change = None if before in (None, offset) else f"{before} to {offset}"
        found.append(Occurrence(at=at, local=local, utc=f"{at.astimezone(UTC):%a %Y-%m-%d %H:%M:%S}", change=change))
        before = offset
    return found


def show_payload(visit: Visit) -> Response:
    """Show a schedule's payload to a person who may see it."""
    if not visit.access.payloads:
        return visit.done("You may not see payloads.", kind="wrong")
    schedule = _found(visit)
    if schedule is None:
        return visit.missing("schedule with this id")
    visit.record(f"looked at the payload of schedule {schedule.id}")
    return visit.page(
        "schedule_payload.html" if visit.is_partial else "schedule_payload_page.html",
        row=_Row(schedule),
        markup=None if schedule.payload is ENCRYPTED else tree(schedule.payload),
    )


# Actions


def enable(visit: Visit) -> Response:
    """Enable a schedule."""
    return _switch(visit, enabled=True)


def disable(visit: Visit) -> Response:
    """Disable a schedule."""
    return _switch(visit, enabled=False)


def _switch(visit: Visit, *, enabled: bool) -> Response:
    before = _found(visit)
    if before is None:
        return visit.missing("schedule with this id")
    word = "enabled" if enabled else "disabled"
    name = _Row(before).name
    if before.enabled is enabled:
        return visit.done(f"{name} was {word} already; nothing was changed.", kind="stale")
    if not _is_as_seen(visit, before):
        return _changed_meanwhile(visit, name)
    try:
        after = visit.jobs.update_schedule(before.id, unchanged_since=before.updated_at, enabled=enabled)
    except ScheduleChangedError:
        return _changed_meanwhile(visit, name)
    if after is None:
        return visit.missing("schedule with this id")
    visit.record(f"{word} schedule {after.id}")
    ended = enabled and after.next_run_at is None
    return visit.done(
        f"{name} is {word}" + (", and has no occurrence left." if ended else "."),
        undo={"seen": iso(after.updated_at), "enabled": "no" if enabled else "yes"},
        undo_at=visit.url("schedules", after.id, "restore"),
    )


def trigger(visit: Visit) -> Response:
    """Make a run of a schedule now."""
    schedule = _found(visit)
    if schedule is None:
        return visit.missing("schedule with this id")
    if not _is_as_seen(visit, schedule):
        return _changed_meanwhile(visit, _Row(schedule).name)
    run_id = visit.jobs.trigger_schedule(schedule.id)
    if run_id is None:
        return visit.missing("schedule with this id")
    visit.record(f"triggered schedule {schedule.id}, which made run {run_id}")
    return visit.done("A run was made.", link=(visit.url("runs", run_id), run_id))


def delete(visit: Visit) -> Response:
    """Delete a schedule. Its runs stay."""
    schedule = _found(visit)
    if schedule is not None and not _is_as_seen(visit, schedule):
        return _changed_meanwhile(visit, _Row(schedule).name)
    if schedule is None:
        return visit.missing("schedule with this id")
    question = f"Delete schedule {_Row(schedule).name}? The runs that it has made stay."
    if asked := visit.unless_sure(question, section="schedules"):
        return asked
    if not visit.jobs.delete_schedule(schedule.id):
        return visit.missing("schedule with this id")
    visit.record(f"deleted schedule {schedule.id}")
    return visit.done(
        f"{_Row(schedule).name} was deleted. The runs that it has made stay.", go_to=visit.url("schedules")
    )


def restore(visit: Visit) -> Response:
    """Undo a change: give a schedule the settings that it had, unless somebody has changed it since."""
    before = _found(visit)
    if before is None:
        return visit.missing("schedule with this id")
    changes: dict[str, Any] = {}
    if "type" in visit.form:
        changes = _changes(visit)
    if "enabled" in visit.form:
        changes["enabled"] = visit.field("enabled") == "yes"
    name = _Row(before).name
    try:
        after = visit.jobs.update_schedule(before.id, unchanged_since=_seen(visit), **changes)
    except ScheduleChangedError:
        return _changed_meanwhile(visit, name)
    if after is None:
        return visit.missing("schedule with this id")
    visit.record(f"undid a change of schedule {after.id}")
    return visit.done(f"{name} has its former settings again.")


def _changed_meanwhile(visit: Visit, name: str) -> Response:
    return visit.done(f"Somebody has changed {name} meanwhile; nothing was changed. Look at it again.", kind="stale")


# The form


def show_form(visit: Visit) -> Response:
    """Show a schedule's form."""
    schedule = _found(visit)
    if schedule is None:
        return visit.missing("schedule with this id")
    has_payload = visit.query("payload") == "show" and visit.access.payloads and schedule.payload is not ENCRYPTED
    if has_payload:
        visit.record(f"looked at the payload of schedule {schedule.id}")
    written = written_of(schedule) | ({"payload": readable(schedule.payload)} if has_payload else {})
    if visit.is_partial and visit.query("payload") == "show":
        if not has_payload:
            return visit.done("You may not see this payload.", kind="wrong")
        return visit.page("schedule_payload_field.html", row=_Row(schedule), written=written)
    return _form(visit, schedule, written)


def save(visit: Visit) -> Response:
    """Save a schedule's form, if nobody has changed the schedule since it was loaded."""
    before = _found(visit)
    if before is None:
        return visit.missing("schedule with this id")
    written = {name: visit.field(name) for name in (*written_of(before), "payload") if name in visit.form}
    written = written_of(before) | written
    try:
        changes = _changes(visit)
        if "payload" in visit.form:
            if not visit.access.payloads:
                return visit.done("You may not change payloads.", kind="wrong")
            if before.payload is ENCRYPTED:
                return visit.done(
                    "Its payload is encrypted, and this process has no key: it stays as it is.", kind="wrong"
                )
            changes["payload"] = _payload(visit.field("payload"))
        after = visit.jobs.update_schedule(before.id, unchanged_since=_seen(visit), **changes)
    except ScheduleChangedError:
        now = visit.jobs.get_schedule(before.id)
        if now is None:
            return visit.missing("schedule with this id")
        return _form(visit, now, written, status=409, conflict=_differences(written_of(now), written))
    except WRONG_INPUT as error:
        return _form(visit, before, written, status=422, problem=str(error), seen=visit.field("seen"))
    if after is None:
        return visit.missing("schedule with this id")
    name = _Row(after).name
    there = visit.url("schedules", after.id)
    if after.updated_at == before.updated_at and written_of(after) == written_of(before):
        return visit.done(f"{name} has these settings already; nothing was changed.", go_to=there)
    visit.record(f"changed schedule {after.id}")
    hint = " Undo keeps the new payload." if "payload" in changes else ""
    return visit.done(
        f"{name} was changed.{hint}",
        undo={**written_of(before), "seen": iso(after.updated_at)},
        undo_at=visit.url("schedules", after.id, "restore"),
        go_to=there,
    )


def explain(visit: Visit) -> Response:
    """Say in words what an expression means that somebody is writing, or what is wrong with it. Asks nothing of AWS."""
    kept = _kept(visit)

    def read() -> Timing:
        return read_timing(
            kind=visit.query("type"),
            expr=visit.query("expr"),
            timezone=visit.query("timezone"),
            start=visit.query("start"),
            end=visit.query("end"),
            now=visit.now,
            stored=kept,
        )

    found = explained(read, visit.now, count=NEXT_TRIED, kept=kept)
    return visit.page("schedule_explained.html", found=found, occurrences=occurrences_shown(found.times, found.zone))


def _form(
    visit: Visit,
    schedule: Schedule,
    written: Mapping[str, str],
    *,
    status: int = 200,
    problem: str | None = None,
    conflict: list[tuple[str, str, str]] | None = None,
    seen: str | None = None,
) -> Response:
    def read() -> Timing:
        return read_timing(
            kind=written["type"],
            expr=written["expr"],
            timezone=written["timezone"],
            start=written["start"],
            end=written["end"],
            now=visit.now,
            stored=timing_of(schedule),
        )

    found: Explained = explained(read, visit.now, count=NEXT_TRIED, kept=timing_of(schedule))
    return visit.page(
        "schedule_form.html" if visit.is_partial else "schedule_edit.html",
        status=status,
        row=_Row(schedule),
        written=written,
        problem=problem,
        conflict=conflict,
        seen=seen or iso(schedule.updated_at),
        found=found,
        occurrences=occurrences_shown(found.times, found.zone),
        missed_words=MISSED_WORDS,
        overlap_words=OVERLAP_WORDS,
        zones=ZONES,
        can_edit_payload=visit.access.payloads and schedule.payload is not ENCRYPTED,
        next_at=iso(schedule.next_run_at) or "",
    )


LABELS = {
    "type": "Type",
    "expr": "Expression",
    "timezone": "Time zone",
    "start": "From",
    "end": "Until",
    "missed": "Missed",
    "overlap": "Overlap",
    "max_attempts": "Attempts",
    "group": "Group",
}


def written_of(schedule: Schedule) -> dict[str, str]:
    """Return a schedule's settings as its form has them."""
    zone = schedule.timezone or "UTC"

    def time(moment: datetime | None) -> str:
        return "" if moment is None else moved(moment, zone).isoformat()

    return {
        "type": schedule.schedule_type.value,
        "expr": schedule.schedule_expr,
        "timezone": schedule.timezone or "",
        "start": time(schedule.start_at),
        "end": time(schedule.end_at),
        "missed": schedule.missed.value,
        "overlap": schedule.overlap.value,
        "max_attempts": "" if schedule.max_attempts is None else str(schedule.max_attempts),
        "group": schedule.group or "",
    }


def _differences(now: Mapping[str, str], written: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return what is stored and what was written, where the two differ."""
    return [(label, now[name], written[name]) for name, label in LABELS.items() if now[name] != written[name]]


def _changes(visit: Visit) -> dict[str, Any]:
    """Return what the form says as ``update_schedule`` takes it."""
    # A page of the release before has no field for the group, which then stays.
    group = {"group": visit.field("group").strip() or None} if "group" in visit.form else {}
    return {
        **settings(
            kind=visit.field("type"),
            expr=visit.field("expr"),
            timezone=visit.field("timezone"),
            start=visit.field("start"),
            end=visit.field("end"),
            now=visit.now,
        ),
        "missed": visit.field("missed"),
        "overlap": visit.field("overlap"),
        "max_attempts": _attempts(visit.field("max_attempts").strip()),
        **group,
    }


def _attempts(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise InvalidArgumentError(f"the attempts are {text[:80]!r}; write a whole number of at least 1, or nothing")
    return int(text)


def _payload(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidJSONError(f"the payload is not JSON: {error}") from None


def _seen(visit: Visit) -> datetime:
    """Return the ``updated_at`` of the schedule that a form was made from."""
    try:
        return datetime.fromisoformat(visit.field("seen"))
    except ValueError:
        raise InvalidArgumentError("the form does not say of when it is; load the page again") from None


def _is_as_seen(visit: Visit, schedule: Schedule) -> bool:
    """Say whether a schedule has not changed since the page that a form was on. That it fires is no change."""
    return visit.field("seen") == "" or _seen(visit) == schedule.updated_at


def _kept(visit: Visit) -> Timing | None:
    """Return the timing of the schedule whose form asks, as the form carries it; ``None`` if it carries none.

    An expression of an earlier release is explained as the schedule keeps it, and an interval in its own rhythm.
    """
    try:
        kind = ScheduleType(visit.query("was_type"))
        start, following = visit.query("was_start"), visit.query("was_next")
        return Timing(
            schedule_type=kind,
            expr=visit.query("was_expr"),
            timezone=visit.query("was_timezone") or None,
            start_at=datetime.fromisoformat(start).astimezone(UTC) if start else None,
            anchor=(
                datetime.fromisoformat(following).astimezone(UTC)
                if following and kind is ScheduleType.INTERVAL
                else None
            ),
        )
    except (ValueError, OverflowError):
        return None


def _found(visit: Visit) -> Schedule | None:
    return visit.jobs.get_schedule(visit.request.path_params["schedule_id"])


GET, POST = ["GET"], ["POST"]

PAGES: list[tuple[str, list[str], Page]] = [
    ("/schedules", GET, show_list),
    ("/schedules/explain", GET, explain),
    ("/schedules/{schedule_id}", GET, show),
    ("/schedules/{schedule_id}/payload", GET, show_payload),
    ("/schedules/{schedule_id}/edit", GET, show_form),
    ("/schedules/{schedule_id}/edit", POST, save),
    ("/schedules/{schedule_id}/enable", POST, enable),
    ("/schedules/{schedule_id}/disable", POST, disable),
    ("/schedules/{schedule_id}/trigger", POST, trigger),
    ("/schedules/{schedule_id}/delete", POST, delete),
    ("/schedules/{schedule_id}/restore", POST, restore),
]
