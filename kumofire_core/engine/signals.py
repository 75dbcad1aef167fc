"""Signals from outside to runs that wait, or will; and what a person can ask of a run's steps."""

from __future__ import annotations

import contextlib
import logging
from datetime import timedelta
from functools import partial
from typing import Any

from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.engine.run_store import RUN, RunStore, new_token, run_key, text_owner
from kumofire_core.engine.step_expiry import at_once, signal_expires_at
from kumofire_core.errors import DecryptionError, InvalidArgumentError, InvalidJSONError, KumofireError
from kumofire_core.model import json_codec
from kumofire_core.model.encrypted_text import ENCRYPTED, decrypt_text, encrypt_text, is_encrypted
from kumofire_core.model.error_text import error_name
from kumofire_core.model.run import FINAL, NOT_READ, RunStatus
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.steps import (
    MAX_STEP_BYTES,
    UNREAD_NAMES,
    SignalRecord,
    Step,
    StepKind,
    StepRecord,
    read_signal,
    read_steps,
    signal_key,
    step_key,
    steps_prefix,
)
from kumofire_core.model.times import from_ms
from kumofire_core.model.write import Key, text_bytes
from kumofire_core.rules import run_writes
from kumofire_core.rules.steps import step_name_problem

log = logging.getLogger("kumofire_core")

TRIES = 50
"""How often one call tells a run of its signal. Each round needs that the run was claimed or suspended meanwhile."""


def require_signal(name: object, payload: object) -> str:
    """Return a signal's payload as JSON text; ``InvalidArgumentError`` or ``InvalidJSONError`` for a wrong argument."""
    if problem := step_name_problem(name):
        raise InvalidArgumentError(problem.replace("of a step", "of a signal"))
    text = json_codec.encode("the payload of a signal", payload)
    _require_room(text)
    return text


def _require_room(text: str) -> None:
    if text_bytes(text) > MAX_STEP_BYTES:
        raise InvalidJSONError(
            f"the payload has {text_bytes(text)} bytes as it would be stored; a signal has room for {MAX_STEP_BYTES} "
            "(DynamoDB's item limit); store it elsewhere and pass a reference"
        )


def signal(store: RunStore, run_id: str, name: str, payload: str) -> bool:
    """Give a run a signal, and wake it where it waits for that; say whether it is this payload that the run gets.

    It is put first, and the run is told afterwards. A call that was refused because there is such a signal tells the
    run as well: the one that put it may have died in between.
    """
    found = store.find(run_id, payload_required=False)
    if found is None or found.status in FINAL:
        return False
    incarnation = found.incarnation
    key, token = signal_key(RUN, run_id, incarnation, name), new_token()
    now_ms = store.now_ms()
    stored = encrypt_text(store.cipher, payload, owner=_owner(found, f"signal {name}"))
    _require_room(stored)
    record = SignalRecord(name, now_ms, stored, signal_expires_at(store, found, now_ms))
    answer = store.table.put_new(key, record.attributes(token))
    is_ours = answer.applied
    if not answer.applied and answer.item is not None:
        there = read_signal(name, answer.item)
        if there.is_over:
            return False
        is_ours = _is_same(store, found, there, payload)  # an earlier call may have put it, and raised then
    for _ in range(TRIES):
        if found is None or found.incarnation != incarnation:
            if is_ours:  # the run was deleted, or starts over: nobody will ask for this
                with contextlib.suppress(*AWS_ERRORS):
                    store.table.delete(key)
            return False
        if found.status in (RunStatus.FAILED, RunStatus.CANCELED):
            return is_ours  # it ended meanwhile, and finds this if a person retries it
        if found.status is RunStatus.SUCCEEDED:
            return is_ours and store.table.get(step_key(RUN, run_id, incarnation, name), names=("pk",)) is not None
        told = new_token()
        now_ms = store.now_ms()
        waits = found.status is RunStatus.SCHEDULED and found.waits_for == name
        if waits:
            write = run_writes.wake(found, told, waits_for=name, now_ms=now_ms)
        else:
            write = run_writes.note_signal(found, told)
        told_run = store.apply(run_id, write)
        if told_run.applied:
            if waits:
                store.send_waiting(run_id, due_ms=now_ms, now_ms=now_ms, group=found.group)
            return is_ours
        found = None if told_run.item is None else store.read(run_id, told_run.item, payload_required=False)
    raise KumofireError(
        f"run {run_id} was claimed or suspended {TRIES} times while this call gave it the signal {name!r}; call again"
    )


