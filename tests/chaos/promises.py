"""The promises of batches, steps, signals, limits, rates, pauses, renewals, transactions, keys and bulk operations.

Each function holds the events of a ledger, and the stored items at the end, against one promise, and returns what is
wrong. An event's place in the ledger is the order in which things happened, which no clock disturbs.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tests.chaos.ledger import Execution, executions_of, id_of, is_run

Events = Sequence[Mapping[str, Any]]
Items = Sequence[Mapping[str, Any]]

PAUSED_WITHIN_MS = 60_000

CLOCK_SKEW_MS = 1_000
"""How early something may be: what clocks may differ by."""


def broken_batches(events: Events, items: Items) -> list[str]:
    """Every batch is done, and has its members; its one callback begins after each of them has ended for good.

    For runs that nobody retries: another end may come after the callback.
    """
    problems = []
    runs = {id_of(item): item for item in items if is_run(item)}
    by_run = _by_run(events)
    members: dict[str, list[str]] = defaultdict(list)
    callbacks: dict[str, list[str]] = defaultdict(list)
    for run_id, item in runs.items():
        if "batch" in item:
            members[item["batch"].split(" ")[0]].append(run_id)
        if "after" in item:
            callbacks[item["after"]].append(run_id)
    batches = {id_of(item): item for item in items if str(item["pk"]).startswith("batch#")}
    for batch_id, batch in batches.items():
        name, of_batch = f"batch {batch_id}", members[batch_id]
        if "done_at" not in batch:
            problems.append(f"{name}: is not done")
        if "cancel_requested_at" not in batch and len(of_batch) != batch["total"]:
            problems.append(f"{name}: {len(of_batch)} members of {batch['total']}")
        statuses = Counter(runs[run_id]["status"] for run_id in of_batch)
        for status in ("succeeded", "failed", "canceled"):
            completed = batch.get("sealed_by") != batch.get("canceled_by") or "canceled_by" not in batch
            if "done_at" in batch and completed and batch.get(status, 0) != statuses[status]:
                problems.append(f"{name}: counted {batch.get(status, 0)} {status}, and {statuses[status]} are")
        wanted = 1 if "then_name" in batch else 0
        if len(callbacks[batch_id]) != wanted:
            problems.append(f"{name}: {len(callbacks[batch_id])} callbacks instead of {wanted}")
        for callback in callbacks[batch_id]:
            called = by_run.get(callback, [])
            if not called:
                continue
            if batch.get("then_if") == "succeeded" and statuses["succeeded"] != len(of_batch):
                problems.append(f"{name}: its callback was called, and not all members have succeeded")
            first = min(each.begun_at for each in called)
            for run_id in of_batch:
                last = max(by_run.get(run_id, []), key=lambda each: each.fence, default=None)
                if last is None:
                    continue
                # What returns after its lease was over is not recorded: the run had ended without it.
                ended = _returned_at(last) if runs[run_id]["status"] == "succeeded" else -1
                if max(last.begun_at, ended) > first:
                    problems.append(f"{name}: its callback began before {run_id} had ended")
    problems += [f"batch {batch_id}: is not stored" for batch_id in (*members, *callbacks) if batch_id not in batches]
    return problems


def broken_outputs(events: Events, items: Items) -> list[str]:
    """What a run of a chain is given as the output of the one before is the stored output of that run."""
    outputs = {id_of(item): item.get("output") for item in items if is_run(item)}
    problems = []
    for event in _of(events, "given"):
        stored = outputs.get(event["of"])
        if stored is None or json.loads(stored) != event["output"]:
            problems.append(f"{event['run_id']}: was given {event['output']!r} of {event['of']}, which has {stored}")
    return problems


def broken_steps(events: Events) -> list[str]:
    """All calls of a step return one value, and none executes it again that began after it had returned."""
    problems = []
    begun = {(each.run_id, each.fence): each.begun_at for each in executions_of(events)[0]}
    returned: dict[tuple[str, str], tuple[int, Any]] = {}
    made: dict[tuple[str, str], set[Any]] = defaultdict(set)
    for place, event in enumerate(events):
        step = (event.get("run_id", ""), event.get("step", ""))
        name = f"{step[0]}: step {step[1]}"
        if event["event"] == "effect":
            made[step].add(event["value"])
            if step in returned and begun[event["run_id"], event["fence"]] > returned[step][0]:
                problems.append(f"{name} was executed again by claim {event['fence']}, after it was kept")
        elif event["event"] == "returned":
            first = returned.setdefault(step, (place, event["value"]))
            if first[1] != event["value"]:
                problems.append(f"{name} returned {event['value']!r}, and before {first[1]!r}")
            if event["value"] not in made[step]:
                problems.append(f"{name} returned {event['value']!r}, which it never made")
    return problems


def broken_sleeps(events: Events) -> list[str]:
    """No sleep is shorter than it was asked for, from the first call on, but for what clocks may differ by."""
    asked: dict[str, int] = {}
    problems = []
    for event in events:
        if event["event"] == "sleeps":
            asked.setdefault(event["run_id"], event["at_ms"])
        elif event["event"] == "slept":
            short_ms = asked[event["run_id"]] + event["for_ms"] - event["at_ms"]
            if short_ms > CLOCK_SKEW_MS:
                problems.append(f"{event['run_id']}: slept {short_ms} ms too short")
    return problems


def broken_signals(events: Events) -> list[str]:
    """One payload is the one that a run gets, in every call; and whoever is told so gave that one."""
    problems = []
    kept: dict[str, set[Any]] = defaultdict(set)
    given: dict[str, set[Any]] = defaultdict(set)
    got: dict[str, set[Any]] = defaultdict(set)
    for event in events:
        if event["event"] == "gives":
            given[event["run_id"]].add(event["value"])
        elif event["event"] == "gave" and event["kept"]:
            kept[event["run_id"]].add(event["value"])
        elif event["event"] == "got":
            got[event["run_id"]].add(event["value"])
    for run_id in given.keys() | got.keys():
        if len(kept[run_id]) > 1:
            problems.append(f"{run_id}: {len(kept[run_id])} payloads were told to be the one")
        if len(got[run_id]) > 1:
            problems.append(f"{run_id}: got {len(got[run_id])} payloads")
        if strange := got[run_id] - given[run_id] - {None}:
            problems.append(f"{run_id}: got {sorted(strange)}, which nobody gave")
        if kept[run_id] and got[run_id] and kept[run_id] != got[run_id]:
            problems.append(f"{run_id}: got {got[run_id]}, and {kept[run_id]} was told to be the one")
    return problems


def broken_limits(events: Events, items: Items, limits: Mapping[str, int]) -> list[str]:
    """Never more handlers of a slot's name execute at once than its limit says.

    A ``begin`` lists its ``slots``. Who has outlived the lease, or was cut by a time limit, does not count.
    """
    problems = []
    executions = {(each.run_id, each.fence): each for each in executions_of(events, items)[0]}
    holders: dict[str, list[Execution]] = defaultdict(list)
    for place, event in enumerate(events):
        if event["event"] != "begin":
            continue
        new = executions[event["run_id"], event["fence"]]
        for slot in event.get("slots", ()):
            held = [each for each in holders[slot] if _holds(each, place, event["begun_ms"])]
            holders[slot] = [*held, new]
            limit = limits[slot.partition("/")[0]]
            if len(held) >= limit:
                problems.append(f"{slot}: {len(held) + 1} execute at once, and {limit} may; the last is {new.run_id}")
    return problems


def _returned_at(execution: Execution) -> int:
    return -1 if execution.ended_at is None or execution.ended != "returned" else execution.ended_at


def _holds(execution: Execution, place: int, now_ms: int) -> bool:
    unended = execution.ended_at is None or execution.ended_at > place
    return unended and execution.holds_until_ms > now_ms


def broken_rates(events: Events, *, job: str, most: int, within_ms: int) -> list[str]:
    """No time of ``within_ms`` sees more than ``most`` starts of a job."""
    starts = sorted(event["begun_ms"] for event in _of(events, "begin") if event["job"] == job)
    return [
        f"{job}: {most + 1} starts within {last - first} ms"
        for first, last in zip(starts, starts[most:], strict=False)
        if last - first < within_ms
    ]


def broken_pauses(events: Events, *, job: str) -> list[str]:
    """Nothing of a job begins from a minute after it was paused until it is resumed."""
    problems = []
    since_ms: int | None = None
    for event in events:
        if event["event"] == "paused":
            since_ms = event["at_ms"]
        elif event["event"] == "resumes":
            since_ms = None
        elif event["event"] == "begin" and event["job"] == job and since_ms is not None:
            late_ms = event["begun_ms"] - since_ms
            if late_ms > PAUSED_WITHIN_MS:
                problems.append(f"{event['run_id']}: began {late_ms} ms after its job was paused")
    return problems


def broken_renewals(events: Events) -> list[str]:
    """Nothing begins beside a handler of a worker, however long it takes, unless it was cut or its process stood still.

    A process that renews leases says so first. "Cut" is what the handler itself has seen. A process stands still
    somewhere between where it says that it freezes and where it says that it has thawed.
    """
    problems = []
    renewing = {event["pid"] for event in _of(events, "renews")}
    cut = {(event["run_id"], event["fence"]): place for place, event in enumerate(events) if event["event"] == "cut"}
    frozen = _frozen(events)
    for run_id, executions in _by_run(events).items():
        for earlier, later in pairwise(executions):
            ended = earlier.ended_at is not None and earlier.ended_at < later.begun_at
            if ended or earlier.pid not in renewing:
                continue
            if cut.get((run_id, earlier.fence), later.begun_at) < later.begun_at:
                continue
            if any(since < later.begun_at and earlier.begun_at < until for since, until in frozen[earlier.pid]):
                continue
            problems.append(f"{run_id}: claim {later.fence} ran beside claim {earlier.fence}, which was not cut")
    return problems


def _frozen(events: Events) -> Mapping[int, list[tuple[int, int]]]:
    """Return the places in the ledger between which a process stood still, by process."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for place, event in enumerate(events):
        if event["event"] == "freezes":
            found[event["pid"]].append((place, len(events)))
        elif event["event"] == "thawed":
            since, _ = found[event["pid"]].pop()
            found[event["pid"]].append((since, place))
    return found


