"""How the end of a member is counted, and what follows when all have ended. Imported where a member ends.

The mark of a member comes after the write that ends it. Whoever makes the mark that fills the last bucket puts the
callback's run. A process that dies in between loses its mark; the dispatcher's look (``batch_looks``) makes it then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from kumofire_core.engine.run_store import RunStore, new_token, run_key
from kumofire_core.errors import KumofireError
from kumofire_core.model.batch import (
    ENDS,
    FAN_OUT,
    Batch,
    Counts,
    Follower,
    Marks,
    MemberStatus,
    StoredBatch,
    batch_key,
    bucket_key,
    ended_in,
    is_full,
    member_run_id,
    read_batch,
    widths,
)
from kumofire_core.model.error_text import error_name
from kumofire_core.model.run import FINAL, NewRun, RunStatus
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.run_view import Run
from kumofire_core.model.write import Key
from kumofire_core.rules import batch_items
from kumofire_core.rules.batch_items import Mark

log = logging.getLogger("kumofire_core")

READ_AT_ONCE = 100
"""Items of one ``BatchGetItem``."""

MEMBERS_AT_ONCE = 25
"""Members that are read at once with their payloads and outputs."""


def mark_ended(store: RunStore, run: StoredRun, status: RunStatus) -> None:
    """Count the end of a run in its batch, where it is in one; put the callback where it was the last one.

    Never raises: the run has ended, and its end is recorded. What can't be done now, the dispatcher does later.
    """
    if run.batch is None:
        return
    batch_id, index, total = run.batch
    try:
        mark_member(store, batch_id, index, total, status.value, retries=run.retries)
    except Exception as error:
        log.warning(
            "the end of run %s could not be counted in batch %s (%s); the dispatcher counts it",
            run.id,
            batch_id,
            error_name(error),
        )


def mark_member(store: RunStore, batch_id: str, index: int, total: int, end: str, *, retries: int) -> bool:
    """Count the end of a member; say whether that was new to its bucket, or may have been."""
    mark = batch_items.member_mark(index, end, retries=retries)
    place = index // FAN_OUT
    marks = _mark(store, bucket_key(batch_id, 0, place), mark)
    if marks is None:
        return False
    fill(store, batch_id, total, place, marks)
    return True


def fill(store: RunStore, batch_id: str, total: int, place: int, marks: Marks) -> None:
    """Tell the levels above of a bucket of the lowest level, if it is full, and complete the batch if all are."""
    levels = len(widths(total))
    for level in range(levels):
        if not is_full(marks, total=total, level=level, place=place):
            return
        if level + 1 == levels:
            complete(store, batch_id)
            return
        mark, place = batch_items.full_mark(place), place // FAN_OUT
        above = _mark(store, bucket_key(batch_id, level + 1, place), mark)
        if above is None:
            return
        marks = above


def _mark(store: RunStore, key: Key, mark: Mark) -> Marks | None:
    expires_at = batch_items.bucket_expires_at(store.expires_at(store.now_ms()))
    return store.table.mark(
        key,
        mark.number,
        into=mark.into,
        out_of=mark.out_of,
        retries=mark.retries,
        sets={} if expires_at is None else {"expires_at": expires_at},
    )


def find_batch(store: RunStore, batch_id: str) -> StoredBatch | None:
    """Read a batch as it is now, or ``None``. Raises ``CorruptItemError`` or ``NewerSchemaError``."""
    item = store.table.get(batch_key(batch_id))
    return None if item is None else read_batch(batch_id, item)


def read_buckets(store: RunStore, batch_id: str, total: int) -> dict[int, Marks]:
    """Return the buckets of the lowest level by their place, those that exist, as they are now."""
    found: dict[int, Marks] = {}
    for places in _chunks(range(widths(total)[0] if total else 0), READ_AT_ONCE):
        for key, marks in store.table.get_sets([bucket_key(batch_id, 0, place) for place in places]).items():
            found[int(key.id.rpartition(".")[2])] = marks
    return found


def count(buckets: Iterable[Marks]) -> Counts:
    """Return how many members have ended, by how."""
    counts = dict.fromkeys(ENDS, 0)
    for marks in buckets:
        for name in ENDS:
            counts[name] += len(marks.get(name, ()))
    return Counts(**counts)


def complete(store: RunStore, batch_id: str, found: StoredBatch | None = None) -> bool:
    """Put the callback of a batch whose members have all ended, send it, and mark the batch as done.

    Each step can be repeated: the callback's id follows from the batch's. Say whether the batch is done now; it is not
    where members are still being created, or not all have ended. ``found`` is the batch, where the caller knows it.
    """
    batch = find_batch(store, batch_id) if found is None else found
    if batch is None or batch.done:
        return batch is not None
    if not batch.sealed:
        return False  # whoever seals it looks whether all have ended
    counts = count(read_buckets(store, batch_id, batch.total).values())
    if sum(counts) < batch.total:
        return False  # the table was restored to an earlier time; the dispatcher's looks count what is missing
    canceled = _put_followers(store, batch, counts)
    told = batch.signal is None or _give_signal(store, *batch.signal, counts)
    finish(store, batch, counts)
    if not told and batch.signal is not None:
        _give_signal(
            store, *batch.signal, counts
        )  # its run had ended, and may have been retried before the batch was done
    if canceled is not None:
        mark_ended(store, canceled, canceled.status)
    return True


def finish(store: RunStore, batch: StoredBatch, counts: Counts) -> None:
    """Mark a batch as done. Its callback must be stored before."""
    now_ms = store.now_ms()
    expires_at = batch_items.bucket_expires_at(store.expires_at(now_ms))
    write = batch_items.finish(new_token(), counts=counts, now_ms=now_ms, expires_at=expires_at)
    if store.table.apply(batch_key(batch.id), write).applied:
        log.info("batch %s is done: %s", batch.id, _told(counts), extra={"batch_id": batch.id, **counts._asdict()})


def _put_followers(store: RunStore, batch: StoredBatch, counts: Counts) -> StoredRun | None:
    """Put the callback, and in a chain the batch that it is the only member of, before its message is sent.

    Return the callback where it is put as canceled, because not all have succeeded.
    """
    if not batch.then:
        return None
    follower = batch.then[0]
    now_ms = store.now_ms()
    new_run = _new_run(batch, follower, now_ms)
    if batch.then_if == "succeeded" and counts.succeeded < batch.total:
        reason = f"not all members of batch {batch.id} succeeded: {_told(counts)}"
        found = store.read(new_run.id, store.put_canceled(new_run, reason), payload_required=False)
        # Who counted before, or after a member was retried, may have put it to be executed.
        sends, canceled = False, found if found.status in FINAL else None
    else:
        sends, canceled = store.put(new_run), None
    _put_next_batch(store, batch)
    if sends:
        store.send_waiting(new_run.id, due_ms=new_run.due_ms, now_ms=now_ms, group=new_run.group)
    return canceled


def _give_signal(store: RunStore, run_id: str, name: str, counts: Counts) -> bool:
    """Tell the parent of a batch's members that all have ended; the first of several calls counts.

    Return ``False`` where it was told before, or has ended. If it is retried later, it looks at the batch itself.
    """
    from kumofire_core.engine.signals import require_signal, signal

    return signal(store, run_id, name, require_signal(name, counts._asdict()))


def _put_next_batch(store: RunStore, batch: StoredBatch) -> None:
    """Put the batch that a chain's callback is the only member of, where it is in one; it is complete with it."""
    if not batch.then or batch.then[0].batch_id is None:
        return
    batch_id = batch.then[0].batch_id
    attributes = batch_items.create(
        batch_id,
        create_token=new_token(),
        total=1,
        then=batch.then[1:],
        then_if=batch.then_if,
        key=None,
        parent_id=batch.parent_id,
        now_ms=store.now_ms(),
        shards=store.shards_to_write(),
        sealed=True,
        listed_too=False,
    )
    store.table.put_new(batch_key(batch_id), attributes)


