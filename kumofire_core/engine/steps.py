"""The steps of one attempt: read once, kept under the first result, and the run suspended between two of them.

Imported where a handler calls the first of them. ``handlers.step_calls`` is what handlers call; docs/steps.md has the
promises.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial, wraps
from threading import get_ident
from typing import Any, Concatenate, ParamSpec, TypeVar

from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.engine.run_store import RUN, RunStore, new_token, run_key, text_owner
from kumofire_core.errors import (
    AttemptTimeoutError,
    BatchIncompleteError,
    DuplicateStepError,
    InvalidArgumentError,
    InvalidJSONError,
    StepError,
    StepFailedError,
    StepMismatchError,
    StepResultError,
    StepsLostError,
    WaitBesideError,
    short_repr,
)
from kumofire_core.handlers.context import StepsBroken, Suspension
from kumofire_core.handlers.handler_pool import HandlerPool, is_pool_thread
from kumofire_core.handlers.step_calls import LOOK_SECONDS, Call, Kept, Waited
from kumofire_core.model import json_codec
from kumofire_core.model.encrypted_text import decrypt_text, encrypt_text
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.run_view import Run
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

HIDDEN_IN_TRACEBACKS = True

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SLEEPING = "sleeping"
WAITING = "waiting"
GOING_ON = "going on"


LEAST_LEFT_SECONDS = 0.5
"""How long before its attempt is cut a suspended run waits no more for the steps beside."""


def _uncatchable(
    method: Callable[Concatenate[Steps, Parameters], Result],
) -> Callable[Concatenate[Steps, Parameters], Result]:
    """Let an error of the table or of a key leave as what no handler catches, and remember a ``StepError``.

    So the attempt ends with it, whatever its handler makes of that.
    """

    @wraps(method)
    def guarded(self: Steps, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return method(self, *args, **kwargs)
        except StepError as error:
            self.note_failure(error)
            raise
        except (InvalidArgumentError, AttemptTimeoutError):
            raise
        except Exception as error:
            raise self.broken(error) from error

    return guarded


class Steps:
    """The steps of one attempt; safe to call from many threads.

    Errors of the table leave as ``StepsBroken``, which no handler catches by mistake.
    """

    def __init__(
        self,
        store: RunStore,
        pool: HandlerPool,
        claimed: StoredRun,
        *,
        seconds: float | None,
        began: float | None = None,
        ends: float | None = None,
        thread: int | None = None,
        stops: Callable[[], bool] | None = None,
    ) -> None:
        """``seconds`` is how long this process can execute attempts from ``began`` on; ``None``: without an end.

        ``ends`` is when the attempt is cut; both on ``time.monotonic``'s scale. ``thread`` is the consumer's own.
        ``stops`` says that this process is to end, so that no further step begins in it.
        """
        self.pool = pool
        self.slots: dict[Any, Any] = {}
        self._suspension: Suspension | None = None
        self._broken: StepsBroken | None = None
        self._failure: Exception | None = None
        self._store = store
        self._claimed = claimed
        self._began = time.monotonic() if began is None else began
        self._seconds = seconds
        self._ends = ends
        self._thread = thread
        self._stops = stops
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        # Only an earlier claim, or a signal that the run was told of, can have put something there.
        self._is_loaded = claimed.claims == 1 and not claimed.signals
        self._records: dict[str, StepRecord] = {}
        self._at: dict[int, StepRecord] = {}
        self._signals: dict[str, SignalRecord] = {}
        self._calls: dict[str, Call] = {}
        self._again: set[str] = set()
        """Calls that have ended and kept nothing; their names may be used again."""
        self._failed: dict[str, tuple[Call, BaseException]] = {}
        """Steps whose functions have failed, and have not succeeded since."""
        self._under_way: set[str] = set()
        self._executing: set[str] = set()
        self._beside: set[str] = set()
        """Calls that others may have come before, the next time."""
        self._waits: set[str] = set()
        """The sleep or the wait that is under way."""
        self._leaving = 0
        """Calls that suspend the run, and wait for the steps beside them."""
        self._puts: dict[str, bool] = {}
        """Records whose put has not been answered, and whether it is under way."""
        self._unnamed: dict[str, int] = {}
        """How many sleeps, and calls that create children, have no name of their own."""
        self._children: list[str] = []
        """The batches of children that the handler has not waited for."""
        self._in_order = True
        self._executed = 0
        self._longest = 0.0
        self._ended = False

    @property
    def ending(self) -> BaseException | None:
        """As what the steps have ended the attempt, whatever its handler makes of that."""
        return self._failure or self._suspension

    def begin_pass(self) -> None:
        """Let the handler's calls begin anew, because it is called once more in this attempt."""
        with self._lock:
            self._calls.clear()
            self._again.clear()
            self._failed.clear()
            self._unnamed.clear()
            self._children.clear()

    @_uncatchable
    def begin(self, kind: StepKind, name: object, outer: tuple[str, ...] = ()) -> Call:
        """Take the next position. Makes no request; raises where the name is wrong or was used before."""
        if (name is not None or kind not in (StepKind.SLEEP, StepKind.CHILD)) and (problem := step_name_problem(name)):
            raise InvalidArgumentError(problem)
        is_aside = self._is_aside()
        with self._lock:
            waits = kind in (StepKind.SLEEP, StepKind.WAIT)
            if waits and self._waits and (self._leaving or self._waits & self._under_way):
                raise WaitBesideError(str(name or kind), next(iter(self._waits)))
            self._require_going_on()
            if name is None:
                if is_aside:
                    raise InvalidArgumentError(
                        f"a {kind} in a task or a thread of its own needs a name, because these begin in no fixed order"
                    )
                self._unnamed[kind] = number = self._unnamed.get(kind, 0) + 1
                name = f"{kind}-{number}"
            assert isinstance(name, str)
            before = self._calls.get(name)
            if before is not None and (name not in self._again or before.kind != kind):
                raise DuplicateStepError(name)
            if self._failed and name not in self._failed:
                failed, error = next(iter(self._failed.values()))
                raise StepFailedError(name, failed.name) from error
            self._again.discard(name)
            call = before or Call(kind, name, len(self._calls) + 1, outer)
            self._calls[name] = call
            if is_aside or self._under_way:
                self._beside |= {name, *self._under_way}
                self._in_order = False
            self._under_way.add(name)
            if waits:
                self._waits = {name}
            return call

    def leave(self, call: Call, error: BaseException | None) -> None:
        """Say that a call has ended; one that has kept nothing may be made again under its name."""
        with self._lock:
            self._under_way.discard(call.name)
            suspends = isinstance(error, Suspension | StepsBroken)
            if not suspends:
                self._waits.discard(call.name)
            if error is None:
                self._failed = {
                    name: failed
                    for name, failed in self._failed.items()
                    if name != call.name and call.name not in failed[0].outer
                }
            else:
                self._again.add(call.name)
                if not suspends and call.kind is StepKind.STEP and call.name in self._executing:
                    self._failed[call.name] = call, error
            self._executing.discard(call.name)

    def give_way(self, outer: tuple[str, ...]) -> None:
        """Say that a call suspends the run, and with it the steps whose functions have made it."""
        with self._lock:
            self._leaving += 1
            self._executing.difference_update(outer)

    def awaits_others(self, outer: tuple[str, ...]) -> bool:
        """Say whether the functions of other steps are executing, and there is time to wait for them."""
        with self._lock:
            others = bool(self._executing.difference(outer)) and not self._ended
            waits = others and (self._ends is None or time.monotonic() < self._ends - LEAST_LEFT_SECONDS)
            if not waits:
                self._leaving -= 1
            return waits

    def finds_at_once(self, call: Call) -> bool:
        """Say whether ``find`` makes no request and decrypts nothing."""
        decrypts = self._store.cipher is not None and call.name in self._records
        return self._is_loaded and not decrypts and call.name not in self._puts

    @_uncatchable
    def find(self, call: Call) -> Kept | None:
        """Return the result that an earlier attempt or invocation has kept.

        So is one that this attempt has tried to keep, where the answer was lost, or nobody waited for it.
        """
        record = self._record(call)
        if record is None and call.name in self._puts:
            record = self._unanswered(call)
        return None if record is None else self._kept(record)

    def before_execution(self, call: Call) -> None:
        """Raise ``Suspension`` where the run is to go on in another invocation, and where it is suspended already."""
        with self._lock:
            self._require_going_on()
            elsewhere = self._stops is not None and self._stops()
            elsewhere = elsewhere or (
                self._seconds is not None
                and self._executed > 0
                and goes_on_elsewhere(
                    seconds_left=self._began + self._seconds - time.monotonic(),
                    whole=self._seconds,
                    longest_step=self._longest,
                )
            )
            if not elsewhere:
                self._executing.add(call.name)
        if elsewhere:
            self._suspend(Suspension(GOING_ON, self._store.now_ms()))

    @_uncatchable
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

        try:
            return create_children(self._store, self.pool, self._claimed, call.name, requests, what)
        except (BatchIncompleteError, *AWS_ERRORS) as error:
            raise self.broken(error) from error

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

    @_uncatchable
    def read_children(self, batch_ids: Sequence[str]) -> list[Run]:
        """Return children as they are now."""
        from kumofire_core.engine.children import read_children

        return read_children(self._store, batch_ids)

    @_uncatchable
    def sleep(self, call: Call, delay: object) -> None:
        """Return where the sleep is over; raise ``Suspension`` otherwise."""
        length_ms = _wait_ms("delay", delay)
        record, early_ms = self._record(call), CLOCK_SKEW_MS
        if record is None:
            record, early_ms = self.keep_record(call, until_ms=self._until(length_ms)), 0
        until_ms = record.until_ms or 0
        if until_ms - self._store.now_ms() > early_ms:
            self._suspend(Suspension(SLEEPING, until_ms))

    def wait_for_children(self, call: Call, batch_id: str, timeout: object) -> Waited:
        """Return that the children have ended, or that the time is over; raise ``Suspension`` otherwise."""
        from kumofire_core.engine.children import ended

        return self.wait(call, timeout, is_given=partial(ended, self._store, batch_id))

    @_uncatchable
    def wait(
        self, call: Call, timeout: object, *, is_given: Callable[[], dict[str, int] | None] | None = None
    ) -> Waited:
        """Return the signal, or that its time is over; raise ``Suspension`` otherwise.

        ``is_given`` returns what the signal holds where it should be there, and nobody could give it.
        """
        timeout_ms = None if timeout is None else _wait_ms("timeout", timeout)
        record, early_ms = self._record(call), CLOCK_SKEW_MS
        if record is None:
            until_ms = None if timeout_ms is None else self._until(timeout_ms)
            record, early_ms = self.keep_record(call, until_ms=until_ms), 0
        until_ms = record.until_ms
        signal = self._signals.get(call.name) or self._read_signal(call.name)
        if signal is None and is_given is not None and (given := is_given()) is not None:
            signal = self._give(call.name, given)
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
            self._failed.clear()  # errors hold the frames of the handler

    def note_failure(self, error: Exception) -> None:
        """Let the attempt end with this, if it is the first."""
        with self._lock:
            self._failure = self._failure or error

    def broken(self, error: Exception) -> StepsBroken:
        """Return what leaves the handler in place of an error of the table, and let the attempt end with that."""
        self.note_failure(error)
        with self._lock:
            self._broken = self._broken or StepsBroken(error)
            return self._broken

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
        with self._lock:
            beside = call.name in self._beside
            self._puts[call.name] = True
        record = StepRecord(
            kind=call.kind,
            name=call.name,
            position=call.position,
            beside=beside,
            at_ms=self._store.now_ms(),
            value=value,
            took_ms=took_ms,
            until_ms=until_ms,
            expires_at=self._expires_at(),
        )
        key = step_key(RUN, self._claimed.id, self._claimed.incarnation, call.name)
        try:
            found = self._put(key, record.attributes(new_token()))
        except BaseException:
            with self._lock:
                self._puts[call.name] = False
            raise
        if found is not None:
            record = read_record(call.name, found)
        with self._lock:
            del self._puts[call.name]
            self._require_same(call, record)
            self._records[call.name] = self._at[record.position] = record
            self._count()
        return record

    def _unanswered(self, call: Call) -> StepRecord | None:
        """Return what a put of this attempt has kept, once it has ended; a later call made it, or nobody waited."""
        while self._puts.get(call.name) and not self._ended:
            time.sleep(LOOK_SECONDS)
        if (record := self._records.get(call.name)) is not None:
            return record
        found = self._store.table.get(step_key(RUN, self._claimed.id, self._claimed.incarnation, call.name))
        if found is None:
            return None
        with self._lock:
            self._records[call.name] = record = read_record(call.name, found)
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

    def _is_aside(self) -> bool:
        """Say whether a task or a thread calls that the handler has made: these come in no fixed order."""
        asyncio = sys.modules.get("asyncio")
        if asyncio is not None and asyncio._get_running_loop() is not None:
            from kumofire_core.handlers.event_loop import is_main_task

            return not is_main_task()
        return self._thread is not None and get_ident() != self._thread and not is_pool_thread()

    def _require_going_on(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._failure is not None:
            raise self._failure
        if self._suspension is not None:
            raise self._suspension
        self._require_not_ended()

    def _require_not_ended(self) -> None:
        if self._ended:
            raise AttemptTimeoutError("the attempt has ended, and its steps with it: its run may be another's by now")

    def _suspend(self, suspension: Suspension) -> None:
        if suspension.due_ms > self._store.now_ms():
            self._renew(suspension.due_ms)
        with self._lock:
            self._require_not_ended()
            self._suspension = self._suspension or suspension
            raise self._suspension

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

    def _give(self, name: str, value: object) -> SignalRecord:
        """Give the run a signal by itself; return the one that is there."""
        stored = self._encrypted(self._text(f"signal {name!r}", value), f"signal {name}")
        given = SignalRecord(name, self._store.now_ms(), stored, self._expires_at())
        key = signal_key(RUN, self._claimed.id, self._claimed.incarnation, name)
        found = self._put(key, given.attributes(new_token()))
        return self._note(given if found is None else read_signal(name, found))

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
