"""Which runs are in the listing index: failed and canceled ones, those of paused jobs, succeeded ones by choice.

A run that waits or executes is found by its wake-up instead. So a run that succeeds at once costs nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping

from kumofire_core.model.write import Value
from kumofire_core.rules.wake_ups import wake_shard

LIST_SHARDS = 8
"""Partitions of each status. One partition takes 1,000 writes a second, and an index that is throttled throttles its
table. The number must never change: a listing reads exactly these.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/gsi-throttling.html"""

PARKED = "parked"
"""Stands for the status of a run that waits because its job is paused."""

LISTED = ("list_shard", "list_at")
"""The attributes that put an item into the index."""


def list_shard(status: str, run_id: str) -> str:
    """Return the partition that lists a run in this status."""
    return f"{status}#{wake_shard(run_id, LIST_SHARDS)}"


def list_shards(status: str) -> list[str]:
    """Return all partitions of a status."""
    return [f"{status}#{number}" for number in range(LIST_SHARDS)]


def limit_shard(item_id: str) -> str:
    """Return the partition that lists the runs which wait for a slot of a limit, outside of its item."""
    return f"limit#{item_id}"


def listed(status: str, run_id: str, *, at_ms: int) -> Mapping[str, Value]:
    """Return the attributes that list a run in this status, at this time."""
    return {"list_shard": list_shard(status, run_id), "list_at": at_ms}
