"""What grows with the number of runs: cost, limits, and waiting. A calculation from list prices, free of AWS.

``python -m benchmarks.growth [--docs docs]`` prints the tables of docs/growth.md, or writes them there with its plots.
Free tiers, data transfer, logs and the handlers' own work are left out, for all that is compared alike.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks import ceilings, features
from benchmarks.plots import lines
from benchmarks.prices import MONTH_SECONDS, Prices, money, table
from benchmarks.report import folder_of
from kumofire_core.rules import wake_ups
from kumofire_core.rules.wake_ups import LEAST_SHARDS_READ

TICKS_A_MONTH = MONTH_SECONDS // 60
RUNS_A_MONTH = tuple(10**power for power in range(10))
LEAST_RUNS_SHOWN = 10_000
PAYLOAD_KB = (1, 10, 100, 350)

BEGIN, END = "<!-- calculated -->\n", "<!-- end of calculated -->"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked for. The handler's own time is what every alternative would pay too, so only ours is counted."""

    payload_kb: float = 0.2
    fill: float = 10
    """Records in a batch: 1 when runs come one at a time, 10 when there is always a backlog."""
    later: bool = False
    """Each run is due later than SQS can delay, so the dispatcher sends it."""
    shards: int = 8
    memory_gb: float = 0.5
    batch_seconds: float = ceilings.BATCH_SECONDS
    retention_days: float = 30


OTHER_KB = 0.6
"""A run's attributes beside its payload: keys, tokens, times, name."""


def write_units(load: Load) -> float:
    """Return the write units of a run from ``create`` to ``succeeded``: three writes of the item, two of the index."""
    size = math.ceil(OTHER_KB + load.payload_kb)
    # The dispatcher's write moves the index key, which DynamoDB bills as a delete and a put.
    return 3 * size + 2 + (size + 2 if load.later else 0)


BESIDE_KB = 0.1
"""What an item that holds a payload alone has beside it: its keys and its time to live. A reference takes as much."""

STRONGLY_READ_KB = 4
"""What one read unit reads consistently.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/on-demand-capacity-mode.html"""


def units_beside(load: Load) -> tuple[int, int]:
    """Return the write and read units of a run whose payload is an item of its own, put before it and read once.

    That item has no index entry and goes by its time to live, which costs nothing.
    """
    size = load.payload_kb + BESIDE_KB
    return int(write_units(replace(load, payload_kb=0)) + math.ceil(size)), math.ceil(size / STRONGLY_READ_KB)


def sqs_requests(load: Load) -> float:
    """Return the SQS requests of a run: its send, and its part of the batch's receive and delete."""
    return (0.1 if load.later else 1) + 2 / load.fill


def per_run(load: Load, prices: Prices) -> float:
    """Return what one more run costs."""
    kept_gb_months = _kept(OTHER_KB + load.payload_kb, load)
    return (
        write_units(load) * prices.write_unit
        + sqs_requests(load) * prices.sqs_request
        + (prices.lambda_request + load.batch_seconds * load.memory_gb * prices.lambda_gb_second) / load.fill
        + kept_gb_months * (prices.stored_gb_month + prices.backup_gb_month)
    )


GET_SECONDS = 0.010
"""What reading the payloads of a batch, all at once, adds to its time: from an item."""

S3_GET_SECONDS = 0.030
"""The same from S3."""


def per_run_beside(load: Load, prices: Prices) -> float:
    """Return what one more run costs whose payload is an item of its own beside it."""
    small = replace(load, payload_kb=0, batch_seconds=load.batch_seconds + GET_SECONDS)
    writes, reads = units_beside(load)
    return (
        per_run(small, prices)
        + (writes - write_units(small)) * prices.write_unit
        + reads * prices.read_unit
        + _kept(load.payload_kb + BESIDE_KB, load) * (prices.stored_gb_month + prices.backup_gb_month)
    )


