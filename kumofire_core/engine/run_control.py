"""What a person does to a run: cancel it, give it another time or payload, retry or delete it after it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kumofire_core.engine.run_store import RunStore, new_token, run_key
from kumofire_core.model import json_codec
from kumofire_core.model.run import FINAL, RunStatus
from kumofire_core.model.run_item import StoredRun, history_with
from kumofire_core.model.write import Attributes
from kumofire_core.rules import run_writes
from kumofire_core.rules.run_writes import Transition

DAY_MS = 24 * 60 * 60_000
TRIES = 10
"""How often a change is tried while the run moves on between two statuses; each round needs it to have moved again."""

_WAITING = (RunStatus.SCHEDULED, RunStatus.QUEUED)


def cancel(store: RunStore, run_id: str, reason: str | None) -> bool:
    """Cancel a run that waits, or ask for it where it is executing; say whether this call did so."""
    for _ in range(TRIES):
        token, now_ms = new_token(), store.now_ms()
        waiting = run_writes.cancel(run_id, token, now_ms=now_ms, reason=reason, expires_at=store.expires_at(now_ms))
        answer = store.apply(run_id, waiting, read_back=True)
        if answer.applied:
            _count_canceled(store, run_id, answer.item)
            store.tell_of_item("canceled", run_id, answer.item)
            if answer.item is not None and "limited" in answer.item:
                _give_up_places(store, store.read(run_id, answer.item, payload_required=False))
            return True
        if answer.item is None or store.read(run_id, answer.item).run.status is not RunStatus.RUNNING:
            return False
        answer = store.apply(run_id, run_writes.request_cancel(token, now_ms=now_ms, reason=reason))
        if answer.applied:
            return True
        if answer.item is None or "cancel_requested_at" in answer.item:
            return False
        # Its attempt ended in between: it waits again, or has ended.
    return False


def _count_canceled(store: RunStore, run_id: str, item: Attributes | None) -> None:
    """Count the end of a run that was canceled while it waited, where it belongs to a batch.

    After a lost reply the item may be further: a person has retried the run, and it may have ended again.
    """
    if item is not None and ("batch" in item or "after" in item):
        now = store.read(run_id, item, payload_required=False)
        if now.status in FINAL:
            store.ended(now, now.status, attempted=False)


def cancel_found(store: RunStore, found: StoredRun | None, reason: str | None, *, bulk: str) -> bool:
    """Do what ``cancel`` does to a run that was read just now, unless the operation ``bulk`` has done so already.

    A run that was created under its id meanwhile, because this one was deleted, is another one and left alone.
    """
    created_as = {} if found is None else found.created_as
    for _ in range(TRIES):
        if found is None or found.status in FINAL or found.bulk == bulk or found.created_as != created_as:
            return False
        token, now_ms = new_token(), store.now_ms()
        if found.status is RunStatus.RUNNING:
            if found.cancel_requested:
                return False
            claims = {"claims": found.claims} if found.claims else {}
            write = run_writes.request_cancel(
                token, now_ms=now_ms, reason=reason, equals={**created_as, **claims}, bulk=bulk
            )
        else:
            write = run_writes.cancel(
                found.id,
                token,
                now_ms=now_ms,
                reason=reason,
                expires_at=store.expires_at(now_ms),
                equals={**created_as, "updated_at": found.updated_at},
                bulk=bulk,
            )
        ends = found.status is not RunStatus.RUNNING
        answer = store.apply(found.id, write, read_back=ends and store.has_hooks("canceled"))
        if answer.applied:
            if ends:
                store.ended(found, RunStatus.CANCELED, attempted=False)
                store.tell_of_item("canceled", found.id, answer.item)
                _give_up_places(store, found)
            return True
        found = None if answer.item is None else store.read(found.id, answer.item, payload_required=False)
    return False


def retry(store: RunStore, run_id: str, *, at_ms: int | None = None, from_start: bool = False) -> bool:
    """Queue a failed or canceled run again, its attempts starting anew; say whether this call did so.

    Where ``at_ms`` is given and still to come, it waits until then. ``from_start`` forgets its kept steps. Raises
    ``SupersededRunError`` where its ``dedupe_key`` allows one unfinished run, and has begun a newer one, and
    ``InvalidPayloadError`` where its payload does not fit the type of its job.
    """
    found = store.find(run_id)
    return found is not None and retry_found(store, found, at_ms=at_ms, from_start=from_start)


def retry_found(
    store: RunStore,
    found: StoredRun,
    *,
    delay_ms: int = 0,
    at_ms: int | None = None,
    bulk: str | None = None,
    from_start: bool = False,
) -> bool:
    """Queue a run that was read just now again, after ``delay_ms`` or at ``at_ms``; ``False`` where it has changed.

    ``bulk`` is the operation over many runs that asks for it. It is stored with the run, which it retries once.
    """
    due_ms = retry_unsent(store, found, delay_ms=delay_ms, at_ms=at_ms, bulk=bulk, from_start=from_start)
    if due_ms is None:
        return False
    now_ms = due_ms - delay_ms if at_ms is None else store.now_ms()
    store.send_waiting(found.id, due_ms=due_ms, now_ms=now_ms, group=found.group)
    if from_start and found.may_have_steps:  # the run asks for them no more, so this must not keep its message back
        from kumofire_core.engine.signals import delete_steps

        delete_steps(store, found)
    return True


def retry_unsent(
    store: RunStore,
    found: StoredRun,
    *,
    delay_ms: int = 0,
    at_ms: int | None = None,
    bulk: str | None = None,
    from_start: bool = False,
) -> int | None:
    """Do what ``retry_found`` does, but leave it to the caller to send the message; return when the run is due."""
    if found.status not in (RunStatus.FAILED, RunStatus.CANCELED):
        return None
    if found.dedupe_mode is not None:
        from kumofire_core.engine.dedupe import require_latest

        require_latest(store, found)
    store.require_fit(found)
    now_ms = store.now_ms()
    due_ms = now_ms + delay_ms if at_ms is None else at_ms
    if not from_start:
        _keep_steps(store, found, due_ms=due_ms, now_ms=now_ms)
    again = run_writes.retry(
        found,
        new_token(),
        due_ms=due_ms,
        now_ms=now_ms,
        shards=store.shards_to_write(),
        history=history_with(found.run),
        bulk=bulk,
        from_start=from_start,
    )
    return due_ms if store.apply(found.id, again).applied else None


def move(store: RunStore, run_id: str, *, due_ms: int | None) -> bool:
    """Give a run that waits another time, ``None`` for now; say whether this call did so."""

    def moved(waiting: StoredRun, now_ms: int, changed_ms: int) -> Transition | None:
        if due_ms is None and waiting.status is RunStatus.QUEUED:
            return None  # its message is under way already
        at_ms = now_ms if due_ms is None else due_ms
        _keep_steps(store, waiting, due_ms=at_ms, now_ms=now_ms)
        return run_writes.move(waiting, new_token(), due_ms=at_ms, now_ms=now_ms, changed_ms=changed_ms)

    changed = _change(store, run_id, moved)
    if changed is None:
        return False
    now_ms, group = changed.now_ms, changed.group
    if due_ms is not None:
        _give_up_places(store, changed.before)
    store.send_waiting(run_id, due_ms=now_ms if due_ms is None else max(due_ms, now_ms), now_ms=now_ms, group=group)
    return True


def _keep_steps(store: RunStore, run: StoredRun, *, due_ms: int, now_ms: int) -> None:
    """Let what a run has kept stay until the time that a person gives it; no request where it has kept nothing."""
    if run.may_have_steps and due_ms - now_ms > DAY_MS:
        from kumofire_core.engine.step_expiry import keep_while_waiting

        keep_while_waiting(store, run, due_ms=due_ms)


def change_payload(store: RunStore, run_id: str, *, payload: str) -> bool:
    """Replace the payload of a run that waits; say whether this call did so.

    Raises ``InvalidPayloadError`` where it does not fit the type of the run's job.
    """
    stored = store.encrypted_payload(run_id, payload)
    replaced: list[str] = []

    def changed(waiting: StoredRun, now_ms: int, changed_ms: int) -> Transition:
        nonlocal stored
        store.registry.require_fit(waiting.job_name, json_codec.decode(payload))
        stored = store.apart(run_id, stored)  # once, and only for a run that waits
        replaced[:] = [waiting.payload_text]
        return run_writes.change_payload(waiting, new_token(), payload=stored, changed_ms=changed_ms)

    is_changed = _change(store, run_id, changed) is not None
    for each in replaced if is_changed else ():
        store.discard(each)
    return is_changed


class _Changed(NamedTuple):
    now_ms: int
    group: str | None
    before: StoredRun


def _change(
    store: RunStore, run_id: str, change: Callable[[StoredRun, int, int], Transition | None]
) -> _Changed | None:
    """Change a run that waits; return when, and its group, or ``None`` where it does not wait, or needs no change."""
    found = store.find(run_id, payload_required=False)
    for _ in range(TRIES):
        if found is None or found.status not in _WAITING:
            return None
        now_ms = store.now_ms()
        write = change(found, now_ms, max(now_ms, found.updated_at + 1))
        if write is None:
            return None
        answer = store.apply(run_id, write)
        if answer.applied:
            return _Changed(now_ms, found.group, found)
        found = None if answer.item is None else store.read(run_id, answer.item, payload_required=False)
    return None


def _give_up_places(store: RunStore, found: StoredRun) -> None:
    """Let a run that does not go on now give up its places before the slots of limits, where it has any."""
    if found.limited:
        from kumofire_core.engine.limits import Line

        Line(store).collect(found)


def delete(store: RunStore, run_id: str) -> bool:
    """Delete a run that has ended; say whether this call did so."""
    found = store.find(run_id, payload_required=False)
    return found is not None and delete_found(store, found)


def delete_found(store: RunStore, found: StoredRun) -> bool:
    """Delete a run that was read just now; ``False`` where it has not ended, or has changed since."""
    if found.status not in FINAL:
        return False
    if found.callback_of is not None:
        from kumofire_core.engine.batch_marks import require_done

        require_done(store, found)  # or the dispatcher might put it again
    store.ended(found, found.status)  # where that was lost, nobody could tell it any more
    deleted = store.table.delete_unchanged(
        run_key(found.id), equals={"status": found.status, "updated_at": found.updated_at}
    )
    if deleted and found.may_have_steps:
        from kumofire_core.engine.signals import delete_steps

        delete_steps(store, found)
    return deleted
