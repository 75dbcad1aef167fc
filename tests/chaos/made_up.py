"""Events of a ledger that nobody wrote, for the tests of its judges."""

from __future__ import annotations

from typing import Any


def begin(run_id: str = "r", fence: int = 1, *, at: int = 0, **fields: Any) -> dict[str, Any]:
    """Return the event of a handler that was called for a claim of the time ``at``, with a lease of ten seconds."""
    return {
        "event": "begin",
        "run_id": run_id,
        "fence": fence,
        "job": "job",
        "attempt": fence,
        "max_attempts": 3,
        "pid": 1,
        "claimed_ms": at,
        "begun_ms": at,
        "scheduled_ms": 0,
        "lease_ms": 10_000,
        **fields,
    }


def end(run_id: str = "r", fence: int = 1, how: str = "returned") -> dict[str, Any]:
    """Return the event of the same handler's end."""
    return {"event": "end", "run_id": run_id, "fence": fence, "how": how, "pid": 1}
