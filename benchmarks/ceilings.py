"""Which limit is met first, and how late runs are beyond it: AWS's quotas, and what one process can do. Free of AWS."""

from __future__ import annotations

import math
from typing import NamedTuple

from benchmarks.features import COUNTED
from benchmarks.prices import MONTH_SECONDS, table
from kumofire_core.engine.counts import SHARDS as COUNT_SHARDS
from kumofire_core.engine.counts import TELL_AFTER_MS as COUNTED_EACH_MS
from kumofire_core.engine.dispatcher import CHUNK, CHUNKS_IN_FLIGHT, LOOK_AHEAD
from kumofire_core.engine.progress import TELL_AFTER_MS as TOLD_EACH_MS
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.rules.listing import LIST_SHARDS
from kumofire_core.rules.redelivery import LONGEST_SECONDS
from kumofire_core.rules.wake_ups import LEAST_SHARDS_READ

PARTITION_WRITES = 1_000
"""Write units a second of one partition.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html"""

NEW_TABLE_WRITES = 4_000
"""Write units a second that a new on-demand table takes at once, and each of its indexes.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/on-demand-capacity-mode.html"""

TABLE_WRITES = 40_000
"""Write units a second of a table, by an account's default quota.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html"""

IN_FLIGHT = 120_000
"""Messages of a standard queue that were received and not deleted, about.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html"""

MAPPING_STARTS, MAPPING_GROWS, MAPPING_MOST = 5, 300, 1_000
"""Batches at a time that Lambda begins with, adds in a minute, and has at most for one queue.
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html"""

CONCURRENCY = 1_000
"""Concurrent executions of an account's functions, by default.
https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""

RECORDS = 10
"""Messages that a consumer of the template receives at once."""

BATCH_SECONDS = 0.025
"""A batch's requests with 4 ms to DynamoDB, as docs/benchmarks.md measures it."""

TABLE_UNITS, INDEX_UNITS, INDEX_UNITS_LATER = 3, 2, 4
"""Write units of a small run that succeeds: the table's, the wake index's, and the latter's if the dispatcher sends
it."""

LIMITED_RUNS = int(PARTITION_WRITES / 2 * 0.8)
"""Runs a second of one item of a limit: two writes a run, each of one unit while at most eleven runs have or await a
slot, and a fifth of the partition kept back."""


def shards_for(runs_a_second: float, *, later: bool, headroom: float = 0.5) -> int:
    """Return how many shards keep every index partition below ``headroom`` of its limit."""
    index_units = INDEX_UNITS_LATER if later else INDEX_UNITS
    return max(1, math.ceil(runs_a_second * index_units / (PARTITION_WRITES * headroom)))


def most_runs_a_second(*, consumers: int, handler_seconds: float, at_once: int = 10) -> float:
    """Return the runs a second that so many consumers execute with batches of ten, each of them ``at_once``."""
    rounds = math.ceil(RECORDS / at_once)
    return consumers * RECORDS / (rounds * handler_seconds + BATCH_SECONDS)


# The dispatcher

DISPATCHED_A_MINUTE = 22_000
"""Due runs that one invocation of the dispatcher sends in a minute at 512 MB: 10,000 take it 8 seconds of a core
(docs/benchmarks.md), and 512 MB give 29 % of one. https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html"""

INDEX_UNITS_TO_SEND = 2
"""Write units of its index partition that sending a due run takes: its index key moves, a delete and a put."""

TICK_SECONDS = 60
TIMEOUT_SECONDS = 60
"""Of the dispatcher's function in the template."""

PASS_SECONDS = TIMEOUT_SECONDS - 2 * Deadline.RESERVE_SECONDS
"""How long a pass begins new work. Then the next tick goes on."""

LEAST_AHEAD_SECONDS = LOOK_AHEAD.total_seconds() - TICK_SECONDS
"""How long before its time the tick comes, at the latest, that sends a run with a delay."""

REQUESTS_TO_SEND = 1 + 1 / CHUNK
"""Requests for each due run: an update, and a tenth of a send."""

REQUEST_SECONDS = 0.005


def seconds_to_send(due: int, *, shards: int, spread: bool = True) -> float:
    """Return how long it takes to send runs that are due in one minute, from the tick that finds them.

    Spread, each partition has an invocation of its own, and is as fast as that one, as its writes, and as its part of
    what the account lets the index take. A cold start and the tick's look at all partitions come before. Where an
    invocation's time is up, the work rests until the next tick.
    """
    if not spread:
        return _with_rests(due * 60 / DISPATCHED_A_MINUTE)
    of_one = math.ceil(due / shards)
    invocation, writes = of_one * 60 / DISPATCHED_A_MINUTE, of_one * INDEX_UNITS_TO_SEND / PARTITION_WRITES
    return 2 + _with_rests(max(invocation, writes, due * INDEX_UNITS_TO_SEND / TABLE_WRITES))


