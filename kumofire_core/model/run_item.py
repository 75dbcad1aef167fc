"""A run as its item in the table: how it is read, and how large it may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from kumofire_core.errors import CorruptItemError, NewerSchemaError
from kumofire_core.model import encrypted_text, json_codec
from kumofire_core.model.attempts import (
    MOST_ATTEMPTS,
    AttemptRecord,
    attempt_of,
    attempts_with,
    log_place,
    read_records,
)
from kumofire_core.model.error_text import MAX_ERROR_BYTES
from kumofire_core.model.message import is_group
from kumofire_core.model.run import MAX_KEY_LENGTH, MAX_NAME_LENGTH, NOT_READ, AttemptEnding, RunStatus
from kumofire_core.model.times import LAST_MS, from_ms, to_ms
from kumofire_core.model.write import LATEST_SCHEMA, Attributes, Write, text_bytes

if TYPE_CHECKING:
    from kumofire_core.model.run_view import Attempt, RetriedRun, Run, RunProgress

MAX_ITEM_BYTES = 400 * 1024
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html (item size)"""

RESERVED_ITEM_BYTES = 24 * 1024
"""What a run's other attributes may take together. It is divided below, in bytes as they are stored, so that no write
to a run can be refused for its size."""

MAX_PAYLOAD_BYTES = MAX_ITEM_BYTES - RESERVED_ITEM_BYTES
"""What payload and output may take together."""

FIXED_BYTES = 3 * 1024
"""The names of all attributes, and the values that are never long: keys, status, ids, tokens, times and counters."""
ERROR_TYPE_BYTES = 100
"""Part of the above, as is where the latest attempt logs."""
JOB_NAME_BYTES = 4 * MAX_NAME_LENGTH
DEDUPE_KEY_BYTES = 4 * MAX_KEY_LENGTH
LAST_ERROR_BYTES = MAX_ERROR_BYTES
CANCEL_REASON_BYTES = 3 * 1024
HISTORY_BYTES = 4 * 1024
PROGRESS_BYTES = 1280
"""Enough for 200 characters of ASCII that are encrypted under a key of KMS, which adds some 700 bytes."""
ATTEMPTS_BYTES = (
    RESERVED_ITEM_BYTES
    - FIXED_BYTES
    - JOB_NAME_BYTES
    - DEDUPE_KEY_BYTES
    - LAST_ERROR_BYTES
    - CANCEL_REASON_BYTES
    - HISTORY_BYTES
    - PROGRESS_BYTES
)
"""What is left, for the attempts: 4,868 bytes."""

INCARNATION_LENGTH = 12

HISTORY_LENGTH = 10
HISTORY_TEXT_LENGTH = 200

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
    "attempts",
    "error_type",
    "log",
    "list_shard",
    "parked",
    "progress",
    "bulk",
    "dedupe_mode",
    "traceparent",
    "parent_id",
    "created_by",
    "group",
    "limited",
    "awaits_slot",
    "reserved",
    "batch",
    "after",
    "waits_for",
    "steps_id",
)
_TIMES = ("scheduled_for", "created_at", "updated_at", "started_at", "finished_at")
_NUMBERS = (
    "schema",
    *_TIMES,
    "lease_until",
    "attempt",
    "max_attempts",
    "claims",
    "sends",
    "wake_at",
    "timeout_ms",
    "no_handler_since",
    "list_at",
    "retries",
    "generation",
    "rate_since",
    "steps",
    "signals",
    "suspensions",
    "occurrence",
)
_TYPES: dict[str, type] = {**dict.fromkeys(_TEXTS, str), **dict.fromkeys(_NUMBERS, int)}
"""The types of a stored run's attributes. Tokens of writes are left out: they are only ever compared."""
_FIRST_MS = to_ms(datetime.min.replace(tzinfo=UTC))


UNREADABLE: Final = object()
"""Stands for a stored payload that is not JSON, where a run is read without the need of its payload."""


