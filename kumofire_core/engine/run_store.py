"""The runs of one ``Jobs``: read from the table, changed by transitions, and sent to the queue.

This joins the table, the queue, the registered jobs and the settings. Its callers decide which transition fits.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from kumofire_core.aws.dynamodb import Answer, Table
from kumofire_core.aws.errors import AWS_ERRORS, is_access_denied, is_invalid
from kumofire_core.aws.sqs import Queue
from kumofire_core.errors import DecryptionError, DedupeKeyConflictError, KumofireError, LargeValueError
from kumofire_core.handlers.registry import Registry
from kumofire_core.model.attempts import texts_of
from kumofire_core.model.encrypted_text import ENCRYPTED, Cipher, decrypt_text, encrypt_text, is_encrypted
from kumofire_core.model.error_text import (
    attempt_message,
    attempt_traceback,
    cut_to_bytes,
    error_name,
    error_text,
    type_name,
)
from kumofire_core.model.json_codec import decode
from kumofire_core.model.run import NOT_READ, NewRun, RunStatus
from kumofire_core.model.run_item import (
    ATTEMPTS_BYTES,
    ERROR_TYPE_BYTES,
    MAX_PAYLOAD_BYTES,
    UNREADABLE,
    StoredRun,
    is_apart,
    read_run,
)
from kumofire_core.model.times import duration_ms, from_ms, to_ms
from kumofire_core.model.write import Attributes, Key, Value, text_bytes
from kumofire_core.rules import decisions, run_writes
from kumofire_core.rules.run_writes import Transition
from kumofire_core.rules.validation import require_room
from kumofire_core.rules.wake_ups import LEAST_SHARDS_READ, MOST_SHARDS, message_delay_seconds

if TYPE_CHECKING:
    from kumofire_core.aws.clients import Clients
    from kumofire_core.engine.hooks import Hooks
    from kumofire_core.engine.large import LargeValues

log = logging.getLogger("kumofire_core")

RUN = "run"

TextReader = Callable[[str, str], str | None]
"""Returns a text of a run, given its id and the text as it is stored; ``None`` for one that can't be decrypted."""

MOST_TEXT_FAILURES = 3

TEXTS = "attempts"
"""What the texts of attempts and of progress are encrypted for; see ``text_owner``."""

WAKE_SETTINGS = Key("settings", "wake")
"""The item that holds the largest number of index partitions that any process has spread runs over, ``wake_shards``.

A dispatcher reads that many. The number only grows, so what was written under a larger one is still found.
"""


def run_key(run_id: str) -> Key:
    """Return the key of a run."""
    return Key(RUN, run_id)


def text_owner(kind: str, id: str, what: str) -> str:
    """Return the item and attribute that an encrypted text belongs to.

    It is part of what is encrypted, so its form must never change.
    """
    return f"{kind}#{id} {what}"


def new_token() -> str:
    """Return a token by which one write recognises its own first copy."""
    return os.urandom(16).hex()


