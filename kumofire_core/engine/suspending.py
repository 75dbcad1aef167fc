"""Suspending a run whose handler waits, sleeps, or goes on in another invocation; imported where one does."""

from __future__ import annotations

import logging
import sys
from typing import NamedTuple

from kumofire_core.aws.dynamodb import Answer
from kumofire_core.engine.run_store import RUN, RunStore
from kumofire_core.errors import StepFailedError
from kumofire_core.handlers.context import Suspension, log_fields
from kumofire_core.model.error_text import error_chain, error_leaves, error_name
from kumofire_core.model.run import Outcome
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.steps import signal_key
from kumofire_core.rules import run_writes
from kumofire_core.rules.run_writes import Transition

log = logging.getLogger("kumofire_core")

TRIES = 5
"""How often a run that waits is suspended while other signals come for it; then it looks again at once."""


class Suspended(NamedTuple):
    """What became of a run that was to be suspended."""

    outcome: Outcome
    write: Transition


def suspend(store: RunStore, claimed: StoredRun, suspension: Suspension) -> Suspended | None:
    """Put a run back to wait for its time or its signal, and send its message where that comes soon.

    Without a lost wake-up: whoever gives a signal either finds the run waiting and wakes it, or has raised the run's
    number of signals, and then this write is refused and the signal is looked for. A run that is to be canceled is
    canceled. ``None`` where the lease is another's by now.
    """
    signals, waits_for, due_ms = claimed.signals, suspension.waits_for, suspension.due_ms
    for tries in range(TRIES + 1):
        now_ms = store.now_ms()
        if tries == TRIES:
            waits_for, due_ms = None, now_ms
        write = run_writes.suspend(claimed, now_ms=now_ms, due_ms=due_ms, waits_for=waits_for, signals=signals)
        answer = store.apply(claimed.id, write)
        if answer.applied:
            log.info("the run is suspended: %s", suspension.reason, extra=log_fields(claimed))
            store.send_waiting(claimed.id, due_ms=due_ms, now_ms=now_ms, group=claimed.group)
            return Suspended(Outcome.RETRIED, write)
        if not _is_held(claimed, answer) or answer.item is None:
            return None
        if "cancel_requested_at" in answer.item:
            return _cancel(store, claimed)
        if waits_for is None:
            return None
        signals = int(answer.item.get("signals", 0))
        if store.table.get(signal_key(RUN, claimed.id, claimed.incarnation, waits_for), names=("pk",)) is not None:
            waits_for, due_ms = None, store.now_ms()
    return None


def left_by(error: BaseException | None, ending: BaseException, claimed: StoredRun) -> BaseException:
    """Return as what an attempt ends whose steps have ended it, and whose handler raised ``error``, or returned.

    ``ending`` is a suspension, a ``StepError``, or an error of the table. A failure of steps stands. A suspension
    stands unless something else has failed as well: what a ``with`` block or an ``except`` raises because of it is
    logged by its type.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return error
    if not isinstance(ending, Suspension):
        if isinstance(ending, StepFailedError) and error is not None and _is_of(error, ending):
            return error  # a step beside was not to be begun any more
        return ending
    if error is None:
        return ending
    others = [leaf for leaf in error_leaves(error) if not _only_leaves(leaf)]
    if not all(_leads_to(leaf, ending) for leaf in others):
        return _without_suspensions(error)
    if others:
        log.warning(
            "the handler raised %s when its run was suspended; the run is suspended all the same",
            ", ".join(error_name(leaf) for leaf in others),
            extra=log_fields(claimed),
        )
    return ending


def _is_of(error: BaseException, refusal: StepFailedError) -> bool:
    """Say whether a handler was left by the error of the very step after which another one was refused."""
    failed = refusal.__cause__
    return error is not refusal and any(_leads_to(leaf, failed) for leaf in error_leaves(error))


def _leads_to(error: BaseException, cause: BaseException | None) -> bool:
    return any(each is cause for each in error_chain(error))


def _only_leaves(leaf: BaseException) -> bool:
    """Say whether this is how a task is left whose run is suspended, and no failure."""
    asyncio = sys.modules.get("asyncio")
    return isinstance(leaf, Suspension) or (asyncio is not None and isinstance(leaf, asyncio.CancelledError))


def _without_suspensions(error: BaseException) -> BaseException:
    if not isinstance(error, BaseExceptionGroup):
        return error
    try:
        return error.split(_only_leaves)[1] or error
    except Exception:  # a group's class may make anything of that
        return error


def _cancel(store: RunStore, claimed: StoredRun) -> Suspended | None:
    now_ms = store.now_ms()
    end = run_writes.cancel_suspended(claimed, now_ms=now_ms, expires_at=store.expires_at(now_ms))
    return Suspended(Outcome.CANCELED, end) if store.apply(claimed.id, end).applied else None


def _is_held(claimed: StoredRun, refusal: Answer) -> bool:
    found = refusal.item
    held = {"lease_token": claimed.lease_token, "claims": claimed.claims}
    return found is not None and all(found.get(name) == value for name, value in held.items())