class StoredRun:
    """A run as its item holds it: what the engine reads for every message, and ``run``, made when it is asked for."""

    __slots__ = (
        "_item",
        "_records",
        "_run",
        "_texts",
        "attempt",
        "claims",
        "history",
        "id",
        "job_name",
        "kept_steps",
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
        self._texts: Callable[[str], str | None] = _undecrypted
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
        self.payload_text: str = get("payload", "")
        """The payload as it is stored; ``payload`` is its value, ``ENCRYPTED``, ``UNREADABLE``, ``NOT_READ``, or
        the ``LargeValue`` that says where in S3 it is."""
        try:
            self.payload = encrypted_text.read(self.payload_text) if "payload" in item else NOT_READ
        except ValueError:
            self.payload = UNREADABLE
        self.output = NOT_READ if self.payload is NOT_READ else None if output is None else encrypted_text.read(output)
        self.history: tuple[RetriedRun, ...] = () if history is None else read_history(history)
        self.kept_steps: int | None = None
        """How many results of steps the attempt under way knows to be kept; the write that ends it stores that."""
        attempts = get("attempts")
        self._records = [] if attempts is None else read_records(attempts)

    @property
    def run(self) -> Run:
        """The run as the application sees it."""
        if self._run is None:
            from kumofire_core.model.run_view import Run

            item, get = self._item, self._item.get
            started, finished, occurrence = get("started_at"), get("finished_at"), get("occurrence")
            attempts = self._attempts()
            last_error = get("last_error")
            failed = next((each for each in reversed(attempts) if each.error_type is not None), None)
            if failed is not None and last_error is not None and last_error == get("error_type") == failed.error_type:
                # With a cipher the item says no more than the type, and the attempt has the encrypted text.
                last_error = f"{last_error}: {failed.message}" if failed.message else last_error
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
                last_error=last_error,
                output=self.output,
                schedule_id=get("schedule_id"),
                dedupe_key=get("dedupe_key"),
                cancel_requested=self.cancel_requested,
                cancel_reason=get("cancel_reason"),
                history=self.history,
                attempts=attempts,
                error_type=get("error_type"),
                retries=get("retries", 0),
                paused=self.is_parked and self.status is RunStatus.SCHEDULED,
                progress=self._progress(),
                parent_id=get("parent_id"),
                created_by=get("created_by"),
                group=self.group,
                waiting_for_limit=self.status is RunStatus.SCHEDULED
                and (self.awaits_slot is not None or self.reserved is not None),
                batch_id=None if self.batch is None else self.batch[0],
                batch_index=None if self.batch is None else self.batch[1],
                callback_of=self.callback_of,
                waiting_for=self.waits_for if self.status is RunStatus.SCHEDULED else None,
                kept_steps=self.stored_steps,
                occurrence=None if occurrence is None else from_ms(occurrence),
            )
        return self._run

    def _attempts(self) -> tuple[Attempt, ...]:
        """Return the attempts that are stored, and the one under way or the one that succeeded, which are not."""
        found = [attempt_of(record, self._texts) for record in self._records]
        started = self._item.get("started_at")
        running = self.status is RunStatus.RUNNING
        if started is not None and (running or self.status is RunStatus.SUCCEEDED):
            request_id, log_stream = log_place(self._item.get("log"))
            finished = None if running else self._item.get("finished_at")
            from kumofire_core.model.run_view import Attempt

            current = Attempt(
                number=self.attempt + 1,
                started_at=from_ms(started),
                ended_at=None if finished is None else from_ms(finished),
                ended=None if running else AttemptEnding.SUCCEEDED,
                request_id=request_id,
                log_stream=log_stream,
                retries=self.retries,
            )
            found = [*found, current][-MOST_ATTEMPTS:]
        return tuple(found)

    def _progress(self) -> RunProgress | None:
        stored = self._item.get("progress")
        if stored is None:
            return None
        from kumofire_core.model.run_view import RunProgress

        try:
            told: Any = json_codec.decode(stored)
            claims, thousandths, note, at_ms = told
            if claims != self.claims:
                return None  # an earlier attempt told it
            if isinstance(note, str) and encrypted_text.is_encrypted(note):
                note = self._texts(note)
            return RunProgress(int(thousandths) / 1000, _text_or_none(note), from_ms(int(at_ms)))
        except (ValueError, TypeError, OverflowError):
            return None  # it is told for people, and must not make the run unreadable

    def with_attempt(
        self, ended: AttemptEnding, *, now_ms: int, error_type: str | None, log: str | None, texts: str | None
    ) -> str:
        """Return the stored form of the attempts with the current one, which ends now."""
        record = AttemptRecord(
            retries=self.retries,
            number=self.attempt + 1,
            started_ms=self._item.get("started_at"),
            ended_ms=now_ms,
            ended=ended,
            error_type=error_type,
            log=log,
            texts=texts,
        )
        return attempts_with(self._records, record, most_bytes=ATTEMPTS_BYTES)

    @property
    def retries(self) -> int:
        """How often a person has retried it."""
        return int(self._item.get("retries", 0))

    @property
    def has_started(self) -> bool:
        """Whether an attempt was made since the run was created, or since a person retried it.

        A snoozed one counts, and one that was suspended.
        """
        if self.attempt > 0 or self.was_suspended:
            return True
        return bool(self._records) and self._records[-1].retries == self.retries

    @property
    def is_untouched(self) -> bool:
        """Whether it waits, its handler was never called, and no person has retried it."""
        waits = self.status in (RunStatus.SCHEDULED, RunStatus.QUEUED)
        called = self.attempt or self._records or self.was_suspended
        return waits and not called and "history" not in self._item

    @property
    def created_as(self) -> dict[str, str]:
        """The attribute that tells a run from one which is created under its id after it was deleted.

        It is the token of the put that created it. A copy of that put has the same.
        """
        return {"create_token": str(self._item["create_token"])} if "create_token" in self._item else {}

    @property
    def incarnation(self) -> str:
        """What its steps are kept under: of the token that created it, or of the last retry from its start.

        So a run that is created again under the id of a deleted one sees none of that one's steps.
        """
        return str(self._item.get("steps_id") or self._item.get("create_token", ""))[-INCARNATION_LENGTH:]

    @property
    def incarnation_tokens(self) -> dict[str, str]:
        """The attributes that its incarnation is of, those that it has."""
        return self.created_as | ({"steps_id": str(self._item["steps_id"])} if "steps_id" in self._item else {})

    @property
    def stored_steps(self) -> int:
        """How many results of steps it had kept when an attempt last ended."""
        return int(self._item.get("steps", 0))

    @property
    def signals(self) -> int:
        """How often it was told that a signal had come for it."""
        return int(self._item.get("signals", 0))

    @property
    def awaits_slot(self) -> str | None:
        """The name of the signal that it was suspended for; it may have been claimed or queued since."""
        return self._item.get("awaits_slot")

    @property
    def was_suspended(self) -> bool:
        """Whether it was suspended since it was created, or since a person retried it."""
        return "suspensions" in self._item

    @property
    def counts_claims(self) -> bool:
        """Whether its item has the number of its claims; that of an early release may lack it."""
        return "claims" in self._item

    @property
    def may_have_steps(self) -> bool:
        """Whether there may be steps or signals beside it. A worker may have kept some before it was lost."""
        told = self._item.keys() & {"steps", "signals", "suspensions", "steps_id"}
        return bool(told) or any(record.ended == AttemptEnding.WORKER_LOST for record in self._records)

    @property
    def dedupe_mode(self) -> str | None:
        """By which rule its ``dedupe_key`` made it; ``None``: once while it is kept."""
        return self._item.get("dedupe_mode")

    @property
    def generation(self) -> int | None:
        """Which run of its ``dedupe_key`` it is, where the key can make several."""
        return self._item.get("generation")

    @property
    def created_at(self) -> int:
        """Epoch milliseconds."""
        return int(self._item["created_at"])

    @property
    def bulk(self) -> str | None:
        """The latest operation over many runs that canceled or retried it."""
        return self._item.get("bulk")

    @property
    def group(self) -> str | None:
        """The ``MessageGroupId`` of its messages; ``None`` where it has none, or one that SQS would refuse."""
        return group_of(self._item)

    @property
    def batch(self) -> tuple[str, int, int] | None:
        """The batch that it is a member of, its place among the members, and how many these are."""
        stored = self._item.get("batch")
        if stored is None:
            return None
        batch_id, index, total = stored.split(" ")
        return batch_id, int(index), int(total)

    @property
    def callback_of(self) -> str | None:
        """The batch whose callback it is."""
        return self._item.get("after")

    @property
    def log(self) -> str | None:
        """Where the latest attempt logged: request id and log stream."""
        return self._item.get("log") or None

    @property
    def list_shard(self) -> str | None:
        """The partition of the listing index that it is in, if any."""
        return self._item.get("list_shard")

    @property
    def is_parked(self) -> bool:
        """Whether it was put aside because its job is paused. It may have been claimed since."""
        return "parked" in self._item

    @property
    def limited(self) -> tuple[str, ...]:
        """The items of limits in which it has a place, since it had to wait for one."""
        found: str | None = self._item.get("limited")
        return () if found is None else tuple(found.split())

    @property
    def waits_for(self) -> str | None:
        """The item of the limit that it waits for. It may have been claimed since."""
        return self._item.get("waits_for")

    @property
    def reserved(self) -> tuple[str, int] | None:
        """The item of a rate, and the moment that it has reserved there for its start, in epoch microseconds."""
        item_id, _, moment = str(self._item.get("reserved", "")).partition(" ")
        return (item_id, int(moment)) if moment.isdecimal() else None

    @property
    def rate_since(self) -> int | None:
        """The time that it was for before it reserved a moment, in epoch milliseconds."""
        return self._item.get("rate_since")

    @property
    def limit_attributes(self) -> tuple[str, ...]:
        """The attributes that say how it waits for a limit or a rate."""
        return tuple(name for name in ("limited", "awaits_slot", "reserved", "rate_since") if name in self._item)

    @property
    def list_at(self) -> int | None:
        """The time by which it is listed, if it is."""
        return self._item.get("list_at")

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
    def no_handler_since(self) -> int | None:
        """Epoch milliseconds since when consumers have put it back for want of a handler, or ``None``."""
        return self._item.get("no_handler_since")

    @property
    def output_text(self) -> str | None:
        """The output as it is stored."""
        return self._item.get("output")

    @property
    def history_text(self) -> str | None:
        """The history as it is stored."""
        return self._item.get("history")

    @property
    def last_error(self) -> str | None:
        """The error of the latest attempt that had one."""
        found: str | None = self._item.get("last_error")
        return found

    @property
    def cancel_requested(self) -> bool:
        """Whether a person asked for its cancellation while it was executing."""
        return "cancel_requested_at" in self._item

    @property
    def inherits_max_attempts(self) -> bool:
        """Whether its creator knew no handler: then the registered job's limit is written with the next transition."""
        return "max_attempts" not in self._item

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context in which it was created, where that was traced."""
        return self._item.get("traceparent")

    def after(self, write: Write) -> StoredRun:
        """Return the run as an attempt's end leaves it, its payload and output as they are stored."""
        item: dict[str, Any] = {**self._item, **write.sets}
        if write.target is not None:
            item["status"] = write.target
        return StoredRun(self.id, {name: item[name] for name in item if name not in write.removes}, self.max_attempts)

    def decrypted(self, *, payload: Any, output: Any) -> StoredRun:
        """Return the same with the values of a payload and an output that are stored encrypted, or in S3."""
        found = copy(self)
        found.payload, found.output, found._run = payload, output, None
        return found

    def with_texts(self, decrypt: Callable[[str], str | None]) -> StoredRun:
        """Return the same, with ``decrypt`` for the texts of its attempts; it returns ``None`` for what it can't."""
        found = copy(self)
        found._texts, found._run = decrypt, None
        return found


