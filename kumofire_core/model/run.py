"""A run's statuses, how runs and their attempts end, and the form of a run to be created."""

from __future__ import annotations

import hashlib
import os
from enum import StrEnum
from typing import Final, NamedTuple

MAX_NAME_LENGTH = 255
MAX_KEY_LENGTH = 1024
MAX_CREATOR_LENGTH = 128


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


class AttemptEnding(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    RAISED = "raised"
    """The handler raised an error, or returned what can't be stored."""
    TIMED_OUT = "timed_out"
    """The handler did not return within its job's timeout, or before its process's deadline."""
    WORKER_LOST = "worker_lost"
    """The lease expired without a word from the consumer: its process died or was cut off."""
    SNOOZED = "snoozed"
    """The handler raised ``Snooze``. The attempt does not count."""
    CANCELED = "canceled"
    """The handler raised ``Cancel``, or it failed after a person had requested cancellation."""


class NotRead:
    """The type of ``NOT_READ``."""

    def __repr__(self) -> str:
        return "NOT_READ"


NOT_READ: Final = NotRead()
"""The payload and the output of a run that was read without them."""


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
    dedupe_mode: str | None = None
    """``unfinished``, ``period`` or ``debounce``; ``None`` for a key that makes one run while that is kept."""
    period_ms: int | None = None
    generation: int | None = None
    """Which run of its key it is, from 1, where the key can make several."""
    payload_text: str = ""
    """JSON text, not encrypted, where the run's id, which it is encrypted for, is not known yet."""
    traceparent: str | None = None
    """The W3C trace context of its creator, 55 characters, where creating it is traced."""
    parent_id: str | None = None
    """The run whose handler creates it."""
    group: str | None = None
    """The ``MessageGroupId`` of its messages."""
    batch: tuple[str, int, int] | None = None
    """The batch that it is a member of, its place among the members, and how many these are."""
    callback_of: str | None = None
    """The batch whose callback it is."""
    occurrence_ms: int | None = None
    """The occurrence of its schedule that it is for."""


def new_run_id() -> str:
    """Return a random id of 128 bits, as hexadecimal digits."""
    return os.urandom(16).hex()


def derived_run_id(*parts: str) -> str:
    """Return the id for ``parts``. Equal parts get an equal id, so a conditional put keeps a key unique."""
    # The length before each part makes ("ab", "c") differ from ("a", "bc").
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]
