"""Which runs a person wants to see, as the address bar holds it, and what the library takes for it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from kumofire_core import RunFilter, RunStatus
from kumofire_core.console.visit import Visit
from kumofire_core.errors import InvalidArgumentError
from kumofire_core.text import iso, parse_moment

NAMES = ("status", "job", "error", "since", "until", "q")
"""The parameters in the address, and the fields of the form."""

MOST_CHARACTERS = 255
"""Of a field; a text of an id or key may be longer, up to that of a key."""
MOST_TEXT_CHARACTERS = 1024

ENDED = (RunStatus.FAILED, RunStatus.CANCELED, RunStatus.SUCCEEDED)

ACTIONS: dict[str, tuple[str, ...]] = {
    "": ("retry", "cancel", "delete"),
    RunStatus.SCHEDULED: ("cancel",),
    RunStatus.QUEUED: ("cancel",),
    RunStatus.RUNNING: ("cancel",),
    RunStatus.FAILED: ("retry", "delete"),
    RunStatus.CANCELED: ("retry", "delete"),
    RunStatus.SUCCEEDED: ("delete",),
}
"""What can be done to runs of a status; the empty one is all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """A person's choice of runs."""

    typed: dict[str, str]
    """What the fields hold, right or wrong."""
    wanted: RunFilter
    """What the right ones of these mean."""
    wrong: dict[str, str]
    """What is wrong, by field."""

    @property
    def is_empty(self) -> bool:
        """Whether every run is wanted."""
        return not any(self.typed.values())

    @property
    def status(self) -> str:
        """The status that is wanted, empty for any."""
        return "" if self.wanted.status is None else self.wanted.status.value

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``list_runs``, ``retry_many`` and so on take for it."""
        given = {each.name: getattr(self.wanted, each.name) for each in fields(self.wanted)}
        return {name: value for name, value in given.items() if value is not None}

    def query(self, **changed: str) -> dict[str, str]:
        """Return the parameters of the address for it, with some of them changed."""
        return {name: value for name, value in (self.typed | changed).items() if value}

    def fixed(self) -> dict[str, str]:
        """Return the parameters with times in place of durations: what they mean does not change with the clock."""
        times = {"since": iso(self.wanted.since) or "", "until": iso(self.wanted.until) or ""}
        return self.query(**times)

    def words(self) -> str:
        """Return what is wanted in words: ``failed runs of job email``."""
        wanted = self.wanted
        parts = [f"{self.status} runs".strip()]
        parts += [f"of job {wanted.job_name}"] if wanted.job_name is not None else []
        parts += [f"with {wanted.error_type}"] if wanted.error_type is not None else []
        parts += [f"whose id or key has {wanted.text}"] if wanted.text is not None else []
        parts += [f"since {_minute(wanted.since)}"] if wanted.since is not None else []
        parts += [f"until {_minute(wanted.until)}"] if wanted.until is not None else []
        return " ".join(parts)


def filters_of(visit: Visit, given: dict[str, str] | None = None) -> Filters:
    """Return what the address, or ``given``, wants. What can't be meant is left out, and told in ``wrong``."""
    typed = {name: visit.query(name) if given is None else given.get(name, "").strip() for name in NAMES}
    wrong: dict[str, str] = {}
    found: dict[str, Any] = {}
    if typed["status"]:
        if typed["status"] in set(RunStatus):
            found["status"] = RunStatus(typed["status"])
        else:
            wrong["status"] = f"There is no such status; it is one of {', '.join(RunStatus)}."
    for name, argument, most in (
        ("job", "job_name", MOST_CHARACTERS),
        ("error", "error_type", MOST_CHARACTERS),
        ("q", "text", MOST_TEXT_CHARACTERS),
    ):
        if not typed[name]:
            continue
        if len(typed[name]) > most:
            wrong[name] = f"This is too long; {most} characters are the most."
        elif not typed[name].isprintable():
            wrong[name] = "There are characters in this that can't be printed."
        else:
            found[argument] = typed[name]
    for name in ("since", "until"):
        if typed[name]:
            try:
                found[name] = moment(name, typed[name], visit.now)
            except InvalidArgumentError:
                wrong[name] = "Write a duration such as 2h or 7d, or a time such as 2026-11-26T09:30 (UTC)."
    if "since" in found and "until" in found and found["since"] > found["until"]:
        wrong["until"] = "This is before the other time."
        del found["until"]
    return Filters(typed=typed, wanted=RunFilter(**found), wrong=wrong)


def moment(name: str, text: str, now: datetime, *, ahead: bool = False) -> datetime:
    """Return the time that a person wrote. What has no offset is in UTC, whatever the zone of this machine is.

    Raises ``InvalidArgumentError``.
    """
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        return parse_moment(name, text, now=now, ahead=ahead)
    return parse_moment(name, (given if given.tzinfo else given.replace(tzinfo=UTC)).isoformat(), now=now)


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
