"""Every write to a batch's item, when the dispatcher looks at it, and what a mark in a bucket is.

Marks are the only writes to buckets. Each puts one number into a set, which is the same however often it is done.
"""

from __future__ import annotations

from typing import NamedTuple

from kumofire_core.model.batch import ENDS, FAN_OUT, FULL, Counts, Follower, StoredBatch, followers_text
from kumofire_core.model.write import SCHEMA, Value, Write, present
from kumofire_core.rules.listing import listed
from kumofire_core.rules.wake_ups import wake_shard

LISTED_BATCHES = "batch"
"""Stands for the status of a batch in the listing index."""

ABANDONED_MS = 24 * 60 * 60_000
"""How long after its latest progress a batch that is not complete is given up."""

FIRST_LOOK_MS = 2 * 60_000
LONGEST_LOOK_MS = 60 * 60_000

KEPT_MS = 35 * 24 * 60 * 60_000
"""How much longer than a run a batch and its buckets are kept."""

RENEWED_MS = 20 * 24 * 60 * 60_000
"""How often the buckets of a batch that is not over are kept for longer."""

_UNINDEXED = ("wake_shard", "wake_at")


class Mark(NamedTuple):
    """A number that goes into one set of a bucket, and out of others."""

    number: int
    into: str
    out_of: tuple[str, ...] = ()
    retries: int = 0
    """How often the member had been retried when it ended so. An earlier end does not replace a later one."""


def member_mark(index: int, end: str, *, retries: int) -> Mark:
    """Return the mark of a member that has ended, for its bucket of the lowest level."""
    return Mark(index % FAN_OUT, end, tuple(name for name in ENDS if name != end), retries)


def full_mark(place: int) -> Mark:
    """Return the mark of a bucket that is full, for its bucket of the level above."""
    return Mark(place % FAN_OUT, FULL)


def create(
    batch_id: str,
    *,
    create_token: str,
    total: int,
    then: tuple[Follower, ...],
    then_if: str,
    key: str | None,
    parent_id: str | None,
    now_ms: int,
    shards: int,
    sealed: bool = False,
    listed_too: bool = True,
    signal: tuple[str, str] | None = None,
) -> dict[str, Value]:
    """Return the attributes of a new batch. ``sealed`` says that all its members are stored already.

    ``listed_too`` puts it into the listing index. ``signal`` is the run that is told when all have ended, and how.
    """
    first = then[0] if then else None
    return present(
        {
            "schema": SCHEMA,
            "create_token": create_token,
            "total": total,
            "then": followers_text(then) if then else None,
            "then_name": None if first is None else first.name,
            "then_run_id": None if first is None else first.id,
            "then_if": then_if,
            "batch_key": key,
            "parent_id": parent_id,
            "created_at": now_ms,
            "sealed_at": now_ms if sealed else None,
            "wake_shard": wake_shard(batch_id, shards),
            "wake_at": now_ms + (FIRST_LOOK_MS if sealed else ABANDONED_MS),
            "signal_run": None if signal is None else signal[0],
            "signal": None if signal is None else signal[1],
            **(listed(LISTED_BATCHES, batch_id, at_ms=now_ms) if listed_too else {}),
        }
    )


def put_so_far(batch: StoredBatch, token: str, *, put: int, now_ms: int, shards: int) -> Write:
    """Record how many members are stored, so that whoever goes on with the creation begins there."""
    return Write(
        at_most={"put": put - 1} if batch.put else {},
        not_exists=("sealed_at", "done_at") if batch.put else ("sealed_at", "done_at", "put"),
        sets={
            "put_by": token,
            "put": put,
            "wake_shard": wake_shard(batch.id, shards),
            "wake_at": now_ms + ABANDONED_MS,
        },
        removes=("abandoned_at", "expires_at"),
        write_token=("put_by", token),
    )


def seal(batch_id: str, token: str, *, now_ms: int, shards: int) -> Write:
    """Record that all members are stored: from now on the batch is over once all have ended.

    One that is done is not completed again: a restored table may not know that it was.
    """
    return Write(
        not_exists=("sealed_at", "done_at"),
        sets={
            "sealed_by": token,
            "sealed_at": now_ms,
            "wake_shard": wake_shard(batch_id, shards),
            "wake_at": now_ms + FIRST_LOOK_MS,
        },
        removes=("abandoned_at", "expires_at", "put"),
        write_token=("sealed_by", token),
    )


def abandon(batch: StoredBatch, token: str, *, now_ms: int, expires_at: int | None) -> Write:
    """Give a batch up that nobody completes. Whoever creates it again with its key takes it up again."""
    return Write(
        equals={} if batch.wake_at is None else {"wake_at": batch.wake_at},
        not_exists=("sealed_at",),
        sets=present({"looked_by": token, "abandoned_at": now_ms, "expires_at": expires_at}),
        removes=_UNINDEXED,
        write_token=("looked_by", token),
    )


def look(batch: StoredBatch, token: str, *, counts: Counts, now_ms: int, renewed: bool = False) -> Write:
    """Record what a look has seen, and when the next one is: later and later while nothing ends."""
    looks = 0 if sum(counts) != batch.seen else batch.looks + 1
    wait_ms = min(FIRST_LOOK_MS << min(looks, 10), LONGEST_LOOK_MS)
    return Write(
        equals={} if batch.wake_at is None else {"wake_at": batch.wake_at},
        not_exists=("done_at",),
        sets={
            "looked_by": token,
            "looks": looks,
            "seen": sum(counts),
            "looked_at": now_ms,
            "wake_at": now_ms + wait_ms,
            **counts._asdict(),
            **({"renewed_at": now_ms} if renewed else {}),
        },
        write_token=("looked_by", token),
    )


def finish(token: str, *, counts: Counts, now_ms: int, expires_at: int | None) -> Write:
    """Record that the batch is over, and that its callback is stored. What was to follow is not needed any more."""
    return Write(
        not_exists=("done_at",),
        sets=present({"done_by": token, "done_at": now_ms, "expires_at": expires_at, **counts._asdict()}),
        removes=(*_UNINDEXED, "then"),
        write_token=("done_by", token),
    )


def cancel(batch: StoredBatch, token: str, *, now_ms: int, reason: str | None, shards: int) -> Write:
    """Ask for the cancellation of all members. What is not stored yet of an incomplete batch will not be waited for."""
    sealing: dict[str, Value | None] = {} if batch.sealed else {"sealed_at": now_ms, "sealed_by": token}
    return Write(
        not_exists=("cancel_requested_at", "done_at", *(() if batch.sealed else ("sealed_at",))),
        sets=present(
            {
                "canceled_by": token,
                "cancel_requested_at": now_ms,
                "cancel_reason": reason,
                "wake_shard": wake_shard(batch.id, shards),
                "wake_at": now_ms + FIRST_LOOK_MS,
                **sealing,
            }
        ),
        removes=() if batch.sealed else ("abandoned_at", "expires_at", "put"),
        write_token=("canceled_by", token),
    )


def bucket_expires_at(run_expires_at: int | None) -> int | None:
    """Return the epoch second from which DynamoDB may delete a bucket, or a batch that is over."""
    return None if run_expires_at is None else run_expires_at + KEPT_MS // 1000
