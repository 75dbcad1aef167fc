"""A run: its statuses, its public form, and its form in the table. Free of AWS, clocks and the engine."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from kumofire_core import jsontext, sealing
from kumofire_core.errors import CorruptItemError, NewerSchemaError
from kumofire_core.times import from_ms, to_ms
from kumofire_core.write import SCHEMA, Attributes, number, read_moment, read_number, read_text

MAX_ITEM_BYTES = 400 * 1024
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html (item size)"""

RESERVED_ITEM_BYTES = 24 * 1024
"""What a run's other attributes may take together: name, keys, tokens, times and the last error."""

MAX_PAYLOAD_BYTES = MAX_ITEM_BYTES - RESERVED_ITEM_BYTES
MAX_NAME_LENGTH = 255
MAX_KEY_LENGTH = 1024
HISTORY_LENGTH = 10
HISTORY_ERROR_LENGTH = 200


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a job with one payload, as the application sees it. Times are aware UTC datetimes."""

    id: str
    job_name: str
    payload: Any = field(repr=False)
    status: RunStatus
    attempt: int
    """Attempts that ended without success."""
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
    history: tuple[PastRun, ...] = ()
    """What it was before each of a person's retries, oldest first; the last ten of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """How a run had ended when a person retried it."""

    status: RunStatus
    attempt: int
    finished_at: datetime | None
    last_error: str | None = field(default=None, repr=False)
    cancel_reason: str | None = None


@dataclass(slots=True, kw_only=True)
class StoredRun:
    """A run with what the table knows beside: its lease, its wake-up and the tokens of the last writes.

    Made for every message, so not frozen: that would take three times as long. Nobody changes one.
    """

    run: Run
    lease_token: str | None
    lease_until: int | None
    claims: int
    """Raised by every claim: the fencing number."""
    wake_at: int | None
    timeout_ms: int | None
    sends: int
    """How often its message was sent while it has been queued."""
    payload_text: str = field(repr=False)
    """The payload as it is stored; ``run`` has its value, or ``SEALED`` where it is encrypted."""
    output_text: str | None = field(repr=False)
    inherits_max_attempts: bool
    """Its creator knew no handler, so the limit is the registered job's, written with the next transition."""


def text_bytes(text: str) -> int:
    """Return how many bytes a text takes in an item."""
    return len(text) if text.isascii() else len(text.encode())


def new_run_id() -> str:
    """Return an id that no other run has."""
    return uuid.uuid4().hex


def derived_run_id(*parts: str) -> str:
    """Return the one id that belongs to ``parts``: what makes a key unique by a plain conditional put."""
    # A length before each part keeps ("ab", "c") apart from ("a", "bc").
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def wake_shard(run_id: str, shards: int) -> int:
    """Return the index partition of an id. Stored with the item, so the number of shards may grow."""
    return int.from_bytes(hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).digest()[:4]) % shards


def read_run(run_id: str, attributes: Attributes, *, default_max_attempts: int) -> StoredRun:
    """Return the stored run that ``attributes`` hold.

    Raises ``NewerSchemaError`` for an item of a later release, ``CorruptItemError`` for one that can't be read.
    """
    key = f"run#{run_id}"
    try:
        schema = number(attributes, "schema")
        if schema > SCHEMA:
            raise NewerSchemaError(key, schema, SCHEMA)
        payload_text = str(attributes["payload"])
        output_text = read_text(attributes, "output")
        job_name = str(attributes["job_name"])
        if not 1 <= len(job_name) <= MAX_NAME_LENGTH:
            raise ValueError("job_name")
        lease_token, lease_until = read_text(attributes, "lease_token"), read_number(attributes, "lease_until")
        if attributes["status"] == RunStatus.RUNNING and (lease_token is None or lease_until is None):
            raise ValueError("lease")
        timeout_ms = read_number(attributes, "timeout_ms")
        if timeout_ms is not None and timeout_ms < 1:
            raise ValueError("timeout_ms")
        run = Run(
            id=run_id,
            job_name=job_name,
            payload=sealing.read(payload_text),
            status=RunStatus(str(attributes["status"])),
            attempt=number(attributes, "attempt"),
            max_attempts=number(attributes, "max_attempts", default_max_attempts),
            scheduled_for=from_ms(number(attributes, "scheduled_for")),
            created_at=from_ms(number(attributes, "created_at")),
            updated_at=from_ms(number(attributes, "updated_at")),
            started_at=read_moment(attributes, "started_at"),
            finished_at=read_moment(attributes, "finished_at"),
            last_error=read_text(attributes, "last_error"),
            output=None if output_text is None else sealing.read(output_text),
            schedule_id=read_text(attributes, "schedule_id"),
            dedupe_key=read_text(attributes, "dedupe_key"),
            cancel_requested="cancel_requested_at" in attributes,
            cancel_reason=read_text(attributes, "cancel_reason"),
            history=_history(attributes),
        )
        return StoredRun(
            run=run,
            lease_token=lease_token,
            lease_until=lease_until,
            claims=number(attributes, "claims", 0),
            wake_at=read_number(attributes, "wake_at"),
            timeout_ms=timeout_ms,
            sends=number(attributes, "sends", 1),
            payload_text=payload_text,
            output_text=output_text,
            inherits_max_attempts="max_attempts" not in attributes,
        )
    except KeyError as error:
        raise CorruptItemError(key, f"it has no attribute {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptItemError(key, f"an attribute holds a wrong value ({type(error).__name__})") from None


def history_with(run: Run) -> str:
    """Return the stored form of a run's history with how it has ended now; bounded, the oldest goes first."""
    now = PastRun(
        status=run.status,
        attempt=run.attempt,
        finished_at=run.finished_at,
        last_error=run.last_error,
        cancel_reason=run.cancel_reason,
    )
    past = [
        [
            entry.status.value,
            entry.attempt,
            None if entry.finished_at is None else to_ms(entry.finished_at),
            None if entry.last_error is None else entry.last_error[:HISTORY_ERROR_LENGTH],
            None if entry.cancel_reason is None else entry.cancel_reason[:HISTORY_ERROR_LENGTH],
        ]
        for entry in (*run.history, now)[-HISTORY_LENGTH:]
    ]
    return jsontext.encode("the history", past)


def _text_or_none(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("history")
    return value


def _history(attributes: Attributes) -> tuple[PastRun, ...]:
    text = read_text(attributes, "history")
    if text is None:
        return ()
    past: Any = jsontext.decode(text)
    return tuple(
        PastRun(
            status=RunStatus(status),
            attempt=int(attempt),
            finished_at=None if finished_at is None else from_ms(int(finished_at)),
            last_error=_text_or_none(last_error),
            cancel_reason=_text_or_none(rest[0] if rest else None),
        )
        for status, attempt, finished_at, last_error, *rest in past
    )
