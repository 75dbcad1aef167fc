"""Persons who retry, cancel or delete many runs in one operation, go on with it or abort it, and what must hold of it.

A page has two runs here instead of a hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from kumofire_core import BulkOperation, Jobs
from kumofire_core.engine import bulk
from kumofire_core.model.times import from_ms
from tests.simulation.table import Attributes, Key
from tests.simulation.world import SKEW_MS, START_MS, Process, running

if TYPE_CHECKING:
    from tests.simulation.processes import Play

PAGE = 2
ONE_IN = 8
"""One of so many histories has such an operation."""
MINUTE_MS = 60_000
FINAL = frozenset({"succeeded", "failed", "canceled"})
RETRIED = frozenset({"failed", "canceled"})
ACTIONS = ("retry", "retry", "cancel", "delete")
ONCE = "an operation changes a run once"
MEANT = "an operation is for the runs that were there"


@contextmanager
def simulated_bulk(uuid4: Callable[[], Any], uniform: Callable[[float, float], float]) -> Iterator[None]:
    """Let operations have small pages, and wait in the simulation."""
    waits = SimpleNamespace(sleep=lambda seconds: running().world.pause(int(seconds * 1000)))
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(bulk, PAGE_LIMIT=PAGE, _chance=SimpleNamespace(uniform=uniform)))
        stack.enter_context(patch.multiple(bulk, time=waits, uuid=SimpleNamespace(uuid4=uuid4)))
        yield


class BulkChanges:
    """The operation of a history, if it has one."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs]) -> None:
        self._play = play
        self._world = play.world
        self._jobs = jobs
        self.exists = False
        self._action = ""
        self._frees_keys = False
        self._spread_ms = 0
        self._id: str | None = None
        self._created_ms = 0
        self._changed: set[tuple[str, str]] = set()
        """The operation and the run, of each change."""
        self._resumed = False
        self._aborted_at: int | None = None
        """The version at which it was aborted."""
        self.processes: set[Process] = set()
        """Those that work on it."""

    def plan(self) -> None:
        """Let a person begin an operation, and others go on with it or abort it."""
        play, choices = self._play, self._play.choices
        # Not a choice of its own: so all other histories stay as they are.
        if play.limiting.exists or sum(choices.taken) % ONE_IN != 3:
            return
        self.exists = True
        self._world.counts["a history with an operation over many runs"] += 1
        self._world.observers.append(self._wrote)
        self._action = choices.of(ACTIONS)
        self._frees_keys = bool(choices.below(2))
        self._spread_ms = choices.of((0, 30_000)) if self._action == "retry" else 0
        person, begins = play.person(), START_MS + choices.of((9_000, 2_500, 70_000, 200_000))
        by_ids = bool(choices.below(2))
        play.lasts_ms = max(play.lasts_ms, choices.of((0, 2, 4)) * MINUTE_MS)
        play.do_at(begins, person, f"{self._action} many", lambda: self._start(person, by_ids=by_ids))
        for _ in range(choices.below(3)):
            other = play.person()
            self._resume_at(begins + choices.of((300, 5_000, 40, 70_000)), other)
        if choices.below(4) == 3:
            other = play.person()
            play.do_at(begins + choices.of((60, 5_000, 20)), other, "aborts it", lambda: self._abort(other))

    def _some_wait(self, bulk_id: str) -> bool:
        """Say whether a run that an operation has retried waits still; nobody need send what was canceled since."""
        return any(
            item.get("bulk") == bulk_id and item["status"] in ("queued", "scheduled")
            for (_, sk), item in self._world.table.items.items()
            if sk == "run"
        )

    def _filter(self, *, by_ids: bool) -> dict[str, Any]:
        if by_ids:
            ids = [key[0].removeprefix("run#") for key in self._world.table.items if key[1] == "run"]
            return {"run_ids": ids}
        return self._play.choices.of(({"since": from_ms(START_MS - MINUTE_MS)}, {"job_name": "work"}))

    def _start(self, process: Process, *, by_ids: bool) -> None:
        self._is_at_work(process)
        jobs, given = self._jobs(process), self._filter(by_ids=by_ids)
        call = {"retry": jobs.retry_many, "cancel": jobs.cancel_many, "delete": jobs.delete_many}[self._action]
        if self._action == "retry" and self._spread_ms:
            given["spread"] = timedelta(milliseconds=self._spread_ms)
        if self._action == "delete":
            given["free_dedupe_keys"] = self._frees_keys
        ended = {run_id for run_id in given.get("run_ids", ()) if self._has_ended(run_id)}
        done = call(**given, on_progress=self._began)
        self._world.counts[f"a person has done with {self._action} of many"] += 1
        self._ended(done)
        if self._resumed or self._play.invariants.restored_at:
            return
        if done.action == "retry" and done.changed and not running().sends and self._some_wait(done.id):
            self._world.violate("a message follows its run", f"{done.changed} runs were retried, and none was sent")
        least = most = len(self._changed)
        if self._action == "cancel" and not by_ids:
            most = done.changed  # what moves in its list, because somebody gives it another time, may be counted twice
        elif self._action == "delete":
            most = len(self._play.invariants.gone)  # what somebody else has deleted just now counts as well
        if self._play.calm and not least <= done.changed <= most:
            self._world.violate("an operation counts what it has changed", f"{done}, and it was {self._changed}")
        if by_ids and done.done and not done.failed and self._action == "retry":
            self._check_all(ended)

    def _has_ended(self, run_id: str) -> bool:
        return bool(self._world.table.items[f"run#{run_id}", "run"]["status"] in RETRIED)

    def _check_all(self, run_ids: set[str]) -> None:
        """Check that none of the runs which had ended before is left, unless somebody else has changed it."""
        for run_id in sorted(run_ids):
            item = self._world.table.items.get((f"run#{run_id}", "run"))
            is_old = (
                item is not None and item["status"] in RETRIED and item["updated_at"] < self._created_ms - 2 * SKEW_MS
            )
            if item is not None and is_old and item.get("bulk") != self._id:
                self._world.violate("an operation leaves no run out", f"{run_id} is {item['status']}")

    def _began(self, operation: BulkOperation) -> None:
        self._id = operation.id

    def _is_at_work(self, process: Process) -> None:
        self.processes.add(process)
        invariants = self._play.invariants
        if self._action == "retry":
            invariants.retrying.add(process)
        elif self._action == "delete":
            invariants.records.deleting_many.add(process)

    def _resume_at(self, when_ms: int, process: Process) -> None:
        self._play.do_at(when_ms, process, "goes on with the operation", lambda: self._resume(process))

    def _resume(self, process: Process) -> None:
        if self._id is None or self._play.settling:
            return
        self._resumed = True
        self._is_at_work(process)
        if (found := self._jobs(process).resume_bulk(self._id)) is not None:
            self._ended(found)

    def _abort(self, process: Process) -> None:
        if self._id is not None:
            done = self._jobs(process).abort_bulk(self._id)
            self._world.counts[f"a person aborts an operation: {done}"] += 1
            self._play._know_again("abort", done)

    def _ended(self, operation: BulkOperation) -> None:
        parts = operation.changed + operation.skipped + operation.failed
        if operation.matched != parts:
            self._world.violate("an operation counts what it has changed", f"{operation}: {parts}")

    def end(self) -> None:
        """Let a person go on with it once faults have stopped: it comes to its end."""
        if self._id is None or self._play.invariants.restored_at:
            return
        bulk_id, process = self._id, self._play.person()

        def resume() -> None:
            self._resumed = True
            self._is_at_work(process)
            found = self._jobs(process).resume_bulk(bulk_id)
            if found is not None and not (found.done or found.aborted):
                self._world.violate("an operation that is resumed comes to its end", f"{found}")

        self._play._do(process, "goes on with the operation", resume)
        self._world.run(self._world.now + MINUTE_MS)

    # What must hold

    def _wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        if self._play.invariants.restored_at:
            return
        kind, _, id = key[0].partition("#")
        if kind == "bulk" and new is not None:
            self._operation_written(id, old, new)
        elif key[1] == "run" and old is not None:
            if new is None:
                self._run_deleted(id, old)
            elif new.get("bulk") != old.get("bulk"):
                self._run_changed(id, old, new)

    def _operation_written(self, id: str, old: Attributes | None, new: Attributes) -> None:
        world = self._world
        if old is None:
            self._created_ms = new["created_at"]
            return
        if "done_at" in old:
            world.violate("an operation that is done stays so", id)
        if "aborted_at" in new and "aborted_at" not in old:
            self._aborted_at = old["version"]
        elif new["version"] != old["version"] + 1:
            world.violate("a page of an operation is recorded once", f"{old['version']} -> {new['version']}")
        if self._aborted_at is not None and new["version"] > self._aborted_at + 1:
            world.violate("an operation that is aborted stops", f"{id}: page {new['version']}")

    def _run_changed(self, run_id: str, old: Attributes, new: Attributes) -> None:
        # One that was deleted and created again under its key is another run.
        change = (new.get("bulk", ""), f"{run_id} {new['create_token']}")
        if not change[0]:
            self._world.violate(ONCE, f"{run_id} forgets {old['bulk']}")
        if change in self._changed and run_id not in self._play.invariants.gone:  # or a late copy has put it again
            self._world.violate(ONCE, f"{run_id} by {change[0]}")
        self._changed.add(change)
        self._check_meant(run_id, old)
        if self._action == "retry" and new["scheduled_for"] > self._latest_ms():
            self._world.violate("retries of an operation are spread over its time", f"{run_id}: {new['scheduled_for']}")

    def _latest_ms(self) -> int:
        return self._world.now + self._spread_ms + self._play.invariants.records.writer_skew_ms()

    def _check_meant(self, run_id: str, old: Attributes) -> None:
        at_ms = old["finished_at"] if old["status"] in FINAL else old["created_at"]
        if at_ms > self._created_ms:
            self._world.violate(MEANT, f"{run_id} is of {at_ms}, and the operation of {self._created_ms}")

    def _run_deleted(self, run_id: str, old: Attributes) -> None:
        world, task = self._world, self._world.writer_task
        if self._action != "delete" or task is None or task.asks or world.writer not in self.processes:
            return
        self._changed.add((self._id or "", f"{run_id} {old['create_token']}"))
        self._check_meant(run_id, old)
        if "dedupe_key" in old and not self._frees_keys:
            world.violate("an operation leaves runs whose keys it may not free", f"{run_id} of {old['dedupe_key']}")


__all__ = ["BulkChanges", "simulated_bulk"]
