"""The demo: deploys this project into a local AWS, lets a stack of its own execute runs, and checks every one.

``python -m examples.demo`` deploys ``template.yaml``, creates the runs and schedules of ``SCENARIOS`` from this
process, and watches the deployed queue, mapping, consumer and dispatcher execute them. It ends with a summary, and with
1 where anything differs from what it expects or is not final in time.

Two things are faster than in a deployment, so that nobody waits for minutes: the deployed dispatcher is invoked every
few seconds, beside its tick of a minute, and a message whose consumer was killed comes again after
``VISIBILITY_SECONDS``.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from examples.deployment import Stack, deploy
from examples.ledger import Ledger
from examples.local_aws import LocalAws, local_aws
from kumofire_core import Jobs
from kumofire_core.engine.schedule_firing import occurrence_run_id

if TYPE_CHECKING:
    from kumofire_core.model.run_view import Run

FINAL = ("succeeded", "failed", "canceled")
CLOCK_SKEW = timedelta(seconds=1)
POLL_SECONDS = 0.2
TICK_SECONDS = 5
VISIBILITY_SECONDS = 15
"""More than the lease of the run whose worker is killed: its job's timeout of 1 s, and the margin of 5 s."""

KILL_SECONDS = 20
"""The longest wait for the scenario that kills its worker to execute; then the others begin."""

SCHEDULE_KEY = "demo/every-2-s"
EVERY = timedelta(seconds=2)
OCCURRENCES = 3

