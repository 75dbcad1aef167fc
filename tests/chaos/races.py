"""Real races: several processes with many threads each do the same things to the same runs at the same time.

They share nothing but the table, and clocks that run several times as fast as real ones, so that leases end and
retries come due while the race is on. ``race`` starts them and, when all are done, lets the clock jump until
every run has ended. This module has the race of plain runs. A process by itself: ``python -m tests.chaos.races
SETTINGS``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kumofire_core import DeadlineTooCloseError, JobContext, Jobs, ScheduleConflictError
from kumofire_core.engine import dispatcher
from kumofire_core.model.message import decode_body
from tests.builders import message
from tests.chaos import ledger, mistakes
from tests.chaos.racer import FULL_PARTITION, Nowhere, Racer, Settings, consume_all, number_of, run_id_of, scan
from tests.chaos.races_flow import FlowRacer
from tests.chaos.races_keys import KeyRacer
from tests.chaos.races_limits import LimitRacer, PauseRacer, RateRacer
from tests.chaos.races_worker import WorkerRacer

PATIENCE_SECONDS = 900
"""How long a racer may take on a machine that is busy with something else."""

SCHEDULE = timedelta(seconds=50)
OCCURRENCES = 12
"""Its end comes long after the race's: the dispatcher makes the later ones when the clock jumps."""


