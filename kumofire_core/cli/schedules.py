"""``kumofire schedules``: look at schedules, and change them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

from cyclopts import App, Parameter

from kumofire_core.cli.display import DIM, GREEN, YELLOW, Cell, Column
from kumofire_core.cli.exits import NotDoneError, UsageError
from kumofire_core.cli.forms import schedule_form
from kumofire_core.cli.inputs import Payload, payload_of
from kumofire_core.cli.invocation import Here, Invocation, Yes
from kumofire_core.cli.run_views import value_lines
from kumofire_core.text import absolute, both, iso, parse_length, parse_moment, relative

if TYPE_CHECKING:
    from kumofire_core.jobs import Jobs
    from kumofire_core.model.schedule import Schedule, Timing

app = App(name="schedules")

OCCURRENCES = 10
NONE = "none"

ScheduleId = Annotated[str | None, Parameter(help="The schedule's id.")]
Key = Annotated[str | None, Parameter(name="--key", help="The schedule_key, in place of the id.")]
Cron = Annotated[str | None, Parameter(help="It runs by a cron expression: '30 7 * * MON-FRI'.")]
Every = Annotated[str | None, Parameter(help="It runs at an interval: 5m, 1h30m, 7d, or 'rate(5 minutes)'.")]
OnceAt = Annotated[
    str | None,
    Parameter(name="--at", help="It runs once: 2026-12-01T09:30, in --timezone or this machine's zone."),
]
Timezone = Annotated[str | None, Parameter(help="An IANA name such as Europe/Berlin. [default: UTC]")]
MaxAttempts = Annotated[str | None, Parameter(help="How often each of its runs is attempted; 'none': the job decides.")]
Missed = Annotated[
    Literal["all", "latest", "skip"] | None, Parameter(help="Which of the times run that the dispatcher finds late.")
]
Overlap = Annotated[
    Literal["allow", "skip"] | None, Parameter(help="Whether a time is skipped while the run before is unfinished.")
]
StartAt = Annotated[str | None, Parameter(help="It does not run before this time ('none': no such limit).")]
Group = Annotated[
    str | None, Parameter(help="The group of its runs, such as a tenant's id, by which SQS is fair ('none': none).")
]
EndAt = Annotated[str | None, Parameter(help="It does not run after this time ('none': no such limit).")]

COLUMNS = (
    Column("ID"),
    Column("KEY", least=8),
    Column("JOB", least=8),
    Column("STATE"),
    Column("TIMES", least=12),
    Column("ZONE", least=6),
    Column("NEXT"),
    Column("LAST"),
)


@app.command(name="list")
def list_schedules(
    *,
    limit: Annotated[int, Parameter(help="Show so many at most, up to 100.")] = 100,
    page: Annotated[str | None, Parameter(help="The page that next_page of the page before names.")] = None,
    here: Here,
) -> None:
    """List schedules, those that run next first."""
    found = here.jobs.list_schedules(limit=limit, page=page)
    if here.as_json:
        here.emit({"schedules": [schedule_form(each) for each in found.schedules], "next_page": found.next_page})
        return
    now = here.now()
    if not found.schedules:
        here.say("there are no schedules")
        return
    here.show_table(COLUMNS, [_row(each, now) for each in found.schedules])
    if found.next_page:
        here.say(f"there may be more: --page {found.next_page}")


@app.command
def show(
    schedule_id: ScheduleId = None,
    /,
    *,
    key: Key = None,
    payload: Annotated[bool, Parameter(negative=(), help="Show its payload too.")] = False,
    here: Here,
) -> None:
    """Show a schedule."""
    _show(here, _found(here, schedule_id, key), payload=payload)


@app.command
def create(
    job: Annotated[str, Parameter(help="The job's name.")],
    /,
    *,
    cron: Cron = None,
    every: Every = None,
    at: OnceAt = None,
    timezone: Timezone = None,
    payload: Payload = None,
    key: Annotated[str | None, Parameter(name="--key", help="A schedule_key that no other schedule has.")] = None,
    max_attempts: MaxAttempts = None,
    missed: Missed = None,
    overlap: Overlap = None,
    start_at: StartAt = None,
    end_at: EndAt = None,
    group: Group = None,
    disabled: Annotated[bool, Parameter(negative=(), help="Do not enable it yet.")] = False,
    here: Here,
) -> None:
    """Create a schedule that makes runs of a job, and print its id."""
    changes = _changes(
        here,
        cron=cron,
        every=every,
        at=at,
        timezone=timezone,
        max_attempts=max_attempts,
        missed=missed,
        overlap=overlap,
        start_at=start_at,
        end_at=end_at,
        group=group,
    )
    if "schedule_expr" not in changes:
        raise UsageError("it is not said when the schedule runs; give --cron, --every or --at")
    schedule_id = here.writing_jobs.create_schedule(
        job, payload_of(payload), schedule_key=key, enabled=not disabled, **changes
    )
    if here.as_json:
        here.emit({"id": schedule_id})
    else:
        here.show(schedule_id)


@app.command
def update(
    schedule_id: ScheduleId = None,
    /,
    *,
    key: Key = None,
    job: Annotated[str | None, Parameter(help="Another job's name.")] = None,
    cron: Cron = None,
    every: Every = None,
    at: OnceAt = None,
    timezone: Timezone = None,
    payload: Payload = None,
    max_attempts: MaxAttempts = None,
    missed: Missed = None,
    overlap: Overlap = None,
    start_at: StartAt = None,
    end_at: EndAt = None,
    group: Group = None,
    here: Here,
) -> None:
    """Change what is given of a schedule, and keep the rest."""
    changes = _changes(
        here,
        cron=cron,
        every=every,
        at=at,
        timezone=timezone,
        max_attempts=max_attempts,
        missed=missed,
        overlap=overlap,
        start_at=start_at,
        end_at=end_at,
        group=group,
    )
    if job is not None:
        changes["name"] = job
    if payload is not None:
        changes["payload"] = payload_of(payload)
    if not changes:
        raise UsageError("it is not said what is to be changed; --help shows the options")
    _show(here, _changed(here, schedule_id, key, **changes))


@app.command
def enable(schedule_id: ScheduleId = None, /, *, key: Key = None, here: Here) -> None:
    """Enable a schedule: its next time is computed anew."""
    _show(here, _changed(here, schedule_id, key, enabled=True))


@app.command
def disable(schedule_id: ScheduleId = None, /, *, key: Key = None, here: Here) -> None:
    """Disable a schedule: it makes no runs until it is enabled."""
    _show(here, _changed(here, schedule_id, key, enabled=False))


@app.command
def trigger(schedule_id: ScheduleId = None, /, *, key: Key = None, here: Here) -> None:
    """Make a run of a schedule now, and print the run's id. Its next time stays."""
    run_id = here.jobs.trigger_schedule(_id_of(here, schedule_id, key))
    if run_id is None:
        raise _unknown(schedule_id, key)
    if here.as_json:
        here.emit({"run_id": run_id})
    else:
        here.show(run_id)


