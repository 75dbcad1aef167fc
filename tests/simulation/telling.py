"""Handlers that tell their progress, and what must hold of what is written of it beside them.

What must hold: progress is written under the lease of its own attempt, says what that attempt told, and comes at most
once a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from kumofire_core import Jobs
from kumofire_core.engine import attempt_progress
from kumofire_core.engine.attempt_progress import ProgressWriter
from kumofire_core.model.encrypted_text import is_encrypted
from tests.simulation.table import Attributes
from tests.simulation.threads import SimulatedCall, SimulatedCondition, SimulatedLock, SimulatedThreads
from tests.simulation.world import LATENCIES_MS, Process

if TYPE_CHECKING:
    from kumofire_core.model.run_view import Run
    from tests.simulation.invariants import Attempt
    from tests.simulation.processes import Play

TOLD = frozenset({"progress", "told_by"})
"""What a write of progress changes."""
ONE_IN = 8
"""In one of so many histories handlers tell their progress."""
WRITE_MS = 1_000
UNDER_LEASE = "progress is written under its own lease"
AS_TOLD = "progress is what its handler told"
SELDOM = "progress is written at most once a second"
NOTES = (None, "half of it", "ü" * 300)


class BackgroundThreads(SimulatedThreads):
    """Makes threads that outlast the invocation in which they began, as a process's own do."""

    def start(self, function: Callable[[], Any]) -> SimulatedCall:  # type: ignore[override]
        """Begin a function in a task of the running one's process."""
        call = super().start(function)
        call.move_to_background()
        return call


@contextmanager
def simulated_progress(time: object) -> Iterator[None]:
    """Let the engine write progress in the simulation."""
    threading = SimpleNamespace(Condition=SimulatedCondition, Lock=SimulatedLock)
    with ExitStack() as stack:
        stack.enter_context(patch.object(attempt_progress, "threading", threading))
        stack.enter_context(patch.object(attempt_progress, "time", time))
        yield


class Telling:
    """The progress that is told in one history, if its handlers tell any."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs]) -> None:
        self._play = play
        self._world = play.world
        self._jobs = jobs
        self.on = False
        self._writers: set[tuple[Process, int]] = set()
        """The lives of processes that have a writer of their own."""
        self._told: dict[tuple[str, str], set[tuple[int, str | None]]] = {}
        """What each attempt told, by its run and its lease."""
        self._written_ms: dict[tuple[str, str], int] = {}

    def plan(self) -> None:
        """Decide whether handlers tell their progress."""
        # Not a choice of its own, so that all other histories stay as they are.
        self.on = not self._play.limiting.orderly and sum(self._play.choices.taken) % ONE_IN == ONE_IN - 1

    def tell(self, context: Any, attempt: Attempt, *, pauses: bool) -> None:
        """Let a handler tell something, perhaps several times within a second, and go on."""
        choices, process = self._play.choices, attempt.process
        if not self.on or self._play.settling or not choices.below(3):
            return
        life = (process, process.incarnation)
        if life not in self._writers:
            self._writers.add(life)
            consumer = self._jobs(process)._consumer
            consumer._progress_writer = ProgressWriter(consumer._store, BackgroundThreads())
        told = self._told.setdefault((attempt.run_id, attempt.token), set())
        for _ in range(choices.of((1, 2, 4)) if pauses else 1):
            quarters, note = choices.below(5), choices.of(NOTES)
            told.add((250 * quarters, None if note is None else note[:200]))
            context.progress(quarters / 4, note)
            self._world.counts["progress told"] += 1
            if pauses:
                self._world.pause(choices.of((30, 400, 1_300)))

    def written(
        self, run_id: str, attempt: Attempt | None, changed: set[str], new: Attributes, *, is_own: bool
    ) -> bool:
        """Check a write that may be one of progress; say whether it is one."""
        if not changed or not changed <= TOLD:
            return False
        world = self._world
        world.counts["progress written"] += 1
        if self._play.invariants.restored_at:
            return True
        if attempt is None or not is_own:
            world.violate(UNDER_LEASE, f"{run_id}, by {world.writer}")
            return True
        place = (run_id, attempt.token)
        if not self._is_told(place, attempt, *json.loads(new["progress"])[:3]):
            world.violate(AS_TOLD, f"{run_id}: {new['progress']}")
        before = self._written_ms.get(place)
        # The second counts from when a write is begun. One that a table refuses for seconds is made long after that.
        if self._play.table_answers and before is not None and world.now < before + WRITE_MS - max(LATENCIES_MS):
            world.violate(SELDOM, f"{run_id}: after {world.now - before} ms")
        self._written_ms[place] = world.now
        return True

    def _is_told(
        self, place: tuple[str, str], attempt: Attempt, claims: int, thousandths: int, note: str | None
    ) -> bool:
        note = self._opened(note)
        told = [known for number, known in self._told.get(place, ()) if number == thousandths]
        if self._play.variant.sealed:  # where it has no room encrypted, only its beginning is kept, or nothing
            return claims == attempt.claims and any(
                (known or "").startswith((note or "").removesuffix("…")) for known in told
            )
        return claims == attempt.claims and note in told

    def _opened(self, note: str | None) -> str | None:
        return self._play.invariants.decrypted(note) if note is not None and is_encrypted(note) else note

    def read(self, run: Run, stored: Attributes) -> None:
        """Check what a person reads of a run's progress: what its latest attempt told, and nothing older."""
        kept = json.loads(stored["progress"]) if "progress" in stored else None
        shown = kept if kept is not None and kept[0] == stored.get("claims") else None
        found = run.progress
        told = None if found is None else (found.fraction, found.note)
        if told != (None if shown is None else (shown[1] / 1000, self._opened(shown[2]))):
            self._world.violate("a reader sees what was recorded", f"{run.id}: {found}, and not {shown}")


__all__ = ["Telling", "simulated_progress"]
