"""The options that say which runs are meant, where no ids are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from kumofire_core.cli.invocation import Invocation
from kumofire_core.text import absolute, parse_moment

if TYPE_CHECKING:
    from kumofire_core.model.run_view import Run

PAGE = 100
"""The most runs that one call of ``list_runs`` returns."""

Status = Literal["scheduled", "queued", "running", "succeeded", "failed", "canceled"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which runs are meant."""

    status: Annotated[Status | None, Parameter(help="Runs of this status.")] = None
    job: Annotated[str | None, Parameter(help="Runs of this job.")] = None
    since: Annotated[
        str | None, Parameter(help="Runs that ended, or are due, at this time or later: 2h (ago), 2026-12-01T09:30.")
    ] = None
    until: Annotated[str | None, Parameter(help="Runs that ended, or are due, at this time or before.")] = None
    error_type: Annotated[
        str | None, Parameter(help="Runs whose latest error is of this type, such as ValueError.")
    ] = None
    text: Annotated[
        str | None, Parameter(help="Runs with this text in their id or dedupe_key; each run is read for it.")
    ] = None

    @property
    def is_empty(self) -> bool:
        """Whether it fits every run."""
        return self == Filter()

    def arguments(self, here: Invocation) -> dict[str, Any]:
        """Return the arguments that ``Jobs`` takes for it; only those that are given."""
        now = here.now()
        found = {
            "status": self.status,
            "job_name": self.job,
            "since": None if self.since is None else parse_moment("--since", self.since, now=now),
            "until": None if self.until is None else parse_moment("--until", self.until, now=now),
            "error_type": self.error_type,
            "text": self.text,
        }
        return {name: value for name, value in found.items() if value is not None}


NO_FILTER = Filter()


def described(arguments: dict[str, Any]) -> str:
    """Return what is meant in words, for a question: ``failed runs of job email since 2026-…``."""
    parts = [arguments["status"], "runs"] if "status" in arguments else ["runs"]
    if "job_name" in arguments:
        parts.append(f"of job {arguments['job_name']}")
    if "error_type" in arguments:
        parts.append(f"with {arguments['error_type']}")
    if "text" in arguments:
        parts.append(f"with {arguments['text']!r} in their id or dedupe_key")
    if "since" in arguments:
        parts.append(f"since {absolute(arguments['since'])}")
    if "until" in arguments:
        parts.append(f"until {absolute(arguments['until'])}")
    return " ".join(parts)


def each_page(
    here: Invocation, arguments: dict[str, Any], *, limit: int, page: str | None = None
) -> Iterator[tuple[tuple[Run, ...], str | None]]:
    """Yield the pages of a list until ``limit`` runs were found, each with the page after it."""
    left = limit
    while left > 0:
        found = here.jobs.list_runs(**arguments, limit=min(PAGE, left), page=page)
        left -= len(found.runs)
        page = found.next_page
        yield found.runs, page
        if page is None:
            return
