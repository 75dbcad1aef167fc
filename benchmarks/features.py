"""What each feature, each look and a process that is always on cost: counted units, and their prices. Free of AWS."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.prices import MONTH_HOURS, Prices, money, table
from kumofire_core.engine.counts import TELL_AFTER_MS as COUNTED_EACH_MS
from kumofire_core.engine.pause_reader import REFRESH_MS
from kumofire_core.engine.progress import TELL_AFTER_MS as TOLD_EACH_MS
from kumofire_core.engine.stats import MOST_EXAMINED, MOST_LISTED, MOST_UNFINISHED, READ_AT_ONCE, SNAPSHOT_BYTES


class Units(NamedTuple):
    """What something costs, of items of at most 1 KB."""

    requests: float
    """To the table."""
    writes: float
    reads: float
    """Units, those of the indexes included."""


COUNTED: dict[str, Units] = {
    "a pass with nothing due": Units(11, 0, 6.5),
    "an occurrence of a schedule, overlap=allow": Units(3, 5, 1),
    "an occurrence of a schedule, overlap=skip": Units(5, 6, 2),
    "a run that succeeds": Units(3, 5, 0),
    "a run that succeeds at attempt 2": Units(5, 9, 0),
    "a run that succeeds at attempt 4": Units(9, 17, 0),
    "a run that fails at its only attempt": Units(3, 6, 0),
    "a renewal of a lease": Units(1, 3, 0),
    "the first run of a debounced key": Units(2, 2, 1),
    "a call that is debounced": Units(3, 4, 1),
    "the run of a key": Units(1, 2, 0),
    "a call whose key has a run": Units(1, 1, 0),
    "find_run": Units(1, 0, 2),
    "a run with 10 children, and these": Units(61, 82, 18),
    "a page of 50 runs": Units(9, 0, 54),
    "a page of 100 runs": Units(9, 0, 104),
    "a list of 1,000 runs, 100 a page": Units(99, 0, 1045),
    "a search for a part of an id, 500 runs looked at": Units(13, 0, 508),
    "a page with a filter by job that nothing fits": Units(8, 0, 12),
    "stats of 5 minutes": Units(48, 1, 141.5),
    "stats of 60 minutes": Units(50, 4, 251.5),
    "stats that another process has counted": Units(1, 0, 1),
    "the overview: the page": Units(0, 0, 0),
    "the overview: an update": Units(51, 4, 252.5),
    "the runs: the page": Units(9, 0, 54),
    "the runs: an update": Units(9, 0, 24),
    "a run: the page": Units(1, 0, 1),
    "a run: an update": Units(1, 0, 1),
    "the batches: the page": Units(9, 0, 5),
    "a batch: the page": Units(2, 0, 2),
    "a batch: an update": Units(2, 0, 2),
    "the jobs: the page": Units(52, 4, 253.5),
    "the jobs: an update": Units(52, 4, 253.5),
    "the schedules: the page": Units(2, 0, 40.5),
    "the schedules: an update": Units(2, 0, 40.5),
    "a schedule: the page": Units(1, 0, 1),
    "a schedule: an update": Units(1, 0, 1),
}
"""What ``python -m benchmarks units`` counts on DynamoDB Local, by its rows; a test compares both."""

PLAIN_WRITES = 5
"""From ``create`` to ``succeeded``: the row "write units from create to succeeded, small payload"."""

MEASURED_WRITES = {
    "the same, created in a transaction": 7,
    "the same, put aside while its job is paused": 14,
    "the same with a limit, where a slot is free": 7,
    "the same with a limit, where it has to wait": 16,
    "the same with a rate, where the moment is now": 6,
    "the same with a rate, where it is put back": 10,
    "write units of a run of ten steps and a sleep, from create to succeeded": 20,
}
"""Write units of whole runs, by the rows of docs/benchmarks.md."""

STEP_WRITES, SLEEP_WRITES, WAIT_WRITES = 1, 5, 9
"""Rows "write units of a step", "… of a sleep, until the handler goes on", "… of a wait and its signal"."""

MEMBER_WRITES, BATCH_WRITES = 1.01, 8
"""Rows "write units that a member costs more than another run" and "write units of a batch itself, …"."""

RENEWALS_AN_HOUR = 3600 // 20
LOOKS_AN_HOUR = 60
"""A pass of the dispatcher finds the wake-up of a renewed run each minute, and its write is refused: one unit."""

FILL = 10
CONSUMER_GB = 0.5
CONSUMER_SECONDS = 0.025


def message(prices: Prices, *, sent_alone: bool = True) -> float:
    """Return the price of one more message, received and deleted by ten: SQS, and its part of an invocation."""
    requests = (1 if sent_alone else 0.1) + 2 / FILL
    invocation = prices.lambda_request + CONSUMER_SECONDS * CONSUMER_GB * prices.lambda_gb_second
    return requests * prices.sqs_request + invocation / FILL


class Extra(NamedTuple):
    """What something costs more than a run that succeeds at its first attempt."""

    what: str
    writes: float
    reads: float = 0
    messages: float = 0

    def price(self, prices: Prices) -> float:
        """Return its price in dollars."""
        return self.writes * prices.write_unit + self.reads * prices.read_unit + self.messages * message(prices)


def extras() -> list[Extra]:
    """Return what the features cost, the cheapest kinds first."""
    whole = {what: writes - PLAIN_WRITES for what, writes in MEASURED_WRITES.items()}
    plain = COUNTED["a run that succeeds"]

    def beyond(what: str, base: Units = plain) -> tuple[float, float]:
        units = COUNTED[what]
        return units.writes - base.writes, units.reads - base.reads

    create = COUNTED["the run of a key"]
    return [
        Extra("a [typed](typed-jobs.md) payload, a [group](fairness.md), a [hook](observe.md#hooks)", 0),
        Extra("a run that fails or is canceled, or succeeds with `ListSucceeded`: its entry in the index `listing`", 1),
        Extra("one failed [attempt](retries.md) that is kept, before the run succeeds",
              *beyond("a run that succeeds at attempt 2"), 1),
        Extra("[created in a transaction](transactions.md)", whole["the same, created in a transaction"]),
        Extra("a call whose [`dedupe_key`](dedupe.md) has a run", COUNTED["a call whose key has a run"].writes),
        Extra("the first run of a debounced key", *beyond("the first run of a debounced key", create)),
        Extra("a call that is debounced", *COUNTED["a call that is debounced"][1:]),
        Extra("an occurrence of a [schedule](schedules.md)",
              COUNTED["an occurrence of a schedule, overlap=allow"].writes - 2,
              COUNTED["an occurrence of a schedule, overlap=allow"].reads),
        Extra('… with `overlap="skip"`', COUNTED["an occurrence of a schedule, overlap=skip"].writes - 2,
              COUNTED["an occurrence of a schedule, overlap=skip"].reads),
        Extra("a [limit](limits.md), and a slot is free", whole["the same with a limit, where a slot is free"]),
        Extra("… and it has to wait", whole["the same with a limit, where it has to wait"], 0, 1),
        Extra("a rate, and its moment is now", whole["the same with a rate, where the moment is now"]),
        Extra("… and it is put back until its moment", whole["the same with a rate, where it is put back"], 0, 1),
        Extra("put aside by a [pause](pause.md), and sent later",
              whole["the same, put aside while its job is paused"], 0, 1),
        Extra("a [step](steps.md)", STEP_WRITES),
        Extra("a sleep", SLEEP_WRITES, 1, 1),
        Extra("a wait and its signal", WAIT_WRITES, 1, 1),
        Extra("a member of a [batch](batches.md)", MEMBER_WRITES),
        Extra("a batch itself", BATCH_WRITES),
        Extra("[ten children](children.md) and waiting for them, their own runs included",
              *beyond("a run with 10 children, and these"), 11),
        Extra("a retry by a person, alone or [in bulk](bulk.md)", 3, 1, 1),
        Extra("a note of [progress](runs.md), at most one a second", 1),
        Extra("an hour of an attempt in a [worker](worker.md): 180 renewals of its lease, and 60 looks at it",
              RENEWALS_AN_HOUR * COUNTED["a renewal of a lease"].writes + LOOKS_AN_HOUR),
    ]  # fmt: skip


def extras_table(prices: Prices) -> str:
    """Return what a million of each cost."""
    return table(
        ["a million of these", "write units", "read units", "messages", "US dollars"],
        [
            [each.what, f"{each.writes:g}", f"{each.reads:g}", f"{each.messages:g}",
             money(each.price(prices) * 1e6) if each.price(prices) else "0"]
            for each in extras()
        ],
    )  # fmt: skip


# Lists and counts


STATS_LEAST_READS, MINUTE_READS = 34, 2
LISTED_READS, UNFINISHED_READS, EXAMINED_READS = 0.0145, 0.00875, 0.5
"""Read units of ``Jobs.stats`` (docs/stats.md): the least with five minutes, a further minute, a run of each kind."""


def stats_reads(*, minutes: int, listed: int = 0, unfinished: int = 0) -> float:
    """Return the read units of counting anew. ``listed`` runs have ended, up to ``MOST_LISTED`` of each status."""
    return (
        STATS_LEAST_READS
        + MINUTE_READS * (minutes - 5)
        + LISTED_READS * listed
        + UNFINISHED_READS * min(unfinished, MOST_UNFINISHED)
        + EXAMINED_READS * min(unfinished, MOST_EXAMINED)
    )


EXAMINED_WHEN_COUNTED = 200
"""Unfinished runs in the table in which ``COUNTED`` was counted."""


def examining_requests(unfinished: int) -> float:
    """Return the requests for items that counting makes beyond those that ``COUNTED`` has."""
    return (min(unfinished, MOST_EXAMINED) - EXAMINED_WHEN_COUNTED) / READ_AT_ONCE


class Look(NamedTuple):
    """Something that is read."""

    what: str
    requests: float
    writes: float
    reads: float

    def price(self, prices: Prices) -> float:
        """Return its price in dollars, the requests of the process left out."""
        return self.writes * prices.write_unit + self.reads * prices.read_unit


COUNTS_AN_HOUR = 3_600_000 // COUNTED_EACH_MS
TOLD_AN_HOUR = 3_600_000 // TOLD_EACH_MS
PAUSE_LOOKS_AN_HOUR = 3_600_000 // REFRESH_MS
PAUSE_LOOK_READS = 1

LISTED_AT_ONCE = 1_000
"""Runs of the list that is counted. The size of the table does not matter, so a longer list costs as much more."""


def looks() -> list[Look]:
    """Return what lists, searches and counts cost."""
    whole = COUNTED["a list of 1,000 runs, 100 a page"]
    snapshot = COUNTED["stats of 5 minutes"].writes
    counted = stats_reads(minutes=5, listed=MOST_LISTED, unfinished=4_000)
    return [
        _look("a page of 50 runs", "a page of 50 runs"),
        _look("a page of 100 runs", "a page of 100 runs"),
        Look("a list of 100,000 runs, 100 a page", *(each * 100_000 / LISTED_AT_ONCE for each in whole)),
        _look("a run by its `dedupe_key`", "find_run"),
        _look("a search for a part of an id: 500 runs looked at", "a search for a part of an id, 500 runs looked at"),
        _look("a filter by job that none of 1,000 failed runs fits", "a page with a filter by job that nothing fits"),
        Look("[`jobs.stats()`](stats.md) of 4,000 waiting and 100,000 failed runs",
             COUNTED["stats of 5 minutes"].requests + examining_requests(4_000), snapshot, counted),
        _look("the same within five seconds, from another process", "stats that another process has counted"),
        Look("an hour of a busy consumer process: counts, progress, and what is paused",
             COUNTS_AN_HOUR + TOLD_AN_HOUR + PAUSE_LOOKS_AN_HOUR, COUNTS_AN_HOUR + TOLD_AN_HOUR,
             PAUSE_LOOKS_AN_HOUR * PAUSE_LOOK_READS),
        Look("a pass of the dispatcher with nothing due", *COUNTED["a pass with nothing due"]),
    ]  # fmt: skip


def _look(what: str, row: str) -> Look:
    return Look(what, *COUNTED[row])


def looks_table(prices: Prices) -> str:
    """Return what a thousand looks of each kind cost."""
    return table(
        ["a thousand of these", "requests of one", "write units", "read units", "US dollars"],
        [
            [look.what, f"{look.requests:,.0f}", f"{look.writes:,.4g}", f"{look.reads:,.1f}".removesuffix(".0"),
             money(look.price(prices) * 1_000)]
            for look in looks()
        ],
    )  # fmt: skip


# The console

DAY_SECONDS = 8 * 3600
"""A page that stays open and in view."""

PAGES = {
    "the overview": 5,
    "the runs": 10,
    "a run": 15,
    "a batch": 5,
    "the jobs": 5,
    "the schedules": 15,
}
"""How often each asks again, in seconds (docs/console.md). The run has ended; one near a change asks each two."""


def day_of(page: str, prices: Prices) -> tuple[float, float, float, float]:
    """Return requests, write units, read units and dollars of a day on which a page stays open."""
    first, update = COUNTED[f"{page}: the page"], COUNTED[f"{page}: an update"]
    updates = DAY_SECONDS // PAGES[page]
    requests, writes, reads = (one + updates * each for one, each in zip(first, update, strict=True))
    return requests, writes, reads, writes * prices.write_unit + reads * prices.read_unit


def console_table(prices: Prices) -> str:
    """Return what a day at each page of the console costs."""
    rows = []
    for page, seconds in PAGES.items():
        update = COUNTED[f"{page}: an update"]
        requests, _, _, dollars = day_of(page, prices)
        rows.append([page, f"{seconds} s", f"{update.requests:g}", f"{update.writes:g} + {update.reads:g}",
                     f"{requests:,.0f}", money(dollars)])  # fmt: skip
    most = stats_reads(minutes=60, listed=2 * MOST_LISTED, unfinished=MOST_UNFINISHED)
    snapshot = SNAPSHOT_BYTES / 1024
    looks = DAY_SECONDS // PAGES["the overview"]
    dollars = looks * (snapshot * prices.write_unit + most * prices.read_unit)
    requests = COUNTED["the overview: an update"].requests + examining_requests(MOST_UNFINISHED)
    rows.insert(1, ["… the dearest: 20,000 runs unfinished, 10,000 failed and canceled each", "5 s", f"{requests:.0f}",
                    f"{snapshot:g} + {most:,.0f}", f"{looks * requests:,.0f}", money(dollars)])  # fmt: skip
    sqs = DAY_SECONDS // 5
    rows.append(["dead letters", "5 s", "1 to SQS", "0 + 0", f"{sqs:,}", money(sqs * prices.sqs_request)])
    head = ["page", "asks each", "requests", "write + read units", "requests of a day", "US dollars a day"]
    return table(head, rows)


# A worker

VCPU, GB = 1, 2
"""Of the task in docs/worker.md."""

POLL_SECONDS = 20


def task_month(prices: Prices) -> float:
    """Return what a Fargate task costs that is always on, and asks an idle queue."""
    hour = VCPU * prices.fargate_vcpu_hour + GB * prices.fargate_gb_hour
    return MONTH_HOURS * hour + MONTH_HOURS * 3600 / POLL_SECONDS * prices.sqs_request


def function_hour(prices: Prices) -> float:
    """Return what an hour of a function with the task's memory costs."""
    return 3600 * GB * prices.lambda_gb_second


