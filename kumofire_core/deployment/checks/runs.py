"""Checks of what is stored: wake-ups, the partitions that they are spread over, runs that are late, and schedules."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from kumofire_core.aws.dynamodb import WakeUp
from kumofire_core.deployment.examination import Examination
from kumofire_core.deployment.findings import Finding, Trouble, error, note, warning
from kumofire_core.errors import CorruptItemError, KumofireError, NewerSchemaError
from kumofire_core.model.schedule import Schedule, StoredSchedule, read_schedule
from kumofire_core.model.times import LAST_MS, duration_ms, from_ms, to_ms
from kumofire_core.model.write import Attributes, Key
from kumofire_core.rules.recurrence import next_occurrence
from kumofire_core.rules.schedule_writes import SCHEDULE_SHARD
from kumofire_core.rules.wake_ups import MOST_SHARDS

LATE_WAKE_UP = timedelta(minutes=3)
"""How long after its time the dispatcher has handled a wake-up, for sure, while it ticks once a minute."""

LATE_RUN = timedelta(minutes=10)
WAKE_UPS_COUNTED = 1000
RUNS_READ_OF_A_PARTITION = 25
RUNS_READ = 200
SCHEDULES_READ = 5000
NAMED = 5
"""How many runs or schedules a finding names, at most."""

AT_ONCE = 8


def wake_ups(look: Examination) -> list[Finding]:
    """No wake-up that the dispatcher should have handled by now."""
    now_ms = to_ms(look.clock())
    _, partitions = look.partitions()
    late = [
        found
        for page in _of_partitions(
            look,
            (SCHEDULE_SHARD, *range(partitions)),
            until_ms=now_ms - duration_ms(LATE_WAKE_UP),
            page_size=WAKE_UPS_COUNTED,
        )
        for found in page
    ]
    if not late:
        return []
    first = min(late, key=lambda found: found.wake_at)
    minutes = (now_ms - first.wake_at) // 60_000
    at_least = "at least " if len(late) >= WAKE_UPS_COUNTED else ""
    return [
        error(
            "wake-ups",
            f"The dispatcher should have handled {at_least}{_count(len(late), 'wake-up')} by now, the first, of "
            f"{first.key.kind} {first.key.id}, {minutes} minutes ago. Those runs and schedules wait.",
            "Look whether the dispatcher runs (the check 'dispatcher'). If so, its log names what it can't handle.",
        )
    ]


def partitions(look: Examination) -> list[Finding]:
    """As many partitions read as runs are spread over."""
    stored, read = look.partitions()
    findings = []
    if stored is not None and not isinstance(stored, int):
        findings.append(
            warning(
                "partitions",
                f"The item settings#wake holds no whole number, so the dispatcher reads all {MOST_SHARDS} partitions.",
                "Delete the item; the next process that creates a run writes it again.",
            )
        )
    try:
        spread = look.setting(look.consumer(), "KUMOFIRE_WAKE_SHARDS")
    except Trouble:
        spread = ""  # there is no consumer, and its own check tells of it
    writes = int(spread) if spread.isdecimal() else 0
    if writes > read:
        findings.append(
            error(
                "partitions",
                f"The consumer spreads runs over {writes} partitions of the index, and the dispatcher reads {read}: it "
                "does not see the others.",
                f"Deploy the stack again, so that both have the same WakeShards, or set wake_shards of the item "
                f"settings#wake to {writes}.",
            )
        )
    # Where the number was lowered by hand, the runs are right behind the partitions that are read.
    behind = range(read, min(MOST_SHARDS, max(2 * read, 64, writes)))
    found = [page[0] for page in _of_partitions(look, behind, until_ms=None, page_size=1) if page]
    if found:
        findings.append(
            error(
                "partitions",
                f"Runs are in {len(found)} partitions of the index behind the {read} that the dispatcher reads, for "
                f"example {found[0].key.id}: the stored number was lowered.",
                f"Set wake_shards of the item settings#wake to {MOST_SHARDS}, or to the highest WakeShards that any "
                "process ever had.",
            )
        )
    return findings


def runs(look: Examination) -> list[Finding]:
    """No run that is due for long and has not started. Looks at the earliest wake-ups, and reads 200 runs at most."""
    now_ms = to_ms(look.clock())
    _, partitions = look.partitions()
    earliest = sorted(
        (
            found
            for page in _of_partitions(look, range(partitions), until_ms=None, page_size=RUNS_READ_OF_A_PARTITION)
            for found in page
        ),
        key=lambda found: found.wake_at,
    )
    keys = [found.key for found in earliest if found.key.kind == "run"][:RUNS_READ]
    with look.asking("dynamodb"):
        items = [item for start in range(0, len(keys), 100) for item in _items(look, keys[start : start + 100])]
    late = sorted(
        (due, str(item["pk"]).partition("#")[2], str(item.get("job_name")))
        for item in items
        if item.get("status") in ("scheduled", "queued")
        and "parked" not in item
        and isinstance(due := item.get("scheduled_for"), int)
        and due <= now_ms - duration_ms(LATE_RUN)
    )
    if not late:
        return []
    due, run_id, job = late[0]
    return [
        warning(
            "runs",
            f"{len(late)} of {_count(len(items), 'unfinished run')} looked at are due for more than "
            f"{duration_ms(LATE_RUN) // 60_000} minutes and have not started. The first is {run_id} of job {job}, due "
            f"since {from_ms(due):%Y-%m-%d %H:%M} UTC.",
            "Look at the consumer's errors and throttles. If it is busy, raise ConsumerConcurrency or RunConcurrency.",
        )
    ]


def schedules(look: Examination) -> list[Finding]:
    """No enabled schedule that can never fire again, and none that can't be read."""
    unreadable: list[str] = []
    newer: list[str] = []
    never: list[str] = []
    ended: list[str] = []
    for schedule_id, item in _schedules(look):
        try:
            stored = read_schedule(schedule_id, item)
            if stored.schedule.enabled:
                _next(stored)
        except NewerSchemaError:
            newer.append(schedule_id)
            continue
        except (KumofireError, ValueError, OverflowError) as problem:
            text = str(problem) if isinstance(problem, CorruptItemError) else f"{schedule_id} ({problem})"
            unreadable.append(text)
            continue
        schedule = stored.schedule
        if schedule.enabled and schedule.next_run_at is None:
            (never if schedule.last_scheduled_at is None else ended).append(_name(schedule))
    findings = []
    if unreadable:
        findings.append(
            error(
                "schedules",
                f"{_count(len(unreadable), 'schedule')} can't be read, and so never fire: {_named(unreadable)}.",
                "Delete them and create them again, or restore the table's items.",
            )
        )
    if newer:
        findings.append(
            warning(
                "schedules",
                f"{_count(len(newer), 'schedule')} were written by a later release, which this one can't read: "
                f"{_named(newer)}.",
                "Install that release here, and deploy it.",
            )
        )
    if never:
        findings.append(
            warning(
                "schedules",
                f"{_count(len(never), 'enabled schedule')} have never fired and never will, because they have no next "
                f"run time: {_named(never)}.",
                "Change their expression, start or end (update_schedule), or delete them.",
            )
        )
    if ended:
        findings.append(
            note(
                "schedules",
                f"{_count(len(ended), 'enabled schedule')} have no occurrence left: {_named(ended)}.",
                "Nothing, or delete them.",
            )
        )
    return findings