@app.command
def delete(schedule_id: ScheduleId = None, /, *, key: Key = None, yes: Yes = False, here: Here) -> None:
    """Delete a schedule. The runs that it has made stay."""
    schedule = _found(here, schedule_id, key)
    here.confirm(f"Delete the schedule {_named(schedule)} of job {schedule.job_name}?", yes=yes)
    if not here.jobs.delete_schedule(schedule.id):
        raise _unknown(schedule_id, key)
    if here.as_json:
        here.emit({"deleted": [schedule.id]})
    else:
        here.show(f"{schedule.id} deleted")


@app.command(name="next")
def next_times(
    schedule_id: ScheduleId = None,
    /,
    *,
    key: Key = None,
    cron: Cron = None,
    every: Every = None,
    at: OnceAt = None,
    timezone: Timezone = None,
    count: Annotated[int, Parameter(help="How many, up to 1000.")] = OCCURRENCES,
    here: Here,
) -> None:
    """Show the next times at which a schedule runs, in its zone and in this machine's.

    With --cron, --every or --at it shows those of a schedule that does not exist yet, and asks nothing of AWS.
    """
    from kumofire_core.rules.recurrence import occurrences, timing_of

    if not 1 <= count <= 1000:
        raise UsageError(f"--count is {count}; it must be from 1 to 1000")
    tried = _changes(here, cron=cron, every=every, at=at, timezone=timezone)
    if tried:
        if schedule_id is not None or key is not None:
            raise UsageError("a schedule and an expression are both given; give one of them")
        if "schedule_expr" not in tried:
            raise UsageError("--timezone is given without --cron, --every or --at")
        timing, first = _tried_timing(tried, here.now())
        form: dict[str, Any] = {"schedule_id": None}
    else:
        schedule = _found(here, schedule_id, key)
        if schedule.next_run_at is None:
            why = "has no time left" if schedule.enabled else "is disabled, and runs at no time until it is enabled"
            raise NotDoneError(f"the schedule {_named(schedule)} {why}")
        timing, first = timing_of(schedule), schedule.next_run_at
        form = {"schedule_id": schedule.id}
    times = occurrences(timing, first, count)
    if here.as_json:
        here.emit(form | {"timezone": timing.timezone or "UTC", "occurrences": [iso(time) for time in times]})
        return
    zone, now = ZoneInfo(timing.timezone or "UTC"), here.now()
    here.show_table(
        [Column(f"IN {timing.timezone or 'UTC'}"), Column("HERE"), Column("")],
        [
            [f"{time.astimezone(zone):%a %Y-%m-%d %H:%M:%S %z}", absolute(time), Cell(relative(time, now), DIM)]
            for time in times
        ],
    )
    if not times:
        raise NotDoneError("this expression has no time that is still to come")