def worker_table(prices: Prices) -> str:
    """Return what a month of attempts costs in a function, one at a time, and in a task."""
    task = task_month(prices)
    rows = [
        [
            f"{share:.0%}",
            f"{share * MONTH_HOURS:,.0f}",
            money(share * MONTH_HOURS * function_hour(prices)),
            money(task + share * MONTH_HOURS * _renewed_hour(prices)),
            money(task * prices.fargate_spot_share + share * MONTH_HOURS * _renewed_hour(prices)),
        ]
        for share in (0.1, 0.25, 0.5, 1.0)
    ]
    return table(["busy", "hours of attempts", "a function", "a task", "a task on Spot"], rows)


def cheaper_hours(prices: Prices) -> float:
    """Return the hours of attempts a month from which on the task costs less than the function."""
    return task_month(prices) / (function_hour(prices) - _renewed_hour(prices))


def _renewed_hour(prices: Prices) -> float:
    return (RENEWALS_AN_HOUR * COUNTED["a renewal of a lease"].writes + LOOKS_AN_HOUR) * prices.write_unit


# Beside other services


def batch_members(run: float, prices: Prices) -> float:
    """Return what a million members of a batch cost, given the price of a run."""
    return 1e6 * (run + MEMBER_WRITES * prices.write_unit) + BATCH_WRITES * prices.write_unit


def steps_and_a_sleep(prices: Prices) -> float:
    """Return what a million runs of ten steps and a sleep cost: units, two messages, and two parts of an invocation."""
    writes = MEASURED_WRITES["write units of a run of ten steps and a sleep, from create to succeeded"]
    messages = 2 * (1 + 2 / FILL) * prices.sqs_request + 2 / FILL * prices.lambda_request
    return 1e6 * (writes * prices.write_unit + prices.read_unit + messages)