def _with_rests(work_seconds: float) -> float:
    rests = max(0, math.ceil(work_seconds / PASS_SECONDS) - 1)
    return work_seconds + rests * (TICK_SECONDS - PASS_SECONDS)


def late_seconds(seconds: float) -> float:
    """Return how late the last one is that so long a pass sends: it begins before the runs are due."""
    return max(0.0, seconds - LEAST_AHEAD_SECONDS)


def sent_in_a_tick(shards: int) -> int:
    """Return how many runs that are due in one minute are all sent before the next tick."""
    a_second = min(DISPATCHED_A_MINUTE / 60, PARTITION_WRITES / INDEX_UNITS_TO_SEND)
    return int((PASS_SECONDS - 2) * min(a_second * shards, TABLE_WRITES / INDEX_UNITS_TO_SEND))


# Schedules


class Firing(NamedTuple):
    """How long one pass takes schedules, by what bounds it, in seconds."""

    requests: float
    """With 5 ms a request, and as many at once as the dispatcher makes."""
    computing: float
    """The dispatcher's CPU at 512 MB."""
    index: float
    """The writes of the one partition that all schedules are in."""

    @property
    def seconds(self) -> float:
        """By whichever takes longest, with the rests between the ticks."""
        return _with_rests(max(self))


SCHEDULE_INDEX_UNITS = 2
"""Write units of the schedules' index partition that an occurrence takes: the next run time is its key."""


def firing(schedules: int, *, overlap: str = "allow") -> Firing:
    """Return how long one pass takes schedules that are due in the same minute."""
    requests = COUNTED[f"an occurrence of a schedule, overlap={overlap}"].requests + 1 / CHUNK
    computing = 60 / DISPATCHED_A_MINUTE / REQUESTS_TO_SEND
    return Firing(
        requests=schedules * requests * REQUEST_SECONDS / CHUNKS_IN_FLIGHT,
        computing=schedules * requests * computing,
        index=schedules * SCHEDULE_INDEX_UNITS / PARTITION_WRITES,
    )


def fired_in_a_tick(*, overlap: str = "allow") -> int:
    """Return how many schedules that are due in one minute a single pass makes runs of."""
    return int(PASS_SECONDS / max(firing(1, overlap=overlap)))


# Which one is first


def first_met() -> str:
    """Return the table of limits, from the one that a growing application meets first."""
    shards = LEAST_SHARDS_READ
    hidden = LONGEST_SECONDS * 3 / 4  # half of the longest time is spread evenly
    processes = COUNT_SHARDS * PARTITION_WRITES * COUNTED_EACH_MS // 1000
    telling = PARTITION_WRITES * TOLD_EACH_MS // 1000
    rows = [
        (
            "consumers, 10 by default",
            f"{most_runs_a_second(consumers=10, handler_seconds=0.1):,.0f} runs a second with handlers of 0.1 s, "
            f"{most_runs_a_second(consumers=10, handler_seconds=1):,.0f} with handlers of 1 s",
            "[`QueueAgeAlarm`](alarms.md#queueagealarm)",
            "raise `ConsumerConcurrency`",
        ),
        (
            "Lambda's growth",
            f"{MAPPING_STARTS} batches at once, {MAPPING_GROWS} more each minute, {MAPPING_MOST:,} after "
            f"{math.ceil((MAPPING_MOST - MAPPING_STARTS) / MAPPING_GROWS)} minutes",
            "a rush begins slowly",
            "nothing, or a [worker](worker.md) beside it",
        ),
        (
            "an account's concurrency",
            f"{CONCURRENCY:,} executions of all functions, 10 in some new accounts",
            "[`ConsumerThrottlesAlarm`](alarms.md#consumerthrottlesalarm)",
            "raise the quota `L-B99A9384`",
        ),
        (
            "a limit and key",
            f"{LIMITED_RUNS} runs a second that find a slot, {LIMITED_RUNS // 2} that wait",
            "requests to its item are throttled and repeated: slots stand free for longer",
            "a rate; a limit above 20, which has several items",
        ),
        (
            "a `dedupe_key`",
            f"{PARTITION_WRITES:,} calls a second for one key, {PARTITION_WRITES // 2} that debounce",
            "`create` is slow, then raises a throttling error",
            "call less often, or with several keys",
        ),
        (
            "a new table",
            f"{NEW_TABLE_WRITES // TABLE_UNITS:,} runs a second at once, twice as many each 30 minutes",
            "`create` is slow; [`RecordsFailingAlarm`](alarms.md#recordsfailingalarm) after half an hour",
            "[warm throughput](operating.md#quotas) before the rush",
        ),
        (
            "schedules of the same minute",
            f'{fired_in_a_tick():,}, or {fired_in_a_tick(overlap="skip"):,} with `overlap="skip"`',
            "`DispatcherPassesCutShort` counts; occurrences, and few due runs beside them, are late",
            "spread them over minutes; raise `FunctionMemory`",
        ),
        (
            f"the dispatcher, {shards} `WakeShards`",
            f"{sent_in_a_tick(shards):,} runs due in the same minute",
            "`DispatcherPassesCutShort` counts; the rest is late, by the table below",
            "raise `WakeShards`, then `FunctionMemory`",
        ),
        (
            f"partitions of the wake index, {shards} `WakeShards`",
            f"{shards * PARTITION_WRITES // INDEX_UNITS:,} runs a second due at once, "
            f"{shards * PARTITION_WRITES // INDEX_UNITS_LATER:,} due later",
            "as for a new table, and for good",
            "raise `WakeShards`, at half of this load",
        ),
        (
            "partitions of the listing index",
            f"{LIST_SHARDS * PARTITION_WRITES:,} runs a second that fail; as many that are canceled or put aside; as "
            "many that succeed, where these are listed",
            "as for a new table",
            "`ListSucceeded=false`; retry many with `spread`",
        ),
        (
            "a table's quota",
            f"{TABLE_WRITES:,} write units a second: {TABLE_WRITES // TABLE_UNITS:,} runs",
            "as for a new table",
            "raise the quota, or use two stacks",
        ),
        (
            "messages in flight",
            f"about {IN_FLIGHT:,}: {IN_FLIGHT // RECORDS:,} consumers of ten, where a mapping has {MAPPING_MOST:,}; or "
            f"{IN_FLIGHT / hidden:,.0f} records a second given back in an outage of the table",
            "`RecordsFailingAlarm`; SQS gives out no more for minutes (not verified for Lambda's polls)",
            "nothing: the runs are stored, and messages come back",
        ),
        (
            "consumers' progress and counts",
            f"{telling:,} processes for the one item of progress; {processes:,} for the {COUNT_SHARDS} items of a "
            f"minute's counts of ten jobs, {processes // 10:,} of a hundred",
            "a warning in the log; `jobs.stats()` lags",
            "`Counts=false`",
        ),
    ]
    return table(["limit", "met at", "what is seen then", "what to do"], rows)


