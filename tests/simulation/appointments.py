"""What persons do with schedules: make, change, trigger, delete them, one against the other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kumofire_core import Jobs
from kumofire_core.engine.schedules import schedule_key_id
from kumofire_core.model.times import from_ms
from tests.simulation.invariants import KnownSchedule, group_asked_for
from tests.simulation.world import START_MS, Process

if TYPE_CHECKING:
    from tests.simulation.processes import Play

KEY = "nightly"
CHANGES = ("nothing", "nothing", "trigger", "disable", "move", "delete", "upsert", "upsert another")
UNCHANGED = ("nothing", "trigger", "upsert")
"""What leaves a schedule's occurrences as they are."""


class Appointments:
    """The one schedule of a history: its settings, and what becomes of it."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs]) -> None:
        self._play = play
        self._jobs = jobs
        choices = play.choices
        self.id = schedule_key_id(KEY)
        self.missed = choices.of(("all", "latest", "skip"))
        self.overlap = choices.of(("allow", "skip"))
        self.change = choices.of(CHANGES)
        kind = choices.of(("interval", "interval", "interval", "interval", "cron", "once"))
        step_ms = choices.of((60_000, 120_000) if kind == "cron" else (60_000, 60_000, 20_000, 7_000))
        end_ms = START_MS + step_ms * (1 + choices.below(2 if kind == "cron" else 4))
        self.job, self.payload = play.ask("timed" if choices.below(2) else "work")
        self.timing: dict[str, Any]
        if kind == "cron":
            self.timing = {"schedule_expr": f"*/{step_ms // 60_000} * * * *", "end_at": from_ms(end_ms)}
        elif kind == "once":
            end_ms = START_MS + step_ms + 2_000
            self.timing = {"schedule_expr": from_ms(end_ms)}
        else:
            self.timing = {"schedule_expr": timedelta(milliseconds=step_ms), "end_at": from_ms(end_ms)}
        self.timing["schedule_type"] = kind
        self.known = KnownSchedule(
            kind=kind,
            step_ms=step_ms,
            end_ms=end_ms,
            missed=self.missed if self.overlap == "allow" and self.change in UNCHANGED else None,
            one_at_a_time=self.overlap == "skip" and self.change != "move",
            unchanged=self.change in UNCHANGED,
        )

    def plan(self) -> None:
        """Let persons make the schedule, and change it later."""
        play, choices = self._play, self._play.choices
        play.invariants.schedules[self.id] = self.known
        maker = play.person()
        play.do_at(START_MS, maker, "creates a schedule", lambda: self._create(maker))
        if choices.below(2):
            other = play.person()
            second = self._upsert if choices.below(2) else self._trigger
            play.do_at(START_MS + 2, other, "comes second", lambda: second(other))
        if self.change != "nothing":
            when = START_MS + choices.of((1_000, 15_000, 62_000))
            changer = maker if choices.below(2) else play.person()
            play.do_at(when, changer, f"schedule: {self.change}", lambda: self._change(changer))

    def _create(self, process: Process) -> None:
        jobs = self._jobs(process)
        if self.change == "upsert":
            self._upsert(process)
            return
        jobs.create_schedule(
            self.job,
            self.payload,
            schedule_key=KEY,
            missed=self.missed,
            overlap=self.overlap,
            group=group_asked_for(self.payload),
            **self.timing,
        )

    def _more(self) -> dict[str, Any]:
        """Return what every making of the schedule asks for besides."""
        return {"group": group_asked_for(self.payload), **self.timing}

    def _upsert(self, process: Process) -> None:
        found = self._jobs(process).upsert_schedule(
            self.job,
            self.payload,
            schedule_key=KEY,
            missed=self.missed,
            overlap=self.overlap,
            group=group_asked_for(self.payload),
            **self.timing,
        )
        if found != self.id:
            self._play.world.violate("one key has one schedule", f"{KEY} is {found}, and not {self.id}")

    def _trigger(self, process: Process) -> None:
        found = self._jobs(process).get_schedule_by_key(KEY)
        if found is not None:
            if found.payload != self.payload and self.change != "upsert another":
                self._play.world.violate("a payload is what was created", f"{found.payload} of {self.id}")
            self._jobs(process).trigger_schedule(self.id)

    def _change(self, process: Process) -> None:
        jobs, world = self._jobs(process), self._play.world
        match self.change:
            case "trigger":
                jobs.trigger_schedule(self.id)
            case "disable":
                jobs.disable_schedule(self.id)
                world.pause(self._play.choices.of((10, 30_000)))
                jobs.update_schedule(self.id, enabled=True)
            case "move":
                jobs.update_schedule_by_key(
                    KEY,
                    schedule_type="interval",
                    schedule_expr=timedelta(seconds=13),
                    end_at=from_ms(self.known.end_ms),
                )
            case "delete":
                if jobs.delete_schedule(self.id) and self.id not in self._play.invariants.deleted:
                    world.violate("a schedule that was deleted is gone", self.id)
            case "upsert":
                self._upsert(process)
            case _:
                self.job, self.payload = self._play.ask("work")
                jobs.upsert_schedule(
                    self.job,
                    self.payload,
                    schedule_key=KEY,
                    missed=self.missed,
                    overlap=self.overlap,
                    group=group_asked_for(self.payload),
                    **self.timing,
                )
