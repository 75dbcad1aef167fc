"""A batch: many runs and the run that follows when all have ended. Its public form, its item, and its buckets.

A bucket is an item that holds which of up to a hundred members have ended, and how. Buckets form a tree: the number of
a full bucket goes into a bucket of the level above, and the batch is over when the single one of the last level is
full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from kumofire_core.errors import CorruptItemError, NewerSchemaError
from kumofire_core.model import json_codec
from kumofire_core.model.run import derived_run_id
from kumofire_core.model.run_view import Run
from kumofire_core.model.times import from_ms
from kumofire_core.model.write import SCHEMA, Attributes, Key, number, read_moment, read_number, read_text

BATCH = "batch"
BUCKET = "bucket"

MOST_MEMBERS = 1_000_000
FAN_OUT = 100
"""How many members, or buckets of the level below, one bucket is for."""

ENDS = ("succeeded", "failed", "canceled", "missing")
"""The sets of a bucket of the lowest level: which of its members have ended so."""
FULL = "full"
"""The set of a bucket of a higher level: which of those below it are full."""

BatchState = Literal["creating", "running", "done", "abandoned"]
ThenIf = Literal["ended", "succeeded"]
MemberStatus = Literal["succeeded", "failed", "canceled", "pending"]

Marks = Mapping[str, frozenset[int]]
"""The sets of one bucket."""


class Counts(NamedTuple):
    """How many members have ended, by how."""

    succeeded: int = 0
    failed: int = 0
    canceled: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as the application sees it. Times are aware UTC datetimes."""

    id: str
    total: int
    """How many members it has."""
    state: BatchState
    succeeded: int
    failed: int
    canceled: int
    missing: int
    """Members that were deleted before their end was counted."""
    created_at: datetime
    as_of: datetime
    """When the members were counted."""
    done_at: datetime | None = None
    """When all had ended, and the callback's run was stored."""
    then: str | None = None
    """The job of the callback."""
    then_if: ThenIf = "ended"
    then_run_id: str | None = None
    """The id of the callback's run, which is created when all members have ended."""
    key: str | None = None
    parent_id: str | None = None
    """The run whose handler created it."""
    cancel_requested: bool = False
    cancel_reason: str | None = None
    read_members: Callable[[MemberStatus | None], Iterator[Run]] | None = field(default=None, repr=False, compare=False)
    """How ``members`` reads them."""

    @property
    def ended(self) -> int:
        """How many members have ended."""
        return self.succeeded + self.failed + self.canceled + self.missing

    @property
    def pending(self) -> int:
        """How many members have not ended."""
        return self.total - self.ended

    def members(self, status: MemberStatus | None = None) -> Iterator[Run]:
        """Yield the members in their order, with payloads and outputs; see ``Jobs.batch_members``."""
        return iter(()) if self.read_members is None else self.read_members(status)

    @property
    def previous(self) -> Run | None:
        """The first member: in a chain, the run before. ``None`` where it is not kept any more."""
        return next(self.members(), None)


class Follower(NamedTuple):
    """A run that is to be created when a batch is over: all its arguments are checked and in their stored form."""

    id: str
    name: str
    payload: str
    max_attempts: int | None = None
    group: str | None = None
    delay_ms: int = 0
    batch_id: str | None = None
    """The batch whose only member it is, where another run follows it."""


class StoredBatch(NamedTuple):
    """A batch as its item holds it."""

    id: str
    total: int
    created_ms: int
    then: tuple[Follower, ...]
    """The callback, and in a chain those that follow it. Empty once it is done."""
    then_name: str | None
    then_if: ThenIf
    then_run_id: str | None
    put: int
    """How many members surely are stored, from the first on."""
    sealed: bool
    """Whether all members are stored."""
    done: bool
    abandoned: bool
    cancel_requested: bool
    cancel_reason: str | None
    wake_at: int | None
    seen: int
    """How many had ended at the dispatcher's latest look; -1 before the first."""
    looks: int
    """How many looks in a row have seen no progress."""
    renewed_ms: int
    key: str | None
    parent_id: str | None
    signal: tuple[str, str] | None
    """The run that is told when all members have ended, and the name of its signal, where they are its children."""
    item: Attributes

    def public(self, counts: Counts, *, as_of_ms: int, read_members: Any = None) -> Batch:
        """Return the batch as the application sees it."""
        state: BatchState = "running"
        if self.done:
            state = "done"
        elif not self.sealed:
            state = "abandoned" if self.abandoned else "creating"
        return Batch(
            id=self.id,
            total=self.total,
            state=state,
            **counts._asdict(),
            created_at=from_ms(self.created_ms),
            as_of=from_ms(as_of_ms),
            done_at=read_moment(self.item, "done_at"),
            then=self.then_name,
            then_if=self.then_if,
            then_run_id=self.then_run_id,
            key=self.key,
            parent_id=self.parent_id,
            cancel_requested=self.cancel_requested,
            cancel_reason=self.cancel_reason,
            read_members=read_members,
        )

    @property
    def stored_counts(self) -> Counts:
        """What the dispatcher's latest look, or the end, has counted."""
        return Counts(**{name: read_number(self.item, name) or 0 for name in ENDS})