def is_apart(stored: str | None) -> bool:
    """Say whether a stored payload or output stands for a value in S3."""
    return stored is not None and stored.startswith(encrypted_text.IN_S3)


def _undecrypted(stored: str) -> str | None:
    return None


def group_of(item: Mapping[str, Any] | None) -> str | None:
    """Return the ``MessageGroupId`` that a run's messages are sent with, from the run's item.

    ``None`` where it has none. A text that SQS would refuse counts as none: the run must be sent all the same.
    """
    group = None if item is None else item.get("group")
    return group if is_group(group) else None


def fit_in_item(payload: str, output: str) -> bool:
    """Say whether a payload and an output fit in one item, beside a run's other attributes."""
    # No character takes more than four bytes, so most texts need no counting.
    if len(payload) + len(output) <= MAX_PAYLOAD_BYTES // 4:
        return True
    return text_bytes(payload) + text_bytes(output) <= MAX_PAYLOAD_BYTES


def item_bytes(item: Attributes) -> int:
    """Return the size of an item, its key among the attributes, as DynamoDB holds it against its limit.

    A text has its bytes in UTF-8. A number has a byte for each two of its significant digits, one more, and one for a
    sign. Each attribute's name counts, too.
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    return sum(
        text_bytes(name) + (text_bytes(value) if isinstance(value, str) else _number_bytes(value))
        for name, value in item.items()
    )


def _number_bytes(value: int) -> int:
    digits = len(str(abs(value)).rstrip("0"))
    return (digits + 1) // 2 + 1 + (value < 0)


def history_with(run: Run) -> str:
    """Return the stored form of a run's history with how it has ended now; see ``history_text``."""
    from kumofire_core.model.run_view import RetriedRun

    now = RetriedRun(
        status=run.status,
        attempt=run.attempt,
        finished_at=run.finished_at,
        last_error=run.last_error,
        cancel_reason=run.cancel_reason,
    )
    return history_text((*run.history, now))