def shards_table() -> str:
    """Return how many partitions of the wake index a rate needs."""
    return table(
        ["runs a second", "runs a month at that rate", "due at once", "due later"],
        [
            [
                f"{rate:,}",
                f"{rate * MONTH_SECONDS / 1e6:,.0f} million",
                f"{shards_for(rate, later=False)}",
                f"{shards_for(rate, later=True)}",
            ]
            for rate in (100, 1_000, 2_000, 10_000)
        ],
    )


def sending_table() -> str:
    """Return how long sending takes, and how late the last run is."""
    dues = (10_000, 100_000, 1_000_000)

    def cells(shards: int, *, spread: bool = True) -> list[str]:
        times = [seconds_to_send(due, shards=shards, spread=spread) for due in dues]
        return [f"{seconds:,.0f} ({late_seconds(seconds):,.0f} late)" for seconds in times]

    return table(
        ["`WakeShards`", "sent in one tick", *(f"{due:,} due" for due in dues)],
        [
            ["8, by one invocation", f"{int(PASS_SECONDS * DISPATCHED_A_MINUTE / 60):,}", *cells(8, spread=False)],
            *([str(shards), f"{sent_in_a_tick(shards):,}", *cells(shards)] for shards in (8, 16, 32, 64)),
        ],
    )


def firing_table() -> str:
    """Return how long a pass takes schedules of the same minute, and how late the last one is."""
    rows = []
    for schedules in (100, 1_000, 10_000, 100_000):
        took, skip = firing(schedules), firing(schedules, overlap="skip")
        bounds = [f"{seconds:,.1f}" if seconds < 10 else f"{seconds:,.0f}" for seconds in took]
        lates = [f"{late_seconds(each.seconds):,.0f}" for each in (took, skip)]
        rows.append([f"{schedules:,}", *bounds, *lates])
    head = ["due", "requests", "computing", "index", "the last is late by", 'by, with `overlap="skip"`']
    return table(head, rows)


def consumers_table() -> str:
    """Return how many runs a second consumers execute."""
    times = (0.01, 0.1, 1.0, 10.0)
    return table(
        ["consumers", *(f"handler of {seconds:g} s" for seconds in times)],
        [
            [
                f"{consumers:,}",
                *(f"{most_runs_a_second(consumers=consumers, handler_seconds=seconds):,.0f}" for seconds in times),
            ]
            for consumers in (2, 10, 100, 1_000)
        ],
    )
