"""An operation over many runs: which runs it may change, every write to its item, and how retries are spread.

Its item is written once for each page of runs, on the condition that nobody else has done that page. So of two
processes that work on one operation, one stops.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from kumofire_core.model.run import FINAL, RunStatus
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.times import to_ms
from kumofire_core.model.write import SCHEMA, Value, Write, present

BulkAction = Literal["cancel", "retry", "delete"]

STATUSES: dict[BulkAction, frozenset[RunStatus]] = {
    "cancel": frozenset(RunStatus) - FINAL,
    "retry": frozenset({RunStatus.FAILED, RunStatus.CANCELED}),
    "delete": FINAL,
}
"""The statuses of the runs that an action can change."""

KEPT_MS = 7 * 24 * 60 * 60_000
"""How long an operation can be read and resumed after its last page."""


def create(
    *,
    create_token: str,
    action: BulkAction,
    wanted: str,
    reason: str | None,
    spread_ms: int,
    free_dedupe_keys: bool,
    now_ms: int,
) -> dict[str, Value]:
    """Return the attributes of a new operation; ``wanted`` says which runs it is for, as JSON."""
    return present(
        {
            "schema": SCHEMA,
            "create_token": create_token,
            "action": action,
            "wanted": wanted,
            "reason": reason,
            "spread_ms": spread_ms,
            "free_keys": int(free_dedupe_keys),
            "created_at": now_ms,
            "version": 0,
            "matched": 0,
            "changed": 0,
            "skipped": 0,
            "failed": 0,
            "errors": "[]",
            "expires_at": expires_at(now_ms),
        }
    )


def save(
    token: str,
    *,
    version: int,
    counts: dict[str, int],
    errors: str,
    cursor: str | None,
    now_ms: int,
    done: bool,
) -> Write:
    """Record one page. Refused where another process has recorded it; not refused where the operation is aborted."""
    sets: dict[str, Value | None] = {
        "saved_by": token,
        "version": version + 1,
        **counts,
        "errors": errors,
        "cursor": cursor,
        "done_at": now_ms if done else None,
        "expires_at": expires_at(now_ms),
    }
    return Write(
        equals={"version": version},
        sets=present(sets),
        removes=() if cursor is not None else ("cursor",),
        write_token=("saved_by", token),
    )


def abort(token: str, *, now_ms: int) -> Write:
    """Let the process that works on the operation stop after its page. Refused where it is done, or aborted."""
    return Write(
        not_exists=("done_at", "aborted_at"),
        sets={"aborted_by": token, "aborted_at": now_ms},
        write_token=("aborted_by", token),
    )


def expires_at(now_ms: int) -> int:
    """Return the epoch second from which DynamoDB may delete an operation."""
    return (now_ms + KEPT_MS) // 1000


def is_meant(stored: StoredRun, statuses: frozenset[RunStatus], *, began_ms: int) -> bool:
    """Say whether an operation that began then is for this run: not one that was created, or has ended, since."""
    if stored.status not in statuses:
        return False
    run = stored.run
    at = run.finished_at if stored.status in FINAL and run.finished_at is not None else run.created_at
    return to_ms(at) <= began_ms


def spread_delay_ms(bulk: str, run_id: str, *, spread_ms: int) -> int:
    """Return a run's share of the time over which retries are spread: the same whenever it is asked for, and uniform.

    It depends on the operation too, so that a second one does not put the same runs together again.
    """
    share = int.from_bytes(hashlib.sha256(f"{bulk} {run_id}".encode("utf-8", "surrogatepass")).digest()[:8])
    return share * spread_ms >> 64