def broken_transactions(events: Events, items: Items, *, job: str) -> list[str]:
    """A run exists if and only if the item does that was written with it, and who was told of a commit made both."""
    problems = []
    runs = {id_of(item): item for item in items if is_run(item) and item["job_name"] == job}
    owned = {item["run"]: item["pk"] for item in items if str(item["pk"]).startswith("own#")}
    problems += [f"{name}: its run {run_id} does not exist" for run_id, name in owned.items() if run_id not in runs]
    problems += [f"{run_id}: exists without its item" for run_id in runs if run_id not in owned]
    for event in _of(events, "committed"):
        if event["run_id"] not in runs or event["run_id"] not in owned:
            problems.append(f"{event['run_id']}: was told to be committed")
    return problems


def broken_keys(events: Events, items: Items) -> list[str]:
    """With ``unfinished``, a key's runs follow each other; with a time, no two are made within it.

    For runs that nobody retries.
    """
    problems = []
    by_run = _by_run(events)
    periods = {event["key"]: event["period_ms"] for event in _of(events, "period")}
    by_key: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        if is_run(item) and "dedupe_key" in item:
            by_key[item["dedupe_key"]].append(item)
    for key, runs in by_key.items():
        runs.sort(key=lambda item: item.get("generation") or 1)
        for earlier, later in pairwise(runs):
            ids = id_of(earlier), id_of(later)
            if key in periods and (apart := later["created_at"] - earlier["created_at"]) < periods[key]:
                problems.append(f"dedupe key {key}: two runs within {apart} ms, {ids}")
            last = max((each.begun_at for each in by_run.get(ids[0], [])), default=-1)
            first = min((each.begun_at for each in by_run.get(ids[1], [])), default=last)
            if key.startswith("alone") and first < last:
                problems.append(f"dedupe key {key}: {ids[0]} was executed after {ids[1]}")
    return problems