def per_run_s3(load: Load, prices: Prices) -> float:
    """Return what one more run costs whose payload is a reference to an object in S3, put before it and read once."""
    small = replace(load, payload_kb=MARKER_KB, batch_seconds=load.batch_seconds + S3_GET_SECONDS)
    kept = _kept(load.payload_kb, load) * prices.s3_gb_month
    return per_run(small, prices) + prices.s3_put + prices.s3_get + kept


MARKER_KB = 0.2
"""The text that stands for a value in S3: key, size, checksum and time."""


def per_run_output(kb: float, prices: Prices) -> float:
    """Return what an output in the item adds to the price of a run: to its last write, and to what is kept."""
    load = Load()
    size = math.ceil(OTHER_KB + load.payload_kb + kb)
    kept = _kept(kb, load) * (prices.stored_gb_month + prices.backup_gb_month)
    return (size - 1) * prices.write_unit + kept


def per_run_output_s3(kb: float, prices: Prices) -> float:
    """Return what an output in S3 adds: a put, the time of it, and what is kept."""
    load = Load()
    took = S3_GET_SECONDS * load.memory_gb * prices.lambda_gb_second / load.fill
    kept = _kept(MARKER_KB, load) * (prices.stored_gb_month + prices.backup_gb_month)
    return prices.s3_put + took + kept + _kept(kb, load) * prices.s3_gb_month


def output_cheaper_from(prices: Prices) -> float:
    """Return the output in KB, in steps of 0.1, from which on S3 costs less than the item for good."""
    sizes = [step / 10 for step in range(1, 3_500)]
    dearer = [kb for kb in sizes if per_run_output_s3(kb, prices) >= per_run_output(kb, prices)]
    return round(dearer[-1] + 0.1, 1)


def sweep_of(objects: float, prices: Prices) -> float:
    """Return what one sweep of the bucket costs: a list of each thousand objects, and a look at the run of each."""
    lists, looks = objects / 1_000, objects * 0.5  # an eventually consistent read of a small item
    return lists * prices.s3_put + looks * prices.read_unit


def _kept(kb: float, load: Load) -> float:
    return kb / 1e6 * load.retention_days / 30.4


Layout = Callable[[Load, Prices], float]


def cheaper_from(layout: Layout, other: Layout, prices: Prices) -> float:
    """Return the payload in KB, in steps of 0.1, from which on ``layout`` costs less than ``other`` for good."""
    sizes = [step / 10 for step in range(1, 3_500)]
    dearer = [kb for kb in sizes if layout(Load(payload_kb=kb), prices) >= other(Load(payload_kb=kb), prices)]
    return round(dearer[-1] + 0.1, 1) if dearer else 0.0


def most_saved_beside(prices: Prices) -> float:
    """Return the most that a payload beside saves over the cheaper of inline and S3, in dollars a run."""
    loads = [Load(payload_kb=step / 10) for step in range(1, 3_500)]
    return max(min(per_run(load, prices), per_run_s3(load, prices)) - per_run_beside(load, prices) for load in loads)


def idle_reads(shards: int) -> float:
    """Return the read units of a pass of the dispatcher that finds nothing due."""
    return (max(shards, LEAST_SHARDS_READ) + 1) * 0.5 + 2


def idle(load: Load, prices: Prices) -> float:
    """Return what a month costs in which nothing runs: a tick a minute, and Lambda's long polls of the queue."""
    # A query for each partition that holds runs, one for the schedules, and reads of their number and of the pauses.
    tick = idle_reads(load.shards) * prices.read_unit
    tick += prices.lambda_request + 0.1 * load.memory_gb * prices.lambda_gb_second
    # Five pollers that each ask again after 20 s: the start of scaling, kept where a maximum concurrency is set.
    polls = 5 * MONTH_SECONDS / 20
    return TICKS_A_MONTH * tick + polls * prices.sqs_request


def month(runs: float, load: Load, prices: Prices) -> float:
    """Return what a month with this many runs costs."""
    return idle(load, prices) + runs * per_run(load, prices)


