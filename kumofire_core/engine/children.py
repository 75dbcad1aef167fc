"""Runs that a handler creates as its children, waits for, and that are canceled with it.

The children of one call are a batch, whose id follows from the parent's and the call's name. So the call is made once
over all attempts. When all have ended, the batch gives its parent a signal in place of a callback. Imported where a
handler creates the first of them, or somebody cancels a tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kumofire_core.engine import batch_marks, run_control
from kumofire_core.engine.batches import Batches
from kumofire_core.engine.create import RunCreator
from kumofire_core.engine.run_store import RunStore, run_key
from kumofire_core.handlers.handler_pool import HandlerPool
from kumofire_core.handlers.job_function import RunRequest
from kumofire_core.model.batch import StoredBatch, member_run_id
from kumofire_core.model.run import derived_run_id
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.run_view import Run
from kumofire_core.model.steps import StepKind, read_steps, steps_prefix

if TYPE_CHECKING:
    from kumofire_core.engine.batches import Signal

READ_AT_ONCE = 100


def children_batch_id(run_id: str, incarnation: str, name: str) -> str:
    """Return the id of the batch that a run's call of this name creates."""
    return derived_run_id("children", run_id, incarnation, name)


def children_signal(batch_id: str) -> str:
    """Return the name of the signal by which a parent learns that the children of a call have ended."""
    return f"children-{batch_id[:16]}"


def create_children(
    store: RunStore, pool: HandlerPool, parent: StoredRun, name: str, requests: Iterable[RunRequest], call: str
) -> str:
    """Create the children of one call, or go on with it; return their batch's id."""
    batch_id = children_batch_id(parent.id, parent.incarnation, name)
    creator = RunCreator(store=store, pool=pool, allow_unknown_jobs=store.allow_unknown_jobs)
    signal: Signal = (parent.id, children_signal(batch_id))
    Batches(store, creator).create_children(requests, batch_id=batch_id, signal=signal, parent_id=parent.id, call=call)
    return batch_id


def read_children(store: RunStore, batch_ids: Sequence[str]) -> list[Run]:
    """Return the children of these calls in their order, as they are now; those that are kept."""
    found: list[Run] = []
    for batch_id in batch_ids:
        batch = batch_marks.find_batch(store, batch_id)
        if batch is not None:
            found += batch_marks.members(store, batch_id, batch.total, None)
    return found


def ended(store: RunStore, batch_id: str) -> dict[str, int] | None:
    """Return how the children of a call have ended, once all have; ``None`` before.

    A parent that had ended when they did got no signal. When a person retries it, it finds out by this.
    """
    batch = batch_marks.find_batch(store, batch_id)
    if batch is None:  # it is kept for longer than they are
        return {}
    return batch.stored_counts._asdict() if batch.done else None


def cancel_tree(store: RunStore, pool: HandlerPool, run_id: str, reason: str | None) -> int:
    """Cancel a run, its children, and theirs; return how many runs this call changed.

    The parents first, so that those that wait create no more.
    """
    changed = 0
    batches = Batches(store, RunCreator(store=store, pool=pool, allow_unknown_jobs=True))
    pending = [run_id]
    while pending:
        here, pending = pending, []
        for start in range(0, len(here), READ_AT_ONCE):
            ids = here[start : start + READ_AT_ONCE]
            items = store.table.get_many([run_key(each) for each in ids])
            for key, item in items.items():
                found = store.read(key.id, item, payload_required=False)
                changed += run_control.cancel(store, found.id, reason)
                for batch in _children(store, found):
                    batches.request_cancel(batch, reason)
                    pending += [member_run_id(batch.id, index) for index in range(batch.total)]
    return changed


def _children(store: RunStore, parent: StoredRun) -> Iterable[StoredBatch]:
    if not parent.may_have_steps:
        return
    incarnation = parent.incarnation
    kept = read_steps(store.table.parts(run_key(parent.id), steps_prefix(incarnation)), incarnation)
    for record in kept.records.values():
        if record.kind == StepKind.CHILD:
            batch = batch_marks.find_batch(store, children_batch_id(parent.id, incarnation, record.name))
            if batch is not None:
                yield batch
