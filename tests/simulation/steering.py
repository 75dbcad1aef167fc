"""Who decides how a run goes on: handlers that snooze, fail or cancel it, rules of jobs, persons who change runs.

And what persons see: the lists of runs, each of which must show what is there once all is quiet.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kumofire_core import Cancel, Fail, Jobs, RetryAfter, RetryPolicy, Snooze
from kumofire_core.engine import run_control
from kumofire_core.errors import LeaseExpiredError, StepsLostError
from kumofire_core.model.times import from_ms
from tests.simulation.invariants import FINAL, SKEW_MS, group_asked_for
from tests.simulation.records import BRIEF_MS, LOST, RETRIES_LATER, Verdict
from tests.simulation.table import Attributes
from tests.simulation.world import Process, Task, running

if TYPE_CHECKING:
    from tests.simulation.processes import Play

MINUTE_MS = 60_000
MOST_CHANGES = 5
"""How often persons change runs in a history, at about the same time as somebody else."""
DELAYS_MS = (1_000, 0, 30_000, 130_000)
MANY_ATTEMPTS = 12
MOST_PAYLOAD_BYTES = 376 * 1024 - 50
"""What a payload may take beside the longest output of a handler here."""
LONG_TEXT = "boom € " * 1_000
TRACEBACK_BYTES = 1_500
"""The most that is kept of a traceback."""
JOBS = ("picky", "picky", "brief")
RETRIED_BY_PICKY = (RuntimeError, LookupError)
FAILED_BY_PICKY = (KeyError, LeaseExpiredError)
STATUSES = (None, "failed", "canceled", "succeeded")


class Steering:
    """What handlers and persons of one history decide about runs."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs], gives_up: type[BaseException]) -> None:
        self._play = play
        self._world = play.world
        self._records = play.invariants.records
        self._jobs = jobs
        self._gives_up = gives_up
        self._changes = 0
        self.stubborn = play.choices.below(32) == 31
        """Handlers of many attempts fail each time, with long texts."""
        self.is_large = not play.variant.sealed and play.choices.below(64) == 63
        """Payloads are as large as they may be, and what persons say is, too."""
        self._records.verdict = self._verdict
        self._records.is_final = lambda job, error_type: job == "picky" and error_type == LOST

    def filled(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return a payload, as large as it may be where this history has such ones."""
        if self.is_large:
            payload["filler"] = ""
            payload["filler"] = "x" * (MOST_PAYLOAD_BYTES - len(json.dumps(payload, separators=(",", ":"))))
        return payload

    def reason(self) -> str | None:
        """Return why a person cancels a run."""
        return "€" * 1_000 if self.is_large else None

    # Jobs and handlers

    @staticmethod
    def register(jobs: Jobs, handle: Callable[[Any], Any], max_attempts: int) -> None:
        """Give a process the jobs that have rules of their own."""
        jobs.handler("picky", retry=RetryPolicy(max_attempts), retry_on=RETRIED_BY_PICKY, fail_on=FAILED_BY_PICKY)(
            handle
        )
        jobs.handler("brief", expires_after=timedelta(milliseconds=BRIEF_MS))(handle)

    def _verdict(self, job: str, error: BaseException) -> Verdict:
        """Return what an error means for a run of a job, by another arithmetic than the engine's."""
        name = type(error).__name__
        match error:
            case Snooze():
                return Verdict(name, "snooze", error.delay_ms)
            case Cancel():
                return Verdict(name, "cancel")
            case Fail() | StepsLostError():
                return Verdict(name, "final")
            case RetryAfter():
                return Verdict(name, "retry", error.delay_ms)
        if job == "picky":
            is_final = isinstance(error, KeyError) or not isinstance(error, RETRIED_BY_PICKY)
        else:
            is_final = job == "work" and isinstance(error, self._gives_up)
        return Verdict(name, "final" if is_final else "retry")

    def raised(self, context: Any) -> BaseException | None:
        """Return what a handler raises to decide about its run; ``None`` where it does something else."""
        choices = self._world.choices
        if self.stubborn and context.run.max_attempts == MANY_ATTEMPTS:
            return RuntimeError(LONG_TEXT) if choices.below(8) else Snooze(0)
        match choices.below(24):
            case 18:
                return Snooze(choices.of(DELAYS_MS) / 1000)
            case 19:
                return Snooze(timedelta(milliseconds=choices.of(DELAYS_MS)))
            case 20:
                return RetryAfter(choices.of(DELAYS_MS) / 1000)
            case 21:
                return Fail("it makes no sense")
            case 22:
                return Cancel(choices.of((None, "no longer wanted", LONG_TEXT)))
            case 23:
                return KeyError(LONG_TEXT)
        return None

    def traceback(self, error: BaseException) -> str | None:
        """Return the traceback of an error; the engine's own would cost as much as a request."""
        return "frame " * (TRACEBACK_BYTES // 6) if LONG_TEXT in str(error) else "frames"

    # Persons

    def after_write(self, run_id: str, old: Attributes | None, new: Attributes) -> None:
        """Let persons change a run around the time at which others do."""
        status = new["status"]
        if self._changes >= MOST_CHANGES or (old is not None and old["status"] == status):
            return
        choices = self._world.choices
        if choices.below(6) < 5:
            return
        what = choices.below(4)
        self._changes += 1
        now = self._world.now
        when = now + choices.of((1, 4, 20, 1_003))
        if status in FINAL:
            if what < 2 and status != "succeeded":
                self._retry_at(when, run_id, choices.of((3_000, 0, 62_000, 20 * MINUTE_MS)))
            else:
                self._delete_at(now + choices.of((1, 20, 9_000, 70_001)), run_id, new)
        elif status == "running" and what == 0:
            self._change_at(new["lease_until"] + choices.of((-600, 501, 600)), run_id, new)
        else:
            self._change_at(when, run_id, new)
            if choices.below(2):
                self._change_at(when + choices.of((0, 1, 3)), run_id, new)

    def _change_at(self, when_ms: int, run_id: str, found: Attributes) -> None:
        """Let a person do what is meant for a run that waits; by then it may be anything."""
        choices = self._world.choices
        match choices.below(6):
            case 0 | 1:
                self._ask_at(when_ms, "runs now", run_id, lambda jobs: jobs.run_now(run_id))
            case 2 | 3:
                due_ms = when_ms + choices.of((5_000, -1_000, 130_000, 20 * MINUTE_MS))
                self._ask_at(
                    when_ms, "reschedules", run_id, lambda jobs: jobs.reschedule(run_id, from_ms(due_ms)), due_ms
                )
            case 4:
                _, payload = self._play.ask(found["job_name"])
                number = payload["number"]
                self._ask_at(when_ms, "updates", run_id, lambda jobs: self._update(jobs, run_id, payload, number))
            case 5:
                self._delete_at(when_ms, run_id, found)

    def _update(self, jobs: Jobs, run_id: str, payload: Any, number: int) -> bool:
        done = jobs.update(run_id, payload=payload)
        if done and number not in self._records.updates and self._play.invariants.restored_at < running().begun:
            self._world.violate("an update is stored once it has returned", f"{run_id} has not {payload}")
        return done

    def _ask_at(self, when_ms: int, what: str, run_id: str, ask: Callable[[Jobs], bool], asks_for_ms: int = 0) -> None:
        process = self._play.person()

        def request() -> None:
            task = running()
            task.asks, task.asks_for_ms = what, asks_for_ms
            self._records.changing.add(process)
            done = ask(self._jobs(process))
            self._world.counts[f"a person {what}: {done}"] += 1
            self._play._know_again(what, done)
            if done and what in ("runs now", "reschedules"):
                self._check_sent(run_id, task)

        self._play.do_at(max(when_ms, self._world.now), process, f"{what} {run_id}", request)

    def _check_sent(self, run_id: str, task: Task) -> None:
        """Check that who gives a run another time sends its message, unless SQS can't delay it for so long."""
        is_soon = task.asks == "runs now" or task.asks_for_ms - self._world.now < 14 * MINUTE_MS - 5 * MINUTE_MS
        if is_soon and not task.sends:
            self._world.violate("a message follows its run", f"{run_id} was given another time, and not sent")

    def _delete_at(self, when_ms: int, run_id: str, found: Attributes) -> None:
        process, key, again = self._play.person(), found.get("dedupe_key"), self._world.choices.below(2)

        def delete() -> None:
            running().asks = "deletes"
            self._records.changing.add(process)
            done = self._jobs(process).delete(run_id)
            self._world.counts[f"a person deletes: {done}"] += 1
            if done and run_id not in self._play.invariants.gone:
                self._world.violate("what was deleted is gone", run_id)
            if done:
                self._play.stepping.deleted(run_id)
            if done and key is not None and again and not self._play.settling:
                self._create_again(self._jobs(process), key, found["job_name"])

        self._play.do_at(max(when_ms, self._world.now), process, f"deletes {run_id}", delete)

    def _create_again(self, jobs: Jobs, key: str, job: str) -> None:
        """Create another run under the key of one that was deleted."""
        play, mode = self._play, self._play.keys.mode
        _, payload = play.ask(job)
        running().asks = "debounces" if mode == "debounce" else ""
        run_id = jobs.create(job, payload, dedupe_key=key, dedupe=mode, group=group_asked_for(payload))
        if mode is None:
            play._created(run_id, payload, timedelta(), key)

    def _retry_at(self, when_ms: int, run_id: str, delay_ms: int) -> None:
        """Let a person retry a run with a delay, as one retries many."""
        process = self._play.person()

        def retry() -> None:
            self._play.invariants.retrying.add(process)
            running().asks, running().asks_for_ms = RETRIES_LATER, delay_ms
            store = self._jobs(process)._store
            found = store.find(run_id)
            done = found is not None and run_control.retry_found(store, found, delay_ms=delay_ms)
            self._play._know_again("retry", done)
            if done and delay_ms < 10 * MINUTE_MS and not running().sends:
                self._world.violate("a message follows its run", f"{run_id} was retried, and not sent")

        self._play.do_at(when_ms, process, f"retries {run_id} in {delay_ms} ms", retry)

    # Lists, once all is quiet

    def list_all(self) -> None:
        """Let a person list the runs, and compare all pages with what is there."""
        choices, world = self._world.choices, self._world
        ended = [item for key, item in world.table.items.items() if key[1] == "run" and "list_at" in item]
        if choices.below(5 if len(ended) > 1 else 20):
            return
        process, status, limit = self._play.person(), choices.of(STATUSES), choices.of((100, 1, 2))

        def read() -> None:
            listed: list[str] = []
            page = None
            while True:
                found = self._jobs(process).list_runs(status=status, limit=limit, page=page)
                if len(found.runs) > limit:
                    world.violate("a page is no longer than was asked", f"{len(found.runs)} of {limit}")
                for run in found.runs:
                    listed.append(run.id)
                    self._records.read(run, self._play.invariants.ledgers[run.id].record)
                if (page := found.next_page) is None:
                    break
            wanted = {"failed", "canceled", "succeeded"} if status is None else {status}
            if not self._records.list_succeeded:
                wanted.discard("succeeded")
            there = {
                key[0].removeprefix("run#"): item
                for key, item in world.table.items.items()
                if key[1] == "run" and item["status"] in wanted
            }
            if sorted(listed) != sorted(there):
                world.violate("a list shows each run once", f"{listed}, and not {sorted(there)}")
            times = [there[run_id]["finished_at"] for run_id in listed if run_id in there]
            if times != sorted(times, reverse=True):
                world.violate("a list begins with the newest", f"{listed}: {times}")

        self._play._do(process, f"lists {status or 'all'} runs by {limit}", read)
        world.run(world.now + MINUTE_MS)


__all__ = ["JOBS", "MANY_ATTEMPTS", "SKEW_MS", "Steering"]
