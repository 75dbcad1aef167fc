"""Handlers that go through steps, sleeps and waits, persons who signal them, and what must hold of what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from kumofire_core import Jobs
from kumofire_core.errors import StepError, StepsLostError
from tests.simulation.table import Attributes, Key
from tests.simulation.world import START_MS, DiedError, Process, running

if TYPE_CHECKING:
    from tests.simulation.invariants import Attempt
    from tests.simulation.processes import Play

MINUTE_MS = 60_000
SKEW_MS = 500
EARLY_MS = 1_000
MOST_SIGNALS = 8
"""How many signals persons give in a history before its faults stop."""
MOST_FAMILIES = 2
"""How many calls for children a history has."""
OVER = "over"
SAME = "a step's value never changes"
ONCE = "what was kept is not done again"
TOLD = "a run that was signaled does not wait"
ASKED = "who signals is told whether it is this payload"
FREE = "a suspension counts no attempt"
LENGTH = "a sleep is as long as it was asked for"


class Act(NamedTuple):
    """One thing that a handler's script does."""

    kind: str
    length_ms: int | None = None


class Stepping:
    """The steps of one history, if its handlers have some."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs], gives_up: type[BaseException]) -> None:
        self._play = play
        self._world = play.world
        self._jobs = jobs
        self._gives_up = gives_up
        self.on = False
        self._scripts: dict[tuple[str, str], list[Act]] = {}
        self._used: dict[tuple[str, str, str], Any] = {}
        """What a call has returned to a handler, by run, incarnation and name."""
        self._kept_at: dict[tuple[str, str, str], int] = {}
        """When the record of a name was put."""
        self._asked_at: dict[tuple[str, str, str], int] = {}
        """When a handler called for a sleep or a wait first."""
        self._told: set[tuple[str, str, str]] = set()
        """Signals that somebody was told of, whatever the answer."""
        self._numbers = 0
        self._signals = 0
        self.restarting: set[Process] = set()
        """Processes in which a person lets a run start over."""
        self._left: dict[str, str] = {}
        """The incarnation of each run that was deleted."""
        self._unsignaled: set[str] = set()
        """Deleted runs that had not been told of a signal: who gave them one just when they failed leaves it there."""
        self._families = 0
        """How many calls for children there are in scripts."""
        self._requests: dict[tuple[str, str, str], list[Any]] = {}
        """The children that each call asks for."""

    def plan(self) -> None:
        """Decide whether handlers have steps."""
        self.on = self._play.choices.below(4) == 3
        if self.on:
            self._world.observers.append(self._wrote)
            self._play.batching.watch()
            self._play.lasts_ms = max(self._play.lasts_ms, self._play.choices.of((0, 2, 25)) * MINUTE_MS)

    # Handlers

    def go_through(self, context: Any, attempt: Attempt) -> None:
        """Go through the script of a run, from its first line, as every attempt does."""
        run_id, incarnation = context.run.id, context._claimed.incarnation
        if not self.on or context.run.job_name in self._play.asynchronous:
            return
        script = self._scripts.setdefault((run_id, incarnation), []) or self._write_script(
            run_id, incarnation, may_have_children=context.run.parent_id is None
        )
        began = self._world.now
        try:
            for number, act in enumerate(script):
                self._do(context, attempt, act, (run_id, incarnation, f"{act.kind}-{number}"), began)
        except StepsLostError:
            item = self._world.table.items.get((f"run#{run_id}", "run"), {})
            is_held = item.get("lease_token") == attempt.token  # or the run was deleted since, and its steps with it
            if is_held and not self._is_undone((run_id, incarnation)) and not self._expires_soon():
                self._world.violate("what is kept is there", run_id)
            raise
        except StepError as error:
            self._world.violate("steps that did not change fit", f"{run_id}: {error}")
            raise

    def _write_script(self, run_id: str, incarnation: str, *, may_have_children: bool) -> list[Act]:
        choices, script = self._play.choices, self._scripts[run_id, incarnation]
        for _ in range(1 + choices.below(4)):
            kind = choices.of(("step", "step", "wait", "sleep", "children"))
            if kind == "children":
                self._families += 1
                if not may_have_children or self._families > MOST_FAMILIES or self._play.settling:
                    kind = "step"
            length = None
            if kind == "sleep":
                length = choices.of((3_000, 400, 0, 62_000, 20 * MINUTE_MS))
            elif kind == "wait":
                length = choices.of((None, None, 3_000, 0, 62_000, 20 * MINUTE_MS))
            script.append(Act(kind, length))
            if kind == "wait" and choices.below(4) == 3:
                self._signal_at(self._world.now + 1, run_id, f"wait-{len(script) - 1}")
        return script

    def _do(self, context: Any, attempt: Attempt, act: Act, place: tuple[str, str, str], began: int) -> None:
        name, now = place[2], self._world.now
        self._world.counts["called for a " + act.kind] += 1
        if act.kind == "step":
            value = context.step(name, lambda: self._execute(context, attempt, place, began))
        elif act.kind == "sleep":
            asked = self._asked_at.setdefault(place, now)
            context.sleep((act.length_ms or 0) / 1000, name)
            value = None
            if self._world.now < asked + (act.length_ms or 0) - EARLY_MS - 2 * SKEW_MS and not self._is_undone(place):
                self._world.violate(LENGTH, f"{place}: {self._world.now - asked} ms of {act.length_ms}")
        elif act.kind == "children":
            value = self._have_children(context, place)
        else:
            asked = self._asked_at.setdefault(place, now)
            timeout = None if act.length_ms is None else act.length_ms / 1000
            value = context.wait_for(name, timeout=timeout, default=OVER)
            early = self._world.now < asked + (act.length_ms or 0) - EARLY_MS - 2 * SKEW_MS
            if value == OVER and (act.length_ms is None or early) and not self._is_undone(place):
                self._world.violate(LENGTH, f"{place} was over after {self._world.now - asked} ms of {act.length_ms}")
        if self._used.setdefault(place, value) != value and not self._is_undone(place):
            self._world.violate(SAME, f"{place}: {value}, and {self._used[place]} before")

    def _have_children(self, context: Any, place: tuple[str, str, str]) -> str:
        """Create children, the same each time, and wait for them; return their batch's id."""
        requests = self._requests.setdefault(place, [])
        if not requests:
            requests += [self._play.batching.request(delays=False) for _ in range(1 + self._play.choices.below(2))]
        batch_id: str = context.create_children(requests, name=place[2])
        context.wait_for_children()
        self._play.batching.waited(batch_id)
        return batch_id

    def families_of(self, run_id: str) -> int:
        """Return how many calls for children the scripts of a run have."""
        scripts = [script for (of, _), script in self._scripts.items() if of == run_id]
        return sum(act.kind == "children" for script in scripts for act in script)

    def _execute(self, context: Any, attempt: Attempt, place: tuple[str, str, str], began: int) -> int:
        """Do what a step does: once more is too much where an earlier result was kept before this attempt began."""
        world, choices, process = self._world, self._play.choices, running().process
        kept_at = self._kept_at.get(place)
        if kept_at is not None and kept_at < began and not self._is_undone(place):
            world.violate(ONCE, f"{place} was kept {began - kept_at} ms before")
        self._numbers += 1
        number = self._numbers
        if self._play.settling:
            return number
        match choices.below(12):
            case 5:  # so long that the next step is left to another invocation
                world.pause(int(min(context.time_left().total_seconds(), 60.0) * 600))
            case 6 | 7:
                world.pause(choices.of((100, 1_500, 5_000)))
            case 8:
                raise RuntimeError("boom")
            case 9:
                raise self._gives_up("late boom")
            case 10:  # around the end of the lease, so that two attempts are at the same step
                beyond = choices.of((700, -700, 3_000))
                self._play._deliver_at(attempt.lease_until + SKEW_MS + 1, context.run.id)
                world.pause(max(0, attempt.lease_until - world.now - process.skew_ms + beyond))
            case 11 if choices.below(2):
                world.kill(process)
                raise DiedError
        return number

    # Persons

    def after_write(self, run_id: str, old: Attributes | None, new: Attributes) -> None:
        """Let persons signal a run that waits, will wait, or is about to."""
        if not self.on or self._play.settling or self._signals >= MOST_SIGNALS:
            return
        choices, name = self._play.choices, new.get("waits_for")
        if name is not None and name.startswith("children-"):
            return  # that is for its children to give
        if name is not None and new["status"] == "scheduled" and (old is None or old["status"] != "scheduled"):
            if choices.below(3):
                self._signal_at(self._world.now + choices.of((1, 3, 900, 3_000, 62_000)), run_id, name)
                if choices.below(3) == 2:
                    self._signal_at(self._world.now + choices.of((2, 4, 70_000)), run_id, name)
        elif new["status"] == "running" and choices.below(4) == 3:
            script = self._scripts.get((run_id, _incarnation(new)), [])
            for number, act in enumerate(script):
                if act.kind == "wait":
                    self._signal_at(self._world.now + choices.of((1, 6, 12, 20)), run_id, f"wait-{number}")

    def _signal_at(self, when_ms: int, run_id: str, name: str) -> None:
        process = self._play.person()
        self._signals += 1
        self._play.do_at(when_ms, process, f"signals {name} of {run_id}", lambda: self._signal(process, run_id, name))

    def _signal(self, process: Process, run_id: str, name: str) -> None:
        world = self._world
        self._numbers += 1
        number = self._numbers
        before = world.table.items.get((f"run#{run_id}", "run"))
        done = self._jobs(process).signal(run_id, name, number)
        world.counts[f"a person signals: {done}"] += 1
        item = world.table.items.get((f"run#{run_id}", "run"))
        if before is None or item is None or self._play.invariants.restored_at >= running().begun:
            return
        place = (run_id, _incarnation(item), name)
        found = world.table.items.get((f"run#{run_id}", f"steps#{place[1]}#signal#{name}"))
        if _incarnation(before) != place[1] or self._is_undone(place):
            return
        is_ours = (
            found is not None and "value" in found and self._play.invariants.decrypted(found["value"]) == str(number)
        )
        has_ended = item["status"] in ("succeeded", "failed", "canceled")
        if done != is_ours and not (item["status"] == "succeeded" and not done):  # it has never waited for this one
            world.violate(ASKED, f"{place}: {done}, and the stored one is {found}")
        if found is not None and "value" in found and not has_ended:
            self._told.add(place)
            if item["status"] == "scheduled" and item.get("waits_for") == name:
                world.violate(TOLD, f"{place} waits")

    def signal_all(self) -> None:
        """Let a person signal all runs that wait, once faults have stopped."""
        if not self.on:
            return
        for (pk, sk), item in list(self._world.table.items.items()):
            waits_for = item.get("waits_for", "children-")
            if sk == "run" and item["status"] == "scheduled" and not waits_for.startswith("children-"):
                self._signal_at(self._world.now + 1, pk.removeprefix("run#"), item["waits_for"])

    # What must hold

    def suspended(self, run_id: str, old: Attributes, new: Attributes) -> None:
        """Check a write by which a consumer puts a run back that its handler has suspended."""
        self._world.counts["suspended", new["status"]] += 1
        if new["attempt"] != old["attempt"] or new.get("attempts") != old.get("attempts"):
            self._world.violate(FREE, f"{run_id} has {new['attempt']} attempts")
        if new["status"] == "canceled" and "cancel_requested_at" not in old:
            self._world.violate("a run is canceled because a person asked", run_id)
        if new["status"] not in ("scheduled", "canceled"):
            self._world.violate("a suspended run waits", f"{run_id} is {new['status']}")

    def deleted(self, run_id: str) -> None:
        """Check that nothing is left of a run that a person has deleted, where nothing goes wrong."""
        if not self.on or not self._play.calm or run_id not in self._left:
            return
        prefix = f"steps#{self._left[run_id]}#"
        left = [sk for pk, sk in self._world.table.items if pk == f"run#{run_id}" and sk.startswith(prefix)]
        if run_id in self._unsignaled:
            left = [sk for sk in left if not sk.startswith(f"{prefix}signal#")]
        if left and not self._is_restored():
            self._world.violate("what was deleted is gone", f"{run_id} has left {left}")

    def _wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        kind, _, run_id = key[0].partition("#")
        if kind != "run":
            return
        if new is None:
            if key[1] == "run":
                self._left[run_id] = _incarnation(old or {"create_token": ""})
                if "signals" in (old or {}):
                    self._unsignaled.discard(run_id)
                else:
                    self._unsignaled.add(run_id)
            self._forget(run_id, None if key[1] == "run" else key[1].split("#", 3)[1])
            return
        if key[1] == "run":
            place = (run_id, _incarnation(new), str(new.get("waits_for")))
            restarts = old is not None and old.get("steps_id") != new.get("steps_id")
            if restarts and self._world.writer not in self.restarting:
                self._world.violate("a retry goes on behind the kept steps", run_id)
            begins = new["status"] == "scheduled" and old is not None and old["status"] == "running"
            if begins and "waits_for" in new and place in self._told and not self._is_restored():
                self._world.violate(TOLD, f"{place} was told of it")
            return
        _, incarnation, what, name = key[1].split("#", 3)
        if old is not None:
            changed = {each for each in {*old, *new} if old.get(each) != new.get(each)}
            if not changed <= {"expires_at"}:
                self._world.violate("what is kept stays as it is", f"{key}: {sorted(changed)}")
        elif what == "step":
            self._kept_at[run_id, incarnation, name] = self._world.now

    def _forget(self, run_id: str, incarnation: str | None) -> None:
        """Forget what a deleted run had, or an incarnation of it. A late copy may put the run again: another one.

        Where a record is left because nobody knew of it, it holds for the run that such a copy puts under its token.
        """
        items = self._world.table.items

        def is_left(place: tuple[str, str, str]) -> bool:
            parts = (f"steps#{place[1]}#{kind}#{place[2]}" for kind in ("step", "signal"))
            return any((f"run#{run_id}", part) in items for part in parts)

        def is_gone(place: tuple[str, str, str]) -> bool:
            if place[0] != run_id:
                return False
            return not is_left(place) if incarnation is None else place[1] == incarnation

        for known in (self._used, self._kept_at, self._asked_at):
            for place in [each for each in known if is_gone(each)]:
                del known[place]
        self._told = {each for each in self._told if not is_gone(each)}

    def _is_undone(self, place: tuple[str, ...]) -> bool:
        """Say whether what a run, in one incarnation, has kept may be gone, or be there unknown.

        The table was restored, or the run was deleted, and a late copy of its put has put it again: a late copy of the
        deletion may take what it keeps from then on, and nobody knows of what was left beside it.
        """
        return self._is_restored() or self._left.get(place[0]) == place[1]

    def _is_restored(self) -> bool:
        """Say whether the table was restored: it has forgotten what was kept, and what was signaled."""
        return bool(self._play.invariants.restored_at)

    def _expires_soon(self) -> bool:
        return self._world.now > START_MS + 30 * 24 * 60 * MINUTE_MS


def _incarnation(run: Attributes) -> str:
    return str(run.get("steps_id") or run["create_token"])[-12:]


__all__ = ["Stepping"]
