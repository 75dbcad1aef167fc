"""Dedupe keys: for how long a key makes no other run, and what must hold of the runs that it makes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kumofire_core import Jobs
from kumofire_core.errors import DedupeContentionError
from kumofire_core.model.times import duration_ms
from tests.simulation.invariants import group_asked_for
from tests.simulation.table import Attributes, Key
from tests.simulation.world import START_MS, Process, running

if TYPE_CHECKING:
    from tests.simulation.processes import Play

FINAL = frozenset({"succeeded", "failed", "canceled"})
MODES = (None, "unfinished", "unfinished", "debounce", timedelta(seconds=20))
JOB = "work"


class Keys:
    """The keys of a history, which all have the same mode."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs]) -> None:
        self._play = play
        self._world = play.world
        self._jobs = jobs
        self.mode: Any = None
        self._runs: dict[str, dict[int, str]] = {}
        """The runs of each key, by generation."""
        self._created: dict[str, int] = {}
        self._retried: set[str] = set()
        """Keys of which a person has retried a run."""

    def plan(self) -> None:
        """Let persons create runs of one key again and again."""
        play, choices = self._play, self._play.choices
        self.mode = choices.of(MODES)
        if self.mode is None:
            return
        self._world.observers.append(self._wrote)
        for _ in range(1 + choices.below(4)):
            process = play.person() if choices.below(3) else play.consumers[0]
            when = START_MS + choices.of((0, 1, 70, 4_000, 15_000, 25_000))
            play.do_at(when, process, "creates a run of a key", lambda process=process: self._create(process))

    def _create(self, process: Process) -> None:
        play, task = self._play, running()
        _, payload = play.ask(JOB)
        task.asks = "debounces"
        if self.mode == "debounce":
            play.invariants.records.changing.add(process)
        delay = timedelta(milliseconds=play.choices.of((0, 3_000, 20_000)))
        try:
            run_id = self._jobs(process).create(
                JOB, payload, dedupe_key="key", dedupe=self.mode, delay=delay, group=group_asked_for(payload)
            )
        except DedupeContentionError:
            self._world.violate("a key comes to a run", "it does not")
            return
        task.asks = ""
        if self.mode == "debounce" and play.invariants.restored_at < task.begun:
            self._check_stored(run_id, payload["number"])

    def _check_stored(self, run_id: str, number: int) -> None:
        records = self._play.invariants.records
        if number not in records.updates and number not in records.created:
            self._world.violate("a debounced run has the latest payload", f"{run_id} never had {number}")

    def _wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        kind, _, run_id = key[0].partition("#")
        if new is None:
            return
        if kind == "dedupe" and new["generation"] <= (old or {}).get("generation", 1):
            self._world.violate("the number of a key's runs grows", f"{old} -> {new}")
        if kind != "run" or new.get("dedupe_mode") is None:
            return
        if old is None:
            self._put(run_id, new)
        elif old["status"] in FINAL and new["status"] not in FINAL:
            self._retry(run_id, new)

    def _put(self, run_id: str, new: Attributes) -> None:
        dedupe_key, generation, items = new["dedupe_key"], new["generation"], self._world.table.items
        runs = self._runs.setdefault(dedupe_key, {})
        if self._play.invariants.restored_at:
            return
        begun = max((item["generation"] for key, item in items.items() if key[0].startswith("dedupe#")), default=1)
        if generation > begun:
            self._world.violate("no run of a key is beyond its number", f"{run_id} is the {generation}th of {begun}")
        others = [items[f"run#{other}", "run"] for other in runs.values() if (f"run#{other}", "run") in items]
        runs[generation] = run_id
        self._created[run_id] = self._world.now
        if generation > 1 and generation - 1 in runs and self._play.choices.below(2) and not self._play.settling:
            self._play._retry_at(self._world.now + self._play.choices.of((3, 500)), runs[generation - 1])
        if any(each in self._play.invariants.gone for each in runs.values()):
            return  # who was halted meanwhile may make a run beside it
        unfinished = [other["status"] for other in others if other["status"] not in FINAL]
        if self.mode == "unfinished" and unfinished and dedupe_key not in self._retried:
            self._world.violate("one run of a key is unfinished at a time", f"{run_id} beside {unfinished}")
        if isinstance(self.mode, timedelta):
            since = [other["created_at"] for other in others if other["generation"] == generation - 1]
            # One creator whose clock is ahead may begin the next run, and another one put it.
            creators = (*self._play.persons, self._play.consumers[0])
            clocks = [skew_ms for process in creators for skew_ms in process.clocks()]
            apart_ms = max(clocks) - min(clocks)
            if any(new["created_at"] < each + duration_ms(self.mode) - apart_ms for each in since):
                self._world.violate("one run of a key is made in its time", f"{run_id} at {new['created_at']}")
        if self.mode == "debounce" and any(self._is_untouched(other) for other in others):
            self._world.violate("a run that has not started is debounced", f"{run_id} was made beside it")

    @staticmethod
    def _is_untouched(item: Attributes) -> bool:
        is_new = "retries" not in item and "attempts" not in item and not item["attempt"]
        return item["status"] in ("queued", "scheduled") and is_new and not item.get("claims")

    def _retry(self, run_id: str, new: Attributes) -> None:
        task = self._world.writer_task
        self._retried.add(new["dedupe_key"])
        later = [other for number, other in self._runs[new["dedupe_key"]].items() if number > new["generation"]]
        if self.mode == "unfinished" and task is not None and not self._play.invariants.restored_at:
            for other in later:
                if self._created[other] < task.begun:
                    self._world.violate("only the latest run of a key is retried", f"{run_id}, before {other}")


__all__ = ["Keys"]