def _tried_timing(tried: dict[str, Any], now: datetime) -> tuple[Timing, datetime | None]:
    from kumofire_core.rules.recurrence import next_occurrence, parse_timing

    timing = parse_timing(**tried, anchor=now)
    return timing, next_occurrence(timing, now)


def _changes(
    here: Invocation,
    *,
    cron: str | None,
    every: str | None,
    at: str | None,
    timezone: str | None,
    max_attempts: str | None = None,
    missed: str | None = None,
    overlap: str | None = None,
    start_at: str | None = None,
    end_at: str | None = None,
    group: str | None = None,
) -> dict[str, Any]:
    """Return the settings that are given, as the API takes them."""
    changes: dict[str, Any] = {}
    if sum(each is not None for each in (cron, every, at)) > 1:
        raise UsageError("several of --cron, --every and --at are given; give one of them")
    if cron is not None:
        changes |= {"schedule_type": "cron", "schedule_expr": cron}
    if every is not None:
        changes |= {"schedule_type": "interval", "schedule_expr": _interval(every)}
    if at is not None:
        changes |= {"schedule_type": "once", "schedule_expr": _once(here, at, timezone)}
    if timezone is not None:
        changes["timezone"] = None if timezone == NONE else timezone
    if max_attempts is not None:
        changes["max_attempts"] = _max_attempts(max_attempts)
    if missed is not None:
        changes["missed"] = missed
    if overlap is not None:
        changes["overlap"] = overlap
    if group is not None:
        changes["group"] = None if group == NONE else group
    for name, option, text in (("start_at", "--start-at", start_at), ("end_at", "--end-at", end_at)):
        if text is not None:
            changes[name] = None if text == NONE else parse_moment(option, text, now=here.now(), ahead=True)
    return changes


def _interval(text: str) -> str | timedelta:
    return text if text.strip().startswith("rate(") else parse_length("--every", text)


