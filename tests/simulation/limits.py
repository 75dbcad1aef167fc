"""Jobs with limits, in histories of their own: those whose seed is ``FIRST_SEED`` or more.

What must hold: never more handlers of a key at once than its limit, each run goes on when it is its turn, no attempt is
counted for waiting, and nothing holds a slot for good.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from kumofire_core import Jobs, Limit, Rate, RetryPolicy
from kumofire_core.rules.limits import Place, places_of
from tests.simulation.history import LIMITS
from tests.simulation.table import Attributes, Key
from tests.simulation.world import START_MS, Process

if TYPE_CHECKING:
    from tests.simulation.invariants import Attempt
    from tests.simulation.processes import Play

SKEW_MS = 500
MINUTE_MS = 60_000
WAITING_ROOM = 4
"""How many runs wait in an item here, so that a few runs are more than that."""
AWHILE_MS = 200
"""How long a run may have waited outside before others may not come in without it."""
OUTSIDE = 10**14 - 1
"""How the place of a run is held that was let in from outside."""
SLOTS_TOGETHER = 2
"""How many slots an item holds here."""


def customer(payload: Any) -> int | None:
    """Return the key of a payload: one of two customers, or none for every eighth."""
    number: int = payload["number"]
    return None if number % 8 == 7 else number % 2


SINGLE = (Limit(1, name="single"),)
KEYED = (Limit(1, key=customer, name="keyed"),)
SPREAD = (Limit(3, name="spread"),)
BOTH = (Limit(2, name="all"), Limit(1, key=customer, name="each"))
PACED = Rate(2, per=timedelta(seconds=10), name="paced")
PACED_BY_KEY = Rate(3, per=timedelta(seconds=5), key=customer, name="paced by key")
SLOW = Rate(1, per=timedelta(minutes=10), name="slow")
LIMITS_OF: dict[str, tuple[Limit, ...]] = {"single": SINGLE, "keyed": KEYED, "spread": SPREAD, "both": BOTH}
RATES_OF = {"paced": PACED, "paced by key": PACED_BY_KEY, "slow": SLOW, "paced single": PACED}
LIMITS_OF["paced single"] = SINGLE
ALL = (*LIMITS_OF, *(name for name in RATES_OF if name not in LIMITS_OF))
KINDS = (
    ("single",),
    ("keyed",),
    ("spread",),
    ("both",),
    ("single", "both"),
    ("paced",),
    ("paced by key",),
    ("slow", "single"),
    ("paced single", "paced"),
)


class Holding(NamedTuple):
    """A slot that a handler uses."""

    base: str
    attempt: Attempt


class Limiting:
    """The limits of one history, if it has any."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs]) -> None:
        self._play = play
        self._world = play.world
        self._jobs = jobs
        self.exists = play.choices.what == LIMITS
        self.orderly = self.exists and play.choices.below(4) == 3
        """Nothing goes wrong in this history: each handler takes a second, and persons only cancel runs."""
        self._names: tuple[str, ...] = ()
        self._second_wave = False
        self._is_skewed = False
        """Clocks have not agreed."""
        self._starts: dict[tuple[str | None, int | None], list[int]] = {}
        """When handlers were called, by rate and key."""

    @staticmethod
    def register(jobs: Jobs, handle: Callable[[Any], Any], max_attempts: int) -> None:
        """Give a process the jobs that have limits."""
        for name in ALL:
            retry = RetryPolicy(max_attempts, base=timedelta(seconds=1))
            limits = list(LIMITS_OF.get(name, ())) or None
            jobs.handler(name, concurrency=limits, rate=RATES_OF.get(name), retry=retry)(handle)

    def plan(self) -> None:
        """Let persons create runs of one job with limits, or of two, at about the same time."""
        choices = self._play.choices
        names = self._names = choices.of(KINDS)
        self._world.observers.append(self._wrote)
        for _ in range(choices.of((3, 2, 6, 10, 14))):
            self._create_at(START_MS + choices.of((0, 0, 1, 3, 40, 2_000)), choices.of(names))
        if self.orderly:
            for _ in range(choices.below(4)):
                self._create_at(START_MS + choices.of((1_500, 2_600, 3_700)), choices.of(names))
            for _ in range(choices.below(4)):
                self._world.at(START_MS + choices.of((1_030, 500, 1_045, 2_060)), self._cancel_one)

    def _cancel_one(self) -> None:
        """Let a person cancel a run that waits, or that has a slot since a moment ago."""
        items = self._world.table.items.items()
        waiting = [key[0][4:] for key, item in items if item.get("status") == "scheduled" and "awaits_slot" in item]
        admitted = [key[0][4:] for key, item in items if item.get("status") == "queued" and "limited" in item]
        if waiting or admitted:
            self._play._cancel_at(self._world.now + self._play.choices.of((1, 3)), (admitted or waiting)[0])

    def handle(self) -> str:
        """Do what a handler does in an orderly history."""
        self._world.pause(1_000)
        return "done"

    def _create_at(self, when_ms: int, name: str) -> None:
        play, process = self._play, self._play.person()
        job, payload = play.ask(name)
        group = f"tenant-{payload['number'] % 3}" if payload["number"] % 3 else None
        play.do_at(when_ms, process, f"creates {job}", lambda: self._jobs(process).create(job, payload, group=group))

    def again(self) -> bool:
        """Let further runs be created once all has ended, because no slot is lost for good; ``False``: done before."""
        if not self.exists or self._second_wave:
            return False
        self._second_wave = True
        for name in self._names:
            for _ in range(3):
                self._create_at(self._world.now, name)
        self._world.run(self._world.now + MINUTE_MS)
        return True

    # What is checked

    def started(self, attempt: Attempt, job: str, payload: Any) -> None:
        """Check that a handler which is called now has a slot of each of its limits, beside those that execute."""
        if self._play.invariants.restored_at:
            return
        if job in RATES_OF:
            self._paced(attempt, job, payload)
        if job not in LIMITS_OF:
            return
        for place in self._places(job, payload):
            at_once = [each for each in self._holding() if each.base == place.base]
            self._world.counts[f"at once: {len(at_once) + 1} of {place.total}"] += 1
            if len(at_once) >= place.total:
                others = [each.attempt.run_id for each in at_once]
                self._world.violate("never more run at once than the limit says", f"{attempt.run_id} beside {others}")
            if attempt.lease_until - SKEW_MS > self._world.now and not self._has_slot(attempt.run_id, place):
                self._world.violate("a handler that is called has a slot", f"{attempt.run_id} has none of {place}")

    def _paced(self, attempt: Attempt, job: str, payload: Any) -> None:
        """Check that a time of the rate's length has seen no more starts, with this one, than the rate says."""
        rate, world = RATES_OF[job], self._world
        key = None if rate.key is None else rate.key(payload)
        if rate.key is not None and key is None:
            return
        self._is_skewed = self._is_skewed or any(process.skew_ms for process in self._play.consumers)
        length_ms = rate.per_us // 1_000 - (2 * SKEW_MS if self._is_skewed else 0)
        starts = self._starts.setdefault((rate.name, key), [])
        starts.append(world.now)
        world.counts["started by a rate"] += 1
        within = [each for each in starts if each > world.now - length_ms]
        if len(within) > rate.count:
            world.violate("never more start within a time than the rate says", f"{attempt.run_id}: {within}")
        item = world.table.items[f"run#{attempt.run_id}", "run"]
        if item["attempt"] == 0 and "reserved" in item:
            world.counts["started at the moment that it was put back for"] += 1

    def _has_slot(self, run_id: str, place: Place) -> bool:
        """Say whether the items give a run one of the slots: fewer have an earlier ticket than there are slots."""
        for part in range(place.parts):
            item = self._world.table.items.get((f"limit#{place.item_id(part)}", "limit"), {})
            mine = item.get(f"t:{run_id}")
            earlier = [name for name in item if name.startswith("t:") and mine is not None and item[name] < mine]
            if mine is not None and len(earlier) < place.slots(part):
                return True
        return False

    def _places(self, job: str, payload: Any) -> list[Place]:
        return places_of(LIMITS_OF[job], job, payload)

    def _holding(self) -> list[Holding]:
        """Return the slots that handlers use at present, under leases that are not over by any clock."""
        found = []
        invariants = self._play.invariants
        for run_id, ledger in invariants.ledgers.items():
            for attempt in ledger.running:
                job = invariants.job_names[run_id]
                if job in LIMITS_OF and attempt.lease_until - SKEW_MS > self._world.now:
                    payload = json.loads(invariants.decrypted(attempt.payload))
                    found += [Holding(place.base, attempt) for place in self._places(job, payload)]
        return found

    def put_aside(self, run_id: str, old: Attributes, new: Attributes) -> None:
        """Check a write that lets a run wait for a slot."""
        world = self._world
        world.counts["waits for a slot" + (" outside" if "list_at" in new else "")] += 1
        if new["job_name"] not in ALL:
            world.violate("only a run of a job with limits waits for one", f"{run_id} of {new['job_name']}")
        if "awaits_slot" not in new:
            self._put_back(run_id, old, new)
            return
        if new["attempt"] != old["attempt"] or new["scheduled_for"] != old["scheduled_for"]:
            world.violate("a run that waits for a slot is as it was", run_id)
        if new["awaits_slot"] not in new["limited"].split():
            world.violate("a run knows where it waits", f"{run_id}: {new['awaits_slot']} of {new['limited']}")

    def _put_back(self, run_id: str, old: Attributes, new: Attributes) -> None:
        """Check a write that lets a run wait for the moment that it has reserved."""
        world, moment_ms = self._world, int(new["reserved"].split()[1]) // 1_000
        world.counts["waits for its moment"] += 1
        if new["attempt"] != old["attempt"]:
            world.violate("a run that waits for its moment is as it was", run_id)
        if not moment_ms - 2_000 <= new["scheduled_for"] <= max(moment_ms, world.now + SKEW_MS):
            world.violate("a run is put back until shortly before its moment", f"{run_id}: {new['scheduled_for']}")

    def _wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        if key[1] == "limit":
            self._item_written(key[0], old or {}, new or {})
        if key[1] == "run" and old is not None and new is not None:
            self._run_written(key[0].removeprefix("run#"), old, new)

    def _item_written(self, item: str, old: Attributes, new: Attributes) -> None:
        tickets = {name[2:]: ticket for name, ticket in new.items() if name.startswith("t:")}
        holds = {name[2:] for name in new if name.startswith("l:")}
        if new.get("n", 0) != len(tickets) or holds != tickets.keys():
            self._world.violate("a limit counts its runs", f"{item}: {new}")
        if len(set(tickets.values())) < len(tickets):
            self._world.violate("no two runs have one ticket", f"{item}: {tickets}")
        for run_id, ticket in tickets.items():
            before = old.get(f"t:{run_id}")
            came = before is None and new[f"l:{run_id}"] != OUTSIDE  # it was not let in, as those outside are
            if came and self._play.calm and (others := self._outside(item, new, run_id)):
                self._world.violate("a new run does not overtake those that wait", f"{item}: {run_id} before {others}")
            if before is not None and before != ticket:
                self._world.violate("a run keeps its place", f"{item}: {run_id} had {before}, and has {ticket}")
        for run_id in holds & {name[2:] for name in old if name.startswith("l:")}:
            if new[f"l:{run_id}"] < old[f"l:{run_id}"]:
                self._world.violate("a place is held by the latest attempt", f"{item}: {run_id}")

    def _outside(self, item: str, state: Attributes, run_id: str) -> list[str]:
        """Return the runs that wait outside of an item for a while; none where this run has waited, too."""
        items = self._world.table.items
        if "limited" in items.get((f"run#{run_id}", "run"), {}):
            return []
        until = self._world.now - 2 * SKEW_MS - AWHILE_MS
        return [
            key[0][4:]
            for key, run in items.items()
            if run.get("awaits_slot") == item[6:] and run["status"] == "scheduled" and run.get("list_at", until) < until
            if f"t:{key[0][4:]}" not in state
        ]

    def _run_written(self, run_id: str, old: Attributes, new: Attributes) -> None:
        """Check that a run which waited goes on only when it is its turn, as the items say."""
        if (old["status"], new["status"]) != ("scheduled", "queued") or "awaits_slot" not in old:
            return
        if old.get("changed_by") != new.get("changed_by") or self._play.invariants.restored_at:
            return
        if self._world.writer in self._play.dispatchers and self._nothing_went_wrong():
            self._world.violate("who frees a slot sends the next run", f"{run_id} was sent by a look only")
        if "list_at" in old or not self._play.calm:
            # It only comes back, and waits again where it has no slot; so does one that a late reply made to be sent.
            return
        item_id = old["awaits_slot"]
        item = self._world.table.items.get((f"limit#{item_id}", "limit"), {})
        mine = item.get(f"t:{run_id}")
        before = [each for each, ticket in item.items() if each.startswith("t:") and mine is not None and ticket < mine]
        if len(before) >= self._slots(item_id, new):
            self._world.violate("each run waits for its turn", f"{run_id} goes on before {before}")

    def _nothing_went_wrong(self) -> bool:
        """Say whether no request failed, no attempt was lost, and no person changed a run that held a place."""
        play, invariants = self._play, self._play.invariants
        if (
            not play.calm
            or self._world.statements.oddity
            or invariants.gone
            or any(process.incarnation for process in play.consumers)
        ):
            return False
        runs = [item for key, item in self._world.table.items.items() if key[1] == "run"]
        if any("changed_by" in item or "retries" in item for item in runs):
            return False
        attempts = [each for ledger in invariants.ledgers.values() for each in ledger.attempts.values()]
        return all(each.recorded is not None or each.state == "given back" for each in attempts)

    def _slots(self, item_id: str, run: Attributes) -> int:
        payload = json.loads(self._play.invariants.decrypted(run["payload"]))
        for place in self._places(run["job_name"], payload):
            if (part := place.part_of(item_id)) is not None:
                return place.slots(part)
        return 1_000_000  # its payload was changed meanwhile: it waits in another line


__all__ = ["ALL", "SLOTS_TOGETHER", "WAITING_ROOM", "Limiting"]