def history_text(entries: Sequence[RetriedRun]) -> str:
    """Return the stored form of a history: ten entries at most, in ``HISTORY_BYTES``; the oldest go first."""
    texts = [_entry_text(entry) for entry in entries[-HISTORY_LENGTH:]]
    sizes = [text_bytes(text) + len(",") for text in texts]
    while sum(sizes) + len("[]") > HISTORY_BYTES:
        del texts[0], sizes[0]
    return f"[{','.join(texts)}]"


def _entry_text(entry: RetriedRun) -> str:
    """Return the JSON text of one entry: 2,550 bytes at most, where each character of its texts is an escaped one."""
    finished_ms = None if entry.finished_at is None else to_ms(entry.finished_at)
    texts = [_short(entry.last_error), _short(entry.cancel_reason)]
    return json_codec.encode("the history", [entry.status.value, entry.attempt, finished_ms, *texts])


def _short(text: str | None) -> str | None:
    # Half a surrogate pair would make JSON escapes of all other characters, at twelve bytes each.
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()[:HISTORY_TEXT_LENGTH]


def read_history(text: str) -> tuple[RetriedRun, ...]:
    """Return the history that an item holds; ``ValueError``, ``TypeError``, ``OverflowError`` where it holds none."""
    from kumofire_core.model.run_view import RetriedRun

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


