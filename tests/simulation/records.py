"""What an item must tell of its run: the attempts that have ended, how it is listed, who changed what of it.

It knows the form in which attempts are stored, and otherwise only what was seen from outside: which handler ended how,
and who wrote what when.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tests.simulation.table import Attributes, item_bytes
from tests.simulation.world import Process, Task, World

if TYPE_CHECKING:
    from kumofire_core.model.run_view import Run
    from tests.simulation.invariants import Attempt

SKEW_MS = 500
MOST_ATTEMPTS = 10
ATTEMPTS_BYTES = 5_636
LEAST_RECORD_BYTES = 400
"""What one attempt takes at most without its texts."""
RESERVED_BYTES = 24 * 1024
"""What all but payload and output may take."""
MOST_BYTES = {
    "attempts": ATTEMPTS_BYTES,
    "last_error": 3 * 1024,
    "cancel_reason": 3 * 1024,
    "history": 4 * 1024,
    "error_type": 100,
    "log": 200,
}
LIST_SHARDS = tuple(f"#{number}" for number in range(8))
LISTED = frozenset({"failed", "canceled"})
CREATE_CLAIM_SUCCEED = 3
"""The writes of a run that succeeds at once."""
BRIEF_MS = 20_000
"""How long after its time a run of the job ``brief`` may start."""

ANOTHER_TIME = frozenset(
    {
        "scheduled_for",
        "sends",
        "wake_at",
        "no_handler_since",
        "parked",
        "list_shard",
        "list_at",
        "limited",
        "awaits_slot",
        "reserved",
        "rate_since",
    }
)
CHANGES = {
    "runs now": ANOTHER_TIME,
    "reschedules": ANOTHER_TIME,
    "updates": frozenset({"payload", "schema"}),
    "debounces": ANOTHER_TIME | {"payload", "schema", "group"},
}
"""What a person's request changes, besides the status, the token and the time of the change."""
RETRIES_LATER = "retries later"
OF_A_CHANGE = frozenset({"status", "changed_by", "updated_at"})


class Ended(NamedTuple):
    """An attempt that was seen to end."""

    retries: int
    number: int
    started_ms: int | None
    ending: str
    error_type: str | None
    log: str | None


class Verdict(NamedTuple):
    """What an error means for its run, by its job's rules."""

    error_type: str
    means: str
    """``retry``, ``final``, ``snooze`` or ``cancel``."""
    delay_ms: int | None = None
    """When the next attempt is made, where the error says so."""


LOST = "LeaseExpiredError"
TIMED_OUT = "AttemptTimeoutError"
UNUSABLE = "InvalidJSONError"


@dataclass
class Record:
    """What is known of one run's item."""

    ended: tuple[Ended, ...] = ()
    """All its attempts that have ended without success."""
    told: dict[str | None, tuple[Ended, ...]] = field(default_factory=lambda: {None: ()})
    """What had ended, by what the item said then."""
    tokens: set[str] = field(default_factory=set)
    """Those of persons' changes that were made."""
    writes: int = 0
    units: int = 0
    """The write units that they took, those of the indexes among them."""