class RunStore:
    """The runs of one ``Jobs``. Errors of the table leave as botocore raised them."""

    def __init__(
        self,
        *,
        table: Table,
        queue: Queue,
        registry: Registry,
        retention: timedelta | None,
        wake_shards: int,
        cipher: Cipher | None,
        clock: Callable[[], datetime],
        list_succeeded: bool = False,
        creator: str | None = None,
        bucket: str | None = None,
        large_from: int = 0,
        clients: Clients | None = None,
    ) -> None:
        self.bucket = bucket
        """The bucket of large values, where there is one."""
        self._large_from = large_from
        self._clients = clients
        self._large_values: LargeValues | None = None
        self.table = table
        self.queue = queue
        self.registry = registry
        self.wake_shards = wake_shards
        self._spread_over: int | None = None
        self.cipher = cipher
        self.clock = clock
        self.list_succeeded = list_succeeded
        self._creator = creator
        self._retention_ms = None if retention is None else duration_ms(retention)
        self.allow_unknown_jobs = False
        """Whether handlers may create children of jobs that have no handler here."""
        self.hooks: Hooks | None = None
        self.creating: Callable[[Sequence[NewRun]], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
        """In what new runs are put and sent: a span, where that is traced."""
        self.traceparent: Callable[[], str | None] | None = None
        """Returns the trace context to be stored with a new run, where that is traced."""

    def now_ms(self) -> int:
        """Return the time by the clock of this ``Jobs``, in epoch milliseconds."""
        return to_ms(self.clock())

    def find(self, run_id: str, *, payload_required: bool = True) -> StoredRun | None:
        """Read a run as it is now, or ``None``. Raises ``CorruptItemError`` or ``NewerSchemaError``."""
        item = self.table.get(run_key(run_id))
        return None if item is None else self.read(run_id, item, payload_required=payload_required)

    def cancel_requested(self, run_id: str) -> bool:
        """Read whether the cancellation of a running run was requested."""
        return self.table.get_attribute(run_key(run_id), "cancel_requested_at") is not None

    def read(
        self, run_id: str, item: Attributes, *, payload_required: bool = True, payload_left_out: bool = False
    ) -> StoredRun:
        """Return the run that an item holds. Where its creator set no limit of attempts, the job's is used.

        Raises as ``read_run`` does.
        """
        limit = 0 if "max_attempts" in item else self.registry.max_attempts(str(item.get("job_name")))
        return read_run(
            run_id,
            item,
            default_max_attempts=limit,
            payload_required=payload_required,
            payload_left_out=payload_left_out,
        )

    def with_texts(self, stored: StoredRun, reader: TextReader | None = None) -> StoredRun:
        """Return a run whose attempts' texts are decrypted when they are asked for, where there is a cipher.

        ``reader`` is the one that several runs share.
        """
        return stored if self.cipher is None else stored.with_texts(partial(reader or self.text_reader(), stored.id))

    def text_reader(self) -> TextReader:
        """Return what decrypts the texts of attempts.

        After three failures it decrypts no more, because a key that is out of reach takes seconds to say so.
        """
        failures = 0

        def read(run_id: str, stored: str) -> str | None:
            nonlocal failures
            if failures == MOST_TEXT_FAILURES:
                return None
            try:
                return decrypt_text(self.cipher, stored, owner=text_owner(RUN, run_id, TEXTS))
            except DecryptionError as error:
                failures += 1
                log.warning("a text of run %s could not be decrypted: %s", run_id, error)
                return None

        return read

    def encrypted_text(self, run_id: str, text: str, *, most_bytes: int) -> str | None:
        """Return a text of an attempt as it is stored, or ``None`` where it can't be encrypted or is then too large.

        It is told for people. So a key that is out of reach must not keep the end of an attempt from being stored.
        """
        if self.cipher is None:
            return text
        try:
            stored = encrypt_text(self.cipher, text, owner=text_owner(RUN, run_id, TEXTS))
        except Exception as error:
            log.warning("a text of run %s could not be encrypted (%s) and is left out", run_id, error_name(error))
            return None
        return stored if text_bytes(stored) <= most_bytes else None

    def told(self, run_id: str, error: BaseException, logged: str | None, *, texts: bool = True) -> decisions.Told:
        """Return an error as it is stored with a run and its attempt; encrypted where there is a cipher.

        Without ``texts`` the attempt gets no message and no traceback.
        """
        kind = cut_to_bytes(type_name(error), ERROR_TYPE_BYTES)
        if not texts:
            return decisions.Told(kind, kind, None, logged)
        told = texts_of(attempt_message(error), attempt_traceback(error))
        stored = self.encrypted_text(run_id, told, most_bytes=ATTEMPTS_BYTES - 1024)
        return decisions.Told(error_text(error) if self.cipher is None else kind, kind, stored, logged)

    def decrypted(self, stored: StoredRun, *, required: bool, most_bytes: int | None = None) -> StoredRun:
        """Return a run with its payload and output loaded from S3 and decrypted, where they are there or encrypted.

        Raises ``DecryptionError`` or ``LargeValueError`` where that fails, and botocore's errors of S3. Unless it is
        ``required``, a process without a cipher leaves them ``ENCRYPTED``, and one without a bucket as the
        ``LargeValue`` that they are. So are values left that are larger than ``most_bytes``.
        """
        if is_apart(stored.payload_text) or is_apart(stored.output_text):
            return self._loaded(stored, required=required, most_bytes=most_bytes)
        encrypted = stored.payload is ENCRYPTED or stored.output is ENCRYPTED
        if not encrypted or (self.cipher is None and not required):
            return stored
        payload, output = (
            None if text is None else decode(decrypt_text(self.cipher, text, owner=text_owner(RUN, stored.id, what)))
            for what, text in (("payload", stored.payload_text), ("output", stored.output_text))
        )
        return stored.decrypted(payload=payload, output=output)

    def require_fit(self, found: StoredRun) -> None:
        """Raise ``InvalidPayloadError`` where a run's job has a type here and its payload does not fit.

        A payload that was not read, that is in S3, or that this process can't decrypt, is not looked at.
        """
        job = self.registry.get(found.job_name)
        if job is None or job.payload_type is None or found.payload is NOT_READ or found.payload is UNREADABLE:
            return
        if is_apart(found.payload_text):
            return
        readable = self.decrypted(found, required=False)
        if readable.payload is not ENCRYPTED:
            job.payload_type.read(readable.payload)

    def _loaded(self, stored: StoredRun, *, required: bool, most_bytes: int | None) -> StoredRun:
        values: list[Any] = []
        texts: tuple[tuple[str, str | None, Any], ...] = (
            ("payload", stored.payload_text, stored.payload),
            ("output", stored.output_text, stored.output),
        )
        for what, text, value in texts:
            owner = text_owner(RUN, stored.id, what)
            if text is None or value is UNREADABLE:
                values.append(value)
                continue
            if is_apart(text):
                if self.bucket is None and required:
                    problem = "this process has no bucket; pass Jobs the one that it was put into"
                    raise LargeValueError(owner, problem, permanent=False)
                if self.bucket is None or (most_bytes is not None and value.size > most_bytes):
                    values.append(value)
                    continue
                text = self.large_values.load(stored.id, owner, text)
            if self.cipher is None and not required and is_encrypted(text):
                values.append(ENCRYPTED)
                continue
            try:
                values.append(decode(decrypt_text(self.cipher, text, owner=owner)))
            except ValueError:
                raise LargeValueError(owner, "it is not JSON", permanent=True) from None
        return stored.decrypted(payload=values[0], output=values[1])

    @property
    def large_values(self) -> LargeValues:
        """What puts values into the bucket and reads them; made when it is first needed, as is its client."""
        if self._large_values is None:
            from kumofire_core.aws.s3 import Bucket
            from kumofire_core.engine.large import LargeValues

            assert self.bucket is not None
            assert self._clients is not None
            bucket = Bucket(self.bucket, self._clients.s3)
            self._large_values = LargeValues(bucket, self.table.name, now_ms=self.now_ms, new_token=new_token)
        return self._large_values

    @property
    def most_payload_bytes(self) -> int:
        """How large a payload may be as it is stored."""
        if self.bucket is None:
            return MAX_PAYLOAD_BYTES
        from kumofire_core.model.large_value import MOST_BYTES

        return MOST_BYTES

    def is_large(self, stored: str, *, least: int | None = None) -> bool:
        """Say whether a payload, as it is stored, is to be kept in S3."""
        least = self._large_from if least is None else least
        if self.bucket is None or len(stored) * 4 < least:  # no character takes more than four bytes
            return False
        return not is_apart(stored) and text_bytes(stored) >= least

    def is_large_output(self, stored: str) -> bool:
        """Say the same of an output: from twice the size on, because only the last write of a run pays for it."""
        return self.is_large(stored, least=2 * self._large_from)

    def apart(self, run_id: str, stored: str) -> str:
        """Return what an item has to hold for a payload: itself, or where it is in S3 by now; see ``LargeValues.put``.

        Call it just before the write. Raises botocore's errors of S3.
        """
        return self.large_values.put(run_id, "payload", stored) if self.is_large(stored) else stored

    def discard(self, stored: object, *, certain: bool = False) -> None:
        """Delete the object of a value that no item names any more, if there is one; see ``LargeValues.discard``."""
        if self.bucket is not None and isinstance(stored, str) and is_apart(stored):
            self.large_values.discard(stored, certain=certain)

    def encrypted_payload(self, run_id: str, text: str) -> str:
        """Return a payload's text as it is stored; ``InvalidJSONError`` where it is then too large."""
        stored = encrypt_text(self.cipher, text, owner=text_owner(RUN, run_id, "payload"))
        require_room(stored, self.most_payload_bytes)
        return stored

    def encrypted_output(self, run_id: str, text: str) -> str:
        """Return an output's text as it is stored."""
        return text if self.cipher is None else encrypt_text(self.cipher, text, owner=text_owner(RUN, run_id, "output"))

    def apply(self, run_id: str, transition: Transition, *, read_back: bool = False) -> Answer:
        """Make one transition.

        An item of an earlier release may have no room for it. Then its errors and its history are cut, and it is made
        once more.
        """
        key = run_key(run_id)
        try:
            return self.table.apply(key, transition, read_back=read_back)
        except AWS_ERRORS as error:
            if not is_invalid(error) or not self._make_room(run_id):
                raise
        return self.table.apply(key, transition, read_back=read_back)

    def _make_room(self, run_id: str) -> bool:
        found = self.find(run_id)
        write = None if found is None else run_writes.make_room(found, new_token())
        return write is not None and self.table.apply(run_key(run_id), write).applied

    def try_claims(self, claims: Mapping[str, Transition]) -> dict[str, StoredRun]:
        """Try the claims of some runs in one request; return the runs that were certainly claimed."""
        made = self.table.try_batch({run_key(run_id): write for run_id, write in claims.items()}, read_back=True)
        runs: dict[str, StoredRun] = {}
        for key, item in made.items():
            with contextlib.suppress(KumofireError):  # the ordinary claim will report a run that can't be read
                runs[key.id] = self.read(key.id, item)
        return runs

    def try_ends(self, ends: Mapping[str, Transition]) -> list[str]:
        """Try to record the ends of attempts in one request; return the ids of the runs certainly recorded."""
        return [key.id for key in self.table.try_batch({run_key(run_id): write for run_id, write in ends.items()})]

    def shards_to_write(self) -> int:
        """Return the number of index partitions to spread runs over, after making sure that the dispatcher reads them.

        Where it is more than every dispatcher reads, the first call costs a request. Where this process may not make
        that request, because its policy is an earlier release's, it uses the partitions that are read anyway.
        """
        if self._spread_over is None:
            self._spread_over = self.wake_shards if self._store_shards() else LEAST_SHARDS_READ
        return self._spread_over

    def shards_to_read(self) -> int:
        """Return the number of index partitions that hold runs: this process's own, or the largest that is stored."""
        stored = self.table.get_attribute(WAKE_SETTINGS, "wake_shards")
        known = 0 if stored is None else MOST_SHARDS
        if isinstance(stored, int):
            known = min(stored, MOST_SHARDS)
        elif stored is not None:
            log.error("the item settings#wake holds no whole number; reading %d partitions; delete the item", known)
        if known >= self.wake_shards:
            self._spread_over = self.wake_shards
        return max(self.shards_to_write(), self.wake_shards, known, LEAST_SHARDS_READ)

    def _store_shards(self) -> bool:
        """Raise the stored number of partitions to this process's, if need be; ``False`` where that is not allowed."""
        if self.wake_shards <= LEAST_SHARDS_READ:
            return True
        try:
            self.table.put_larger(WAKE_SETTINGS, "wake_shards", self.wake_shards)
        except AWS_ERRORS as error:
            if not is_access_denied(error):
                raise
            log.warning(
                "wake_shards is %d, and this process may not write that number to the table for the dispatcher "
                "(dynamodb:PutItem on settings#wake); it spreads its runs over %d partitions; update its policy",
                self.wake_shards,
                LEAST_SHARDS_READ,
            )
            return False
        return True

    def put(self, new_run: NewRun) -> bool:
        """Put a new run; ``False`` where its id exists.

        Raises ``DedupeKeyConflictError`` where it exists because another job's run has the same ``dedupe_key``.
        """
        return self.try_put(new_run).applied

    def try_put(self, new_run: NewRun) -> Answer:
        """Do what ``put`` does; where the id exists, the answer has the run that has it."""
        given = new_run.payload
        if self.is_large(given):  # before the item that names it
            new_run = new_run._replace(payload=self.apart(new_run.id, given))
        attributes = self.new_item(new_run)
        answer = self.table.put_new(run_key(new_run.id), attributes)
        if not answer.applied and new_run.payload is not given:
            self.discard(new_run.payload, certain=answer.sent_once)
        if not answer.applied and answer.item is not None and new_run.dedupe_key is not None:
            found_name = str(answer.item.get("job_name", new_run.job_name))
            if found_name != new_run.job_name:
                raise DedupeKeyConflictError(
                    new_run.dedupe_key, job_name=new_run.job_name, run_id=new_run.id, found_job_name=found_name
                )
        if answer.applied:
            self.tell_of_item("created", new_run.id, attributes)
        return answer

    def put_canceled(self, new_run: NewRun, reason: str) -> Attributes:
        """Put a run that is canceled from the beginning; return its item, or that of the run which has its id."""
        attributes = run_writes.create_canceled(
            new_run,
            create_token=new_token(),
            reason=reason,
            expires_at=self.expires_at(new_run.now_ms),
            created_by=self._creator,
        )
        answer = self.table.put_new(run_key(new_run.id), attributes)
        if not answer.applied and answer.item is not None:
            return answer.item
        self.tell_of_item("created", new_run.id, attributes)
        self.tell_of_item("canceled", new_run.id, attributes)
        return attributes

    def ended(self, run: StoredRun, status: RunStatus, *, attempted: bool = True) -> None:
        """Count the end of a run in its batch, where it is in one. Never raises.

        A callback that ended without an attempt also makes sure that its batch is done.
        """
        if run.batch is None and (attempted or run.callback_of is None):
            return
        from kumofire_core.engine import batch_marks

        if not attempted:
            batch_marks.try_require_done(self, run)
        batch_marks.mark_ended(self, run, status)

    def new_item(self, new_run: NewRun) -> dict[str, Value]:
        """Return the attributes of a new run, to be put; its token is one that no other put has.

        May cost a request, as ``shards_to_write`` says.
        """
        job = self.registry.get(new_run.job_name)
        if self.traceparent is not None:
            new_run = new_run._replace(traceparent=self.traceparent())
        return run_writes.create(
            new_run,
            create_token=new_token(),
            max_attempts=new_run.max_attempts if new_run.max_attempts is not None or job is None else job.max_attempts,
            timeout_ms=None if job is None else job.timeout_ms,
            shards=self.shards_to_write(),
            created_by=self._creator,
        )

    def add(self, new_run: NewRun) -> bool:
        """Put a new run, and send its message where SQS can delay that long; ``False`` where the id exists."""
        if not self.put(new_run):
            return False
        self.send_waiting(new_run.id, due_ms=new_run.due_ms, now_ms=new_run.now_ms, group=new_run.group)
        return True

    def send_waiting(self, run_id: str, *, due_ms: int, now_ms: int, group: str | None) -> None:
        """Send a waiting run's message with its delay, where SQS can delay that long; else the dispatcher sends it.

        A message that could not be sent is logged. The dispatcher finds the run by its wake-up and sends it.
        """
        delay_seconds = message_delay_seconds(due_ms, now_ms)
        if delay_seconds is not None:
            self.queue.try_send(run_id, delay_seconds=delay_seconds, group=group)

    def tell(
        self,
        event: str,
        run: StoredRun,
        write: Transition | None = None,
        *,
        attempt: int | None = None,
        error: BaseException | None = None,
        error_type: str | None = None,
    ) -> None:
        """Tell the hooks, where there are any, what was written to a run."""
        hooks = self.hooks
        if hooks is None or not hooks.wants(event):
            return
        output = run.output_text if write is None else write.sets.get("output")
        hooks.tell(
            event,
            run.id,
            run.job_name,
            at=from_ms(self.now_ms()),
            find_run=lambda: self._readable(run if write is None else run.after(write)),
            size=len(run.payload_text) + (len(output) if isinstance(output, str) else 0),
            attempt=attempt,
            error=error,
            error_type=error_type,
        )

    def tell_of_item(self, event: str, run_id: str, item: Attributes | None) -> None:
        """Tell the hooks, where there are any, what happened to the run that an item holds."""
        hooks = self.hooks
        if item is None or hooks is None or not hooks.wants(event):
            return
        hooks.tell(
            event,
            run_id,
            str(item.get("job_name")),
            at=from_ms(self.now_ms()),
            find_run=lambda: self._readable(self.read(run_id, item, payload_required=False)),
            size=len(str(item.get("payload"))),
        )

    def has_hooks(self, event: str) -> bool:
        """Say whether there is a hook for this event."""
        return self.hooks is not None and self.hooks.wants(event)

    def _readable(self, stored: StoredRun) -> StoredRun:
        """Return a run loaded and decrypted, where this process can do that."""
        try:
            return self.decrypted(stored, required=False)
        except (DecryptionError, LargeValueError, *AWS_ERRORS) as error:
            if not isinstance(error, DecryptionError):
                log.warning(
                    "the large values of run %s could not be read, so hooks get it without them: %s",
                    stored.id,
                    error_name(error),
                )
            return stored

    def expires_at(self, now_ms: int) -> int | None:
        """Return the epoch second from which DynamoDB may delete a run that ends now, or ``None``: never."""
        return None if self._retention_ms is None else (now_ms + self._retention_ms) // 1000 + 1