def broken_debounces(events: Events) -> list[str]:
    """A debounced run gets the payload of no call that another one followed before the handler was called."""
    problems = []
    called: dict[str, tuple[int, Any]] = {}
    asked: dict[Any, int] = {}
    told: dict[str, list[tuple[int, int, Any]]] = defaultdict(list)
    for place, event in enumerate(events):
        if event["event"] == "debounces":
            asked[event["value"]] = place
        elif event["event"] == "debounced":
            told[event["run_id"]].append((asked[event["value"]], place, event["value"]))
        elif event["event"] == "indexes":
            first = called.setdefault(event["run_id"], (place, event["value"]))
            if first[1] != event["value"]:
                problems.append(f"{event['run_id']}: was called with two payloads")
    for run_id, (begun, value) in called.items():
        returned = min((end for _, end, of in told[run_id] if of == value), default=begun)
        if later := [of for start, end, of in told[run_id] if returned < start and end < begun]:
            problems.append(f"{run_id}: was called with {value!r}, and {later[-1]!r} had replaced it")
    return problems


def broken_bulk(events: Events, items: Items) -> list[str]:
    """Each operation is done, and retries each of its runs once at most, whoever works on it."""
    operations = {event["bulk_id"]: event["run_ids"] for event in _of(events, "bulk")}
    may = Counter(run_id for run_ids in operations.values() for run_id in run_ids)
    problems = [
        f"{id_of(item)}: retried {item['retries']} times by {may[id_of(item)]} operations"
        for item in items
        if is_run(item) and item.get("retries", 0) > may[id_of(item)]
    ]
    done = {id_of(item) for item in items if str(item["pk"]).startswith("bulk#") and "done_at" in item}
    return problems + [f"operation {bulk_id}: is not done" for bulk_id in operations if bulk_id not in done]


def _of(events: Iterable[Mapping[str, Any]], name: str) -> Iterator[Mapping[str, Any]]:
    return (event for event in events if event["event"] == name)


def _by_run(events: Events) -> dict[str, list[Execution]]:
    found: dict[str, list[Execution]] = defaultdict(list)
    for execution in executions_of(events)[0]:
        found[execution.run_id].append(execution)
    return found