def alternatives(load: Load, prices: Prices) -> dict[str, float]:
    """Return what one run costs elsewhere, each with one Lambda invocation of 5 ms beside the handler's own time.

    Step Functions: two state transitions, the fewest that one task can take. Durable functions: an execution with one
    step is two operations. Scheduler: it only starts a function; nothing is known of it afterwards.
    """
    invocation = prices.lambda_request + 0.005 * load.memory_gb * prices.lambda_gb_second
    gb = load.payload_kb / 1e6
    durable = 2 * prices.durable_operation + gb * (prices.durable_written_gb + prices.durable_kept_gb_month * 14 / 30.4)
    return {
        "Step Functions Standard": 2 * prices.standard_transition + invocation,
        "Step Functions Express": prices.express_request + 0.1 * 0.0625 * prices.express_gb_second + invocation,
        "Lambda durable functions": durable + invocation,
        "EventBridge Scheduler": prices.scheduler_invocation + invocation,
    }


STEP_SECONDS = 10
GIVE_UP_SECONDS = 48 * 3600


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """What became of a backlog."""

    drained_after_seconds: float | None
    """From when consumers worked again; ``None``: not within two days."""
    longest_wait_seconds: float
    copies_a_run: float
    """Messages sent again because their run was waiting, for each run that came."""


