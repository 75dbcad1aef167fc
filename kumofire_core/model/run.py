"""A run as the application sees it: its statuses, its public form, and the form of a run to be created."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

MAX_NAME_LENGTH = 255
MAX_KEY_LENGTH = 1024


class RunStatus(StrEnum):
    """The state of a run. Each status says who moves the run on."""

    SCHEDULED = "scheduled"
    """The run waits for its time. The dispatcher sends its message; a consumer that receives it moves the run on."""

    QUEUED = "queued"
    """The run's message is on the queue. A consumer moves the run on; the dispatcher sends a lost message again."""

    RUNNING = "running"
    """A consumer holds the run's lease and moves it on; after the lease, any consumer or the dispatcher does."""

    SUCCEEDED = "succeeded"
    """The handler returned. Final."""

    FAILED = "failed"
    """The last failure is not retried, or no handler has the job's name. Final, except for a person's retry."""

    CANCELED = "canceled"
    """A person canceled the run. Final, except for a person's retry."""


FINAL = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELED})


class Outcome(StrEnum):
    """The result of consuming one message."""

    IGNORED = "ignored"
    """Nothing was changed: the run does not exist, has ended, is not yet due, or is leased by another consumer."""
    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    """The attempt failed, and the run waits for the next one; or it waits for a consumer that has its handler."""
    FAILED = "failed"
    CANCELED = "canceled"
    """The attempt failed, and is not retried because a person had requested cancellation."""


class RetriedRun(NamedTuple):
    """The end of a run that a person then retried."""

    status: RunStatus
    attempt: int
    """The number of attempts that had ended without success."""
    finished_at: datetime | None
    last_error: str | None = None
    cancel_reason: str | None = None

    def __repr__(self) -> str:
        # An error's text may quote the payload, so a log that prints a run must not show it.
        return f"RetriedRun(status={self.status!r}, attempt={self.attempt}, finished_at={self.finished_at!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a job with one payload, as the application sees it. Times are aware UTC datetimes."""

    id: str
    job_name: str
    payload: Any = field(repr=False)
    status: RunStatus
    attempt: int
    """The number of attempts that have ended without success, the same as ``failed_attempts``."""
    max_attempts: int
    scheduled_for: datetime
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    """When the latest attempt started."""
    finished_at: datetime | None = None
    last_error: str | None = field(default=None, repr=False)
    output: Any = field(default=None, repr=False)
    schedule_id: str | None = None
    dedupe_key: str | None = None
    cancel_requested: bool = False
    """Whether a person requested cancellation while the run was executing."""
    cancel_reason: str | None = None
    history: tuple[RetriedRun, ...] = ()
    """How the run had ended before each retry by a person, oldest first; the last ten only.

    Each text is cut to 200 characters, or to fewer if the whole would exceed 4 KB."""

    @property
    def failed_attempts(self) -> int:
        """The number of attempts that have ended without success."""
        return self.attempt


class NewRun(NamedTuple):
    """A run to be created: its arguments are checked and in their stored form."""

    id: str
    job_name: str
    payload: str
    """JSON text, encrypted if there is a cipher."""
    max_attempts: int | None
    due_ms: int
    now_ms: int
    schedule_id: str | None = None
    dedupe_key: str | None = None
    traceparent: str | None = None
    """The W3C trace context of its creator, 55 characters, where creating it is traced."""


def new_run_id() -> str:
    """Return a random id of 128 bits, as hexadecimal digits."""
    return os.urandom(16).hex()


def derived_run_id(*parts: str) -> str:
    """Return the id for ``parts``. Equal parts get an equal id, so a conditional put keeps a key unique."""
    # The length before each part makes ("ab", "c") differ from ("a", "bc").
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]
