"""A simulated bucket for large values, the function that cleans it, and what must hold of its objects.

S3 is strongly consistent: what was put is there. Requests to it go wrong as all others do.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from botocore.exceptions import BotoCoreError, ClientError

from kumofire_core import Jobs
from kumofire_core.engine import cleaning, large
from kumofire_core.model.times import from_ms
from tests.simulation.table import Attributes, Key, typed
from tests.simulation.world import Faults, Process, World

if TYPE_CHECKING:
    from tests.simulation.processes import Play

MARK = "object:"
NAMING = ("payload", "output")
STREAM_MS = (100, 4_000, 20_000, 400_000)
"""How long after a deletion the stream tells of it."""
SWEEPS_MS = (20_000, 60_000, 1, 200_000)
LEFT_ALONE_MS = 5 * 60_000
"""Longer than a copy of a request is late here, and shorter than most histories."""
MOST_AHEAD_MS = 260_000
"""How far a creator's clock is ahead at most."""
DELETED_MS = (1, 400, 2_500, 70_000)
MOST_DELETIONS = 3
COPIES = ("late copy", "late copy", "reply lost")
"""The faults that leave a request under way whose sender has given it up."""
MANY_COPIES = 0.2
FINAL = frozenset({"succeeded", "failed", "canceled"})
DAYS_MS = 3 * 24 * 3_600_000
LARGE_FROM = 7
"""Every payload here is larger, and of the outputs some are: they must have twice that."""


class SimulatedBucket:
    """The objects, by key."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.objects: dict[str, bytes] = {}
        self.put_at: dict[str, int] = {}
        self.ever: dict[str, bytes] = {}
        """All that were ever put."""
        self.deleted: Callable[[str], None] = lambda key: None
        """Called with each key that is deleted."""

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, **parameters: Any) -> dict[str, Any]:
        if self.ever.setdefault(Key, Body) != Body:
            self._world.violate("an object is never overwritten", Key)
        self.objects[Key] = Body
        self.put_at[Key] = self._world.now
        self._world.counts["object put"] += 1
        return {}

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "no such key"}}, "GetObject")
        return {"Body": io.BytesIO(self.objects[Key])}

    def delete_objects(self, *, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
        if not 1 <= len(Delete["Objects"]) <= 1_000:
            self._world.violate("every request is valid", "DeleteObjects: 1 to 1,000 keys")
        for each in Delete["Objects"]:
            if self.objects.pop(each["Key"], None) is not None:
                self._world.counts["object deleted"] += 1
                self.deleted(each["Key"])
        return {}

    def list_objects_v2(self, *, Bucket: str, Prefix: str, StartAfter: str, MaxKeys: int) -> dict[str, Any]:
        found = sorted(key for key in self.objects if key.startswith(Prefix) and key > StartAfter)
        page = [{"Key": key, "LastModified": from_ms(self.put_at[key])} for key in found[:2]]  # it may list fewer
        return {"Contents": page, "IsTruncated": len(found) > len(page)}


class S3:
    """The part of boto3's S3 client that the engine calls."""

    world: World
    """The one that is played at present."""

    def put_object(self, **parameters: Any) -> Any:
        return self.world.request("put_object", self.world.bucket.put_object, parameters)

    def get_object(self, **parameters: Any) -> Any:
        try:
            return self.world.request("get_object", self.world.bucket.get_object, parameters)
        except (ClientError, BotoCoreError) as error:
            error.of_s3 = True  # type: ignore[union-attr]
            raise

    def delete_objects(self, **parameters: Any) -> Any:
        return self.world.request("delete_objects", self.world.bucket.delete_objects, parameters)

    def list_objects_v2(self, **parameters: Any) -> Any:
        return self.world.request("list_objects_v2", self.world.bucket.list_objects_v2, parameters)


@contextmanager
def simulated_cleaning(urandom: Callable[[int], bytes]) -> Iterator[None]:
    """Let the engine clean sooner than among real machines, and begin a sweep where the simulation says."""
    with (
        patch.object(cleaning, "os", SimpleNamespace(urandom=urandom)),
        patch.object(large, "LEFT_ALONE_MS", LEFT_ALONE_MS),
        patch.object(cleaning, "LEFT_ALONE_MS", LEFT_ALONE_MS),
    ):
        yield


def key_in(stored: object) -> str | None:
    """Return the key of the object that a stored value names, or ``None`` where it holds the value itself."""
    if not isinstance(stored, str) or not stored.startswith(MARK):
        return None
    key: str = json.loads(stored.removeprefix(MARK))[0]
    return key


def whole(world: World, stored: str) -> str:
    """Return the text of a value, wherever it is, or was."""
    key = key_in(stored)
    if key is None:
        return stored
    if key not in world.bucket.ever:
        world.violate("a run names objects that are there", f"{key} was never put")
        return '{"number":-1,"of":""}'
    return str(world.bucket.ever[key].decode())


