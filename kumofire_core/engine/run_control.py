"""What a person does to a run: cancel it, or retry it after it ended."""

from __future__ import annotations

from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.model.run import RunStatus
from kumofire_core.model.run_item import history_with
from kumofire_core.rules import run_writes

TRIES = 10
"""How often a change is tried while the run moves on between two statuses; each round needs it to have moved again."""


def cancel(store: RunStore, run_id: str, reason: str | None) -> bool:
    """Cancel a run that waits, or ask for it where it is executing; say whether this call did so."""
    for _ in range(TRIES):
        token, now_ms = new_token(), store.now_ms()
        waiting = run_writes.cancel(token, now_ms=now_ms, reason=reason, expires_at=store.expires_at(now_ms))
        answer = store.apply(run_id, waiting, read_back=store.has_hooks("canceled"))
        if answer.applied:
            store.tell_of_item("canceled", run_id, answer.item)
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


def retry(store: RunStore, run_id: str) -> bool:
    """Queue a failed or canceled run again, its attempts starting anew; say whether this call did so."""
    found = store.find(run_id)
    if found is None or found.run.status not in (RunStatus.FAILED, RunStatus.CANCELED):
        return False
    now_ms = store.now_ms()
    again = run_writes.retry(
        found, new_token(), now_ms=now_ms, shards=store.shards_to_write(), history=history_with(found.run)
    )
    if not store.apply(run_id, again).applied:
        return False
    store.send_waiting(run_id, due_ms=now_ms, now_ms=now_ms)
    return True