def batch_key(batch_id: str) -> Key:
    """Return the key of a batch's item."""
    return Key(BATCH, batch_id)


def batch_id_of(key: str) -> str:
    """Return the id of the batch, or of the chain's first batch, that has this key."""
    return derived_run_id("batch_key", key)


def member_run_id(batch_id: str, index: int) -> str:
    """Return the id of a batch's member."""
    return derived_run_id("batch", batch_id, str(index))


def callback_run_id(batch_id: str) -> str:
    """Return the id of a batch's callback."""
    return derived_run_id("batch_then", batch_id)


def chained_batch_id(batch_id: str, position: int) -> str:
    """Return the id of a chain's batch: the first is the chain's own."""
    return batch_id if position == 0 else derived_run_id("chain", batch_id, str(position))


def bucket_key(batch_id: str, level: int, place: int) -> Key:
    """Return the key of a bucket: the ``place``-th of its level, from 0."""
    return Key(BUCKET, f"{batch_id}.{level}.{place}")


def widths(total: int) -> list[int]:
    """Return how many buckets each level has: for a million members 10,000, 100 and 1."""
    levels = [max(1, -(-total // FAN_OUT))]
    while levels[-1] > 1:
        levels.append(-(-levels[-1] // FAN_OUT))
    return levels


def bucket_size(total: int, level: int, place: int) -> int:
    """Return how many members, or buckets of the level below, a bucket is for."""
    below = total if level == 0 else widths(total)[level - 1]
    return min(FAN_OUT, below - place * FAN_OUT)


def ended_in(marks: Marks) -> frozenset[int]:
    """Return the places of the members that a bucket of the lowest level says have ended."""
    return frozenset().union(*(marks.get(name, frozenset()) for name in ENDS))


def is_full(marks: Marks, *, total: int, level: int, place: int) -> bool:
    """Say whether all that a bucket is for has ended."""
    found = ended_in(marks) if level == 0 else marks.get(FULL, frozenset())
    return len(found) >= bucket_size(total, level, place)


def followers_text(followers: tuple[Follower, ...]) -> str:
    """Return the stored form of what follows a batch."""
    return json_codec.encode("what follows", [list(each) for each in followers])


def read_batch(batch_id: str, item: Attributes) -> StoredBatch:
    """Return the batch that an item holds; raises ``CorruptItemError`` or ``NewerSchemaError``."""
    name = f"{BATCH}#{batch_id}"
    try:
        if number(item, "schema") > SCHEMA:
            raise NewerSchemaError(name, number(item, "schema"), SCHEMA)
        then: Any = json_codec.decode(read_text(item, "then") or "[]")
        then_if: Any = item["then_if"]
        if then_if not in ("ended", "succeeded"):
            raise ValueError("then_if")
        total = number(item, "total")
        if not 0 <= total <= MOST_MEMBERS:
            raise ValueError("total")
        seen = read_number(item, "seen")
        return StoredBatch(
            id=batch_id,
            total=total,
            created_ms=number(item, "created_at"),
            then=tuple(_follower(each) for each in then),
            then_name=read_text(item, "then_name"),
            then_if=then_if,
            then_run_id=read_text(item, "then_run_id"),
            put=read_number(item, "put") or 0,
            sealed="sealed_at" in item,
            done="done_at" in item,
            abandoned="abandoned_at" in item,
            cancel_requested="cancel_requested_at" in item,
            cancel_reason=read_text(item, "cancel_reason"),
            wake_at=read_number(item, "wake_at"),
            seen=-1 if seen is None else seen,
            looks=read_number(item, "looks") or 0,
            renewed_ms=read_number(item, "renewed_at") or number(item, "created_at"),
            key=read_text(item, "batch_key"),
            parent_id=read_text(item, "parent_id"),
            signal=_signal(item),
            item=item,
        )
    except KeyError as error:
        raise CorruptItemError(name, f"it has no attribute {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptItemError(name, f"an attribute holds a wrong value ({type(error).__name__})") from None


def _signal(item: Attributes) -> tuple[str, str] | None:
    run_id, name = read_text(item, "signal_run"), read_text(item, "signal")
    return None if run_id is None or name is None else (run_id, name)


def _follower(stored: Any) -> Follower:
    found = Follower(*stored)
    kinds = (str, str, str, int | None, str | None, int, str | None)
    if not all(isinstance(value, kind) for value, kind in zip(found, kinds, strict=True)):
        raise TypeError("then")
    return found