def _once(here: Invocation, text: str, timezone: str | None) -> str | datetime:
    """Return a time to run once at; what has no offset is in ``timezone``, or in this machine's zone without one."""
    given = text.strip()
    if given.startswith("at("):
        return given
    moment = parse_moment("--at", text, now=here.now(), ahead=True)
    try:
        local = timezone not in (None, NONE) and datetime.fromisoformat(given).utcoffset() is None
    except ValueError:
        local = False  # a duration
    return f"at({datetime.fromisoformat(given).isoformat(timespec='seconds')})" if local else moment


def _max_attempts(text: str) -> int | None:
    if text == NONE:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise UsageError(f"--max-attempts is {text!r}; it must be a whole number, or 'none'")
    return int(text)


def _require_one(schedule_id: str | None, key: str | None) -> None:
    if (schedule_id is None) == (key is None):
        raise UsageError("a schedule is named by its id or by --key; give one of them")


def _unknown(schedule_id: str | None, key: str | None) -> NotDoneError:
    return NotDoneError(f"there is no schedule {schedule_id!r}" if key is None else f"no schedule has the key {key!r}")


def _find(jobs: Jobs, schedule_id: str | None, key: str | None) -> Schedule | None:
    if key is not None:
        return jobs.get_schedule_by_key(key)
    return None if schedule_id is None else jobs.get_schedule(schedule_id)


def _found(here: Invocation, schedule_id: str | None, key: str | None) -> Schedule:
    _require_one(schedule_id, key)
    schedule = _find(here.jobs, schedule_id, key)
    if schedule is None:
        raise _unknown(schedule_id, key)
    return schedule


def _id_of(here: Invocation, schedule_id: str | None, key: str | None) -> str:
    _require_one(schedule_id, key)
    return schedule_id if schedule_id is not None else _found(here, None, key).id


def _changed(here: Invocation, schedule_id: str | None, key: str | None, **changes: Any) -> Schedule:
    _require_one(schedule_id, key)
    jobs = here.writing_jobs if "payload" in changes else here.jobs
    if key is not None:
        schedule = jobs.update_schedule_by_key(key, **changes)
    else:
        schedule = jobs.update_schedule(str(schedule_id), **changes)
    if schedule is None:
        raise _unknown(schedule_id, key)
    return schedule


def _named(schedule: Schedule) -> str:
    return schedule.schedule_key or schedule.id


def _row(schedule: Schedule, now: datetime) -> list[Cell | str]:
    return [
        schedule.id,
        schedule.schedule_key or "",
        schedule.job_name,
        _state(schedule),
        schedule.schedule_expr,
        schedule.timezone or "",
        "" if schedule.next_run_at is None else relative(schedule.next_run_at, now),
        "" if schedule.last_scheduled_at is None else relative(schedule.last_scheduled_at, now),
    ]


def _state(schedule: Schedule) -> Cell:
    if not schedule.enabled:
        return Cell("disabled", YELLOW)
    return Cell("enabled", GREEN) if schedule.next_run_at is not None else Cell("ended", DIM)


def _show(here: Invocation, schedule: Schedule, *, payload: bool = False) -> None:
    if here.as_json:
        here.emit(schedule_form(schedule, payload=payload))
        return
    now = here.now()

    def time(moment: datetime | None) -> str | None:
        return None if moment is None else both(moment, now)

    here.show_fields(
        [
            ("id", schedule.id),
            ("key", schedule.schedule_key),
            ("job", schedule.job_name),
            ("state", _state(schedule)),
            ("times", f"{schedule.schedule_type} {schedule.schedule_expr}"),
            ("time zone", schedule.timezone),
            ("next", time(schedule.next_run_at)),
            ("last", time(schedule.last_scheduled_at)),
            ("attempts", None if schedule.max_attempts is None else f"at most {schedule.max_attempts} a run"),
            ("group", schedule.group),
            ("missed", schedule.missed.value),
            ("overlap", schedule.overlap.value),
            ("starts", time(schedule.start_at)),
            ("ends", time(schedule.end_at)),
            ("created", time(schedule.created_at)),
            ("changed", time(schedule.updated_at)),
        ]
    )
    if payload:
        here.lines(["", "payload", *(f"  {line}" for line in value_lines(schedule.payload))])
