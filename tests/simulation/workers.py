"""Workers that renew their leases, in histories of their own: those whose seed is ``WORKERS_FROM`` or more.

What must hold: only who executes a run renews its lease, and only for as long as a lease is; no handler goes on when
its lease is over; an attempt is interrupted only where its process or its lease ends, and does not count then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kumofire_core import Jobs
from kumofire_core.engine.renewal import Renewal
from tests.simulation.history import WORKERS
from tests.simulation.table import Attributes
from tests.simulation.world import START_MS, Process

if TYPE_CHECKING:
    from tests.simulation.invariants import Attempt, Ledger
    from tests.simulation.processes import Play

SKEW_MS = 500
MARGIN_MS = 5_000
"""How much longer a lease is than the time after which its attempt is cut."""
RENEWED = frozenset({"renewed_by", "lease_until", "wake_at"})
LEASES_MS = (15_000, 6_000, 60_000)
RECORD_MS = 5_000
"""How long a process lives after its runs were interrupted."""


class Working:
    """The workers of one history, if it has any."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._world = play.world
        self.exists = play.choices.what == WORKERS
        self.lease_ms = play.choices.of(LEASES_MS) if self.exists else 0
        self._renewals: dict[Process, tuple[int, Renewal]] = {}
        self._stopped: set[tuple[Process, int]] = set()

    def plan(self) -> None:
        """Let some workers be told to end, as a deployment does."""
        choices = self._play.choices
        if not self.exists:
            return
        for _ in range(choices.of((0, 1, 3))):
            process = choices.of(self._play.consumers)
            self._stop_at(START_MS + choices.of((4_000, 400, 20_000, 61_000)), process)

    def set_up(self, jobs: Jobs, process: Process) -> None:
        """Let a process renew its leases, as new where it has begun anew; or let it be a function's."""
        if not self.exists:
            jobs._consumer.renewal = None
            return
        incarnation, renewal = self._renewals.get(process, (-1, None))
        if incarnation != process.incarnation or renewal is None:
            renewal = Renewal(self.lease_of(process))
            self._renewals[process] = process.incarnation, renewal
        jobs._consumer.renewal = renewal

    def lease_of(self, process: Process) -> int:
        """Return the lease of a process's attempts: that of some is longer, as ``--lease`` may differ."""
        return self.lease_ms * (4 if process.name[-1] in "24" else 1)

    def takes_messages(self, process: Process) -> bool:
        """Say whether a process may be given a message: not after it was told to end."""
        return (process, process.incarnation) not in self._stopped

    def _stop_at(self, when_ms: int, process: Process) -> None:
        """Let a worker be told to end: after a grace its runs are interrupted, and then it is gone."""
        grace_ms = self._play.choices.of((2_000, 0, 25_000))

        def stop() -> None:
            incarnation, renewal = self._renewals.get(process, (-1, None))
            if incarnation != process.incarnation or renewal is None or self._play.settling:
                return
            self._world.tell(process, "is told to end")
            self._stopped.add((process, incarnation))
            renewal.stopping = True
            self._world.at(self._world.now + grace_ms, lambda: self._interrupt(process, incarnation, renewal))

        self._world.at(when_ms, stop)

    def _interrupt(self, process: Process, incarnation: int, renewal: Renewal) -> None:
        if process.incarnation != incarnation:
            return
        self._world.start(process, lambda: self._cut_all(process, renewal), background=True)

        def end() -> None:
            if process.incarnation == incarnation:
                self._world.kill(process)

        self._world.at(self._world.now + RECORD_MS, end)

    def _cut_all(self, process: Process, renewal: Renewal) -> None:
        self._world.counts["interrupted"] += renewal.interrupt()

    # What must hold

    def renewed(
        self, run_id: str, ledger: Ledger, old: Attributes, new: Attributes, is_own: Callable[[Any], bool]
    ) -> bool:
        """Check a write that changes nothing but a lease, if it is one; say whether it is."""
        changed = {name for name in {*old, *new} if old.get(name) != new.get(name)}
        if old.get("renewed_by") == new.get("renewed_by"):
            return False
        broken, world = self._world.violate, self._world
        attempt = ledger.attempts.get(new.get("lease_token", ""))
        if not changed <= RENEWED:
            broken("a renewal changes nothing but the lease and the wake-up", f"{run_id}: {sorted(changed)}")
        elif attempt is None or not is_own(attempt) or attempt.state == "claimed":
            state = None if attempt is None else attempt.state
            broken("only who executes a run renews its lease", f"{run_id}: {state}, by {world.writer}")
        elif new["lease_until"] < old["lease_until"]:
            broken("a renewal makes no lease shorter", f"{run_id}: {old['lease_until'] - new['lease_until']} ms")
        elif new["lease_until"] > world.now + self.lease_of(attempt.process) + MARGIN_MS + SKEW_MS:
            broken("a lease is no longer than was asked", f"{run_id} until {new['lease_until']}")
        elif new["wake_at"] != new["lease_until"] or new["lease_until"] == old["lease_until"]:
            broken("a renewal moves the lease and the wake-up", f"{run_id}: {sorted(changed)}")
        else:
            attempt.lease_before, attempt.lease_until = old["lease_until"], new["lease_until"]
            attempt.renewals.append((world.now, old["lease_until"]))
            world.counts["renewed"] += 1
        return True

    def require_over(self, run_id: str, ledger: Ledger, attempt: Attempt | None) -> None:
        """Check that nobody acts on an expired lease whose living worker still executes its handler."""
        if not self.exists or attempt is None or attempt not in ledger.running:
            return
        process = attempt.process
        if attempt.state == "running" and attempt.incarnation == process.incarnation:
            self._world.violate("a lease outlasts its handler", f"{run_id} still runs in {process}")

    def is_interrupted(self, run_id: str, attempt: Attempt, old: Attributes, new: Attributes) -> bool:
        """Say whether a write puts a run back whose attempt was interrupted, and check that it may be."""
        if not self.exists or attempt.state not in ("cut", "claimed"):
            return False
        if attempt.state == "cut" and old["job_name"] != "timed" and new["attempt"] != old["attempt"]:
            self._world.violate("an interrupted attempt does not count", run_id)
        if new.get("suspensions", 0) == old.get("suspensions", 0) and not (
            new["status"] == "canceled" and new["attempt"] == old["attempt"] and attempt.state == "cut"
        ):
            return False
        process = attempt.process
        ends = not self.takes_messages(process)
        cut_ms, until = attempt.ended_ms or self._world.now, attempt.lease_when_ended or old["lease_until"]
        # Nobody may have told it of the renewals of a lease's time: it ends as if there had been none of them.
        since_ms = cut_ms - self.lease_of(process)
        known = min([until, *(before for made_ms, before in attempt.renewals if made_ms >= since_ms)])
        ends = ends or (not self._play.calm and cut_ms >= known - MARGIN_MS - 2 * SKEW_MS)
        if not ends:
            self._world.violate("an attempt is interrupted where its process or its lease ends", run_id)
        return True
