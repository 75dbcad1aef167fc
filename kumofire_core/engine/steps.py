"""The steps of one attempt: read once, kept under the first result, and the run suspended between two of them.

Imported where a handler calls the first of them. ``handlers.step_calls`` is what handlers call; docs/steps.md has the
promises.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from kumofire_core.engine.run_store import RUN, RunStore, new_token, run_key, text_owner
from kumofire_core.errors import (
    AttemptTimeoutError,
    DuplicateStepError,
    InvalidArgumentError,
    InvalidJSONError,
    StepMismatchError,
    StepResultError,
    StepsLostError,
    short_repr,
)
from kumofire_core.handlers.context import Suspension
from kumofire_core.handlers.handler_pool import HandlerPool
from kumofire_core.handlers.step_calls import Call, Kept, Waited
from kumofire_core.model import json_codec
from kumofire_core.model.encrypted_text import decrypt_text, encrypt_text
from kumofire_core.model.run import Run
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.steps import (
    LONGEST_WAIT,
    MAX_STEP_BYTES,
    SignalRecord,
    StepKind,
    StepRecord,
    read_record,
    read_signal,
    read_steps,
    signal_key,
    step_key,
    steps_prefix,
)
from kumofire_core.model.times import LAST_MS, delay_ms, duration_ms
from kumofire_core.model.write import Attributes, Key, text_bytes
from kumofire_core.rules.run_writes import CLOCK_SKEW_MS
from kumofire_core.rules.steps import LOOK_MS, expiry_ms, goes_on_elsewhere, step_name_problem

SLEEPING = "sleeping"
WAITING = "waiting"
GOING_ON = "going on"


class Steps:
    """The steps of one attempt; safe to call from many threads. Errors of the table leave as botocore raised them."""

    def __init__(self, store: RunStore, pool: HandlerPool, claimed: StoredRun, *, seconds: float | None) -> None:
        """``seconds`` is how long this process can still execute attempts; ``None`` where that has no end."""
        self.pool = pool
        self.suspension: Suspension | None = None
        self._store = store
        self._claimed = claimed
        self._began = time.monotonic()
        self._seconds = seconds
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        # Only an earlier claim, or a signal that the run was told of, can have put something there.
        self._is_loaded = claimed.claims == 1 and not claimed.signals
        self._records: dict[str, StepRecord] = {}
        self._at: dict[int, StepRecord] = {}
        self._signals: dict[str, SignalRecord] = {}
        self._calls: dict[str, Call] = {}
        self._failed: set[str] = set()
        self._under_way = 0
        self._unnamed: dict[str, int] = {}
        """How many sleeps, and calls that create children, have no name of their own."""
        self._children: list[str] = []
        """The batches of children that the handler has not waited for."""
        self._in_order = True
        self._executed = 0
        self._longest = 0.0
        self._ended = False

    @property
    def is_loaded(self) -> bool:
        """Whether ``find`` makes no request."""
        return self._is_loaded

    def begin(self, kind: StepKind, name: object) -> Call:
        """Take the next position. Makes no request; raises where the name is wrong or was used before."""
        if (name is not None or kind not in (StepKind.SLEEP, StepKind.CHILD)) and (problem := step_name_problem(name)):
            raise InvalidArgumentError(problem)
        with self._lock:
            self._require_going_on()
            if name is None:
                self._unnamed[kind] = number = self._unnamed.get(kind, 0) + 1
                name = f"{kind}-{number}"
            assert isinstance(name, str)
            beside = self._under_way > 0
            before = self._calls.get(name)
            if before is not None and (name not in self._failed or before.kind != kind):
                raise DuplicateStepError(name)
            self._failed.discard(name)
            call = before or Call(kind, name, len(self._calls) + 1, beside)
            self._calls[name] = call
            self._under_way += 1
            if beside:
                self._in_order = False
            return call

    def leave(self, call: Call, *, kept: bool) -> None:
        """Say that a call has ended; one that has kept nothing may be made again under its name."""
        with self._lock:
            self._under_way -= 1
            if not kept:
                self._failed.add(call.name)

    def find(self, call: Call) -> Kept | None:
        """Return the result that an earlier attempt or invocation has kept."""
        record = self._record(call)
        return None if record is None else self._kept(record)

    def before_execution(self) -> None:
        """Raise ``Suspension`` where the run is to go on in another invocation, and where it is suspended already."""
        with self._lock:
            self._require_going_on()
            if self._seconds is None or not self._executed:
                return
            left, longest = self._began + self._seconds - time.monotonic(), self._longest
        if goes_on_elsewhere(seconds_left=left, whole=self._seconds, longest_step=longest):
            self._suspend(Suspension(GOING_ON, self._store.now_ms()))

    def keep(self, call: Call, value: object, *, seconds: float) -> Kept:
        """Keep a result, and return the one that is kept: another attempt's, where that was faster."""
        # Also where the attempt was cut meanwhile: the function has had its effect, which the next one is spared.
        with self._lock:
            self._executed += 1
            self._longest = max(self._longest, seconds)
        text = self._text(f"the result of step {call.name!r}", value)
        stored = self._encrypted(text, f"step {call.name}")
        record = self._put_record(call, value=stored, took_ms=int(seconds * 1000))
        return Kept(json_codec.decode(text)) if record.value == stored else self._kept(record)

    def keep_record(self, call: Call, *, until_ms: int | None = None) -> StepRecord:
        """Keep that a sleep, a wait, or something else of the engine's was begun; return what is kept."""
        return self._put_record(call, until_ms=until_ms)

    def create_children(self, call: Call, requests: Any, what: str) -> str:
        """Create the children of one call, or go on with that; return their batch's id."""
        from kumofire_core.engine.children import create_children

        return create_children(self._store, self.pool, self._claimed, call.name, requests, what)

    def note_children(self, batch_id: str) -> None:
        """Let ``take_children`` return these too."""
        with self._lock:
            self._children.append(batch_id)

    def take_children(self) -> dict[str, str]:
        """Return the batches of children that were not waited for, each with the name of its signal."""
        from kumofire_core.engine.children import children_signal

        with self._lock:
            taken, self._children = self._children, []
        return {batch_id: children_signal(batch_id) for batch_id in taken}

    def read_children(self, batch_ids: Sequence[str]) -> list[Run]:
        """Return children as they are now."""
        from kumofire_core.engine.children import read_children

        return read_children(self._store, batch_ids)

    def sleep(self, call: Call, delay: object) -> None:
        """Return where the sleep is over; raise ``Suspension`` otherwise."""
        length_ms = _wait_ms("delay", delay)
        record, early_ms = self._record(call), CLOCK_SKEW_MS
        if record is None:
            record, early_ms = self.keep_record(call, until_ms=self._until(length_ms)), 0
        until_ms = record.until_ms or 0
        if until_ms - self._store.now_ms() > early_ms:
            self._suspend(Suspension(SLEEPING, until_ms))

    def wait(self, call: Call, timeout: object) -> Waited:
        """Return the signal, or that its time is over; raise ``Suspension`` otherwise."""
        timeout_ms = None if timeout is None else _wait_ms("timeout", timeout)
        record, early_ms = self._record(call), CLOCK_SKEW_MS
        if record is None:
            until_ms = None if timeout_ms is None else self._until(timeout_ms)
            record, early_ms = self.keep_record(call, until_ms=until_ms), 0
        until_ms = record.until_ms
        signal = self._signals.get(call.name) or self._read_signal(call.name)
        if signal is None and until_ms is not None and until_ms - self._store.now_ms() <= early_ms:
            signal = self._give_up(call.name)
        if signal is not None:
            return self._waited(signal)
        look_ms = self._store.now_ms() + LOOK_MS
        self._suspend(Suspension(WAITING, look_ms if until_ms is None else min(look_ms, until_ms), call.name))
        raise AssertionError("unreachable")

    def end(self) -> None:
        """Let nothing more be kept: the attempt has ended."""
        with self._lock:
            self._ended = True

    def _record(self, call: Call) -> StepRecord | None:
        """Return what is kept under a name; raises where it is not what the handler has called."""
        if not self._is_loaded:
            self._load()
        with self._lock:
            self._require_not_ended()
            record = self._records.get(call.name)
            if record is not None:
                self._require_same(call, record)
            elif self._in_order and call.position in self._at:
                self._require_same(call, self._at[call.position])
            return record

    def _load(self) -> None:
        with self._loading:
            if self._is_loaded:
                return
            claimed = self._claimed
            prefix = steps_prefix(claimed.incarnation)
            kept = read_steps(self._store.table.parts(run_key(claimed.id), prefix), claimed.incarnation)
            if kept.results < claimed.stored_steps:
                raise StepsLostError(claimed.stored_steps, kept.results)
            with self._lock:
                self._records |= kept.records
                self._at |= {record.position: record for record in kept.records.values()}
                self._signals |= kept.signals
                if any(record.beside for record in kept.records.values()):
                    self._in_order = False
                self._count()
                self._is_loaded = True
            self._renew(self._store.now_ms(), ahead=True)

    def _put_record(
        self, call: Call, *, value: str | None = None, took_ms: int | None = None, until_ms: int | None = None
    ) -> StepRecord:
        """Put a record unless there is one; return the one that is there, which is the same for every attempt."""
        record = StepRecord(
            kind=call.kind,
            name=call.name,
            position=call.position,
            beside=call.beside,
            at_ms=self._store.now_ms(),
            value=value,
            took_ms=took_ms,
            until_ms=until_ms,
            expires_at=self._expires_at(),
        )
        key = step_key(RUN, self._claimed.id, self._claimed.incarnation, call.name)
        found = self._put(key, record.attributes(new_token()))
        if found is not None:
            record = read_record(call.name, found)
        with self._lock:
            self._require_same(call, record)
            self._records[call.name] = self._at[record.position] = record
            self._count()
        return record

    def _put(self, key: Key, attributes: Attributes) -> Attributes | None:
        """Put an item that is new; return the one that is there instead, or ``None``."""
        while True:
            answer = self._store.table.put_new(key, attributes)
            if answer.applied or answer.item is not None:
                return None if answer.applied else answer.item

    def _require_same(self, call: Call, record: StepRecord) -> None:
        if record.beside:
            self._in_order = False
        moved = self._in_order and record.position != call.position
        if record.name != call.name or record.kind != call.kind or moved:
            raise StepMismatchError(
                call.position,
                expected=f"{record.kind} {record.name!r} as call {record.position}",
                found=f"{call.kind} {call.name!r}",
            )

    def _require_going_on(self) -> None:
        if self.suspension is not None:
            raise self.suspension
        self._require_not_ended()

    def _require_not_ended(self) -> None:
        if self._ended:
            raise AttemptTimeoutError("the attempt has ended, and its steps with it: its run may be another's by now")

    def _suspend(self, suspension: Suspension) -> None:
        if suspension.due_ms > self._store.now_ms():
            self._renew(suspension.due_ms)
        with self._lock:
            self._require_not_ended()
            self.suspension = self.suspension or suspension
        raise self.suspension

    def _count(self) -> None:
        """Note how many results are kept, for the write that ends this attempt."""
        waits = sum(name in self._records for name in self._signals)
        self._claimed.kept_steps = len(self._records) + waits

    def _read_signal(self, name: str) -> SignalRecord | None:
        found = self._store.table.get(signal_key(RUN, self._claimed.id, self._claimed.incarnation, name))
        return None if found is None else self._note(read_signal(name, found))

    def _give_up(self, name: str) -> SignalRecord:
        """Put that no signal came in time; return the signal that did, where one was faster."""
        over = SignalRecord(name, self._store.now_ms(), None, self._expires_at(), is_over=True)
        key = signal_key(RUN, self._claimed.id, self._claimed.incarnation, name)
        found = self._put(key, over.attributes(new_token()))
        return self._note(over if found is None else read_signal(name, found))

    def _note(self, signal: SignalRecord) -> SignalRecord:
        with self._lock:
            self._signals[signal.name] = signal
            self._count()
        return signal

    def _waited(self, signal: SignalRecord) -> Waited:
        if signal.is_over or signal.value is None:
            return Waited(None, signal.at_ms)
        return Waited(self._decoded(signal.value, f"signal {signal.name}"), None)

    def _kept(self, record: StepRecord) -> Kept:
        return Kept(None if record.value is None else self._decoded(record.value, f"step {record.name}"))

    def _decoded(self, stored: str, what: str) -> object:
        return json_codec.decode(decrypt_text(self._store.cipher, stored, owner=self._owner(what)))

    def _encrypted(self, text: str, what: str) -> str:
        stored = encrypt_text(self._store.cipher, text, owner=self._owner(what))
        if text_bytes(stored) > MAX_STEP_BYTES:
            raise StepResultError(
                f"the result of {what!r} has {text_bytes(stored)} bytes as it would be stored; a step has room for "
                f"{MAX_STEP_BYTES} (DynamoDB's item limit); store it elsewhere and return a reference"
            )
        return stored

    def _owner(self, what: str) -> str:
        return text_owner(RUN, self._claimed.id, f"{self._claimed.incarnation} {what}")

    @staticmethod
    def _text(what: str, value: object) -> str:
        try:
            return json_codec.encode(what, value)
        except InvalidJSONError as error:
            raise StepResultError(f"{error}; the function has had its effect") from None

    def _until(self, length_ms: int) -> int:
        return min(self._store.now_ms() + length_ms, LAST_MS)

    def _expires_at(self) -> int | None:
        return self._store.expires_at(expiry_ms(self._store.now_ms()))

    def _renew(self, due_ms: int, *, ahead: bool = False) -> None:
        """Let what would expire before a run that goes on at ``due_ms`` is deleted stay for longer.

        ``ahead`` renews what would not, but comes near to it.
        """
        least = self._store.expires_at(expiry_ms(due_ms, least=True) if ahead else due_ms)
        expires_at = self._store.expires_at(expiry_ms(due_ms))
        if least is None or expires_at is None:
            return
        with self._lock:
            records, signals = tuple(self._records.values()), tuple(self._signals.values())
        run_id, incarnation = self._claimed.id, self._claimed.incarnation
        near = [
            step_key(RUN, run_id, incarnation, record.name)
            for record in records
            if record.expires_at is not None and record.expires_at < least
        ]
        near += [
            signal_key(RUN, run_id, incarnation, signal.name)
            for signal in signals
            if signal.expires_at is not None and signal.expires_at < least
        ]
        if near:
            from kumofire_core.engine.step_expiry import renew

            renew(self._store, self.pool, near, expires_at)


def _wait_ms(name: str, length: object) -> int:
    length_ms = delay_ms(name, length)
    if length_ms > duration_ms(LONGEST_WAIT):
        raise InvalidArgumentError(
            f"{name} must be at most {LONGEST_WAIT // timedelta(days=1)} days, not {short_repr(length)}"
        )
    return length_ms
