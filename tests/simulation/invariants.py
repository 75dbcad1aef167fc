"""What must hold, whatever happens: checked at every write, at every call of a handler, and at the end of a history.

It is written from the run protocol and not from the engine: it looks at stored items and at handlers, and asks who
wrote what when. Times are the world's own. A process's clock is up to ``SKEW_MS`` away from it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.simulation import typed
from tests.simulation.bucket import LargeValues
from tests.simulation.limits import Limiting
from tests.simulation.pausing import Pausing
from tests.simulation.records import BRIEF_MS, LOST, TIMED_OUT, UNUSABLE, Record, Records, Verdict
from tests.simulation.steps import Stepping
from tests.simulation.table import Attributes, Key
from tests.simulation.telling import Telling
from tests.simulation.workers import Working
from tests.simulation.world import Process, Task, World

SKEW_MS = 500
EARLY_MS = 1_000
"""How long before its time, by its own clock, a consumer may start a run."""
LONGEST_SLEEP_MS = 62 * 60_000
LONGEST_ASIDE_MS = 25 * 60 * 60_000
"""The same, of a run of a paused job."""
PARKED_MS = 200_000_000_000_000
"""Later than every time of a history, and earlier than a wake-up that says never."""

FINAL = frozenset({"succeeded", "failed", "canceled"})
LOOKS = frozenset({"sent_by", "wake_at", "updated_at", "sends"})
"""What a look at a run may change that makes no step."""
MOST_DELAY_MS = 15 * 60_000
"""A run that is due sooner is sent by who wrote it."""
MISSED_MS = 60_000
FULL_BYTES = 300 * 1024
"""The payload of an item that has hardly any room for an output."""
RECORDED = {"succeeded": "succeeded", "retried": "scheduled"}
"""The status that an attempt's own consumer must have recorded, by the outcome that it tells."""
CANCEL = frozenset({"canceled_by", "cancel_reason", "cancel_requested_at", "bulk"})
SIGNALED = frozenset({"signaled_by", "signals"})


@dataclass
class Attempt:
    """A lease, and what became of the handler that was called under it."""

    run_id: str
    token: str
    process: Process
    incarnation: int
    lease_until: int
    claims: int
    invocation: int
    state: str = "claimed"
    """``claimed``, ``running``, ``returned``, ``returned no JSON``, ``raised``, ``suspended``, ``cut``, ``died``,
    ``out of reach`` (the key of what it had kept) or ``given back``."""
    output: Any = None
    """What its handler returned."""
    recorded: str | None = None
    """The status that its own consumer recorded as its end."""
    payload: str = ""
    """What was stored when it was claimed."""
    log: str | None = None
    """Where its invocation logs."""
    log_is_unknown: bool = False
    """A late copy claims, which may be of any invocation."""
    is_again: bool = False
    """Late copies have put its run again, and made this claim again, both as before the run was deleted."""
    verdict: Verdict | None = None
    """What its handler's error means, where it raised one."""
    ended_ms: int = 0
    """When its handler ended."""
    lease_before: int = 0
    """Until when its lease lasted before its last renewal, of which it may not know yet; 0 where there was none."""
    renewals: list[tuple[int, int]] = field(default_factory=list)
    """When its lease was renewed, and until when it was before."""
    lease_when_ended: int = 0
    """Until when its lease surely lasted then."""

    @property
    def may_be_given_back(self) -> bool:
        """Whether its handler was not called, or could not read what it had kept."""
        return self.state in ("claimed", "out of reach") or (self.is_again and self.state == "given back")


@dataclass
class Ledger:
    """What is known of a run from outside."""

    attempts: dict[str, Attempt] = field(default_factory=dict)
    running: list[Attempt] = field(default_factory=list)
    calls: int = 0
    """Handlers called since it was created, or since a person retried it; without those that snoozed it."""
    starts: int = 0
    """The same, with those that snoozed or suspended it."""
    fence: int = 0
    retried: bool = False
    occurrence_of: str | None = None
    """The schedule that it is an occurrence of; ``None`` for a run that a person asked for."""
    output: Any = None
    """What the handler of the attempt that succeeded returned."""
    undone: set[str] = field(default_factory=set)
    """The tokens of claims that the table knew nothing of when it was restored."""
    held_again: str | None = None
    """The token of the lease that the table had when it was restored."""
    create_token: str = ""
    before: Ledger | None = None
    """That of a run which had its id before, and was deleted."""
    record: Record = field(default_factory=Record)
    """What its item must tell of it."""

    @property
    def is_again(self) -> bool:
        """Whether a late copy put the run again after it was deleted: it has the token that it had."""
        return self.before is not None and self.before.create_token == self.create_token

    def is_of(self, item: Attributes) -> bool:
        """Say whether an item is of this run, and not of the one before it, which a late copy has put again."""
        is_known = not self.is_again or item.get("lease_token") in {None, *self.attempts}
        return bool(item["create_token"] == self.create_token) and is_known


def group_asked_for(payload: Any) -> str | None:
    """Return the group that is asked for with a payload: every third of them comes without one."""
    number = payload["number"] % 3
    return f"tenant-{number}" if number else None


