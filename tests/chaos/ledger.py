"""The ledger: what handlers did, written outside of everything that is tested, and the verdict on it.

One line for each event, appended by a single ``write`` to a file opened with ``O_APPEND``: lines of processes that are
killed in the next instant are there, whole, in the order in which they were written. Free of the engine, so that a
handler costs nothing but its line.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMED_OUT = "timed_out"
"""How an attempt is kept whose time limit was over."""


def enter(path: str | Path, event: str, **fields: Any) -> None:
    """Append one event, with the process that it happened in."""
    line = json.dumps({"event": event, "pid": os.getpid(), **fields}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@contextmanager
def execution(
    enter: Callable[..., object], ctx: Any, *, lease_ms: int, now_ms: Callable[[], int], **fields: Any
) -> Iterator[None]:
    """Enter by ``enter`` that a handler begins with ``ctx``, and how it ends."""
    name = {"run_id": ctx.run.id, "fence": ctx.fencing_token}
    enter(
        "begin",
        **name,
        job=ctx.run.job_name,
        attempt=ctx.attempt,
        max_attempts=ctx.run.max_attempts,
        claimed_ms=int(ctx.now.timestamp() * 1000),
        lease_ms=lease_ms,
        begun_ms=now_ms(),
        scheduled_ms=int(ctx.run.scheduled_for.timestamp() * 1000),
        **fields,
    )
    how = "suspended"
    try:
        yield
        how = "returned"
    except Exception:
        how = "raised"
        raise
    finally:
        enter("end", **name, how=how)


def read(path: str | Path) -> list[dict[str, Any]]:
    """Return all events so far; a line that is being written is left out."""
    if not Path(path).exists():
        return []
    text = Path(path).read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in text.splitlines()]


@dataclass
class Execution:
    """One call of a handler."""

    run_id: str
    fence: int
    attempt: int
    max_attempts: int
    pid: int
    claimed_ms: int
    """When its claim was made, by the claimer's clock: what its lease counts from."""
    lease_ms: int
    """How long the lease of this claim must last, by the protocol and not by the stored item."""
    begun_ms: int
    begun_at: int
    """Its place in the ledger."""
    holds_until_ms: int
    """Until when nobody else may begin: the end of its lease, or when it was cut."""
    ended_at: int | None = None
    ended: str | None = None


@dataclass
class Verdict:
    """What a ledger and the stored items say when they are held against the protocol."""

    executions: int = 0
    unended: int = 0
    """Calls that ended with their process."""
    problems: list[str] = field(default_factory=list)


def executions_of(
    events: Iterable[Mapping[str, Any]], items: Iterable[Mapping[str, Any]] = ()
) -> tuple[list[Execution], list[str]]:
    """Return the executions that a ledger tells of, in order, and what is wrong with it by itself.

    A handler whose time limit is over goes on in its thread, and its run goes on without it. So an execution holds its
    run no longer than until its attempt was recorded as timed out, if ``items`` say so and its limit was over by then,
    and no longer than until the handler itself saw that it was cut.
    """
    cut_ms = _cuts(items)
    found: dict[tuple[str, int], Execution] = {}
    problems = []
    for place, event in enumerate(events):
        if event["event"] not in ("begin", "end", "cut"):
            continue
        key = (event["run_id"], event["fence"])
        if event["event"] == "cut":
            found[key].holds_until_ms = min(event["at_ms"], found[key].holds_until_ms)
            continue
        if event["event"] == "begin":
            if key in found:
                problems.append(f"{key[0]}: two executions under the claim {key[1]}")
                continue
            found[key] = Execution(
                run_id=key[0],
                fence=key[1],
                attempt=event["attempt"],
                max_attempts=event["max_attempts"],
                pid=event["pid"],
                claimed_ms=event["claimed_ms"],
                lease_ms=event["lease_ms"],
                begun_ms=event["begun_ms"],
                begun_at=place,
                holds_until_ms=event["claimed_ms"] + event["lease_ms"],
            )
            cut = cut_ms.get((key[0], event["attempt"]))
            if cut is not None and cut >= event["claimed_ms"] + event.get("timeout_ms", event["lease_ms"]):
                found[key].holds_until_ms = min(cut, found[key].holds_until_ms)
            if event["begun_ms"] + 1_000 < event["scheduled_ms"]:
                problems.append(f"{key[0]}: begun {event['scheduled_ms'] - event['begun_ms']} ms before its time")
        elif key not in found:
            problems.append(f"{key[0]}: claim {key[1]} ended without having begun")
        else:
            found[key].ended_at, found[key].ended = place, event["how"]
    return list(found.values()), problems


def _cuts(items: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], int]:
    """Return when the attempts that are kept as timed out have ended, by run and number."""
    kept = [(id_of(item), json.loads(item["attempts"])) for item in items if is_run(item) and "attempts" in item]
    return {
        (run_id, attempt[1]): attempt[3]
        for run_id, attempts in kept
        for attempt in attempts
        if attempt[4:5] == [TIMED_OUT]
    }


def overlaps(executions: Iterable[Execution]) -> list[str]:
    """Return the executions of a run that began while an earlier one's lease held and it had not ended.

    An execution that ended with its process holds its lease like any other.
    """
    problems = []
    by_run: dict[str, list[Execution]] = defaultdict(list)
    for execution in executions:
        by_run[execution.run_id].append(execution)
    for run_id, of_run in by_run.items():
        for earlier in of_run:
            for later in of_run:
                if later.fence <= earlier.fence:
                    continue
                if later.begun_at < earlier.begun_at:
                    problems.append(f"{run_id}: claim {later.fence} was executed before claim {earlier.fence}")
                # ``ended_at`` is the ledger's order, which no clock disturbs. A claim's own instant is when it was
                # asked for: on a busy machine a while before it was made.
                unended = earlier.ended_at is None or earlier.ended_at > later.begun_at
                left_ms = earlier.holds_until_ms - later.begun_ms
                if unended and left_ms > 0:
                    problems.append(
                        f"{run_id}: claim {later.fence} ran while claim {earlier.fence} had {left_ms} ms of its lease"
                    )
    return problems


