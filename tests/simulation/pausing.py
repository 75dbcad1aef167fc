"""Persons who pause jobs and resume them, and what must hold: nothing of a paused job starts, all goes on later."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from kumofire_core import Jobs
from kumofire_core.model.times import from_ms
from tests.simulation.table import Attributes, Key
from tests.simulation.world import START_MS, Process

if TYPE_CHECKING:
    from tests.simulation.processes import Play

SKEW_MS = 500
MINUTE_MS = 60_000
KNOWN_MS = MINUTE_MS
"""How long after a person pauses a job the last of its runs may start."""
PAUSES = ("settings#pause", "settings")
ENDS = ("is resumed", "ends by itself", "is resumed", "is left")
LATEST_ROUNDS = 12
"""How many passes, a minute apart, may go by until all runs of resumed jobs go on."""


class Pausing:
    """The pause of a history, if it has one."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs]) -> None:
        self._play = play
        self._world = play.world
        self._jobs = jobs
        self.since: dict[str | None, int] = {}
        """When the pauses began that hold now, by job; ``None`` for all jobs."""
        self._until: dict[str | None, int | None] = {}
        self._ever: set[str | None] = set()
        self._ended: dict[str | None, int] = {}
        self.rounds = 0
        self.exists = False

    def plan(self) -> None:
        """Let a person pause a job, or all, and perhaps resume it."""
        play, choices = self._play, self._play.choices
        if choices.below(10) < 9:
            return
        self.exists = True
        self._world.observers.append(self._wrote)
        name = choices.of(("work", None, "timed"))
        begins = START_MS + choices.of((0, 1, 2_100, 20_000))
        end, lasts_ms = choices.of(ENDS), choices.of((70_000, 3_000, 200_000))
        until = from_ms(begins + lasts_ms) if end == "ends by itself" else None
        person = play.person()
        play.do_at(begins, person, f"pauses {name}", lambda: self._pause(person, name, until))
        if end == "is resumed":
            self._resume_at(begins + lasts_ms, name)
            if choices.below(3) == 2:
                self._resume_at(begins + lasts_ms, name)
        if choices.below(4) == 3:
            other, another = play.person(), choices.of((None, "work", "eager"))
            when = begins + choices.of((1, 30_000, lasts_ms))
            play.do_at(when, other, f"pauses {another}", lambda: self._pause(other, another, None))

    def _pause(self, process: Process, name: str | None, until: datetime | None) -> None:
        if not self._play.settling:
            self._jobs(process).pause(name, until=until, reason="why")

    def _resume_at(self, when_ms: int, name: str | None) -> None:
        process = self._play.person()
        self._play.do_at(when_ms, process, f"resumes {name}", lambda: self._jobs(process).resume(name))

    def end(self) -> None:
        """Let a person resume all jobs, once faults have stopped."""
        if self.exists:
            self._resume_all()
            self._world.run(self._world.now + 1_000)

    def _resume_all(self) -> None:
        process = self._play.person()

        def resume() -> None:
            for pause in self._jobs(process).pauses():
                if not self._jobs(process).resume(pause.job_name):
                    self._world.violate("a pause that holds can be ended", f"{pause}")

        self._play._do(process, "resumes all jobs", resume)

    def _wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        if key != PAUSES or new is None:
            return
        world = self._world
        if old is not None and new["version"] != old["version"] + 1:
            world.violate("a change of the pauses keeps the others", f"{old['version']} -> {new['version']}")
        content = json.loads(new["pauses"])
        found = {name: until for name, _, until, _ in content["paused"]}
        for name in found.keys() - self.since.keys():
            self.since[name] = world.now
        if found.items() - self._until.items() and self._play.settling:  # a request of before the faults stopped
            world.at(world.now + 1_000, self._resume_all)
        for name in self.since.keys() - found.keys():
            del self.since[name]
            self._ended[name] = world.now
        self._until = found
        self._ever |= found.keys()

    def _is_on(self, name: str | None) -> bool:
        if name not in self.since:
            return False
        until = self._until[name]
        return until is None or self._world.now < until - SKEW_MS

    # What is checked

    def started(self, run_id: str, job: str) -> None:
        """Check that no handler of a job is called which is paused for a minute; where nothing goes wrong."""
        for name in (job, None):
            if (
                self._play.table_answers
                and self._is_on(name)
                and self._world.now > self.since[name] + KNOWN_MS + SKEW_MS
            ):
                self._world.violate("nothing of a paused job starts", f"{run_id} of {job}")

    def put_aside(self, run_id: str, old: Attributes, new: Attributes) -> None:
        """Check a write that puts a run aside."""
        world = self._world
        world.counts["put aside"] += 1
        names = {new["job_name"], None} & self._ever
        if not names:
            world.violate("only a run of a paused job is put aside", f"{run_id} of {new['job_name']}")
        ends = [world.now if name in self.since and self._until[name] is None else self._end(name) for name in names]
        if self._play.table_answers and ends and max(ends) + KNOWN_MS + SKEW_MS < world.now:
            world.violate("only a run of a paused job is put aside", f"{run_id} of {new['job_name']}, resumed since")
        if new["attempt"] != old["attempt"] or new["scheduled_for"] != old["scheduled_for"]:
            world.violate("a run that is put aside is as it was", run_id)
        if new.get("list_at") != new["scheduled_for"]:
            world.violate("a run that was put aside is listed by its time", f"{run_id}: {new.get('list_at')}")

    def _end(self, name: str | None) -> int:
        until = self._until.get(name)
        return until if name in self.since and until is not None else self._ended[name]

    def some_wait(self) -> bool:
        """Say whether runs are aside, though no job is paused; they must go on within a few passes."""
        items = self._world.table.items
        waiting = [key[0] for key, item in items.items() if "parked" in item and item["status"] == "scheduled"]
        if not waiting or any(self._is_on(name) for name in self.since):
            return False
        self.rounds += 1
        self._world.counts["a pass while runs of resumed jobs wait"] += 1
        if self.rounds > LATEST_ROUNDS:
            self._world.violate("a run of a resumed job goes on", f"{waiting} wait still")
        return True

    def must_look(self) -> bool:
        """Say whether a pass of the dispatcher has something to do, whatever the wake-ups are."""
        return self.exists and PAUSES in self._world.table.items


__all__ = ["Pausing"]