@dataclass(frozen=True)
class KnownSchedule:
    """What was asked for when a schedule was created."""

    kind: str
    """``interval``, ``cron`` or ``once``."""
    step_ms: int
    end_ms: int
    missed: str | None
    """What becomes of missed occurrences, where nobody changes the schedule and its runs may overlap."""
    one_at_a_time: bool
    unchanged: bool
    """Persons say nothing of it but what was said when it was created."""

    def occurrences(self, stored: Attributes) -> range | tuple[int]:
        """Return all its occurrences, by another arithmetic than the engine's."""
        if self.kind == "once":
            return (self.end_ms,)
        if self.kind == "cron":
            first = (stored["created_at"] // self.step_ms + 1) * self.step_ms
        else:
            first = stored["anchor"] + self.step_ms
        return range(first, self.end_ms + 1, self.step_ms)


class Invariants:
    """Watches one world."""

    def __init__(self, world: World, *, is_cut: Callable[[str], bool]) -> None:
        self._world = world
        self._is_cut = is_cut
        """Says whether a job's attempts are cut, so that a living worker never loses its lease."""
        self.ledgers: dict[str, Ledger] = {}
        self.schedules: dict[str, KnownSchedule] = {}
        self.by_dedupe_key: dict[str, str] = {}
        self.gone: set[str] = set()
        self._undone_in: set[tuple[str, str]] = set()
        """Runs, and the processes that had claimed them before the table was restored."""
        """Runs that DynamoDB has deleted, or of which a restored table knows nothing."""
        self.restored_at = 0
        """When the table was restored."""
        self.retention_ms = 0
        """How long a finished run is kept."""
        self.deleted: set[str] = set()
        """Schedules that were deleted."""
        self.has_typed_job = False
        """Whether a payload may not fit the type of its job."""
        self.payloads: dict[int, Any] = {}
        """What persons asked for, by the number that is in it."""
        self.decrypted: Callable[[str], str] = lambda text: text
        """Reads a stored payload or output."""
        self.tried: set[str] = set()
        """Runs whose message somebody tried to send."""
        self._owed: dict[tuple[Process, int], set[str]] = {}
        """What a pass that is under way has written and not sent, by the process and its incarnation."""
        self._latest: set[tuple[Task, str]] = set()
        self.groups: dict[str, set[str | None]] = {}
        """The groups that the item of each run has had."""
        self.job_names: dict[str, str] = {}
        """The jobs of all runs that there were."""
        self.occurrence_id: Any = None
        self.retrying: set[Process] = set()
        """Processes in which a person's retry is under way."""
        self.after_write: Any = lambda run_id, old, new: None
        self.records = Records(world, self._broken)
        self.pausing: Pausing
        self.limiting: Limiting
        self.large: LargeValues
        self.stepping: Stepping
        self.telling: Telling
        self.working: Working
        world.observers.append(self.wrote)

    # Writes

    def wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        """Check one change of the table."""
        kind, _, id = key[0].partition("#")
        if kind == "run" and key[1] != "run":
            return  # what a run has kept; see ``tests/simulation/steps.py``
        if kind == "run":
            if new is None:
                self._run_deleted(id, old or {})
                return
            self._run_written(id, old, new)
            self.after_write(id, old, new)
        elif kind == "settings" and id == "wake":
            if new is None or new["wake_shards"] <= (old or {}).get("wake_shards", 1):
                self._broken("the number of partitions grows", f"{old} -> {new}")
        elif kind == "schedule" and new is None:
            self.deleted.add(id)
            # One that is made again under its key is another one, and knows nothing of these runs.
            for ledger in self.ledgers.values():
                if ledger.occurrence_of == id:
                    ledger.occurrence_of = None
        elif kind == "schedule" and old is not None and new is not None:
            self._schedule_written(id, old, new)

    def _group_written(self, run_id: str, old: Attributes | None, new: Attributes) -> None:
        """Check that a run has the group that was asked for with its payload, and keeps it."""
        group = new.get("group")
        self.groups.setdefault(run_id, set()).add(group)
        if old is not None:
            task = self._world.writer_task
            changed = old.get("changed_by") != new.get("changed_by")
            if group == old.get("group") and not (changed and task is not None and task.asks == "debounces"):
                return
        asked = group_asked_for(json.loads(self.decrypted(new["payload"])))
        # Who debounces once more, because the reply was lost and others changed the run meanwhile, asks for the same.
        changes_alone = old is not None and new["payload"] == old["payload"] and group != old.get("group")
        if group != asked or changes_alone:
            self._broken("a run has the group that was asked for", f"{run_id} is of {group}, and not of {asked}")

    def _run_written(self, run_id: str, old: Attributes | None, new: Attributes) -> None:
        now, status = self._world.now, new["status"]
        if old is None and "create_token" not in new:
            self._broken("only a whole run is put", f"{run_id} was written, and is not there")
            return
        self._stored_well(run_id, new)
        self._group_written(run_id, old, new)
        if old is None:
            ledger = Ledger(create_token=new["create_token"], before=self.ledgers.get(run_id))
            self.ledgers[run_id] = ledger
            self.records.wrote(run_id, ledger.record, old, new)
            self._created(run_id, new)
            # What goes wrong with a callback is left to the next look at its batch, and is no error of the pass.
            may_be_left = "after" in new and bool(self._world.faults.probability)
            if new["scheduled_for"] - now <= MOST_DELAY_MS and status not in FINAL and not may_be_left:
                self._owe(run_id)
            return
        for (process, _), owed in self._owed.items():
            if process is not self._world.writer:
                owed.discard(run_id)  # somebody else has gone on with it
        ledger, before = self.ledgers[run_id], old["status"]
        self._world.counts[before, status] += 1
        step = (before, status)
        self.records.wrote(run_id, ledger.record, old, new)
        if old.get("changed_by") != new.get("changed_by"):
            self.records.changed(run_id, ledger.record, old, new)
        elif new["payload"] != old["payload"]:
            self._broken("a payload is what was created", f"{run_id}: the stored one changed")
        if before != "running":
            self.records.same_attempts(run_id, old, new)
        if before in FINAL:
            if before != "succeeded" and status in ("queued", "scheduled"):
                if self._world.writer not in self.retrying:
                    self._broken("a final status changes by a person's retry only", f"{run_id}: {before} -> {status}")
                if new["attempt"] or "cancel_requested_at" in new or "finished_at" in new:
                    self._broken("a retried run starts again", run_id)
                self.records.retried(run_id, ledger.record, old, new)
                ledger.calls, ledger.starts, ledger.retried = 0, 0, True
            else:
                self._broken("a final status changes by a person's retry only", f"{run_id}: {before} -> {status}")
            return
        if old.get("changed_by") != new.get("changed_by"):
            return
        if step in (("scheduled", "scheduled"), ("queued", "queued")):
            if not (changed := _changes(old, new)) <= LOOKS and not changed <= SIGNALED:
                self._broken("a look changes no more than the wake-up", f"{run_id}: {sorted(changed)}")
            # Who only looks, and lets a message wait, changes no time that a person sees.
            if new["updated_at"] > old["updated_at"] or new.get("sends", 1) > old.get("sends", 1):
                self._owe(run_id)
        elif step == ("scheduled", "queued"):
            self._owe(run_id)
            is_woken = new.get("signals") != old.get("signals")
            skew_ms = self.records.writer_skew_ms() if is_woken else SKEW_MS
            if new["scheduled_for"] > now + skew_ms + (("parked" in old or "awaits_slot" in old) and EARLY_MS):
                self._broken("a run is queued when it is due", run_id)
        elif step in (("scheduled", "running"), ("queued", "running")):
            if new["scheduled_for"] > now + EARLY_MS + SKEW_MS:
                self._broken("no run starts before its time", f"{run_id} was claimed early")
            if new["attempt"] != old["attempt"]:
                self._broken("a claim counts no attempt", run_id)
            self._claimed(run_id, ledger, old, new)
        elif step == ("running", "running"):
            self._still_running(run_id, ledger, old, new)
        elif step == ("running", "queued"):
            self._given_back(run_id, ledger, old, new)
        elif step in (("scheduled", "canceled"), ("queued", "canceled")):
            pass
        elif before == "running" and status in ("scheduled", *FINAL):
            self._settled(run_id, ledger, old, new)
            if status == "scheduled" and new["scheduled_for"] - now <= MOST_DELAY_MS:
                self._owe(run_id)
        else:
            self._broken("every step is one of the protocol's", f"{run_id}: {before} -> {status}")

    def _run_deleted(self, run_id: str, old: Attributes) -> None:
        """Check that nobody deletes a run but DynamoDB's TTL and a person, and these only one that has ended."""
        self.records.deleted(run_id, old)
        self.gone.add(run_id)

    def restored(self) -> None:
        """Take note that the table was restored to an earlier time: what happened since is not in it."""
        self.restored_at = self._world.now
        self.large.restored()
        for run_id, ledger in self.ledgers.items():
            item = self._world.table.items.get((f"run#{run_id}", "run"))
            if item is not None:
                ledger = self._of_the_restored(run_id, ledger, item)
            token = None if item is None else item.get("lease_token")
            ledger.undone.update(each for each in ledger.attempts if each != token)
            self._undone_in |= {(run_id, ledger.attempts[each].process.name) for each in ledger.undone}
            ledger.running = [attempt for attempt in ledger.running if attempt.token == token]
            if item is None:
                self.gone.add(run_id)
                continue
            held = None if token is None else ledger.attempts.get(token)
            ledger.held_again, ledger.fence, ledger.calls = token, item.get("claims", 0), item["attempt"]
            if held is not None and held.state in ("claimed", "given back"):
                held.state = "claimed"
                ledger.fence -= 1  # its handler may still be called
            elif held is not None:
                ledger.calls += 1
            ledger.output = json.loads(self.decrypted(item["output"])) if "output" in item else None
            ledger.record.ended = ledger.record.told.get(item.get("attempts"), ())
            ledger.record.tokens.clear()
            ledger.starts = ledger.calls + sum(
                each.ending == "snoozed" and each.retries == item.get("retries", 0) for each in ledger.record.ended
            )
            ledger.starts += item.get("suspensions", 0)
        for owed in self._owed.values():
            owed.clear()
        # A pass that is under way may pass an occurrence whose run it put before, or put one beside a restored run.
        self.schedules = {
            schedule_id: replace(known, missed=None, one_at_a_time=False)
            for schedule_id, known in self.schedules.items()
        }

    def _of_the_restored(self, run_id: str, ledger: Ledger, item: Attributes) -> Ledger:
        """Return the ledger of a restored item: of a run which was deleted, perhaps, and not of one that came since."""
        found: Ledger | None = ledger
        while found is not None and not found.is_of(item):
            self._undone_in |= {(run_id, attempt.process.name) for attempt in found.attempts.values()}
            found = found.before
        if found is None:
            raise AssertionError(f"{run_id} was never created as it is now")
        self.ledgers[run_id] = found
        return found

    def _stored_well(self, run_id: str, new: Attributes) -> None:
        status, attempt, limit = new["status"], new["attempt"], new.get("max_attempts")
        indexed = "wake_shard" in new and "wake_at" in new
        if status in FINAL:
            if "wake_at" in new or "wake_shard" in new:
                self._broken("nothing finished is in the index", f"{run_id} is {status}")
            if "finished_at" not in new:
                self._broken("a finished run says when", run_id)
            elif new.get("expires_at", PARKED_MS) * 1000 < new["finished_at"] + self.retention_ms:
                self._broken("a finished run is kept for its retention", f"{run_id} until {new['expires_at']}")
        else:
            if not indexed:
                self._broken("everything unfinished has a wake-up", f"{run_id} is {status} without one")
                return
            latest = max(self._world.now, new["scheduled_for"], new.get("lease_until", 0))
            if new["wake_at"] > latest + (LONGEST_ASIDE_MS if "parked" in new else LONGEST_SLEEP_MS):
                self._broken("everything unfinished is looked at in time", f"{run_id} sleeps until {new['wake_at']}")
            if "finished_at" in new or "expires_at" in new:
                self._broken("an unfinished run is kept", f"{run_id} is {status}, and yet it has ended")
        if (status == "running") != ("lease_token" in new) or ("lease_until" in new) != ("lease_token" in new):
            self._broken("a running run is leased, and no other is", f"{run_id} is {status}")
        if limit is not None and attempt > limit:
            self._broken("attempt never exceeds max_attempts", f"{run_id}: {attempt} of {limit}")
        if status == "scheduled" and limit is not None and attempt >= limit:
            self._broken("no attempt follows the last one", f"{run_id}: {attempt} of {limit}, and scheduled")

    def _created(self, run_id: str, new: Attributes) -> None:
        self._world.counts["created", new["status"]] += 1
        self.job_names[run_id] = new["job_name"]
        is_new = new["status"] in ("queued", "scheduled") or (new["status"] == "canceled" and "after" in new)
        if not is_new or new["attempt"] or new.get("claims"):
            self._broken("a new run is queued or scheduled", f"{run_id} is {new['status']}")
        if (dedupe_key := new.get("dedupe_key")) is not None and "dedupe_mode" not in new:
            first = self.by_dedupe_key.setdefault(dedupe_key, run_id)
            if first != run_id:
                self._broken("one dedupe key makes one run", f"{dedupe_key} has {first} and {run_id}")
        schedule_id = new.get("schedule_id")
        known = self.schedules.get(schedule_id) if schedule_id is not None else None
        if known is None:
            return
        if run_id != self.occurrence_id(schedule_id, new["scheduled_for"]):
            # Triggered by a person, or else a second run of an occurrence.
            if new["scheduled_for"] != new["created_at"]:
                self._broken("one occurrence makes one run", f"{run_id} is of no occurrence of {schedule_id}")
            return
        if run_id in self.gone:
            return  # a pass that began before somebody deleted it has put it once more
        self.ledgers[run_id].occurrence_of = schedule_id
        self._missed(run_id, known, new["scheduled_for"])
        for other_id, other in self.ledgers.items():
            if not known.one_at_a_time or other_id == run_id or other.occurrence_of != schedule_id or other.retried:
                continue
            found = self._world.table.items.get((f"run#{other_id}", "run"))
            if found is not None and (status := found["status"]) not in FINAL:
                self._broken(
                    "no occurrence starts while the last one is unfinished",
                    f"{run_id} was made while {other_id} is {status}",
                )

    def _missed(self, run_id: str, known: KnownSchedule, occurrence_ms: int) -> None:
        """Check that a pass which nothing went wrong in makes up for no more missed occurrences than was asked for."""
        task = self._world.writer_task
        if task is None or not task.calm:
            return
        if known.missed == "skip" and occurrence_ms < task.begun - MISSED_MS - SKEW_MS:
            self._broken("no more missed occurrences are made up for than was asked", f"{run_id} was to be skipped")
        if known.missed == "latest" and occurrence_ms < task.begun - SKEW_MS:
            if (task, known.kind) in self._latest:
                self._broken("no more missed occurrences are made up for than was asked", f"{run_id} is one of many")
            self._latest.add((task, known.kind))

    def _owe(self, run_id: str) -> None:
        """Note that a pass of the dispatcher has to send the message of a run that it wrote."""
        world = self._world
        if world.writer is not None and (world.writer, world.writer_incarnation) in self._owed:
            self._owed[world.writer, world.writer_incarnation].add(run_id)

    def _claimed(self, run_id: str, ledger: Ledger, old: Attributes, new: Attributes) -> None:
        world, token = self._world, new["lease_token"]
        if token in ledger.attempts and world.writer_incarnation != -1 and ledger.attempts[token].state != "claimed":
            self._broken("each claim has a lease of its own", f"{run_id}: {token} was used before")
        if "cancel_requested_at" in old:
            self._broken("no attempt follows a request to cancel", f"{run_id} was claimed")
        if new.get("claims", 0) != old.get("claims", 0) + 1:
            self._broken("a claim raises the fencing number", run_id)
        if world.writer is None:
            raise AssertionError("a claim without a process")
        first = ledger.attempts.get(token)
        if first is not None and token in ledger.undone and first.claims == new["claims"]:
            self._claimed_again(ledger, first, new["lease_until"])
            return
        ledger.attempts[token] = Attempt(
            run_id,
            token,
            world.writer,
            world.writer_incarnation,
            new["lease_until"],
            new["claims"],
            world.writer.invocations,
            payload=new["payload"],
            log=world.writer.log,
            log_is_unknown=world.writer_incarnation == -1,
        )
        if first is not None:  # a late copy claims once more what has ended, or waits again
            ledger.attempts[token].recorded = first.recorded
        elif ledger.is_again and world.writer_incarnation == -1:
            self._claimed_before(ledger, token, new)

    @staticmethod
    def _claimed_before(ledger: Ledger, token: str, new: Attributes) -> None:
        """Take note that late copies have put a deleted run again, and claimed it as before it was deleted."""
        earlier = next((each for each in _of_all(ledger.before) if each.token == token), None)
        if earlier is None:
            return
        ledger.attempts[token], earlier.lease_until, earlier.claims = earlier, new["lease_until"], new["claims"]
        earlier.is_again = True
        ledger.held_again = token  # its consumer has ended this attempt, or will not, by a claim of the deleted run
        if earlier.state not in ("claimed", "given back"):
            ledger.calls, ledger.starts, ledger.fence = ledger.calls + 1, ledger.starts + 1, earlier.claims
        if earlier.state == "running":
            ledger.running.append(earlier)

    @staticmethod
    def _claimed_again(ledger: Ledger, first: Attempt, lease_until: int) -> None:
        """Take note that a copy of a claim which the restored table did not have was made in it: it is leased again."""
        ledger.undone.discard(first.token)
        ledger.held_again, first.lease_until = first.token, lease_until
        if first.state == "running":
            ledger.running.append(first)
        elif first.state == "given back":
            first.state = "claimed"

    def _still_running(self, run_id: str, ledger: Ledger, old: Attributes, new: Attributes) -> None:
        if old.get("lease_token") == new.get("lease_token"):
            if self.working.renewed(run_id, ledger, old, new, self._is_own):
                return
            changed, holder = _changes(old, new), ledger.attempts.get(old.get("lease_token", ""))
            if self.telling.written(run_id, holder, changed, new, is_own=holder is not None and self._is_own(holder)):
                return
            if not changed <= LOOKS and not changed <= CANCEL and not changed <= SIGNALED:
                self._broken("only its consumer moves a leased run", f"{run_id}: {sorted(changed)}")
            return
        self.working.require_over(run_id, ledger, ledger.attempts.get(old.get("lease_token", "")))
        if (lost := ledger.attempts.get(old.get("lease_token", ""))) is not None:
            self.records.attempt_ended(run_id, ledger.record, old, new, lost, {"worker_lost"})
        if self.records.is_final(new["job_name"], LOST):
            self._broken("an error that ends a run is the last one", f"{run_id} was taken over")
        if not self._is_over(old):
            self._broken("a lease is taken over when it has ended", f"{run_id}: {self._left(old)} ms were left")
        if new["attempt"] != old["attempt"] + 1:
            self._broken("a lost attempt counts", f"{run_id} was taken over")
        if new.get("max_attempts") is not None and new["attempt"] >= new["max_attempts"]:
            self._broken("no attempt follows the last one", f"{run_id} was taken over")
        self._world.counts["taken over"] += 1
        self._claimed(run_id, ledger, old, new)

    def _given_back(self, run_id: str, ledger: Ledger, old: Attributes, new: Attributes) -> None:
        attempt = ledger.attempts.get(old.get("lease_token", ""))
        if attempt is None or not self._is_own(attempt) or not attempt.may_be_given_back:
            state = None if attempt is None else attempt.state
            self._broken("only an attempt that was not begun is given back", f"{run_id}: {state}")
            return
        if new["attempt"] != old["attempt"] or "cancel_requested_at" in old:
            self._broken("what is given back is as it was", run_id)
        ledger.calls -= attempt.state == "out of reach"
        ledger.starts -= attempt.state == "out of reach"
        attempt.state = "given back"

    def _is_own(self, attempt: Attempt) -> bool:
        """Say whether the present write comes from the process that made a claim; copies that are late count, too."""
        world = self._world
        return attempt.process is world.writer and (
            world.writer_incarnation == attempt.incarnation or -1 in (world.writer_incarnation, attempt.incarnation)
        )

    def _settled(self, run_id: str, ledger: Ledger, old: Attributes, new: Attributes) -> None:
        world, status = self._world, new["status"]
        attempt = ledger.attempts.get(old.get("lease_token", ""))
        if attempt is None:
            self._broken("a running run is leased", run_id)
            return
        own = self._is_own(attempt)
        if own:
            attempt.recorded = status
        else:
            self.working.require_over(run_id, ledger, attempt)
        if status == "succeeded":
            ledger.output = attempt.output
            stored = new.get("output")
            if (None if stored is None else json.loads(self.decrypted(stored))) != attempt.output:
                self._broken("the output is what the handler returned", f"{run_id}: not {attempt.output}")
            if not own or attempt.state != "returned":
                self._broken(
                    "a run succeeds when its handler returned", f"{run_id}: {attempt.state}, by {world.writer}"
                )
            if new["attempt"] != old["attempt"]:
                self._broken("a success counts no attempt", run_id)
            self.records.same_attempts(run_id, old, new)
            return
        if own and attempt.state in ("suspended", "out of reach") and new.get("settled_by") == attempt.token:
            self.stepping.suspended(run_id, old, new)
            self.records.same_attempts(run_id, old, new)
            if "cancel_requested_at" in old and status != "canceled":
                self._broken("no attempt follows a request to cancel", f"{run_id} became {status}")
            ledger.calls -= 1
            return
        if own and new.get("settled_by") == attempt.token and self.working.is_interrupted(run_id, attempt, old, new):
            self.records.same_attempts(run_id, old, new)
            if "cancel_requested_at" in old and status != "canceled":
                self._broken("no attempt follows a request to cancel", f"{run_id} became {status}")
            ledger.calls -= attempt.state == "cut"
            return
        # One that is still claimed was never begun: for want of a handler, or of time.
        ended = attempt.state in ("returned", "returned no JSON", "raised", "cut", "claimed")
        if not (own and ended) and not self._is_over(old):
            self._broken(
                "only its consumer ends a leased attempt",
                f"{run_id}: {attempt.state} in {attempt.process}, ended by {world.writer} {self._left(old)} ms early",
            )
        # An item that is full of a payload has no room for the name of an object, which small outputs have here, too.
        has_no_room = len(new["payload"]) > FULL_BYTES and new.get("error_type") == UNUSABLE
        if own and attempt.state == "returned" and not self._is_over(old) and not has_no_room:
            self._broken("what a handler returned is recorded", f"{run_id} became {status}")
        if own and attempt.state == "returned no JSON" and status == "scheduled":
            self._broken("an attempt that is certain to fail again is not made again", f"{run_id} became {status}")
        if status == "scheduled" and attempt.state == "claimed" and own and "parked" in new:
            self.pausing.put_aside(run_id, old, new)
        elif (
            status == "scheduled" and attempt.state == "claimed" and own and ("awaits_slot" in new or "reserved" in new)
        ):
            self.limiting.put_aside(run_id, old, new)
        elif status == "scheduled" and attempt.state == "claimed" and own:
            if new["job_name"] != "absent" or not new["scheduled_for"] > old["scheduled_for"]:
                self._broken("a run waits for a handler where there is none", f"{run_id} waits")
            if new.get("max_attempts") != old.get("max_attempts"):
                self._broken("who has no handler decides nothing", f"{run_id}: {new.get('max_attempts')} attempts")
        unattempted = status in ("failed", "canceled", "scheduled") and attempt.state == "claimed" and own
        is_unfit = (
            self.has_typed_job
            and new.get("error_type") == typed.REASON
            and typed.is_unfit(new["job_name"], json.loads(self.decrypted(new["payload"])))
        )
        if new.get("error_type") == typed.REASON != old.get("error_type") and not (is_unfit and status == "failed"):
            self._broken("only a payload that does not fit fails for that", f"{run_id} became {status}")
        if own and attempt.state == "claimed" and not self._is_over(old) and new["attempt"] != old["attempt"]:
            self._broken("what was not attempted counts no attempt", f"{run_id} became {status}")
        if (
            unattempted
            and status == "failed"
            and new["attempt"] == old["attempt"]
            and new["job_name"] != "absent"
            and not is_unfit
            and new["attempt"] < new["max_attempts"]
            and not self.large.may_be_unreadable(new)
        ):
            self._broken("a run that can be attempted is", f"{run_id} failed without an attempt")
        is_own_end = own and ended and attempt.state != "claimed"
        is_snoozed = is_own_end and status == "scheduled" and attempt.verdict is not None
        is_snoozed = is_snoozed and attempt.verdict.means == "snooze"  # type: ignore[union-attr]
        if is_snoozed:
            if new["attempt"] != old["attempt"]:
                self._broken("a snoozed attempt does not count", run_id)
            ledger.calls -= 1
        elif new["attempt"] != old["attempt"] + 1 and not (unattempted and new["attempt"] == old["attempt"]):
            self._broken("an attempt without success counts", f"{run_id} became {status}")
        if unattempted and new["attempt"] == old["attempt"]:
            self.records.same_attempts(run_id, old, new)
        else:
            self._ended_as(run_id, ledger, attempt, old, new, is_own_end=is_own_end, is_snoozed=is_snoozed)
        if "cancel_requested_at" in old and status != "canceled":
            self._broken("no attempt follows a request to cancel", f"{run_id} became {status}")
        if status == "canceled" and "cancel_requested_at" not in old and not self._cancels_itself(ledger, attempt, old):
            self._broken("a run is canceled because a person asked", run_id)

    def _ended_as(
        self,
        run_id: str,
        ledger: Ledger,
        attempt: Attempt,
        old: Attributes,
        new: Attributes,
        *,
        is_own_end: bool,
        is_snoozed: bool,
    ) -> None:
        """Check how an attempt ends that was not successful: what is told of it, and what follows."""
        status, verdict = new["status"], attempt.verdict
        endings = {"worker_lost"} if not is_own_end or self._is_over(old) else set()
        if is_own_end and status == "canceled":
            endings.add("canceled")
        elif is_own_end:
            endings.add("snoozed" if is_snoozed else "timed_out" if attempt.state == "cut" else "raised")
        self.records.attempt_ended(run_id, ledger.record, old, new, attempt, endings)
        told = ledger.record.ended[-1] if ledger.record.ended else None
        if told is None or status == "canceled":
            return
        if told.ending == "worker_lost":
            means = "final" if self.records.is_final(new["job_name"], LOST) else "retry"
        elif attempt.state == "cut":
            means = "final" if self.records.is_final(new["job_name"], TIMED_OUT) else "retry"
        elif attempt.state == "returned no JSON" or verdict is None:
            means = "final"
        else:
            means = verdict.means
        if means == "final" and status == "scheduled":
            self._broken("an error that ends a run is the last one", f"{run_id} after {told.error_type}")
        if means == "cancel":
            self._broken("a handler that cancels its run ends it", f"{run_id} became {status}")
        if means == "snooze" and status != "scheduled":
            self._broken("a snoozed attempt does not count", f"{run_id} became {status}")
        if means == "retry" and status == "failed" and new["attempt"] < new.get("max_attempts", 0):
            self._broken("a run fails when no attempt is left for it", f"{run_id} after {told.error_type}")
        if is_own_end and verdict is not None and verdict.delay_ms is not None and status == "scheduled":
            early = attempt.ended_ms + verdict.delay_ms - SKEW_MS
            if told.ending != "worker_lost" and not (
                early <= new["scheduled_for"] <= self._world.now + verdict.delay_ms + SKEW_MS
            ):
                self._broken("a run waits for as long as its handler says", f"{run_id} until {new['scheduled_for']}")

    def _cancels_itself(self, ledger: Ledger, attempt: Attempt, old: Attributes) -> bool:
        """Say whether a run may be canceled that no person canceled: its handler says so, or it is too late for it."""
        if attempt.verdict is not None:
            return attempt.verdict.means == "cancel"
        is_late = self._world.now > old["scheduled_for"] + BRIEF_MS - SKEW_MS
        return old["job_name"] == "brief" and attempt.state == "claimed" and not ledger.starts and is_late

    def _schedule_written(self, schedule_id: str, old: Attributes, new: Attributes) -> None:
        if old["revision"] == new["revision"] and new.get("next_run_at", PARKED_MS) < old.get("next_run_at", PARKED_MS):
            self._broken("a schedule goes forward", f"{schedule_id}: {old.get('next_run_at')} {new['next_run_at']}")
        intended = new.get("intended_run_id")
        if (
            intended is not None
            and intended != old.get("intended_run_id")
            and ("next_run_at" not in new or intended != self.occurrence_id(schedule_id, new["next_run_at"]))
        ):
            self._broken("the next occurrence is decided about", f"{schedule_id} is to make {intended}")
        known = self.schedules.get(schedule_id)
        if known is None:
            return
        if known.unchanged and old["revision"] != new["revision"]:
            self._broken("an upsert of what is there changes nothing", f"{schedule_id} was changed")
        begun = old.get("next_run_at")
        if known.missed == "all" and begun is not None and begun != new.get("next_run_at"):
            end = new.get("next_run_at", known.end_ms + 1)
            for occurrence in known.occurrences(new):
                if begun <= occurrence < end:
                    self.require_occurrence(schedule_id, occurrence)

    def require_occurrence(self, schedule_id: str, occurrence_ms: int) -> None:
        """Check that an occurrence which the schedule has passed has a run."""
        run_id = self.occurrence_id(schedule_id, occurrence_ms)
        if (f"run#{run_id}", "run") not in self._world.table.items and run_id not in self.gone:
            self._broken("each occurrence makes a run", f"{schedule_id} passed {occurrence_ms} and made none")

    def _is_over(self, leased: Attributes) -> bool:
        return self._left(leased) <= 0

    def _left(self, leased: Attributes) -> int:
        # The clock of who takes it over may be ahead.
        return int(leased.get("lease_until", 0)) - SKEW_MS - self._world.now

    # Handlers

    def started(self, context: Any, process: Process) -> Attempt:
        """Check that a handler may be called now, and return its attempt."""
        world, run_id = self._world, context.run.id
        ledger = self.ledgers[run_id]
        world.counts["handler called"] += 1
        if world.lines is not None:
            world.tell(
                process, f"  handler of {run_id} called, attempt {context.attempt}, fence {context.fencing_token}"
            )
        found = [each for each in ledger.attempts.values() if each.claims == context.fencing_token]
        undone = (run_id, process.name) in self._undone_in and all(each.process is not process for each in found)
        if undone:  # claimed before the table was restored, of a run whose key made another one since
            return Attempt(run_id, "", process, process.incarnation, 0, 0, process.invocations, "running")
        if not found:
            self._broken("a handler is called under a lease", f"{run_id} in {process}")
            return Attempt(run_id, "", process, process.incarnation, 0, 0, process.invocations, "running")
        if ledger.undone:  # after the table was restored, numbers come again
            found = [each for each in found if each.process is process and each.state == "claimed"] or found
        attempt = found[-1]
        if attempt.token in ledger.undone:
            attempt.state = "running"  # a claim that was made before the table was restored can't be taken back
            return attempt
        item = world.table.items[f"run#{run_id}", "run"]
        if attempt.state != "claimed" or attempt.process is not process:
            self._broken("one claim calls one handler", f"{run_id}: {attempt.state} in {attempt.process}")
        if attempt.lease_until + SKEW_MS <= world.now:
            self._broken("a handler starts under a lease that is not over", f"{run_id} in {process}")
        if context.run.scheduled_for.timestamp() * 1000 > world.now + EARLY_MS + SKEW_MS:
            self._broken("no handler is called before its time", run_id)
        if context.attempt > context.run.max_attempts:
            self._broken("no handler is called after the last attempt", f"{run_id}: {context.attempt}")
        has_not_started = not ledger.starts and not item["attempt"]
        is_late = world.now > item["scheduled_for"] + BRIEF_MS + SKEW_MS
        if context.run.job_name == "brief" and has_not_started and is_late:
            self._broken("a run that has expired is not started", run_id)
        self.pausing.started(run_id, context.run.job_name)
        ledger.calls += 1
        ledger.starts += 1
        if item.get("max_attempts") is not None and ledger.calls > item["max_attempts"]:
            self._broken("no handler is called after the last attempt", f"{run_id}: called {ledger.calls} times")
        if context.fencing_token <= ledger.fence:
            self._broken("the fencing number grows", f"{run_id}: {context.fencing_token} after {ledger.fence}")
        ledger.fence = max(ledger.fence, context.fencing_token)
        for other in ledger.running:
            left = other.lease_until - SKEW_MS - world.now
            if left > 0:
                self._broken("two handlers never run under one lease", f"{run_id}: {left} ms of the first's are left")
            elif self._is_cut(context.run.job_name):
                self._broken(
                    "a lease outlasts its handler",
                    f"{run_id} runs in {process} while {other.process}'s handler still does, which is to be cut",
                )
        number = context.payload.get("number") if isinstance(context.payload, dict) else None
        if number not in self.payloads or context.payload != self.payloads[number]:
            self._broken("a payload is what was created", f"{run_id} was given {context.payload!r}")
        elif context.payload["of"] != context.run.job_name and run_id not in self.gone:
            self._broken("a payload is what was created", f"{run_id} was given that of another job")
        elif context.payload != json.loads(self.decrypted(attempt.payload)):
            self._broken("an attempt has the payload that was stored when it was claimed", run_id)
        self.limiting.started(attempt, context.run.job_name, context.payload)
        attempt.state = "running"
        ledger.running.append(attempt)
        return attempt

    def cut(self, attempt: Attempt) -> None:
        """Note that a coroutine is cut: from now on it counts as ended, whatever it does, or has done in vain."""
        attempt.state, attempt.verdict = "cut", None
        self._world.counts["handler", "cut"] += 1
        if self._world.lines is not None:
            self._world.tell(attempt.process, f"  handler of {attempt.run_id} is cut")
        ledger = self.ledgers[attempt.run_id]
        if attempt in ledger.running:
            ledger.running.remove(attempt)

    def ended(self, attempt: Attempt, state: str, output: Any) -> None:
        """Note how a handler ended; of one that was cut before, nothing counts any more."""
        if attempt.state == "cut":
            state = f"{state}, after it was cut"
        else:
            attempt.state, attempt.output, attempt.ended_ms = state, output, self._world.now
            attempt.lease_when_ended = attempt.lease_before or attempt.lease_until
            if state == "raised" and (error := sys.exception()) is not None:
                error = getattr(error, "error", error)  # of the table, in what keeps handlers from catching it
                attempt.verdict = self.records.verdict(self.job_names[attempt.run_id], error)
        self._world.counts["handler", state] += 1
        if self._world.lines is not None:
            self._world.tell(attempt.process, f"  handler of {attempt.run_id} {state}")
        ledger = self.ledgers[attempt.run_id]
        if attempt in ledger.running:
            ledger.running.remove(attempt)

    def process_ends(self, process: Process) -> None:
        """Check that a process which is at its deadline has cut its handlers before."""
        for run_id, ledger in self.ledgers.items():
            for attempt in ledger.running:
                if attempt.process is process and attempt.incarnation == process.incarnation:
                    self._broken("a handler is cut before its process ends", f"{run_id} in {process}")

    # Answers

    def consumed(self, process: Process, run_id: str, outcome: str, reason: str | None, *, alone: bool) -> None:
        """Check what a process says of a run against what it wrote; for one with which nothing went wrong in a batch.

        ``reason`` is why it was ignored, if it was; ``alone`` says that no other record of the batch named this run.
        """
        ledger, item = self.ledgers.get(run_id), self._world.table.items.get((f"run#{run_id}", "run"))
        if ledger is None or item is None:
            return
        if reason == "no such run" and run_id not in self.gone:
            self._broken("a run that is stored is found", f"{process} says that there is no {run_id}")
        recorded = RECORDED.get(outcome)
        for attempt in ledger.attempts.values() if ledger.before is None else _of_all(ledger):
            if attempt.process is not process:
                continue
            late = attempt.incarnation == -1
            if not late and (attempt.invocation, attempt.incarnation) != (process.invocations, process.incarnation):
                continue
            if attempt.recorded is not None and attempt.recorded == recorded:
                recorded = None
            if late:
                continue
            if attempt.token == ledger.held_again:
                continue
            is_of_this_run = ledger.attempts.get(attempt.token) is attempt
            if attempt.state == "claimed" and item.get("lease_token") == attempt.token and is_of_this_run:
                self._broken("a claim that was made is used", f"{run_id} was claimed by {process}, and left so")
            if alone and reason == "lost its lease" and item.get("settled_by") == attempt.token:
                self._broken("a write is known again", f"{run_id}: {process} recorded its end, and says it did not")
        if recorded is not None:
            self._broken("an outcome is what was recorded", f"{run_id}: {process} says {outcome}")

    def not_opened(self, process: Process, run_id: str) -> None:
        """Check that a process which could not read a payload, and says so, has given its run back."""
        item, ledger = self._world.table.items.get((f"run#{run_id}", "run"), {}), self.ledgers[run_id]
        for attempt in ledger.attempts.values():
            if (
                attempt.process is process
                and attempt.token != ledger.held_again
                and attempt.incarnation == process.incarnation
                and attempt.invocation == process.invocations
                and item.get("lease_token") == attempt.token
                and "cancel_requested_at" not in item
            ):
                self._broken("a run whose key is out of reach is given back", f"{run_id} is held by {process}")

    def begins_pass(self, process: Process) -> bool:
        """Note that a process begins a pass of the dispatcher; say whether it makes no other, so that it is checked."""
        alone = (process, process.incarnation) not in self._owed
        if alone:
            self._owed[process, process.incarnation] = set()
        else:
            process.passes_overlap = True
        return alone

    def ends_pass(self, process: Process, *, well: bool) -> None:
        """Check that a pass in which nothing went wrong has sent, or tried to, the messages of all that it wrote."""
        owed = self._owed.pop((process, process.incarnation), None)
        if well and owed and not process.passes_overlap:
            self._broken("a message follows its run", f"{sorted(owed)} were dispatched by {process}, and not sent")

    def tries(self, process: Process, run_ids: list[str]) -> None:
        """Note that a process tries to send messages."""
        self.tried.update(run_ids)
        if (process, process.incarnation) in self._owed:
            self._owed[process, process.incarnation].difference_update(run_ids)

    def sent(self, run_id: str, group: str | None) -> None:
        """Check that a message is sent only when its run is stored, and with a group that the run has had."""
        groups = self.groups.get(run_id)
        if groups is not None and group not in groups:
            self._broken("a message has its run's group", f"{run_id} was sent for {group}, and has had {groups}")
        if (f"run#{run_id}", "run") not in self._world.table.items and run_id not in self.gone:
            self._broken("a message follows its run", f"{run_id} was sent, and is not stored")

    # The end

    def at_the_end(self) -> None:
        """Check what must have come true, once faults have stopped and all was looked at."""
        for (pk, sk), item in self._world.table.items.items():
            if pk.startswith("run#") and sk == "run" and item["status"] not in FINAL:
                self._broken("every run ends", f"{pk[4:]} is {item['status']}")
        for schedule_id, known in self.schedules.items():
            item_or_none = self._world.table.items.get((f"schedule#{schedule_id}", "schedule"))
            if known.missed == "all" and item_or_none is not None:
                for occurrence in known.occurrences(item_or_none):
                    self.require_occurrence(schedule_id, occurrence)

    def _broken(self, name: str, text: str) -> None:
        self._world.violate(name, text)


def _of_all(ledger: Ledger | None) -> Iterator[Attempt]:
    """Yield the attempts of a run, and of those that had its id before."""
    while ledger is not None:
        yield from ledger.attempts.values()
        ledger = ledger.before


def _changes(old: Attributes, new: Attributes) -> set[str]:
    return {name for name in {*old, *new} if old.get(name) != new.get(name)}