class RunRacer(Racer):
    """Create, consume, dispatch, cancel and retry the same runs, and fire one schedule."""

    uncounted = 0

    def __init__(self, settings: Settings, number: int) -> None:
        super().__init__(settings, number)
        self.operations = {
            self._create: 40,
            self._consume: 36,
            self._batch: 8,
            self._receive: 4,
            self._wake: 6,
            self.dispatch: 8,
            self._cancel: 8,
            self._retry: 12,
            self._schedule: 2,
        }

    @classmethod
    def register(cls, jobs: Jobs, settings: Settings, clock: Callable[[], datetime]) -> None:
        """Register a job that fails every second time."""

        @jobs.handler("race")
        def race(ctx: JobContext) -> int:
            with settings.execution(ctx, clock):
                settings.dawdle(ctx)
                if random.random() < 0.5:
                    raise ConnectionError("no answer")
                return ctx.attempt

    def _create(self, key: str, chance: random.Random) -> None:
        self.jobs.create("race", key, dedupe_key=key, delay=chance.choice((0, 0, 0, 1.5)))

    def _consume(self, key: str, chance: random.Random) -> None:
        try:
            result = self.jobs.consume(message(run_id_of(key)))
        except DeadlineTooCloseError:
            self.settings.enter("unstarted", run_id=run_id_of(key))
            return
        if result.outcome == "succeeded":
            self.settings.enter("succeeded", run_id=result.job_run_id)

    def _near(self, key: str) -> list[str]:
        return [run_id_of(f"key-{(number_of(key) + step) % self.settings.keys}") for step in range(4)]

    def _batch(self, key: str, chance: random.Random) -> None:
        self.consume_all(self._near(key))

    def _receive(self, key: str, chance: random.Random) -> None:
        if self.settings.queue_url is None:
            return
        received = self.sqs.receive_message(QueueUrl=self.settings.queue_url, MaxNumberOfMessages=10).get(
            "Messages", []
        )
        self.consume_all([decode_body(each["Body"]) for each in received])

    def _wake(self, key: str, chance: random.Random) -> None:
        for run_id in self._near(key):
            self.wake({"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}})

    def _cancel(self, key: str, chance: random.Random) -> None:
        self.jobs.cancel(run_id_of(key), "raced")

    def _retry(self, key: str, chance: random.Random) -> None:
        if self.jobs.retry(run_id_of(key)):
            self.settings.enter("retried", run_id=run_id_of(key))

    def _schedule(self, key: str, chance: random.Random) -> None:
        first = datetime.fromtimestamp(int(self.settings.began) + 2, UTC)
        with contextlib.suppress(ScheduleConflictError):
            self.jobs.upsert_schedule(
                "race",
                "occurrence",
                schedule_key="race",
                schedule_type="interval",
                schedule_expr=SCHEDULE,
                start_at=first,
                end_at=first + (OCCURRENCES - 1) * SCHEDULE,
            )


RACES: dict[str, type[Racer]] = {
    "runs": RunRacer,
    "flow": FlowRacer,
    "limits": LimitRacer,
    "rates": RateRacer,
    "pauses": PauseRacer,
    "keys": KeyRacer,
    "workers": WorkerRacer,
}


@dataclass
class Result:
    """What a race came to."""

    verdict: ledger.Verdict
    runs: int
    claims: int
    occurrences: int
    """How many of the runs are a schedule's."""
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    """How often each event is in the ledger."""

    def __str__(self) -> str:
        told: dict[str, int] = {
            "runs": self.runs,
            "of a schedule": self.occurrences,
            "claims": self.claims,
            "executions": self.verdict.executions,
            **self.statuses,
            **{f"'{event}'": count for event, count in sorted(self.events.items()) if event not in ("begin", "end")},
        }
        return ", ".join(f"{name} {count}" for name, count in told.items())


def race(settings: Settings, *, processes: int = 3) -> Result:
    """Let ``processes`` race, bring all runs to their end, and judge."""
    kind = RACES[settings.what]
    settings = replace(settings, **kind.further)
    racers = [_start(settings, number) for number in range(processes)]
    try:
        for racer in racers:  # all are let go when the last one is ready
            assert racer.stdout is not None
            line = racer.stdout.readline()
            assert line == "ready\n", f"a racer did not start: {line!r}"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        statuses = [racer.wait(PATIENCE_SECONDS) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
            for pipe in (racer.stdin, racer.stdout):
                if pipe is not None:
                    pipe.close()
    assert statuses == [0] * processes, f"a racer ended with {statuses}"
    _settle(kind, replace(settings, calm=True))
    items = scan(settings.client("dynamodb"), settings.table)
    events = ledger.read(settings.ledger)
    runs = [item for item in items if ledger.is_run(item)]
    verdict = ledger.judge(events, items, uncounted=kind.uncounted)
    verdict.problems += kind.judge(events, items)
    return Result(
        verdict=verdict,
        runs=len(runs),
        claims=sum(item.get("claims", 0) for item in runs),
        occurrences=sum("schedule_id" in item for item in runs),
        statuses=Counter(item["status"] for item in runs),
        errors=Counter(f"{event['operation']}: {event['text']}" for event in events if event["event"] == "error"),
        events=Counter(event["event"] for event in events),
    )


def _start(settings: Settings, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.races", json.dumps({**asdict(settings), "number": number})],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _settle(kind: type[Racer], settings: Settings) -> None:
    """Let the clock jump from minute to minute, dispatch, and deliver what is sent, until all runs have ended."""
    offset, queue = timedelta(), Nowhere()
    jobs = kind.make_jobs(settings, clock=lambda: settings.clock() + offset, sqs=queue)
    dynamodb = settings.client("dynamodb")
    for _ in range(40):
        kind.calm_down(jobs, settings)
        jobs.dispatch()
        sent, queue.sent = list(dict.fromkeys(queue.sent)), []
        for first in range(0, len(sent), 10):
            consume_all(jobs, settings, sent[first : first + 10])
        left = [item for item in scan(dynamodb, settings.table) if "wake_at" in item]
        if all(item["pk"].startswith("schedule#") for item in left):
            return
        offset += timedelta(minutes=5)  # a message is taken for lost after an hour at the latest


def _main() -> None:
    logging.disable(logging.ERROR)
    given = json.loads(sys.argv[1])
    settings = Settings(**{name: value for name, value in given.items() if name != "number"})
    dispatcher.PAGE_SIZE = FULL_PARTITION
    with mistakes.made(settings.mistake):
        racer = RACES[settings.what](settings, given["number"])
        print("ready", flush=True)
        sys.stdin.readline()
        racer.run()


if __name__ == "__main__":
    _main()