STYLES = {"succeeded": "green", "failed": "red", "running": "cyan", "scheduled": "yellow"}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A run to start, and how it must end."""

    title: str
    start: Callable[[Jobs], Sequence[str]]
    """Starts one run and returns the id that each call returned, if it creates the run more than once."""
    status: str = "succeeded"
    attempt: int = 0
    """The expected number of attempts without success."""
    executions: int = 1
    """The expected number of calls of the handler, counted by the ledger."""
    output: Any = None
    error: str | None = None
    """A part of the expected last error; ``None`` if the error is not checked."""
    kills_its_worker: bool = False
    """The other scenarios begin once this one executes: a killed process loses its other attempts too."""


def created(job_name: str, payload: Any, *, times: int = 1, **options: Any) -> Callable[[Jobs], Sequence[str]]:
    """Return a function that creates the run ``times`` times."""
    return lambda jobs: [jobs.create(job_name, payload, **options) for _ in range(times)]


def occurrence(number: int) -> Callable[[Jobs], Sequence[str]]:
    """Return a function that creates the demo's recurring schedule once, and returns one occurrence's run id."""

    def start(jobs: Jobs) -> Sequence[str]:
        if jobs.get_schedule_by_key(SCHEDULE_KEY) is None:
            first = datetime.now(UTC) + EVERY
            jobs.create_schedule(
                "greet",
                {"name": "again"},
                schedule_key=SCHEDULE_KEY,
                schedule_type="interval",
                schedule_expr=EVERY,
                start_at=first,
                end_at=first + (OCCURRENCES - 1) * EVERY,
            )
        schedule = jobs.get_schedule_by_key(SCHEDULE_KEY)
        if schedule is None or schedule.start_at is None:
            raise LookupError(f"the schedule {SCHEDULE_KEY} is gone")
        return [occurrence_run_id(schedule.id, schedule.start_at + number * EVERY)]

    return start


def at_once_by_schedule(job_name: str, payload: Any) -> Callable[[Jobs], Sequence[str]]:
    """Return a function that creates a schedule, so that the dispatcher makes the run.

    The dispatcher knows the job's timeout, which bounds the run's lease; this process does not.
    """

    def start(jobs: Jobs) -> Sequence[str]:
        now = datetime.now(UTC).replace(microsecond=0)
        schedule_id = jobs.create_schedule(job_name, payload, schedule_type="once", schedule_expr=now)
        return [occurrence_run_id(schedule_id, now)]

    return start


EVERYTHING = {"text": "雲と火 🔥", "number": -0.125, "big": 2**80, "nested": [{"empty": {}}, [], None, True]}

SCENARIOS: tuple[Scenario, ...] = (
    *(
        Scenario(
            title=f"succeeds ({name})",
            start=created("greet", {"name": name}),
            output={"greeting": f"Hello, {name}!"},
        )
        for name in ("Ada", "Grace", "Edsger", "Barbara")
    ),
    Scenario(title="payload comes back equal", start=created("echo", EVERYTHING), output=EVERYTHING),
    Scenario(title="async handler", start=created("fetch", {"pages": 7}), output={"pages": 7}),
    Scenario(
        title="fails once, then succeeds",
        start=created("flaky", {"failures": 1}),
        attempt=1,
        executions=2,
        output={"attempts_made": 2},
    ),
    Scenario(
        title="fails twice, then succeeds",
        start=created("flaky", {"failures": 2}),
        attempt=2,
        executions=3,
        output={"attempts_made": 3},
    ),
    Scenario(
        title="fails for good",
        start=created("stubborn", None),
        status="failed",
        attempt=5,
        executions=5,
        error="no answer to attempt 5",
    ),
    Scenario(
        title="fails for good at its only attempt",
        start=created("flaky", {"failures": 9}, max_attempts=1),
        status="failed",
        attempt=1,
        error="no answer to attempt 1",
    ),
    Scenario(
        title="returns what is not JSON",
        start=created("unserializable", None),
        status="failed",
        attempt=1,
        error="JSON",
    ),
    Scenario(
        title="delayed by 4 s",
        start=created("greet", {"name": "later"}, delay=timedelta(seconds=4)),
        output={"greeting": "Hello, later!"},
    ),
    Scenario(
        title="at a given time",
        start=lambda jobs: [jobs.create("greet", {"name": "then"}, run_at=datetime.now(UTC) + timedelta(seconds=2))],
        output={"greeting": "Hello, then!"},
    ),
    Scenario(
        title="created three times with one key",
        start=created("greet", {"name": "once"}, times=3, dedupe_key="demo/once"),
        output={"greeting": "Hello, once!"},
    ),
    *(
        Scenario(
            title=f"by a schedule every {EVERY.seconds} s, number {number + 1}",
            start=occurrence(number),
            output={"greeting": "Hello, again!"},
        )
        for number in range(OCCURRENCES)
    ),
    Scenario(
        title="worker killed, taken over",
        start=at_once_by_schedule("mortal", None),
        attempt=1,
        executions=2,
        output={"survived_in_attempt": 2},
        error="attempt 1 was lost: its lease expired",
        kills_its_worker=True,
    ),
    Scenario(
        title="no handler of that name",
        start=created("misspelled", None),
        status="failed",
        executions=0,
        error="Missing handler for job",
    ),
)

MALFORMED: tuple[str, ...] = (
    "not JSON",
    "null",
    "[1, 2, 3]",
    json.dumps({"version": 2, "kumofireJobRunId": "some-run"}),
    json.dumps({"version": 1}),
    json.dumps({"version": 1, "kumofireJobRunId": 7}),
    json.dumps({"version": 1, "kumofireJobRunId": ""}),
    json.dumps({"version": 1, "kumofireJobRunId": "x" * 5000}),
)
UNKNOWN_RUN = json.dumps({"version": 1, "kumofireJobRunId": "no-such-run"})


@dataclass(kw_only=True)
class Watched:
    """A scenario under way: the ids it was given, and its run as last seen."""

    scenario: Scenario
    ids: Sequence[str]
    run: Run | None = None
    seen: list[str] = field(default_factory=list)
    """Each status that was seen, in order."""

    def look(self, jobs: Jobs) -> bool:
        """Read the run again; return whether its status or attempt changed."""
        if self.run is not None and self.run.status in FINAL:
            return False
        before, self.run = self.run, jobs.get_status(self.ids[0])
        if self.run is None or (before and (before.status, before.attempt) == (self.run.status, self.run.attempt)):
            return False
        self.seen.append(str(self.run.status))
        return True

    @property
    def setback(self) -> str:
        """The run's last error in parentheses, for a line about the run; empty without an error."""
        return f" ({self.run.last_error})" if self.run is not None and self.run.last_error else ""

    @property
    def final(self) -> bool:
        """Whether the run has ended."""
        return self.run is not None and self.run.status in FINAL


def differences(scenario: Scenario, ids: Sequence[str], run: Run | None, attempts: Sequence[int]) -> list[str]:
    """Return what differs from the scenario in a run and in the attempts that the ledger counted for it."""
    if run is None:
        return ["the run does not exist"]
    if run.status not in FINAL:
        return [f"it did not end: it is {run.status}, attempt {run.attempt}"]
    found = [
        f"{name} is {actual!r}, not {expected!r}"
        for name, actual, expected in (
            ("status", str(run.status), scenario.status),
            ("attempt", run.attempt, scenario.attempt),
            ("output", run.output, scenario.output),
        )
        if actual != expected
    ]
    if scenario.error is not None and scenario.error not in (run.last_error or ""):
        found.append(f"last_error is {run.last_error!r}, without {scenario.error!r}")
    if list(attempts) != list(range(1, scenario.executions + 1)):
        found.append(
            f"the ledger counted executions of the attempts {list(attempts)}, not of 1 to {scenario.executions}"
        )
    if len(set(ids)) != 1:
        found.append(f"{len(ids)} requests made {len(set(ids))} runs")
    if run.started_at is not None and run.started_at < run.scheduled_for - CLOCK_SKEW:
        found.append(f"it started at {run.started_at}, before its time {run.scheduled_for}")
    return found