class LargeValues:
    """Watches the bucket of one history, and lets the cleaner work."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs]) -> None:
        self._play = play
        self._world = play.world
        self._jobs = jobs
        self._cleaner = Process("cleaner")
        self.lost: set[str] = set()
        """Keys that a restored table names, and whose objects were deleted since."""
        self.exists = False
        self._deletions = 0
        self._to_go: set[str] = set()
        """Keys of objects of runs that were deleted."""

    def plan(self) -> None:
        """Let the bucket be watched, and be swept now and then."""
        play, world = self._play, self._world
        self.exists = True
        world.observers.append(self._wrote)
        world.bucket.deleted = self._deleted
        for _ in range(play.choices.below(3)):
            play.do_at(world.now + play.choices.of(SWEEPS_MS), self._cleaner, "sweeps", self._sweep)
        creators = 2 * play.choices.below(2)
        if world.faults.probability and play.choices.below(2):
            world.faults = Faults(MANY_COPIES, COPIES)
            creators = 4
        for _ in range(creators):  # all but one put an object in vain
            play._create("key-again")

    def restored(self) -> None:
        """Take note that the table was restored to an earlier time, and the bucket was not.

        Deletions that are undone may be told of later.
        """
        named: set[str] = set()
        for item in self._world.table.items.values():
            named |= {key for name in NAMING if (key := key_in(item.get(name))) is not None}
        self.lost |= (named - self._world.bucket.objects.keys()) | (named & self._to_go)

    def may_be_unreadable(self, item: Attributes) -> bool:
        """Say whether a run may fail because its payload can't be read."""
        return item.get("error_type") == "unreadable payload" and key_in(item["payload"]) in self.lost

    def end(self) -> None:
        """Let the cleaner sweep once more, days after all has ended, and look at what is left."""
        if not self.exists:
            return
        world = self._world
        world.now += DAYS_MS
        self._play.do_at(world.now, self._cleaner, "sweeps", self._sweep)
        world.run(world.now + 60_000)
        named = {key_in(item.get(name)) for item in world.table.items.values() for name in NAMING}
        if left := sorted(world.bucket.objects.keys() - named):
            world.violate("what no run names is removed", f"{left[0]} is left")

    def _sweep(self) -> None:
        self._jobs(self._cleaner).sweep_bucket()

    def _wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        """Check that an item names objects that are there, its own; let the stream tell of one that is deleted."""
        world = self._world
        if key[1] != "run":
            return
        if new is None:
            if old is not None and any(key_in(old.get(name)) for name in NAMING):
                self._tell_of(key, old)
            return
        # A member that is deleted while its batch is made may be put again, and counted anew: that is another matter.
        may_go = new["status"] in FINAL and "batch" not in new and not self._play.settling
        if may_go and self._deletions < MOST_DELETIONS:
            self._deletions += 1
            # While a copy of the request that made it may still come.
            self._play.steering._delete_at(world.now + world.choices.of(DELETED_MS), key[0].removeprefix("run#"), new)
        for name in NAMING:
            named = key_in(new.get(name))
            if named is None or named in self.lost:
                continue
            if named not in world.bucket.objects:
                world.violate("a run names objects that are there", f"{key[0]} names {named}")
            if f"/{key[0].removeprefix('run#')}/{name}-" not in named:
                world.violate("a run names objects of its own", f"{key[0]} names {named}")

    def _deleted(self, key: str) -> None:
        """Check that an object goes only when no run names it."""
        if key in self.lost:
            return
        for (pk, _), item in self._world.table.items.items():
            if any(key_in(item.get(name)) == key for name in NAMING):
                self._world.violate("an object that a run names stays", f"{pk} names {key}")

    def _tell_of(self, key: Key, old: Attributes) -> None:
        play, image = self._play, typed({"pk": key[0], "sk": key[1], **old})
        self._to_go |= {named for name in NAMING if (named := key_in(old.get(name))) is not None}
        told = {"Keys": {}, "OldImage": image, "ApproximateCreationDateTime": self._world.now / 1000}
        record = {"eventName": "REMOVE", "dynamodb": told}
        deleted_ms = self._world.now
        when = self._world.now + (0 if play.settling else play.choices.of(STREAM_MS))
        play.do_at(when, self._cleaner, "cleans", lambda: self._clean(record, old, deleted_ms))

    def _clean(self, record: dict[str, Any], old: Attributes, deleted_ms: int) -> None:
        """Remove the objects of a run that is gone, and check that they are."""
        world = self._world
        latest = deleted_ms - LEFT_ALONE_MS - MOST_AHEAD_MS
        self._jobs(self._cleaner).clean_bucket([record])
        for name in NAMING:
            key = key_in(old.get(name))
            if key in world.bucket.objects and world.bucket.put_at[key] < latest:
                world.violate("the objects of a run that is gone go", f"{key} is left")