def _new_run(batch: StoredBatch, follower: Follower, now_ms: int) -> NewRun:
    return NewRun(
        id=follower.id,
        job_name=follower.name,
        payload=follower.payload,
        max_attempts=follower.max_attempts,
        due_ms=now_ms + follower.delay_ms,
        now_ms=now_ms,
        parent_id=batch.parent_id,
        group=follower.group,
        batch=None if follower.batch_id is None else (follower.batch_id, 0, 1),
        callback_of=batch.id,
    )


def require_done(store: RunStore, callback: StoredRun) -> None:
    """Make sure that the batch of a callback is done before its handler is called, or the run is deleted.

    Whoever put the callback may have died before it marked the batch. If the callback then ran, and was deleted, the
    dispatcher would put it again.
    """
    batch_id = callback.callback_of
    if batch_id is None:
        return
    found = store.table.get(batch_key(batch_id), names=("schema", "done_at"))
    if found is None or "done_at" in found:
        return
    batch = find_batch(store, batch_id)
    if batch is not None and not batch.done:
        _put_next_batch(store, batch)
        finish(store, batch, count(read_buckets(store, batch_id, batch.total).values()))


def try_require_done(store: RunStore, callback: StoredRun) -> None:
    """Do what ``require_done`` does, as well as can be."""
    try:
        require_done(store, callback)
    except Exception as error:
        log.warning("batch %s could not be marked as done (%s)", callback.callback_of, error_name(error))


