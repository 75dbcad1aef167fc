"""``kumofire pause``, ``resume`` and ``pauses``: let nothing of a job start, and let it go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kumofire_core.cli.display import Column
from kumofire_core.cli.exits import NotDoneError, UsageError
from kumofire_core.cli.invocation import Here, Invocation
from kumofire_core.text import both, iso, parse_moment, relative

if TYPE_CHECKING:
    from kumofire_core.engine.pauses import Pause

ALL = "all jobs"
COLUMNS = (Column("JOB"), Column("PAUSED"), Column("UNTIL"), Column("REASON", least=12))

Job = Annotated[str | None, Parameter(help="The job's name.")]
Everything = Annotated[bool, Parameter(name="--all", negative=(), help="All jobs.")]


def pause(
    job: Job = None,
    /,
    *,
    everything: Everything = False,
    reason: Annotated[str | None, Parameter(help="For the people who look at it.")] = None,
    until: Annotated[str | None, Parameter(help="Resume by itself then: 2h (from now), 2026-12-01T09:30.")] = None,
    here: Here,
) -> None:
    """Let nothing of a job start, on any consumer, within a minute. Its runs wait, and go on when it is resumed."""
    name = _name(job, everything)
    now = here.now()
    ends = None if until is None else parse_moment("--until", until, now=now, ahead=True)
    here.jobs.pause(name, reason=reason, until=ends)
    if here.as_json:
        _emit(here)
    else:
        after = "" if ends is None else f" until {both(ends, now)}"
        here.show(f"{name or ALL} paused{after}; within a minute nothing of it starts any more")


def resume(job: Job = None, /, *, everything: Everything = False, here: Here) -> None:
    """Let the runs of a paused job go on, in the order of their times."""
    name = _name(job, everything)
    if not here.jobs.resume(name):
        raise NotDoneError("all jobs are not paused together" if name is None else f"the job {name!r} is not paused")
    if here.as_json:
        _emit(here)
    else:
        here.show(f"{name or ALL} resumed; the dispatcher's next pass sends what waits")
        if name is not None and any(each.job_name is None for each in here.jobs.pauses()):
            here.say("all jobs are paused, so it waits on until `kumofire resume --all`")


def pauses(*, here: Here) -> None:
    """List what is paused."""
    if here.as_json:
        _emit(here)
        return
    found, now = here.jobs.pauses(), here.now()
    if not found:
        here.say("nothing is paused")
        return
    rows = [
        [
            each.job_name or ALL,
            relative(each.since, now),
            "" if each.until is None else both(each.until, now),
            each.reason or "",
        ]
        for each in found
    ]
    here.show_table(COLUMNS, rows)


def _name(job: str | None, everything: bool) -> str | None:
    if (job is None) != everything:
        raise UsageError("it is not said what is meant; name one job, or give --all")
    return job


def _emit(here: Invocation) -> None:
    here.emit({"pauses": [pause_form(each) for each in here.jobs.pauses()]})


def pause_form(pause: Pause) -> dict[str, str | None]:
    """Return the JSON form of a pause."""
    return {
        "job_name": pause.job_name,
        "since": iso(pause.since),
        "until": iso(pause.until),
        "reason": pause.reason,
    }