def read_run(
    run_id: str,
    attributes: Attributes,
    *,
    default_max_attempts: int,
    payload_required: bool = True,
    payload_left_out: bool = False,
) -> StoredRun:
    """Return the stored run that ``attributes`` hold.

    Raises ``NewerSchemaError`` for an item of a later release, ``CorruptItemError`` for one that can't be read. Unless
    it is ``payload_required``, a payload that is not JSON is left ``UNREADABLE``. ``payload_left_out`` says that the
    item was asked for without it.
    """
    item: Mapping[str, Any] = attributes
    try:
        schema = item["schema"]
        if type(schema) is int and schema > LATEST_SCHEMA:
            raise NewerSchemaError(f"run#{run_id}", schema, LATEST_SCHEMA)
        for name, value in item.items():
            if not isinstance(value, _TYPES.get(name, object)):
                raise TypeError(name)
        if not payload_left_out:
            item["payload"]
        updated = item["updated_at"]
        started, finished = item.get("started_at", updated), item.get("finished_at", updated)
        occurrence = item.get("occurrence", updated)
        times = (item["scheduled_for"], item["created_at"], updated, started, finished, occurrence)
        if not _FIRST_MS <= min(times) <= max(times) <= LAST_MS:
            raise OverflowError("a time")
        found = StoredRun(run_id, item, default_max_attempts)
        if payload_required and found.payload is UNREADABLE:
            raise ValueError("payload")
        if not 1 <= len(found.job_name) <= MAX_NAME_LENGTH:
            raise ValueError("job_name")
        if found.status is RunStatus.RUNNING and (found.lease_token is None or found.lease_until is None):
            raise ValueError("lease")
        # A lease may end after the year 9999, where a timeout means "never". It is told as a time when it has ended.
        if found.lease_until is not None and found.lease_until < _FIRST_MS:
            raise OverflowError("lease_until")
        if found.timeout_ms is not None and found.timeout_ms < 1:
            raise ValueError("timeout_ms")
        if found.batch is not None and not 0 <= found.batch[1] < found.batch[2]:
            raise ValueError("batch")
        return found
    except KeyError as error:
        raise CorruptItemError(f"run#{run_id}", f"it has no attribute {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptItemError(f"run#{run_id}", f"an attribute holds a wrong value ({type(error).__name__})") from None