def _next(stored: StoredSchedule) -> None:
    """Calculate an occurrence, as firing does; raises what firing would."""
    next_occurrence(stored.timing, stored.schedule.created_at)


def _schedules(look: Examination) -> Iterator[tuple[str, Attributes]]:
    after, count = None, 0
    while count < SCHEDULES_READ:
        with look.asking("dynamodb"):
            keys, after = look.items.page(SCHEDULE_SHARD, limit=100, after=after)
            found = look.items.get_many(keys)
        for key in keys:
            if key in found:
                yield key.id, found[key]
        count += len(keys)
        if after is None:
            return


def _of_partitions(
    look: Examination, partitions: range | tuple[int, ...], *, until_ms: int | None, page_size: int
) -> list[list[WakeUp]]:
    """Return the first wake-ups of each partition up to ``until_ms``; eight partitions are read at once."""
    until = LAST_MS if until_ms is None else until_ms

    def first(partition: int) -> list[WakeUp]:
        return next(look.items.wake_ups(partition, until_ms=until, page_size=page_size))

    with look.asking("dynamodb"), ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(first, partitions))


def _items(look: Examination, keys: list[Key]) -> list[Attributes]:
    names = ("pk", "status", "scheduled_for", "job_name", "parked")
    return list(look.items.get_many(keys, names=names, consistent=False).values())


def _name(schedule: Schedule) -> str:
    return schedule.schedule_key or schedule.id


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