def public_batch(store: RunStore, batch_id: str) -> Batch | None:
    """Return a batch as the application sees it, its members counted now."""
    batch = find_batch(store, batch_id)
    if batch is None:
        return None
    counts = count(read_buckets(store, batch_id, batch.total).values())
    if batch.done and sum(counts) < batch.total:
        counts = batch.stored_counts  # its buckets are not kept any more
    return batch.public(
        counts, as_of_ms=store.now_ms(), read_members=lambda status: members(store, batch_id, batch.total, status)
    )


def members(store: RunStore, batch_id: str, total: int, status: MemberStatus | None) -> Iterator[Run]:
    """Yield the members that exist, in their order; with a ``status`` those that are counted so."""
    indexes: Sequence[int] = range(total)
    if status is not None:
        indexes = list(_counted(store, batch_id, total, status))
    for chunk in _chunks(indexes, MEMBERS_AT_ONCE):
        keys = [run_key(member_run_id(batch_id, index)) for index in chunk]
        items = store.table.get_many(keys)
        for key in keys:
            if key not in items:
                continue
            try:
                stored = store.read(key.id, items[key], payload_required=False)
                yield store.with_texts(store.decrypted(stored, required=False)).run
            except KumofireError as error:
                log.error("a member of batch %s is left out: %s", batch_id, error)


def unmarked(store: RunStore, batch: StoredBatch) -> Iterator[int]:
    """Yield the members that are not counted as ended."""
    return _counted(store, batch.id, batch.total, "pending")


def _counted(store: RunStore, batch_id: str, total: int, status: MemberStatus) -> Iterator[int]:
    buckets = read_buckets(store, batch_id, total)
    for place in range(widths(total)[0] if total else 0):
        marks = buckets.get(place, {})
        numbers = range(min(FAN_OUT, total - place * FAN_OUT))
        chosen = set(numbers) - ended_in(marks) if status == "pending" else marks.get(status, frozenset())
        yield from (place * FAN_OUT + number for number in sorted(chosen))


def _chunks(found: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(found), size):
        yield found[start : start + size]


def _told(counts: Counts) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts._asdict().items() if number) or "no members"
