"""A run: its statuses, its public form, and its form in the table. Free of AWS, clocks and the engine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import repeat
from typing import TYPE_CHECKING, Any

from kumofire_core import sealing
from kumofire_core.errors import CorruptItemError, NewerSchemaError
from kumofire_core.times import LAST_MS, from_ms, to_ms
from kumofire_core.write import SCHEMA, Attributes

if TYPE_CHECKING:
    from kumofire_core.history import PastRun

MAX_ITEM_BYTES = 400 * 1024
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html (item size)"""

RESERVED_ITEM_BYTES = 24 * 1024
"""What a run's other attributes may take together: name, keys, tokens, times and the last error."""

MAX_PAYLOAD_BYTES = MAX_ITEM_BYTES - RESERVED_ITEM_BYTES
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


_STATUSES: dict[str, RunStatus] = {status.value: status for status in RunStatus}
"""``RunStatus(text)`` runs Python code of ``enum`` each time."""

FINAL = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELED})

_TEXTS = (
    "status",
    "job_name",
    "payload",
    "output",
    "lease_token",
    "last_error",
    "schedule_id",
    "dedupe_key",
    "cancel_reason",
    "history",
)
_TIMES = ("scheduled_for", "created_at", "updated_at", "started_at", "finished_at")
_NUMBERS = ("schema", *_TIMES, "lease_until", "attempt", "max_attempts", "claims", "sends", "wake_at", "timeout_ms")
_TYPES: dict[str, type] = {**dict.fromkeys(_TEXTS, str), **dict.fromkeys(_NUMBERS, int)}
"""What a stored run's attributes are, other than tokens of writes: those are only ever compared."""
_FIRST_MS = to_ms(datetime.min.replace(tzinfo=UTC))


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


class StoredRun:
    """A run as its item holds it: what the engine reads for every message, and ``run``, made when it is asked for."""

    __slots__ = (
        "_item",
        "_run",
        "attempt",
        "claims",
        "history",
        "id",
        "job_name",
        "lease_token",
        "lease_until",
        "max_attempts",
        "output",
        "payload",
        "payload_text",
        "status",
        "timeout_ms",
    )

    def __init__(self, run_id: str, item: Mapping[str, Any], default_max_attempts: int) -> None:
        get = item.get
        output, history = get("output"), get("history")
        self._item = item
        self._run: Run | None = None
        self.id = run_id
        self.job_name: str = item["job_name"]
        self.status = _STATUSES.get(item["status"]) or RunStatus(item["status"])
        self.attempt: int = item["attempt"]
        self.max_attempts: int = get("max_attempts", default_max_attempts)
        self.lease_token: str | None = get("lease_token")
        self.lease_until: int | None = get("lease_until")
        self.claims: int = get("claims", 0)
        """Raised by every claim: the fencing number."""
        self.timeout_ms: int | None = get("timeout_ms")
        self.payload_text: str = item["payload"]
        """The payload as it is stored; ``payload`` is its value, or ``SEALED`` where it is encrypted."""
        self.payload = sealing.read(self.payload_text)
        self.output = None if output is None else sealing.read(output)
        self.history: tuple[PastRun, ...] = ()
        if history is not None:  # seldom, so only then imported
            from kumofire_core.history import read_history

            self.history = read_history(history)

    @property
    def run(self) -> Run:
        """The run as the application sees it."""
        if self._run is None:
            item, get = self._item, self._item.get
            started, finished = get("started_at"), get("finished_at")
            self._run = Run(
                id=self.id,
                job_name=self.job_name,
                payload=self.payload,
                status=self.status,
                attempt=self.attempt,
                max_attempts=self.max_attempts,
                scheduled_for=from_ms(item["scheduled_for"]),
                created_at=from_ms(item["created_at"]),
                updated_at=from_ms(item["updated_at"]),
                started_at=None if started is None else from_ms(started),
                finished_at=None if finished is None else from_ms(finished),
                last_error=get("last_error"),
                output=self.output,
                schedule_id=get("schedule_id"),
                dedupe_key=get("dedupe_key"),
                cancel_requested=self.cancel_requested,
                cancel_reason=get("cancel_reason"),
                history=self.history,
            )
        return self._run

    @property
    def updated_at(self) -> int:
        """Epoch milliseconds of the latest write that a person would call a change."""
        return int(self._item["updated_at"])

    @property
    def wake_at(self) -> int | None:
        """Epoch milliseconds of its wake-up, or ``None`` where it has ended."""
        return self._item.get("wake_at")

    @property
    def sends(self) -> int:
        """How often its message was sent while it has been queued."""
        return int(self._item.get("sends", 1))

    @property
    def output_text(self) -> str | None:
        """The output as it is stored."""
        return self._item.get("output")

    @property
    def cancel_requested(self) -> bool:
        """Whether a person asked for its cancellation while it was executing."""
        return "cancel_requested_at" in self._item

    @property
    def inherits_max_attempts(self) -> bool:
        """Whether its creator knew no handler: then the registered job's limit is written with the next transition."""
        return "max_attempts" not in self._item

    def opened(self, *, payload: Any, output: Any) -> StoredRun:
        """Return the same with the values of a payload and an output that are stored encrypted."""
        found = copy(self)
        found.payload, found.output, found._run = payload, output, None
        return found


def text_bytes(text: str) -> int:
    """Return how many bytes a text takes in an item."""
    return len(text) if text.isascii() else len(text.encode())


def fit_in_item(payload: str, output: str) -> bool:
    """Say whether a payload and an output fit in one item, beside a run's other attributes."""
    # No character takes more than four bytes, so most texts need no counting.
    if len(payload) + len(output) <= MAX_PAYLOAD_BYTES // 4:
        return True
    return text_bytes(payload) + text_bytes(output) <= MAX_PAYLOAD_BYTES


def new_run_id() -> str:
    """Return an id that no other run has."""
    return os.urandom(16).hex()


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
    item: Mapping[str, Any] = attributes
    try:
        # By functions of C alone: this is done for every message, and took as long as all else here.
        well_typed = all(map(isinstance, item.values(), map(_TYPES.get, item, repeat(object))))
        schema = item["schema"]
        if type(schema) is int and schema > SCHEMA:
            raise NewerSchemaError(f"run#{run_id}", schema, SCHEMA)
        if not well_typed:
            raise TypeError
        updated = item["updated_at"]
        started, finished = item.get("started_at", updated), item.get("finished_at", updated)
        times = (item["scheduled_for"], item["created_at"], updated, started, finished)
        if not _FIRST_MS <= min(times) <= max(times) <= LAST_MS:
            raise OverflowError
        found = StoredRun(run_id, item, default_max_attempts)
        if not 1 <= len(found.job_name) <= MAX_NAME_LENGTH:
            raise ValueError("job_name")
        if found.status is RunStatus.RUNNING and (found.lease_token is None or found.lease_until is None):
            raise ValueError("lease")
        # A lease may end after the year 9999, where a timeout means "never". It is told as a time when it has ended.
        if found.lease_until is not None and found.lease_until < _FIRST_MS:
            raise OverflowError("lease_until")
        if found.timeout_ms is not None and found.timeout_ms < 1:
            raise ValueError("timeout_ms")
        return found
    except KeyError as error:
        raise CorruptItemError(f"run#{run_id}", f"it has no attribute {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptItemError(f"run#{run_id}", f"an attribute holds a wrong value ({type(error).__name__})") from None
