"""A run as the application sees it: its statuses, its public form, and what is asked for when one is created."""

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
    """Where a run stands."""

    SCHEDULED = "scheduled"
    """Waits for its time. A delivered message moves it on once it is due; the dispatcher sends that message."""

    QUEUED = "queued"
    """Its message is on the queue. A consumer moves it on; the dispatcher sends a lost message again."""

    RUNNING = "running"
    """A consumer holds its lease. That consumer moves it on; after the lease, any consumer or the dispatcher."""

    SUCCEEDED = "succeeded"
    """The handler returned. Final."""

    FAILED = "failed"
    """Attempts are used up, or no handler has its name. Final, but for a person's retry."""

    CANCELED = "canceled"
    """A person canceled it. Final, but for a person's retry."""


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
    """The attempt failed, and no other follows because the run's cancellation had been requested."""


class RetriedRun(NamedTuple):
    """How a run had ended when a person retried it."""

    status: RunStatus
    attempt: int
    """How many attempts had ended without success."""
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
    """How many attempts have ended without success; ``failed_attempts`` is the same number."""
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
    """A person asked for its cancellation while it was executing."""
    cancel_reason: str | None = None
    history: tuple[RetriedRun, ...] = ()
    """How the run had ended before each of a person's retries, oldest first; the last ten of them."""

    @property
    def failed_attempts(self) -> int:
        """How many attempts have ended without success."""
        return self.attempt


class NewRun(NamedTuple):
    """A run to be created: checked, and in the form in which it will be stored."""

    id: str
    job_name: str
    payload: str
    """JSON text, encrypted where there is a cipher."""
    max_attempts: int | None
    due_ms: int
    now_ms: int
    schedule_id: str | None = None
    dedupe_key: str | None = None


def new_run_id() -> str:
    """Return an id that no other run has."""
    return os.urandom(16).hex()


def derived_run_id(*parts: str) -> str:
    """Return the one id that belongs to ``parts``: what makes a key unique by a plain conditional put."""
    # A length before each part keeps ("ab", "c") apart from ("a", "bc").
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]