def _is_same(store: RunStore, run: StoredRun, there: SignalRecord, payload: str) -> bool:
    """Say whether a signal that was there before has the same payload."""
    try:
        text = decrypt_text(store.cipher, there.value or "", owner=_owner(run, f"signal {there.name}"))
        return bool(json_codec.decode(text) == json_codec.decode(payload))
    except (DecryptionError, ValueError):
        return False


def steps(store: RunStore, run_id: str, *, results: bool) -> tuple[Step, ...]:
    """Return what a run has kept, in the order of its handler's calls, and then the signals not waited for so far.

    Without ``results`` these are neither fetched nor decrypted.
    """
    found = store.find(run_id, payload_required=False)
    if found is None:
        return ()
    names = () if results else UNREAD_NAMES
    items = store.table.parts(run_key(run_id), steps_prefix(found.incarnation), names=names)
    kept = read_steps(items, found.incarnation, values=results)
    records = sorted(kept.records.values(), key=lambda record: (record.position, record.at_ms, record.name))
    listed = [_step(store, found, record, kept.signals.get(record.name), results=results) for record in records]
    early = sorted(
        (signal for name, signal in kept.signals.items() if name not in kept.records),
        key=lambda signal: (signal.at_ms, signal.name),
    )
    return (*listed, *(_early(store, found, signal, results=results) for signal in early))


def delete_steps(store: RunStore, deleted: StoredRun) -> None:
    """Delete the steps and signals of a run that was deleted. What can't be deleted now expires by itself."""
    if deleted.may_have_steps:
        delete_incarnation(store, deleted.id, deleted.incarnation)


def delete_incarnation(store: RunStore, run_id: str, incarnation: str) -> None:
    """Delete the items of one incarnation of a run, several at a time.

    Nobody asks for them any more, and they expire by themselves. So an error of the table is logged, and no more.
    """
    try:
        items = store.table.parts(run_key(run_id), steps_prefix(incarnation), names=("sk",))
        at_once([partial(store.table.delete, Key(RUN, run_id, str(item["sk"]))) for item in items])
    except AWS_ERRORS as error:
        log.warning(
            "the steps of a run could not all be deleted (%s); they expire by themselves",
            error_name(error),
            extra={"job_run_id": run_id},
        )


def _step(store: RunStore, run: StoredRun, record: StepRecord, signal: SignalRecord | None, *, results: bool) -> Step:
    kind = StepKind(record.kind)
    result = _value(store, run, record.value, f"step {record.name}")
    signaled_at = None
    timed_out = False
    if kind is StepKind.WAIT and signal is not None:
        timed_out = signal.is_over
        result = _value(store, run, signal.value, f"signal {record.name}")
        signaled_at = None if timed_out else from_ms(signal.at_ms)
    return Step(
        name=record.name,
        kind=kind,
        position=record.position,
        at=from_ms(record.at_ms),
        result=result if results else NOT_READ,
        duration=None if record.took_ms is None else timedelta(milliseconds=record.took_ms),
        until=None if record.until_ms is None else from_ms(record.until_ms),
        signaled_at=signaled_at,
        timed_out=timed_out,
    )


def _early(store: RunStore, run: StoredRun, signal: SignalRecord, *, results: bool) -> Step:
    at = from_ms(signal.at_ms)
    result = _value(store, run, signal.value, f"signal {signal.name}") if results else NOT_READ
    return Step(signal.name, StepKind.SIGNAL, None, at, result, signaled_at=at)


def _value(store: RunStore, run: StoredRun, stored: str | None, what: str) -> Any:
    if stored is None:
        return None
    if store.cipher is None and is_encrypted(stored):
        return ENCRYPTED
    return json_codec.decode(decrypt_text(store.cipher, stored, owner=_owner(run, what)))


def _owner(run: StoredRun, what: str) -> str:
    return text_owner(RUN, run.id, f"{run.incarnation} {what}")
