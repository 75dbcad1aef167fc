"""Persons who create batches and chains, and what must hold: one callback, not early, and all of it comes to an end.

Buckets are for two members here instead of a hundred, so that five members need three levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kumofire_core import Jobs
from kumofire_core.engine.create import RunRequest
from kumofire_core.errors import BatchCanceledError, BatchIncompleteError
from kumofire_core.model.batch import batch_id_of, member_run_id
from tests.simulation.invariants import group_asked_for
from tests.simulation.table import Attributes, Key
from tests.simulation.world import START_MS, Process, running

if TYPE_CHECKING:
    from tests.simulation.processes import Play

FAN_OUT = 2
WINDOW = 3
"""So many members are put before it is noted, here."""
RENEWED_MS = 10 * 60_000
"""After so long the buckets of a batch are to be kept for longer, here."""
FEW = 1
"""So many members that have not ended are read in each look, here."""
ONE_IN = 6
"""One of so many histories has batches."""
MINUTE_MS = 60_000
LATEST_LOOK_MS = 61 * MINUTE_MS
LATEST_SEAL_MS = 24 * 60 * MINUTE_MS + 5 * MINUTE_MS
FINAL = frozenset({"succeeded", "failed", "canceled"})
ENDS = ("succeeded", "failed", "canceled", "missing")
JOBS = ("work", "work", "timed", "eager", "picky", "absent")


@dataclass
class KnownBatch:
    """What is known of a batch from outside."""

    total: int
    then: str | None
    then_if: str
    members: tuple[str, ...]
    callbacks: int = 0
    """How often its callback was put."""
    done: bool = False
    canceled: bool = False
    put_at: int = 0


@dataclass
class KnownMember:
    """How a member has ended."""

    ends: list[str] = field(default_factory=list)
    """Each time, in order: a person may have retried it."""
    deleted: bool = False
    again: bool = False
    """It was put after it had been deleted."""
    marked: int = -1
    """Which of these its bucket shows, or an earlier one."""


class Batching:
    """The batches of a history."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs]) -> None:
        self._play = play
        self._world = play.world
        self._jobs = jobs
        self._batches: dict[str, KnownBatch] = {}
        self._members: dict[str, KnownMember] = {}
        self._children: dict[str, set[str]] = {}
        """The batches of each run's children."""
        self._gone_at: dict[str, int] = {}
        """When a callback was deleted."""
        self._expired: set[str] = set()
        """Callbacks that DynamoDB deleted before their batch was marked as done."""

    def plan(self) -> None:
        """Let a person create a batch or a chain, with or without a key, and perhaps cancel it."""
        play, choices = self._play, self._play.choices
        if choices.below(ONE_IN) < ONE_IN - 1:
            return
        self.watch()
        self._world.counts["a history with a batch"] += 1
        total = choices.of((2, 1, 3, 5, 0))
        is_chain = choices.below(4) == 3
        key = choices.of((None, "b", "b"))
        then_if = choices.of(("ended", "succeeded"))
        requests = [self.request() for _ in range(max(total, 2 if is_chain else 0))]
        then = None if choices.below(8) == 7 else self.request(delays=False)

        def create(process: Process) -> Callable[[], None]:
            if is_chain:
                return lambda: self._chain(process, requests, key)
            return lambda: self._create(process, requests, then, then_if, key)

        began = START_MS + choices.of((0, 1, 2_000))
        person = play.person() if choices.below(2) else play.consumers[0]
        play.do_at(began, person, "creates a batch", create(person))
        if key is not None:
            for _ in range(1 + choices.below(2)):  # whoever does not know whether the first call has come through
                other = play.person()
                play.do_at(began + choices.of((1, 5_000, 20, 70_000)), other, "creates it again", create(other))
            if choices.below(4) == 3:
                when = began + choices.of((40, 3, 30_000))
                other = play.person()
                play.do_at(when, other, "cancels the batch", lambda: self._cancel(other, batch_id_of("b")))

    def watch(self) -> None:
        """Check what is written of batches."""
        if self._wrote not in self._world.observers:
            self._world.observers.append(self._wrote)

    def request(self, *, delays: bool = True) -> RunRequest:
        """Return a request for a run that no other has."""
        choices = self._play.choices
        job, payload = self._play.ask(choices.of(JOBS))
        delay = timedelta(milliseconds=choices.of((0, 0, 0, 3_000, 20 * MINUTE_MS) if delays else (0, 0, 1_000)))
        return {"name": job, "payload": payload, "delay": delay, "group": group_asked_for(payload)}

    def _create(
        self, process: Process, requests: list[RunRequest], then: RunRequest | None, then_if: Any, key: str | None
    ) -> None:
        try:
            batch_id = self._jobs(process).create_batch(requests, then=then, then_if=then_if, key=key)
        except (BatchIncompleteError, BatchCanceledError):
            return
        self._created(batch_id, requests)

    def _chain(self, process: Process, requests: list[RunRequest], key: str | None) -> None:
        try:
            run_ids = self._jobs(process).create_chain(requests, key=key)
        except (BatchIncompleteError, BatchCanceledError):
            return
        if len(run_ids) != len(requests):
            self._world.violate("each run that was asked for is created", f"{run_ids} for {requests}")
        if key is not None:
            self._created(batch_id_of(key), requests[:1])

    def _created(self, batch_id: str, requests: list[RunRequest]) -> None:
        """Check what is stored of a batch of which somebody was just told that it is."""
        play, items = self._play, self._world.table.items
        if play.invariants.restored_at >= running().begun:
            return
        found = items.get((f"batch#{batch_id}", "batch"))
        is_over = found is not None and "done_at" in found and play.invariants.restored_at
        if found is None or ("sealed_at" not in found and not is_over):
            self._world.violate("a batch is complete once create_batch has returned", str(found))
        for index in range(len(requests)):
            run_id = member_run_id(batch_id, index)
            canceled = found is not None and "cancel_requested_at" in found
            if (f"run#{run_id}", "run") not in items and run_id not in play.invariants.gone and not canceled:
                self._world.violate("a batch is complete once create_batch has returned", f"{run_id} is missing")

    def _cancel(self, process: Process, batch_id: str) -> None:
        done = self._jobs(process).cancel_batch(batch_id, "why")
        self._world.counts[f"a person cancels a batch: {done}"] += 1

    # What must hold

    def waited(self, batch_id: str) -> None:
        """Check that a parent which has waited for its children goes on when all have ended."""
        batch = self._batches.get(batch_id)
        if batch is None or batch.canceled or self._play.invariants.restored_at:
            return
        for member_id in batch.members:
            member = self._members.get(member_id)
            if member is None or not (member.ends or member.deleted):
                self._broken("a parent goes on when its children have ended", f"{member_id} has not")

    def _wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        kind, _, id = key[0].partition("#")
        if kind == "run":
            self._run_written(id, old, new)
        elif kind == "batch" and new is not None:
            self._batch_written(id, new)
        elif kind == "bucket" and new is not None:
            self._bucket_written(id, old or {}, new)

    def _run_written(self, run_id: str, old: Attributes | None, new: Attributes | None) -> None:
        found = old if new is None else new
        if found is None:
            return
        if new is None and "after" in found:
            self._gone_at[run_id] = self._world.now
            batch = self._world.table.items.get((f"batch#{found['after']}", "batch"))
            if batch is not None and "done_at" not in batch:
                if self._world.writer_task is None:
                    self._expired.add(run_id)
                elif not self._play.invariants.restored_at and self._world.writer_incarnation != -1:
                    self._broken("a callback is deleted when its batch is done", f"{run_id} of {found['after']}")
        if "batch" in found:
            member = self._members.setdefault(run_id, KnownMember())
            member.again = member.again or (old is None and member.deleted)
            if new is None:
                member.deleted = True
            elif new["status"] in FINAL and (old is None or old["status"] not in FINAL):
                member.ends.append(new["status"])
        if old is None and new is not None and "after" in new:
            self._callback_put(run_id, new)

    def _callback_put(self, run_id: str, new: Attributes) -> None:
        batch = self._batches.get(new["after"])
        if batch is None or self._play.invariants.restored_at:
            return
        task = self._world.writer_task
        batch.callbacks += 1
        # Who was halted while the callback ran and was deleted may put it again, as may a copy of its request; and
        # whoever looks at a batch that was not marked as done before the callback had expired.
        halted = run_id in self._gone_at and (task is None or task.begun <= self._gone_at[run_id])
        if batch.callbacks > 1 and not halted and run_id not in self._expired:
            self._broken("a callback is created once", f"{run_id} of {new['after']}")
        for index, member_id in enumerate(batch.members):
            member = self._members.get(member_id)
            if member is None and batch.canceled:
                continue
            if member is None or not (member.ends or member.deleted):
                self._broken("a callback follows when all members have ended", f"{run_id}: member {index} has not")
        ends = [self._ends(member_id) for member_id in batch.members]
        if (
            batch.then_if == "succeeded"
            and new["status"] != "canceled"
            and not all("succeeded" in each for each in ends)
        ):
            self._broken("a callback that needs all successes has them", f"{run_id}: {ends}")
        gone = any(each.deleted for each in map(self._members.get, batch.members) if each is not None)
        if new["status"] == "canceled" and (
            batch.then_if != "succeeded" or (not gone and all(set(each) == {"succeeded"} for each in ends))
        ):
            self._broken("a callback is canceled where a member did not succeed", f"{run_id}: {ends}")

    def _ends(self, member_id: str) -> list[str]:
        member = self._members.get(member_id)
        return [] if member is None else member.ends

    def _batch_written(self, batch_id: str, new: Attributes) -> None:
        batch = self._batches.get(batch_id)
        if batch is None:
            total = new["total"]
            members = tuple(member_run_id(batch_id, index) for index in range(total))
            batch = KnownBatch(total, new.get("then_run_id"), new["then_if"], members, put_at=self._world.now)
            self._batches[batch_id] = batch
            if "signal_run" in new:
                self._children.setdefault(new["signal_run"], set()).add(batch_id)
        batch.canceled = "cancel_requested_at" in new
        over = "done_at" in new or "abandoned_at" in new
        if over and "wake_at" in new:
            self._broken("a batch that is over leaves the index", batch_id)
        if not over:
            latest = self._world.now + (LATEST_LOOK_MS if "sealed_at" in new else LATEST_SEAL_MS)
            if new.get("wake_at", latest + 1) > latest:
                self._broken("a batch that is not over is looked at in time", f"{batch_id}: {new.get('wake_at')}")
            if "expires_at" in new:
                self._broken("a batch that is not over is kept", batch_id)
        if "done_at" in new and not batch.done:
            batch.done = True
            self._done(batch_id, batch, new)

    def _done(self, batch_id: str, batch: KnownBatch, new: Attributes) -> None:
        restored = self._play.invariants.restored_at
        if sum(new[name] for name in ENDS) != batch.total and not restored:
            self._broken("a batch that is done has counted all its members", f"{batch_id}: {new}")
        then = batch.then
        is_there = then is None or (f"run#{then}", "run") in self._world.table.items or then in self._gone_at
        if not is_there and not restored:
            self._broken("a batch is done when its callback is stored", f"{batch_id}: no {then}")

    def _bucket_written(self, id: str, old: Attributes, new: Attributes) -> None:
        if self._play.invariants.restored_at:
            return
        batch_id, level, place = id.split(".")
        if level != "0":
            return
        batch = self._batches.get(batch_id)
        if batch is None:
            return
        for number in range(FAN_OUT):
            marked = [name for name in ENDS if number in new.get(name, ())]
            if len(marked) > 1:
                self._broken("a member is counted once", f"{id}: {number} is in {marked}")
            if not marked:
                continue
            member_id = batch.members[int(place) * FAN_OUT + number]
            member = self._members.get(member_id)
            if marked[0] == "missing":
                if not (batch.canceled if member is None else member.deleted):
                    self._broken("only a member that is gone is missing", member_id)
            elif member is None or marked[0] not in member.ends:
                self._broken("a member is counted as it has ended", f"{member_id} as {marked}")
            elif number not in old.get(marked[0], ()):
                later = [place for place, end in enumerate(member.ends) if place > member.marked and end == marked[0]]
                # One that was deleted, and is there again by a late copy, has lost how often it was retried.
                if not later and not member.again:
                    self._broken("a later end of a member replaces an earlier one", f"{member_id}: {member}")
                elif later:
                    member.marked = later[0]

    def started(self, context: Any) -> None:
        """Check that a handler which is called for a callback has a batch that is done."""
        batch_id = context.run.callback_of
        if batch_id is None or self._play.invariants.restored_at:
            return
        batch = self._world.table.items.get((f"batch#{batch_id}", "batch"))
        if batch is not None and "done_at" not in batch:
            self._broken("a callback runs when its batch is done", f"{context.run.id} of {batch_id}")

    def at_the_end(self) -> None:
        """Check that each batch which was complete is done, and that its callback is there."""
        items, restored = self._world.table.items, self._play.invariants.restored_at
        for run_key, item in items.items():
            if "batch" in item and item["batch"].split()[0] not in self._batches and not restored:
                self._broken("a member has a batch", f"{run_key[0]}: there never was {item['batch']}")
        for run_id, batches in self._children.items():
            if len(batches) > self._play.stepping.families_of(run_id) and not restored:
                self._broken("children are created once", f"{run_id} has {batches}")
        for batch_id in self._batches:
            found = items.get((f"batch#{batch_id}", "batch"))
            if found is None:
                continue
            if "sealed_at" in found and "done_at" not in found:
                self._broken("every batch ends", f"{batch_id}: {found}")
            if "sealed_at" not in found and "abandoned_at" not in found and not (restored and "done_at" in found):
                self._broken("every batch ends", f"{batch_id} waits to be completed")
            then = found.get("then_run_id")
            if "done_at" not in found or then is None or restored:
                continue
            if (f"run#{then}", "run") not in items and then not in self._gone_at:
                self._broken("every batch ends", f"{batch_id} is done, and there is no {then}")

    def _broken(self, name: str, text: str) -> None:
        self._world.violate(name, text)


__all__ = ["FAN_OUT", "FEW", "Batching"]