class Records:
    """Watches the items of one world's runs."""

    def __init__(self, world: World, broken: Callable[[str, str], None]) -> None:
        self._world = world
        self._broken = broken
        self.list_succeeded = False
        """Succeeded runs are to be listed."""
        self.changing: set[Process] = set()
        """Processes in which a person changes or deletes runs."""
        self.deleting_many: set[Process] = set()
        """Processes in which a person deletes many runs, several at once."""
        self.updates: set[int] = set()
        """The numbers of payloads that replaced others."""
        self.created: set[int] = set()
        """The numbers of payloads that new runs had."""
        self.updated: set[str] = set()
        """Runs whose payload was replaced."""
        self.decrypted: Callable[[str], str] = lambda text: text
        """Reads a stored payload."""
        self.verdict: Callable[[str, BaseException], Verdict] = lambda job, error: Verdict("", "retry")
        self.is_final: Callable[[str, str], bool] = lambda job, error_type: False
        """Says of the errors that are not a handler's whether they end a job's runs."""

    # Every write

    def wrote(self, run_id: str, record: Record, old: Attributes | None, new: Attributes) -> None:
        """Check what holds of every item, whoever wrote it."""
        status = new["status"]
        record.writes += 1
        if old is None and new.get("dedupe_mode") == "debounce":
            self.created.add(json.loads(self.decrypted(new["payload"]))["number"])
        self._listed(run_id, new)
        if record.writes > CREATE_CLAIM_SUCCEED:
            return
        record.units += 1 + _index_units(old or {}, new, "wake_shard", "wake_at")
        record.units += _index_units(old or {}, new, "list_shard", "list_at")
        if status == "succeeded" and record.writes == CREATE_CLAIM_SUCCEED and record.units != 5 + ("list_at" in new):
            self._broken("a run that succeeds at once costs five write units", f"{run_id} cost {record.units}")

    def _listed(self, run_id: str, new: Attributes) -> None:
        status, shard, at = new["status"], new.get("list_shard"), new.get("list_at")
        if status in LISTED or (status == "succeeded" and self.list_succeeded):
            if shard is None or shard[-2:] not in LIST_SHARDS or shard[:-2] != status:
                self._broken("what has ended is listed under its status", f"{run_id} is {status}, and listed {shard}")
            if at != new.get("finished_at"):
                self._broken("what has ended is listed by when it ended", f"{run_id}: {at}")
            if "parked" in new:
                self._broken("what has ended is not put aside", f"{run_id} is {status}")
        elif status in ("scheduled", "running") and "awaits_slot" in new:
            if shard is not None and shard != f"limit#{new['awaits_slot']}":
                self._broken("a run that waits for a slot is listed so", f"{run_id} is {status}, and listed {shard}")
        elif status == "succeeded" or "parked" not in new:
            if shard is not None or at is not None:
                self._broken("no other run is listed", f"{run_id} is {status}, and listed {shard}")
        elif status == "queued":
            self._broken("a run that goes on is not aside", run_id)
        elif shard is None or shard[-2:] not in LIST_SHARDS or shard[:-2] != "parked":
            self._broken("a run that was put aside is listed so", f"{run_id} is {status}, and listed {shard}")

    def same_attempts(self, run_id: str, old: Attributes, new: Attributes) -> None:
        """Check that a write which ends no attempt changes none."""
        if old.get("attempts") != new.get("attempts"):
            self._broken("only an attempt that ends is told", f"{run_id} has {new.get('attempts')}")

    # The ends of attempts

    def attempt_ended(
        self, run_id: str, record: Record, old: Attributes, new: Attributes, attempt: Attempt, endings: set[str]
    ) -> None:
        """Check what a write tells of the attempt that it ends, which may have ended in one of these ways."""
        told = new.get("attempts")
        entries = [] if told is None else json.loads(told)
        if not entries:
            self._broken("an attempt that ends is told", f"{run_id} has none")
            return
        retries, number, started_ms, ended_ms, ending, error_type, log, *_ = entries[-1]
        if ending not in endings:
            self._broken("an attempt is told as it ended", f"{run_id}: {ending}, and not {sorted(endings)}")
        expected = Ended(
            old.get("retries", 0),
            old["attempt"] + 1,
            started_ms if attempt.is_again else old.get("started_at"),
            ending,
            self._error_type(attempt, ending, error_type),
            log if attempt.log_is_unknown else attempt.log,
        )
        found = Ended(retries, number, started_ms, ending, error_type, log)
        if found != expected:
            self._broken("an attempt is told as it ended", f"{run_id}: {found}, and not {expected}")
        if ended_ms > self._world.now + SKEW_MS:
            self._broken("an attempt is told as it ended", f"{run_id} ended at {ended_ms}")
        known = record.ended
        if ending == "snoozed" and known and known[-1][:2] == expected[:2] and known[-1].ending == "snoozed":
            known = known[:-1]
        record.ended = record.told[told] = (*known, expected)
        kept = [Ended(*each[:3], *each[4:7]) for each in entries]
        if kept != list(record.ended[-len(kept) :]):
            self._broken("the attempts are those that ended", f"{run_id}: {kept}, and not {record.ended}")
        size = len(told.encode()) if told else 0
        if len(kept) != min(len(record.ended), MOST_ATTEMPTS) and size + LEAST_RECORD_BYTES < ATTEMPTS_BYTES:
            self._broken("ten attempts are kept where they fit", f"{run_id} has {len(kept)} in {size} bytes")
        self.fits(run_id, new)

    def _error_type(self, attempt: Attempt, ending: str, told: str | None) -> str | None:
        if ending == "snoozed":
            return None
        if ending == "worker_lost":
            return LOST
        if attempt.state == "cut":
            return TIMED_OUT
        if attempt.state == "returned no JSON":
            return UNUSABLE
        return told if attempt.verdict is None else attempt.verdict.error_type

    def fits(self, run_id: str, new: Attributes) -> None:
        """Check that an item leaves its payload and its output the room that they are promised."""
        others = {name: value for name, value in new.items() if name not in ("payload", "output")}
        if (size := item_bytes(others)) > RESERVED_BYTES:
            self._broken("what is told of a run fits into its item", f"{run_id} has {size} bytes")
        for name, most in MOST_BYTES.items():
            if name in new and len(new[name]) > most // 3 and (size := len(new[name].encode())) > most:
                self._broken("what is told of a run fits into its item", f"{run_id}: {name} of {size} bytes")

    # Persons

    def retried(self, run_id: str, record: Record, old: Attributes, new: Attributes) -> None:
        """Check what a person's retry does to what is told."""
        if new.get("retries", 0) != old.get("retries", 0) + 1:
            self._broken("a retry is counted", f"{run_id}: {old.get('retries')} -> {new.get('retries')}")
        self.same_attempts(run_id, old, new)
        self.fits(run_id, new)
        task, due_ms = self._world.writer_task, new["scheduled_for"]
        if new["status"] == "queued" and due_ms > self._world.now + self.writer_skew_ms():
            self._broken("a run is queued when it is due", run_id)
        if task is not None and task.asks == RETRIES_LATER and due_ms < task.begun + task.asks_for_ms - SKEW_MS:
            self._broken("a run waits for the time that was asked for", f"{run_id}: {due_ms}")

    def changed(self, run_id: str, record: Record, old: Attributes, new: Attributes) -> None:
        """Check a write by which a person changes a run that waits."""
        world, token = self._world, new["changed_by"]
        task = world.writer_task
        if world.writer not in self.changing:
            self._broken("only a person changes a run that waits", run_id)
        if token in record.tokens:
            self._broken("a person's change is made once", f"{run_id} was changed again by a copy")
        record.tokens.add(token)
        changes = {name for name in {*old, *new} if old.get(name) != new.get(name)} - OF_A_CHANGE
        asks = "reschedules" if task is None else task.asks
        if new.get("dedupe_mode") == "debounce" and asks not in CHANGES:
            asks = "debounces"
        elif task is None and "payload" in changes:
            asks = "debounces" if changes & {"scheduled_for", "sends"} else "updates"
        if not changes <= CHANGES.get(asks, OF_A_CHANGE):
            self._broken("a person's change changes nothing else", f"{run_id}: {sorted(changes)}")
        if old["status"] not in ("scheduled", "queued") or new["status"] not in ("scheduled", "queued"):
            self._broken("a person changes only a run that waits", f"{run_id} is {old['status']}")
        if new["updated_at"] <= old["updated_at"]:
            self._broken("a change is seen by the next one", f"{run_id} was changed at {old['updated_at']} and again")
        if "payload" in changes:
            self.updated.add(run_id)
            self.updates.add(json.loads(self.decrypted(new["payload"]))["number"])
        if asks == "updates":
            if old["status"] != new["status"]:
                self._broken("a person's change changes nothing else", f"{run_id} is {new['status']}")
        else:
            self._moved(run_id, old, new, task, asks)

    def _moved(self, run_id: str, old: Attributes, new: Attributes, task: Task | None, asks: str) -> None:
        due_ms, now = new["scheduled_for"], self._world.now + self.writer_skew_ms()
        is_moved = (old["status"], old["scheduled_for"]) != (new["status"], due_ms)
        if new["status"] == "queued" and due_ms > now and is_moved:
            self._broken("a run is queued when it is due", f"{run_id} is for {due_ms}")
        if task is None:
            return
        if asks == "runs now":
            if old["status"] != "scheduled":
                self._broken("only a run that waits for its time is started now", f"{run_id} was {old['status']}")
            if new["status"] != "queued":
                self._broken("a run is queued when it is due", f"{run_id} was to start now, and is {new['status']}")
        elif asks == "reschedules" and due_ms != task.asks_for_ms and not task.asks_for_ms < due_ms <= now:
            self._broken("a run waits for the time that was asked for", f"{run_id}: {due_ms}")

    def writer_skew_ms(self) -> int:
        """Return how far the clock of who writes may be ahead."""
        writer = self._world.writer
        return max(SKEW_MS, 0 if writer is None else writer.skew_ms)

    def deleted(self, run_id: str, old: Attributes) -> None:
        """Check that only DynamoDB's TTL and a person who asks for it delete a run, and only one that has ended."""
        world = self._world
        asks = None if world.writer_task is None else world.writer_task.asks
        by_person = world.writer in self.changing and asks in (None, "deletes")
        by_person = by_person or (world.writer in self.deleting_many and not asks)
        if not (world.writer is None or by_person) or old["status"] not in ("succeeded", "failed", "canceled"):
            self._broken("runs are kept", f"{run_id} was deleted while it was {old['status']}")

    # Readers

    def read(self, run: Run, record: Record) -> None:
        """Check what a person reads of a run that has ended."""
        expected = [each[:2] + each[3:] for each in record.ended]
        found = [
            (
                each.retries,
                each.number,
                str(each.ended),
                each.error_type,
                " ".join(part for part in (each.request_id, each.log_stream) if part) or None,
            )
            for each in run.attempts
        ]
        if run.status == "succeeded":
            last = found.pop() if found else None
            if last is None or last[:4] != (run.retries, run.attempt + 1, "succeeded", None):
                self._broken("a success is the last attempt", f"{run.id}: {last}")
        if found != expected[len(expected) - len(found) :] or (expected and not found and run.status != "succeeded"):
            self._broken("a reader sees the attempts that ended", f"{run.id}: {found}, and not {expected}")


def _index_units(old: Attributes, new: Attributes, partition: str, sort: str) -> int:
    """Return what a write costs in an index: one for an entry that comes or goes, two where its key changes."""
    before, after = (old.get(partition), old.get(sort)), (new.get(partition), new.get(sort))
    if before == after:
        return 0
    return (None not in before) + (None not in after)


__all__ = ["BRIEF_MS", "LOST", "TIMED_OUT", "UNUSABLE", "Ended", "Record", "Records", "Verdict"]