def is_run(item: Mapping[str, Any]) -> bool:
    """Say whether an item is a run, and not what is kept beside one."""
    return str(item["pk"]).startswith("run#") and item.get("sk", "run") == "run"


def id_of(item: Mapping[str, Any]) -> str:
    """Return the id of the run or of the batch that an item is."""
    return str(item["pk"]).partition("#")[2]


def judge(
    events: list[dict[str, Any]],
    items: Iterable[Mapping[str, Any]],
    *,
    uncounted: float = 0,
    given_back: Collection[str] = (),
) -> Verdict:
    """Hold a ledger, and all stored items at the end, against the protocol's invariants.

    ``uncounted`` is how many claims may have been given back unexecuted without an entry in the ledger. Of the jobs
    ``given_back`` any number may have been: they have limits, or sleep and wait.
    """
    items = list(items)
    executions, problems = executions_of(events, items)
    problems += overlaps(executions)
    verdict = Verdict(executions=len(executions), unended=sum(each.ended_at is None for each in executions))
    by_run: dict[str, list[Execution]] = defaultdict(list)
    for execution in executions:
        by_run[execution.run_id].append(execution)
        if execution.attempt > execution.max_attempts:
            problems.append(f"{execution.run_id}: attempt {execution.attempt} of {execution.max_attempts} was executed")
    unstarted = Counter(event["run_id"] for event in events if event["event"] == "unstarted")
    succeeded = {event["run_id"]: place for place, event in enumerate(events) if event["event"] == "succeeded"}
    for event, count in Counter(
        (event["event"], event["run_id"]) for event in events if event["event"] == "succeeded"
    ).items():
        if count > 1:
            problems.append(f"{event[1]}: told to have succeeded {count} times")
    retried = {event["run_id"] for event in events if event["event"] == "retried"}
    occurrences: Counter[tuple[str, int]] = Counter()
    keys: Counter[tuple[str, int]] = Counter()
    stored: dict[str, Mapping[str, Any]] = {}
    for item in items:
        if not is_run(item):
            continue
        id = id_of(item)
        stored[id] = item
        problems += [f"{id}: {problem}" for problem in _item_problems(item)]
        keys[item.get("dedupe_key", id), item.get("generation") or 1] += 1
        if "schedule_id" in item:
            occurrences[item["schedule_id"], item["scheduled_for"]] += 1
        of_run = by_run.get(id, [])
        claims, status = item.get("claims", 0), item["status"]
        if of_run and max(each.fence for each in of_run) > claims:
            problems.append(f"{id}: executed under a claim that the table knows nothing of")
        if len(of_run) > claims:
            problems.append(f"{id}: {len(of_run)} executions of {claims} claims")
        if status == "succeeded" and (not of_run or of_run[-1].ended != "returned"):
            problems.append(f"{id}: succeeded, and its last execution did not return")
        # Each claim ends in a counted attempt or in the success, but for those given back unexecuted.
        counted = item["attempt"] + (status == "succeeded")
        if id not in retried and counted > claims:
            problems.append(f"{id}: {counted} attempts counted of {claims} claims")
        counts = id not in retried and item.get("job_name") not in given_back
        if counts and (missing := claims - unstarted[id] - counted) > 0:
            uncounted -= missing
            if uncounted < 0:
                problems.append(f"{id}: {claims} claims, {unstarted[id]} given back, and {counted} attempts counted")
        if id in succeeded and status != "succeeded":
            problems.append(f"{id}: had succeeded, and is {status}")
        if id in succeeded and any(each.begun_at > succeeded[id] for each in of_run):
            problems.append(f"{id}: executed after it had succeeded")
    problems += [f"{run_id}: executed, and not stored" for run_id in by_run if run_id not in stored]
    problems += [f"schedule {id}: {count} runs for {at}" for (id, at), count in occurrences.items() if count > 1]
    problems += [f"dedupe key {key}: {count} runs" for (key, _), count in keys.items() if count > 1]
    verdict.problems += problems
    return verdict


def _item_problems(item: Mapping[str, Any]) -> list[str]:
    problems = []
    if item["status"] not in ("succeeded", "failed", "canceled"):
        problems.append(f"did not end: it is {item['status']}, attempt {item['attempt']}")
    elif left := {"wake_shard", "wake_at", "lease_token", "lease_until"} & item.keys():
        problems.append(f"is {item['status']} and has {sorted(left)}")
    if item["attempt"] > item.get("max_attempts", item["attempt"]):
        problems.append(f"attempt {item['attempt']} of {item['max_attempts']}")
    if "attempts" in item:
        # Each is a list that begins with how often the run had been retried, and its number. The last ten are kept.
        kept = [tuple(attempt[:2]) for attempt in json.loads(item["attempts"])]
        current = [number for retries, number in kept if retries == item.get("retries", 0)]
        if kept != sorted(set(kept)) or current != list(range(item["attempt"] + 1))[1:][-len(kept) :]:
            problems.append(f"keeps the attempts {kept}, and {item['attempt']} were counted")
    return problems
