"""A run as its item in the table: how it is read, and how large it may be."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from datetime import UTC, datetime
from typing import Any

from kumofire_core.errors import CorruptItemError, NewerSchemaError
from kumofire_core.model import encrypted_text, json_codec
from kumofire_core.model.run import MAX_NAME_LENGTH, RetriedRun, Run, RunStatus
from kumofire_core.model.times import LAST_MS, from_ms, to_ms
from kumofire_core.model.write import SCHEMA, Attributes

MAX_ITEM_BYTES = 400 * 1024
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html (item size)"""

RESERVED_ITEM_BYTES = 24 * 1024
"""What a run's other attributes may take together: name, keys, tokens, times and the last error."""

MAX_PAYLOAD_BYTES = MAX_ITEM_BYTES - RESERVED_ITEM_BYTES

HISTORY_LENGTH = 10
HISTORY_ERROR_LENGTH = 200

_STATUSES: dict[str, RunStatus] = {status.value: status for status in RunStatus}
"""``RunStatus(text)`` runs Python code of ``enum`` each time."""

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
"""The types of a stored run's attributes. Tokens of writes are left out: they are only ever compared."""
_FIRST_MS = to_ms(datetime.min.replace(tzinfo=UTC))


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
        """The payload as it is stored; ``payload`` is its value, or ``ENCRYPTED`` where it is encrypted."""
        self.payload = encrypted_text.read(self.payload_text)
        self.output = None if output is None else encrypted_text.read(output)
        self.history: tuple[RetriedRun, ...] = () if history is None else read_history(history)

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
        """Epoch milliseconds of the latest write that a person would call a change; a message sent again is one."""
        return int(self._item["updated_at"])

    @property
    def due_ms(self) -> int:
        """Epoch milliseconds of the time that it is for."""
        return int(self._item["scheduled_for"])

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

    def decrypted(self, *, payload: Any, output: Any) -> StoredRun:
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


def history_with(run: Run) -> str:
    """Return the stored form of a run's history with how it has ended now; bounded, the oldest goes first."""
    now = RetriedRun(
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
    return json_codec.encode("the history", past)


def read_history(text: str) -> tuple[RetriedRun, ...]:
    """Return the history that an item holds; ``ValueError``, ``TypeError``, ``OverflowError`` where it holds none."""
    past: Any = json_codec.decode(text)
    return tuple(
        RetriedRun(
            status=RunStatus(status),
            attempt=int(attempt),
            finished_at=None if finished_at is None else from_ms(int(finished_at)),
            last_error=_text_or_none(last_error),
            cancel_reason=_text_or_none(rest[0] if rest else None),
        )
        for status, attempt, finished_at, last_error, *rest in past
    )


def _text_or_none(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("history")
    return value


def read_run(run_id: str, attributes: Attributes, *, default_max_attempts: int) -> StoredRun:
    """Return the stored run that ``attributes`` hold.

    Raises ``NewerSchemaError`` for an item of a later release, ``CorruptItemError`` for one that can't be read.
    """
    item: Mapping[str, Any] = attributes
    try:
        schema = item["schema"]
        if type(schema) is int and schema > SCHEMA:
            raise NewerSchemaError(f"run#{run_id}", schema, SCHEMA)
        for name, value in item.items():
            if not isinstance(value, _TYPES.get(name, object)):
                raise TypeError(name)
        updated = item["updated_at"]
        started, finished = item.get("started_at", updated), item.get("finished_at", updated)
        times = (item["scheduled_for"], item["created_at"], updated, started, finished)
        if not _FIRST_MS <= min(times) <= max(times) <= LAST_MS:
            raise OverflowError("a time")
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
