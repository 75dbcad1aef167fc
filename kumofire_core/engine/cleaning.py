"""Removing the objects of runs that are gone: those that a deleted item named, and now and then all that no item names.

The function behind the table's stream calls this, and nothing else does. Every step may be repeated, and may be left
out: the sweep finds what stayed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kumofire_core.aws.s3 import MOST_DELETED, Bucket, Found
from kumofire_core.engine.run_store import RunStore, run_key
from kumofire_core.model.large_value import LEFT_ALONE_MS, LargeValue, folder_of, large_in, run_of
from kumofire_core.model.times import from_ms
from kumofire_core.rules.validation import PAGE_LIMIT

if TYPE_CHECKING:
    from kumofire_core.handlers.deadline import Deadline

log = logging.getLogger("kumofire_core")

NAMING = ("payload", "output")
"""The attributes of a run that may name an object."""

SWEPT_AFTER = timedelta(days=2)
"""How old an object is at least that the sweep deletes: the item that is to name a younger one may be missing still."""

SECONDS_FOR_A_PAGE = 20.0
"""The sweep ends when less time is left than a page may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleaningResult:
    """What was removed from the bucket."""

    deleted: int = 0
    left: int = 0
    """Objects of deleted runs that are so young that the sweep has to look at them."""
    looked_at: int = 0
    """Objects that the sweep compared with the items that should name them."""
    complete: bool = True
    """Whether the sweep came through the whole bucket."""


def clean_removed(bucket: Bucket, records: Iterable[Any]) -> CleaningResult:
    """Delete the objects that the items named which these records of the table's stream tell the deletion of.

    An object is left to the sweep that was put a short while before its run was deleted: a copy of the request that
    made the run could still come then, and put the run again, with the same object. When the record comes does not
    matter. Raises botocore's errors, and ``RuntimeError`` where S3 could not delete some objects. Lambda then gives the
    records again.
    """
    keys, left = [], 0
    for record in records:
        named = _named_by(record)
        deleted_ms = _deleted_ms(record) if named else 0
        old = [value.key for value in named if deleted_ms - value.put_ms > LEFT_ALONE_MS]
        keys += old
        left += len(named) - len(old)
    _delete(bucket, keys)
    return CleaningResult(deleted=len(keys), left=left)


def sweep(
    store: RunStore, bucket: Bucket, *, deadline: Deadline | None = None, begin: str | None = None
) -> CleaningResult:
    """Go through the objects of this table once, and delete those older than two days that no run's item names.

    It begins at a random place, so that one that is cut by its ``deadline`` does not always leave out the same part.
    """
    folder = folder_of(store.table.name)
    first = f"{folder}{os.urandom(2).hex()}" if begin is None else begin
    after, wrapped = first, False
    deleted = looked_at = 0
    while True:
        if deadline is not None and deadline.seconds_left() < SECONDS_FOR_A_PAGE:
            return CleaningResult(deleted=deleted, looked_at=looked_at, complete=False)
        found, more = bucket.page(folder, after=after)
        if wrapped:
            more = more and found[-1].key <= first
            found = [each for each in found if each.key <= first]
        orphans = _orphans(store, found)
        _delete(bucket, orphans)
        deleted, looked_at = deleted + len(orphans), looked_at + len(found)
        if more:
            after = found[-1].key
        elif wrapped:
            return CleaningResult(deleted=deleted, looked_at=looked_at)
        else:
            after, wrapped = folder, True


def _orphans(store: RunStore, found: list[Found]) -> list[str]:
    """Return the keys of those objects that are old and that no item names."""
    latest = from_ms(store.now_ms()) - SWEPT_AFTER
    runs = {each.key: run_id for each in found if each.put_at < latest and (run_id := run_of(each.key)) is not None}
    ids = list(dict.fromkeys(runs.values()))
    named: set[str] = set()
    for start in range(0, len(ids), PAGE_LIMIT):
        keys = [run_key(run_id) for run_id in ids[start : start + PAGE_LIMIT]]
        for item in store.table.get_many(keys, names=("pk", *NAMING), consistent=False).values():
            named |= {value.key for name in NAMING if (value := large_in(item.get(name))) is not None}
    return [key for key in runs if key not in named]


def _named_by(record: Any) -> list[LargeValue]:
    """Return the values that a deleted run's item named; none for any other record."""
    if not isinstance(record, Mapping) or record.get("eventName") != "REMOVE":
        return []
    image = (record.get("dynamodb") or {}).get("OldImage") or {}
    if image.get("sk") != {"S": "run"}:
        return []
    run_id = str(image.get("pk", {}).get("S", "")).removeprefix("run#")
    found = [large_in((image.get(name) or {}).get("S")) for name in NAMING]
    # A key that names another run was not written by this library. Whoever can write items must not delete by them.
    return [value for value in found if value is not None and run_of(value.key) == run_id]


def _deleted_ms(record: Mapping[str, Any]) -> int:
    """Return when the deletion was made that a record tells of, in epoch milliseconds; 0 where it does not say so.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_streams_StreamRecord.html (in seconds)
    """
    at = record["dynamodb"].get("ApproximateCreationDateTime")
    return int(at * 1000) if isinstance(at, int | float) else 0


def _delete(bucket: Bucket, keys: list[str]) -> None:
    for start in range(0, len(keys), MOST_DELETED):
        if failed := bucket.delete(keys[start : start + MOST_DELETED]):
            raise RuntimeError(f"S3 could not delete {len(failed)} objects, {failed[0]!r} for example")
