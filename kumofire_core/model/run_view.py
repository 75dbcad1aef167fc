"""A run as the application sees it.

These classes take a consumer's process as long to make as ten other modules, and it needs them when somebody asks for
a run: so whatever a consumer imports at its start imports this module inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from kumofire_core.model.run import AttemptEnding, RunStatus


class Attempt(NamedTuple):
    """One call of a run's handler. Times are aware UTC datetimes."""

    number: int
    """1 for the first. It starts again at 1 when a person retries the run."""
    started_at: datetime | None
    ended_at: datetime | None
    """``None`` while the handler is executing."""
    ended: AttemptEnding | None
    """``None`` while the handler is executing."""
    error_type: str | None = None
    """The name of the error's type."""
    message: str | None = None
    """The error's text, and what led to it; at most 600 bytes. ``None`` where it is encrypted and there is no key, or
    where it was dropped to make room for later attempts."""
    traceback: str | None = None
    """Where the error came from, at most 1,500 bytes; frames of libraries are left out first."""
    request_id: str | None = None
    """The Lambda invocation's request id, by which its log lines are found."""
    log_stream: str | None = None
    retries: int = 0
    """How often a person had retried the run before this attempt."""

    def __repr__(self) -> str:
        # An error's text may quote the payload, so a log that prints a run must not show it.
        return f"Attempt(number={self.number}, retries={self.retries}, ended={self.ended!r}, error={self.error_type!r})"


class RunProgress(NamedTuple):
    """What a handler told by ``ctx.progress``."""

    fraction: float
    """From 0 to 1."""
    note: str | None
    at: datetime

    def __repr__(self) -> str:
        return f"RunProgress(fraction={self.fraction}, at={self.at!r})"  # the note may quote the payload


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
    attempts: tuple[Attempt, ...] = ()
    """The last ten attempts, oldest first, those before a person's retry among them; one that is under way is the last.

    They are kept in about 5 KB: the oldest lose their texts first."""
    error_type: str | None = None
    """The name of the latest error's type, or why the run failed without an attempt."""
    retries: int = 0
    """How often a person has retried it."""
    paused: bool = False
    """Whether it waits because its job is paused."""
    progress: RunProgress | None = None
    """What the latest attempt told of its progress, at most once a second."""
    parent_id: str | None = None
    """The id of the run whose handler created it."""
    created_by: str | None = None
    """The name of the process that created it: its ``creator`` setting, or else its Lambda function's name."""
    group: str | None = None
    """Whom its messages are counted for, so that SQS can be fair (docs/fairness.md)."""
    waiting_for_limit: bool = False
    """Whether it waits because as many runs as its job's limit allows are executing (docs/limits.md)."""
    batch_id: str | None = None
    """The id of the batch that it is a member of (docs/batches.md)."""
    batch_index: int | None = None
    """Its place among the members, from 0."""
    callback_of: str | None = None
    """The id of the batch whose callback it is."""
    waiting_for: str | None = None
    """The name of the signal that it waits for (docs/steps.md)."""
    kept_steps: int = 0
    """How many results of steps and signals it had kept when a consumer last let go of it; ``Jobs.steps`` has them."""
    occurrence: datetime | None = None
    """The occurrence of its schedule that it is for, or when it was triggered. No retry moves it.

    ``None`` for a run that no schedule made, and for one that a release before this attribute stored."""

    @property
    def failed_attempts(self) -> int:
        """The number of attempts that have ended without success."""
        return self.attempt