def main(arguments: Sequence[str] | None = None, scenarios: Sequence[Scenario] = SCENARIOS) -> int:
    """Run the demo; return 0 when everything is as expected, 1 when not."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="for all runs to end (default 60)")
    timeout_seconds = parser.parse_args(arguments).timeout
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    began = time.monotonic()
    console.print("Starting a local AWS and deploying template.yaml into it (about half a minute in all) …")
    with local_aws() as aws:
        ledger = Ledger(aws.client("dynamodb"))
        ledger.create()
        stack = deploy(
            aws,
            name="kumofire-demo",
            parameters={"JobsModule": "examples.demo_jobs:jobs", "ConsumerConcurrency": "2"},
            further_sources=("examples/__init__.py", "examples/ledger.py", "examples/demo_jobs.py"),
        )
        console.print(f"Deployed after {time.monotonic() - began:.1f} s: {stack.queue_url}")
        return Demo(aws, stack, ledger, console, scenarios).run(timeout_seconds)


class Demo:
    """One pass of all scenarios through a deployed stack."""

    def __init__(
        self, aws: LocalAws, stack: Stack, ledger: Ledger, console: Console, scenarios: Sequence[Scenario]
    ) -> None:
        self.aws = aws
        self.stack = stack
        self.ledger = ledger
        self.console = console
        self.scenarios = scenarios
        self.watched: list[Watched] = []
        self.sqs = aws.client("sqs")
        self.lambda_ = aws.client("lambda")
        self.next_tick = 0.0
        self.problems: list[str] = []
        # An application that only creates runs and reads them: it knows no handler.
        self.jobs = Jobs(table=stack.table, queue_url=stack.queue_url, dynamodb=aws.client("dynamodb"), sqs=self.sqs)

    def run(self, timeout_seconds: float) -> int:
        """Start everything, watch it end, print the summary; return the exit status."""
        began = time.monotonic()
        self.sqs.set_queue_attributes(
            QueueUrl=self.stack.queue_url, Attributes={"VisibilityTimeout": str(VISIBILITY_SECONDS)}
        )
        first = [scenario for scenario in self.scenarios if scenario.kills_its_worker]
        if first:
            self._start(first)
            self._watch(began, min(began + KILL_SECONDS, began + timeout_seconds), until="running")
        self._start([scenario for scenario in self.scenarios if not scenario.kills_its_worker])
        malformed = [self._send(body) for body in MALFORMED]
        self._send(UNKNOWN_RUN)
        self._watch(began, began + timeout_seconds)
        problems = self.problems + self._summary()
        problems += self._queue_problems(until=max(began + timeout_seconds, time.monotonic() + 5))
        problems += self._log_problems(malformed)
        return self._verdict(problems, time.monotonic() - began)

    def _start(self, scenarios: Sequence[Scenario]) -> None:
        self.watched += [Watched(scenario=scenario, ids=scenario.start(self.jobs)) for scenario in scenarios]
        self.next_tick = 0.0

    def _tick(self, began: float) -> None:
        """Invoke the deployed dispatcher, if it is time again."""
        if time.monotonic() < self.next_tick:
            return
        reply = self.lambda_.invoke(FunctionName=self.stack.dispatcher_function, Payload=b"{}")
        self.next_tick = time.monotonic() + TICK_SECONDS
        answer = json.loads(reply["Payload"].read())
        if "FunctionError" in reply or answer["errors"] or answer["unsent"]:
            self.problems.append(f"the dispatcher answered {answer}")
            return
        done = ", ".join(f"{name} {count}" for name, count in answer.items() if count and name != "complete")
        if done:
            self.console.print(f"{time.monotonic() - began:6.1f} s  invoked the dispatcher: {done}")

    def _send(self, body: str) -> str:
        message: str = self.sqs.send_message(QueueUrl=self.stack.queue_url, MessageBody=body)["MessageId"]
        return message

    def _watch(self, began: float, deadline: float, *, until: str = "final") -> None:
        """Look at every run, again and again, until all are final, or have at least been seen ``running``."""
        live: AbstractContextManager[Any] = nullcontext()
        if self.console.is_terminal:
            live = Live(console=self.console, get_renderable=self._live_table, refresh_per_second=8, transient=True)
        with live:
            while time.monotonic() < deadline:
                self._tick(began)
                for watched in self.watched:
                    if watched.look(self.jobs) and not self.console.is_terminal and watched.run is not None:
                        self.console.print(
                            f"{time.monotonic() - began:6.1f} s  {watched.scenario.title}: "
                            f"{watched.run.status}, failed attempts {watched.run.attempt}{watched.setback}"
                        )
                if all(watched.final or until in watched.seen for watched in self.watched):
                    return
                time.sleep(POLL_SECONDS)

    def _live_table(self) -> Table:
        table = Table("run", "job", "status so far", "failed attempts", "last error", title="Kumofire Jobs")
        for watched in self.watched:
            if watched.run is not None:
                path = " → ".join(f"[{STYLES.get(status, 'default')}]{status}[/]" for status in watched.seen)
                table.add_row(
                    watched.scenario.title,
                    watched.run.job_name,
                    path,
                    f"{watched.run.attempt} of {watched.run.max_attempts}",
                    _short(watched.run.last_error or ""),
                )
        return table

    def _summary(self) -> list[str]:
        problems = []
        columns = ("run", "status", "failed attempts", "executed", "output or last error", "as expected")
        table = Table(*columns, title="Summary")
        for watched in self.watched:
            attempts = self.ledger.attempts(watched.ids[0])
            different = differences(watched.scenario, watched.ids, watched.run, attempts)
            problems += [f"{watched.scenario.title}: {difference}" for difference in different]
            run = watched.run
            status = str(run.status) if run else "missing"
            table.add_row(
                watched.scenario.title,
                f"[{STYLES.get(status, 'default')}]{status}[/]",
                str(run.attempt) if run else "",
                str(len(attempts)),
                _excerpt(run),
                "[red]no[/]" if different else "yes",
            )
        self.console.print(table)
        return problems

    def _queue_problems(self, *, until: float) -> list[str]:
        """Wait for the queue to be empty; return what is left, on it and on the dead-letter queue."""
        while self._messages(self.stack.queue_url) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return [
            f"{count} messages are left on the {name}"
            for name, url in (("queue", self.stack.queue_url), ("dead-letter queue", self.stack.dead_letter_queue_url))
            if (count := self._messages(url))
        ]

    def _messages(self, queue_url: str) -> int:
        """Return the messages on a queue: waiting, delayed, or delivered and not acknowledged."""
        names = ["", "Delayed", "NotVisible"]
        attributes = self.sqs.get_queue_attributes(
            QueueUrl=queue_url, AttributeNames=[f"ApproximateNumberOfMessages{name}" for name in names]
        )["Attributes"]
        return sum(int(value) for value in attributes.values())

    def _log_problems(self, malformed: Sequence[str]) -> list[str]:
        """Return the malformed messages that the consumer acknowledged without logging them."""
        log = "\n".join(self._log())
        return [
            f"the consumer's log does not name the malformed message {body[:40]!r}"
            for body, message_id in zip(MALFORMED, malformed, strict=True)
            if message_id not in log
        ]

    def _log(self) -> list[str]:
        pages = self.aws.client("logs").get_paginator("filter_log_events")
        events = pages.paginate(logGroupName=self.stack.consumer_log_group)
        return [event["message"] for page in events for event in page["events"]]

    def _verdict(self, problems: Sequence[str], seconds: float) -> int:
        if not problems:
            executions = sum(scenario.executions for scenario in self.scenarios)
            self.console.print(
                f"[green]All as expected[/]: {len(self.scenarios)} runs, {executions} executions, "
                f"{len(MALFORMED)} malformed messages acknowledged, both queues empty, in {seconds:.1f} s."
            )
            return 0
        if not all(watched.final for watched in self.watched):
            self.console.print("Not all runs ended in time. The end of the consumer's log:")
            print(*self._log()[-40:], sep="\n")
            # A consumer that does not even start writes no log of its own.
            self.console.print("The end of the local AWS's log:")
            print(self.aws.log_tail())
        for problem in problems:
            self.console.print(f"DIFFERENT  {problem}", style="red", markup=False)
        return 1


def _excerpt(run: Run | None) -> str:
    if run is None or run.status not in FINAL:
        return ""
    text = run.last_error or "" if run.status == "failed" else json.dumps(run.output, ensure_ascii=False)
    return _short(text)


def _short(text: str) -> str:
    return escape(text if len(text) <= 32 else f"{text[:31]}…")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or pipe that can't show a character must not end the demo.
        sys.stdout.reconfigure(errors="replace")
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