def drain(*, capacity: float, outage_seconds: float, handler_seconds: float) -> Backlog:
    """Let one run come a second and consumers stop for ``outage_seconds``, then execute up to ``capacity`` a second.

    First come first served. The dispatcher looks at a waiting run as its own rules say, and sends it again only where
    these take its message for lost, or as the one probe of consumers that stand still. A copy waits its turn like any
    message and then takes a consumer one request, where a run takes two and its handler's time.
    """
    copy = ceilings.REQUEST_SECONDS / (handler_seconds + 2 * ceilings.REQUEST_SECONDS)
    runs: list[float] = []  # not yet executed, by the step in which they came
    work: list[float] = []  # what the queue holds from each step: runs, and copies as parts of a run
    resends: dict[int, list[int]] = {}
    first = 0
    progress = wake_ups.Progress(sent_ms=1, moved_ms=1)
    copies = longest = 0.0
    for now in range(GIVE_UP_SECONDS // STEP_SECONDS):
        runs.append(STEP_SECONDS)
        work.append(STEP_SECONDS)
        resends.setdefault(now + 120 // STEP_SECONDS, []).append(now)
        for created in resends.pop(now, ()):
            if created < first:
                continue
            now_ms, sent_ms, copied = now * STEP_SECONDS * 1000, created * STEP_SECONDS * 1000, 0.0
            again_ms = wake_ups.look_again_at(sent_ms, now_ms=now_ms, progress=progress)
            if wake_ups.is_lost(sent_ms, waiting=now - first + 1, progress=progress):
                copied = runs[created]
                again_ms = now_ms + min(now_ms - sent_ms + 120_000, 3_600_000)  # 2, 4, 8 … minutes
            elif wake_ups.may_probe(progress, now_ms):
                copied = 1.0
                progress = progress._replace(probes=progress.probes + 1, probed_ms=now_ms)
            copies += copied
            work[now] += copied * copy
            resends.setdefault(max(now + 1, again_ms // 1000 // STEP_SECONDS), []).append(created)
        left = capacity * STEP_SECONDS if now * STEP_SECONDS >= outage_seconds else 0.0
        while left > 0 and first <= now:
            done = min(left, work[first])
            left -= done
            work[first] -= done
            if work[first] > 1e-9:
                break
            longest = max(longest, (now - first) * STEP_SECONDS)
            first += 1
            come_to_ms = first * STEP_SECONDS * 1000
            if now * STEP_SECONDS * 1000 - progress.moved_ms >= 60_000:
                progress = wake_ups.Progress(sent_ms=come_to_ms, moved_ms=now * STEP_SECONDS * 1000)
        if first > now and now * STEP_SECONDS >= outage_seconds:
            return Backlog(
                drained_after_seconds=now * STEP_SECONDS - outage_seconds,
                longest_wait_seconds=longest,
                copies_a_run=copies / sum(runs),
            )
    return Backlog(drained_after_seconds=None, longest_wait_seconds=longest, copies_a_run=copies / sum(runs))


def tables(prices: Prices) -> str:
    """Return the tables as Markdown."""
    parts = [
        "## A month, in US dollars",
        _months(prices),
        "![Cost of a month](growth-cost.svg)",
        "### What features add to a run",
        features.extras_table(prices),
        "### A million runs by payload, and a million outputs, in US dollars",
        _payloads(prices),
        "![Cost of a million runs by payload](growth-payload.svg)",
        "### Lists, searches and counts",
        features.looks_table(prices),
        "### A working day at the console",
        features.console_table(prices),
        "### A function or a worker, a month in US dollars",
        features.worker_table(prices),
        f"The task costs less than the function from {features.cheaper_hours(prices):,.0f} hours of attempts on, one "
        f"at a time.\nAn hour of a function of {features.GB} GB costs {features.function_hour(prices):.3f} dollars, "
        f"and the task {features.task_month(prices):.2f} a month.",
        "### Batches and steps elsewhere, in US dollars",
        _others(prices),
        "## Which limit you meet first",
        ceilings.first_met(),
        "### Shards of the index for a rate",
        ceilings.shards_table(),
        "### Seconds until all is sent that is due in one minute",
        ceilings.sending_table(),
        "### Seconds until all schedules of one minute have fired",
        ceilings.firing_table(),
        "### Runs a second by consumers (`ConsumerConcurrency`)",
        ceilings.consumers_table(),
        "### After an hour in which nothing was executed",
        _backlogs(),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _months(prices: Prices) -> str:
    batched, single, later = Load(), Load(fill=1), Load(later=True)
    names = list(alternatives(batched, prices))
    return table(
        ["runs a month", "full batches", "one at a time", "due later, full batches", *names],
        [
            [
                _power(runs),
                *(money(month(runs, load, prices)) for load in (batched, single, later)),
                *(money(runs * price) for price in alternatives(batched, prices).values()),
            ]
            for runs in RUNS_A_MONTH
            if runs == 1 or runs >= LEAST_RUNS_SHOWN
        ],
    )


def _payloads(prices: Prices) -> str:
    rows = [
        [
            f"{size} KB",
            f"{write_units(load):,.0f}",
            "{:,} + {:,}".format(*units_beside(load)),
            money(per_run(load, prices) * 1e6),
            money(per_run_beside(load, prices) * 1e6),
            money(per_run_s3(load, prices) * 1e6),
            money(alternatives(load, prices)["Lambda durable functions"] * 1e6),
            money(per_run_output(size, prices) * 1e6),
            money(per_run_output_s3(size, prices) * 1e6),
        ]
        for size in PAYLOAD_KB
        for load in [Load(payload_kb=size)]
    ]
    head = ["payload or output", "write units inline", "write and read units beside", "inline", "beside", "in S3"]
    return (
        table([*head, "Lambda durable functions", "an output inline", "an output in S3"], rows)
        + f"\nBeside costs less than inline from {cheaper_from(per_run_beside, per_run, prices):g} KB on. S3 costs "
        f"less than inline from {cheaper_from(per_run_s3, per_run, prices):g} KB on, and less than beside from\n"
        f"{cheaper_from(per_run_s3, per_run_beside, prices):g} KB on. Where beside is the cheapest of the three, it "
        f"saves at most {money(most_saved_beside(prices) * 1e6)} dollars a million runs.\n"
        f"An output costs less in S3 from {output_cheaper_from(prices):g} KB on; its columns say what it adds to a "
        f"run. A sweep of a bucket with a million\nobjects costs {money(sweep_of(1e6, prices))} dollars.\n"
    )


def _others(prices: Prices) -> str:
    run, child = month(1e6, Load(), prices) / 1e6, prices.standard_transition
    express, standard = (
        alternatives(Load(), prices)[name] for name in ("Step Functions Express", "Step Functions Standard")
    )
    durable = STEPPED_OPERATIONS * prices.durable_operation + 2 * prices.lambda_request
    return table(
        ["a million", "Kumofire Jobs", "Distributed Map, Express children", "… Standard children", "durable functions"],
        [
            [
                "members of a batch",
                money(features.batch_members(run, prices)),
                money(1e6 * (child + express)),
                money(1e6 * (child + standard)),
                "",
            ],
            [
                "runs of ten steps and a sleep",
                money(features.steps_and_a_sleep(prices)),
                "",
                "",
                money(1e6 * durable),
            ],
        ],
    )


STEPPED_OPERATIONS = 11
"""Of a durable function with ten steps and a wait."""


def _backlogs() -> str:
    rows = []
    for factor in (1.25, 1.5, 2, 3, 5):
        found = [drain(capacity=factor, outage_seconds=3600, handler_seconds=seconds) for seconds in (0.0, 0.1, 1.0)]
        drained = [backlog.drained_after_seconds for backlog in found]
        copies = max(backlog.copies_a_run for backlog in found)
        rows.append(
            [
                f"{factor:g} times what comes",
                f"{max(backlog.longest_wait_seconds for backlog in found) / 60:,.0f} min",
                f"not within {GIVE_UP_SECONDS // 3600} h"
                if None in drained
                else f"{max(each for each in drained if each is not None) / 60:,.0f} min",
                f"{copies:.3f}",
            ]
        )
    return table(["consumers can do", "longest wait", "drained after", "messages sent again, a run, at most"], rows)


def plots(prices: Prices) -> Mapping[str, str]:
    """Return the plots as SVG texts, by file name."""
    batched, single = Load(), Load(fill=1)
    others = alternatives(batched, prices)
    costs = {
        "Kumofire Jobs, full batches": [(float(runs), month(runs, batched, prices)) for runs in RUNS_A_MONTH],
        "Kumofire Jobs, one at a time": [(float(runs), month(runs, single, prices)) for runs in RUNS_A_MONTH],
    } | {name: [(float(runs), runs * price) for runs in RUNS_A_MONTH] for name, price in others.items()}
    sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 350]
    by_payload = {
        **{
            f"Kumofire Jobs, {name}": [(float(kb), cost(Load(payload_kb=kb), prices) * 1e6) for kb in sizes]
            for name, cost in (("inline", per_run), ("beside", per_run_beside), ("in S3", per_run_s3))
        },
        "Lambda durable functions": [
            (float(kb), alternatives(Load(payload_kb=kb), prices)["Lambda durable functions"] * 1e6) for kb in sizes
        ],
        "Step Functions Standard (256 KB at most)": [
            (float(kb), others["Step Functions Standard"] * 1e6) for kb in sizes if kb <= 256
        ],
    }
    return {
        "growth-cost.svg": lines("Cost of a month", "runs a month", "US dollars", costs),
        "growth-payload.svg": lines("Cost of a million runs", "payload, KB", "US dollars", by_payload),
    }


def _power(number: int) -> str:
    return "1" if number == 1 else "10" + str(len(str(number)) - 1).translate(str.maketrans("123456789", "¹²³⁴⁵⁶⁷⁸⁹"))


def main(given: Sequence[str] | None = None) -> None:
    """Print the tables, or write them into the docs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument(
        "--docs",
        type=folder_of("growth.md"),
        metavar="FOLDER",
        help="write the plots there, and the tables into its growth.md",
    )
    folder = parser.parse_args(given).docs
    if folder is None:
        print(tables(Prices()))
        return
    for name, text in plots(Prices()).items():
        (folder / name).write_text(text, encoding="utf-8")
    page = folder / "growth.md"
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        parser.error(f"{page} lacks the marks {BEGIN.strip()!r} and {END!r}")
    page.write_text(before + begin + tables(Prices()) + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
