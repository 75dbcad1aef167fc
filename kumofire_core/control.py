"""What a person does to a run: cancel it, or retry it after it ended. Free of boto3."""

from __future__ import annotations

from kumofire_core import transitions
from kumofire_core.history import history_with
from kumofire_core.run import RunStatus
from kumofire_core.runs import Runs, new_token

TRIES = 10
"""How often a change is tried while the run moves on between two statuses; each round needs it to have moved again."""


def cancel(runs: Runs, run_id: str, reason: str | None) -> bool:
    """Cancel a run that waits, or ask for it where it is executing; say whether this call did so."""
    for _ in range(TRIES):
        token, now_ms = new_token(), runs.now_ms()
        waiting = transitions.cancel(token, now_ms=now_ms, reason=reason, expires_at=runs.expires_at(now_ms))
        answer = runs.apply(run_id, waiting)
        if answer.applied:
            return True
        if answer.item is None or runs.read(run_id, answer.item).run.status is not RunStatus.RUNNING:
            return False
        answer = runs.apply(run_id, transitions.request_cancel(token, now_ms=now_ms, reason=reason))
        if answer.applied:
            return True
        if answer.item is None or "cancel_requested_at" in answer.item:
            return False
        # Its attempt ended in between: it waits again, or has ended.
    return False


def retry(runs: Runs, run_id: str) -> bool:
    """Queue a failed or canceled run again, its attempts starting anew; say whether this call did so."""
    found = runs.find(run_id)
    if found is None or found.run.status not in (RunStatus.FAILED, RunStatus.CANCELED):
        return False
    now_ms = runs.now_ms()
    again = transitions.retry(
        found, new_token(), now_ms=now_ms, shards=runs.wake_shards, history=history_with(found.run)
    )
    if not runs.apply(run_id, again).applied:
        return False
    runs.send_waiting(run_id, due_ms=now_ms, now_ms=now_ms)
    return True
