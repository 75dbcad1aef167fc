"""The dispatcher's look at a batch that is not over: it counts the ends whose marks were lost.

A look reads the buckets. It reads members as well where few are left, or where nothing has ended since the look before,
and begins with the fullest buckets. So a batch of a million that goes on costs 100 requests a look, and one that only
waits for lost marks is complete within a few looks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from kumofire_core.engine import batch_marks
from kumofire_core.engine.batch_marks import count, mark_member, read_buckets
from kumofire_core.engine.run_store import RunStore, new_token, run_key
from kumofire_core.errors import KumofireError
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.model.batch import (
    FAN_OUT,
    Marks,
    StoredBatch,
    batch_key,
    bucket_key,
    ended_in,
    member_run_id,
    widths,
)
from kumofire_core.model.run import FINAL
from kumofire_core.rules import batch_items

log = logging.getLogger("kumofire_core")

FEW = 100
"""As many members that have not ended are read in each look."""

MOST_READ = 5_000
"""So many are read in a look at most; the next one goes on."""

NAMES = ("pk", "status", "retries")
"""What is read of a member."""


def look_at_batch(store: RunStore, batch_id: str, deadline: Deadline | None) -> None:
    """Complete a batch whose members have all ended, count lost ends, or give up one that nobody completes."""
    batch = batch_marks.find_batch(store, batch_id)
    now_ms = store.now_ms()
    if batch is None or batch.done or batch.wake_at is None or batch.wake_at > now_ms:
        return  # the index was behind
    if not batch.sealed:
        _abandon(store, batch, now_ms)
        return
    buckets = read_buckets(store, batch_id, batch.total)
    counts = count(buckets.values())
    left = batch.total - sum(counts)
    if not left and batch_marks.complete(store, batch_id):
        return
    if (left <= FEW or sum(counts) == batch.seen or batch.cancel_requested) and _count_lost(
        store, batch, buckets, deadline
    ):
        counts = count(read_buckets(store, batch_id, batch.total).values())
        if sum(counts) == batch.total and batch_marks.complete(store, batch_id):
            return
    renews = now_ms - batch.renewed_ms >= batch_items.RENEWED_MS
    if renews:
        _renew(store, batch, now_ms)
    write = batch_items.look(batch, new_token(), counts=counts, now_ms=now_ms, renewed=renews)
    store.table.apply(batch_key(batch_id), write)


def _renew(store: RunStore, batch: StoredBatch, now_ms: int) -> None:
    """Let the buckets of a batch that takes months be kept for longer."""
    expires_at = batch_items.bucket_expires_at(store.expires_at(now_ms))
    if expires_at is None:
        return
    for level, width in enumerate(widths(batch.total)):
        for place in range(width):
            store.table.keep_until(bucket_key(batch.id, level, place), expires_at)


def _abandon(store: RunStore, batch: StoredBatch, now_ms: int) -> None:
    expires_at = batch_items.bucket_expires_at(store.expires_at(now_ms))
    write = batch_items.abandon(batch, new_token(), now_ms=now_ms, expires_at=expires_at)
    if store.table.apply(batch_key(batch.id), write).applied:
        log.error(
            "batch %s was not completed within a day: its callback will not run; "
            "call create_batch again with its key, or cancel_batch",
            batch.id,
            extra={"batch_id": batch.id},
        )


def _count_lost(store: RunStore, batch: StoredBatch, buckets: Mapping[int, Marks], deadline: Deadline | None) -> int:
    """Read members that are not marked, and mark those that have ended; return how many lost marks were found.

    A member that is not there was deleted, and counts as ended. Where the batch is to be canceled, its members are.
    """
    found, read = 0, 0
    for indexes in _unmarked(batch.total, buckets):
        if read >= MOST_READ or (deadline is not None and deadline.too_close_to_start()):
            break
        read += len(indexes)
        by_id = {member_run_id(batch.id, index): index for index in indexes}
        items = store.table.get_many([run_key(run_id) for run_id in by_id], names=NAMES)
        states = {key.id: item for key, item in items.items()}
        for run_id, index in by_id.items():
            item = states.get(run_id)
            status = "missing" if item is None else str(item.get("status"))
            if status != "missing" and status not in FINAL:
                if batch.cancel_requested:
                    _cancel(store, batch, run_id)
                continue
            retries = 0 if item is None else int(item.get("retries", 0))
            found += 1
            mark_member(store, batch.id, index, batch.total, status, retries=retries)
    return found


def _unmarked(total: int, buckets: Mapping[int, Marks]) -> Iterator[list[int]]:
    """Yield the members that are not marked, a bucket's at a time, the fullest bucket first."""
    places = range(widths(total)[0] if total else 0)
    for place in sorted(places, key=lambda place: -len(ended_in(buckets.get(place, {})))):
        ended = ended_in(buckets.get(place, {}))
        indexes = range(place * FAN_OUT, min((place + 1) * FAN_OUT, total))
        left = [index for index in indexes if index % FAN_OUT not in ended]
        if left:
            yield left


def _cancel(store: RunStore, batch: StoredBatch, run_id: str) -> None:
    from kumofire_core.engine import run_control

    try:
        run_control.cancel(store, run_id, batch.cancel_reason)
    except KumofireError as error:
        log.error("run %s of batch %s could not be canceled: %s", run_id, batch.id, error)
