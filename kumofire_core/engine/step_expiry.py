"""Letting what a run has kept stay for as long as the run may wait; imported where something may have to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from kumofire_core.engine.run_store import RUN, RunStore, run_key
from kumofire_core.handlers.handler_pool import BoundedPool, HandlerPool
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.steps import steps_prefix
from kumofire_core.model.write import Key
from kumofire_core.rules.steps import SIGNAL_KEPT_MS, expiry_ms

MOST_AT_ONCE = 16
"""How many requests renew or delete the records of one run at a time."""

LEAST_IN_THREADS = 4
"""Fewer requests are made one after the other."""

_threads = HandlerPool()
"""For a process that has no consumer's threads."""


def signal_expires_at(store: RunStore, found: StoredRun, now_ms: int) -> int | None:
    """Return until when a signal is kept: beyond the longest sleep, and beyond the time at which the run is due."""
    return store.expires_at(max(now_ms + SIGNAL_KEPT_MS, expiry_ms(found.due_ms)))


def keep_while_waiting(store: RunStore, run: StoredRun, *, due_ms: int, pool: HandlerPool | None = None) -> None:
    """Let what a run has kept stay until it is due, and for some time more.

    Call it before that time is written. It makes no request for a run that has kept nothing. Errors of the table leave
    as botocore raised them.
    """
    if not (run.may_have_steps or run.kept_steps):
        return
    least, expires_at = store.expires_at(expiry_ms(due_ms, least=True)), store.expires_at(expiry_ms(due_ms))
    if least is None or expires_at is None:
        return
    items = store.table.parts(run_key(run.id), steps_prefix(run.incarnation), names=("sk", "expires_at"))
    near = [Key(RUN, run.id, str(item["sk"])) for item in items if _expires(item) < least]
    renew(store, pool or _threads, near, expires_at)


def renew(store: RunStore, pool: HandlerPool, keys: Iterable[Key], expires_at: int) -> None:
    """Let items stay until this epoch second, several at a time. One that is gone stays gone."""
    at_once([partial(store.table.keep_until, key, expires_at) for key in keys], pool)


def at_once(requests: Sequence[Callable[[], object]], pool: HandlerPool | None = None) -> None:
    """Make requests, several at a time; raises what the first of them raised."""
    if len(requests) < LEAST_IN_THREADS:
        for request in requests:
            request()
        return
    in_flight = BoundedPool(pool or _threads, MOST_AT_ONCE)
    for request in requests:
        in_flight.start(request)
    in_flight.finish()


def _expires(item: Mapping[str, Any]) -> float:
    expires_at = item.get("expires_at")
    return expires_at if isinstance(expires_at, int) else float("inf")
