"""What single things cost in requests and units, as DynamoDB Local reports them: features, lists, the console's pages.

``benchmarks.growth`` prices these counts. It needs Java and DynamoDB Local (``tools.dynamodb_local``). The queue is one
that takes any message; its requests are not counted.
"""

from __future__ import annotations

import html
import json
import logging
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from benchmarks.counted import READS, AnyQueue, CountingClient, bench_client
from benchmarks.endpoint import Endpoint
from benchmarks.filled import fill
from benchmarks.measure import Row
from tools.dynamodb_local import NotThereError, beside_dynamodb_local

FAILED = 1_000
"""Failed runs in the table that is looked at. What a page costs does not depend on their number."""

WAITING = 100
MEMBERS = 100
SCHEDULES = 20
CHILDREN = 10
ON_THE_SCREEN = 20
"""Rows of the list that a person sees at once, and that are read again."""


class Units(NamedTuple):
    """What was counted: requests to the table, write units and read units, those of the indexes included."""

    requests: float
    writes: float
    reads: float


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure in a process of its own, without a network; the canned endpoint has no capacity to report."""
    try:
        found: dict[str, list[float]] = json.loads(beside_dynamodb_local("benchmarks.units"))
    except NotThereError as reason:
        return [Row(what="read units of a look at the console", value=None, detail=str(reason))]
    return [
        Row(
            what=f"requests: {what}", value=units.requests, detail=f"{units.writes:g} write, {units.reads:g} read units"
        )
        for what, counted in found.items()
        for units in [Units(*counted)]
    ]


def main() -> None:
    """Run DynamoDB Local, count, and print the counts as JSON."""
    logging.disable()
    with bench_client() as client:
        print(json.dumps(counted(client)))


def counted(client: Any, table: str = "units") -> dict[str, Units]:
    """Count in a new table of this name."""
    fill(client, table, FAILED)
    world = _World(client, table)
    world.register()
    return _firing(world) | _features(world) | _looks(world)


class _AllThatCosts(CountingClient):
    """It also counts what DynamoDB Local takes nothing for: a refused write, and a read that finds nothing.

    A refused write of an item of 1 KB at most takes one unit. An item that is not there takes as much as a small one,
    and so does a query without a result (the latter not verified). Many threads may ask at the same time.
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
    """

    def __init__(self, client: Any) -> None:
        self._lock = threading.Lock()
        super().__init__(client)

    def __getattr__(self, operation: str) -> Any:
        method = getattr(self._client, operation)

        def counted(**parameters: Any) -> Any:
            writes = reads = 0.0
            try:
                reply = method(**{**parameters, "ReturnConsumedCapacity": "INDEXES"})
                consumed = reply.get("ConsumedCapacity", [])
                units = sum(each["CapacityUnits"] for each in (consumed if isinstance(consumed, list) else (consumed,)))
                if operation in READS:
                    reads = max(units, _least(operation, parameters))
                else:
                    writes = units
            except ClientError as error:
                if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
                    writes = 1.0
                raise
            finally:
                with self._lock:
                    self.requests += 1
                    self.writes += writes
                    self.reads += reads
            return reply

        return counted


def _least(operation: str, parameters: dict[str, Any]) -> float:
    """Return the read units that a request takes at least."""
    if operation == "batch_get_item":
        asked = parameters["RequestItems"].values()
        return sum(len(each["Keys"]) * (1.0 if each.get("ConsistentRead") else 0.5) for each in asked)
    return 1.0 if parameters.get("ConsistentRead") else 0.5


class _World:
    """A ``Jobs`` on a table that is counted, with a clock that is moved."""

    def __init__(self, client: Any, table: str) -> None:
        from kumofire_core import Jobs, RetryPolicy

        self.now = datetime.now(UTC)
        self.counting = _AllThatCosts(client)
        self.batch_id = ""
        self.jobs: Any = Jobs(
            table=table,
            queue_url="queue",
            dynamodb=self.counting,  # type: ignore[arg-type]  # it makes the requests that are counted
            sqs=AnyQueue(),  # type: ignore[arg-type]  # it takes any message
            clock=lambda: self.now,
            retry=RetryPolicy(next_run_at=lambda *, now, **others: now),
        )
        self.of: Units

    def register(self) -> None:
        """Register the handlers; the first message also reads what is paused."""
        from kumofire_core.engine.run_store import new_token
        from kumofire_core.rules import run_writes

        jobs = self.jobs

        @jobs.handler("email")
        def email(ctx: Any) -> dict[str, Any]:
            return {"sent": True}

        @jobs.handler("fails", max_attempts=5)
        def fails(ctx: Any) -> None:
            if ctx.attempt < ctx.payload["attempts"]:
                raise ValueError("no such address")

        @jobs.handler("long")
        def long(ctx: Any) -> None:
            found = jobs._store.find(ctx.run.id)
            self.begin()
            now_ms = jobs._store.now_ms() + 20_000
            assert jobs._store.apply(
                ctx.run.id, run_writes.renew(found, new_token(), now_ms=now_ms, lease_ms=60_000)
            ).applied
            self.of = self.units()

        @jobs.handler("parent")
        def parent(ctx: Any) -> int:
            self.batch_id = ctx.create_children([{"name": "email", "payload": None}] * CHILDREN)
            return len(ctx.wait_for_children())

        self.consume("nobody")

    def begin(self) -> None:
        """Count from zero."""
        self.counting.begin()

    def units(self) -> Units:
        """Return what was counted since ``begin``."""
        return Units(self.counting.requests, self.counting.writes, self.counting.reads)

    def consume(self, run_id: str) -> Any:
        """Give a message to the consumer a second later. Its look at the pauses is left out."""
        self.now += timedelta(seconds=1)
        self.jobs._consumer._pauses._read_ms = self.jobs._store.now_ms()
        return self.jobs.consume({"version": 1, "kumofireJobRunId": run_id})

    def status(self, run_id: str) -> str:
        """Return a run's status; it is counted like any request."""
        return str(self.jobs.get_status(run_id).status)


def _features(world: _World) -> dict[str, Units]:
    found: dict[str, Units] = {}
    jobs = world.jobs

    def count(what: str, call: Any) -> Any:
        world.begin()
        answer = call()
        found[what] = world.units()
        return answer

    def whole(job: str, payload: Any = None, attempts: int = 1) -> str:
        run_id: str = jobs.create(job, payload)
        for _ in range(attempts):
            world.consume(run_id)
        return run_id

    count("a run that succeeds", lambda: whole("email"))
    for attempts in (2, 4):
        run_id = count(
            f"a run that succeeds at attempt {attempts}",
            lambda attempts=attempts: whole("fails", {"attempts": attempts}, attempts),
        )
        assert world.status(run_id) == "succeeded"
    run_id = count("a run that fails at its only attempt", lambda: _failing(world))
    assert world.status(run_id) == "failed"
    whole("long")
    found["a renewal of a lease"] = world.of
    later = {"dedupe_key": "index-7", "dedupe": "debounce", "delay": 600}
    count("the first run of a debounced key", lambda: jobs.create("email", None, **later))
    world.now += timedelta(seconds=1)
    count("a call that is debounced", lambda: jobs.create("email", None, **later))
    count("the run of a key", lambda: jobs.create("email", None, dedupe_key="order-7"))
    count("a call whose key has a run", lambda: jobs.create("email", None, dedupe_key="order-7"))
    count("find_run", lambda: jobs.find_run(dedupe_key="order-7"))
    run_id = count(f"a run with {CHILDREN} children, and these", lambda: _with_children(world))
    assert world.status(run_id) == "succeeded"
    return found


def _failing(world: _World) -> str:
    run_id: str = world.jobs.create("fails", {"attempts": 2}, max_attempts=1)
    world.consume(run_id)
    return run_id


def _with_children(world: _World) -> str:
    from kumofire_core.model.batch import member_run_id

    run_id: str = world.jobs.create("parent", None)
    world.consume(run_id)
    for index in range(CHILDREN):
        world.consume(member_run_id(world.batch_id, index))
    world.consume(run_id)
    return run_id


def _firing(world: _World) -> dict[str, Units]:
    """Count passes of the dispatcher over schedules that are due, for each of these."""
    found: dict[str, Units] = {}
    jobs, hour = world.jobs, timedelta(hours=1)
    jobs.dispatch()
    world.begin()
    jobs.dispatch()
    idle = found["a pass with nothing due"] = world.units()
    for overlap in ("allow", "skip"):
        ids = [
            jobs.create_schedule("email", schedule_type="interval", schedule_expr=hour, overlap=overlap)
            for _ in range(SCHEDULES)
        ]
        for _ in range(2):  # a schedule's first occurrence has no earlier run to look at
            world.now += hour - timedelta(minutes=1)
            world.begin()
            assert jobs.dispatch().schedules == SCHEDULES
            spent = [now - before for now, before in zip(world.units(), idle, strict=True)]
            world.now += timedelta(minutes=1)
            for run in jobs.list_runs(limit=100, status="scheduled").runs + jobs.list_runs(status="queued").runs:
                assert world.consume(run.id).outcome == "succeeded"
        found[f"an occurrence of a schedule, overlap={overlap}"] = Units(*(each / SCHEDULES for each in spent))
        for schedule_id in ids:
            jobs.disable_schedule(schedule_id)
    return found


def _looks(world: _World) -> dict[str, Units]:
    from starlette.testclient import TestClient

    from kumofire_core.console import Access
    from kumofire_core.console.app import build
    from kumofire_core.engine.counts import counts_keys, minute_of
    from kumofire_core.model.batch import member_run_id

    jobs, found = world.jobs, {}
    jobs.create_many([{"name": "email", "payload": {"to": f"user-{n}"}, "delay": 3600} for n in range(WAITING)])
    batch_id = jobs.create_batch([{"name": "email", "payload": None}] * MEMBERS)
    world.consume(member_run_id(batch_id, 0))  # so that there is something to count
    minute = minute_of(jobs._store.now_ms())
    for key in (key for ago in range(60) for key in counts_keys(minute - ago)):
        jobs._store.table.put(key, {"succeeded|email": 100, "ms|email": 20_000})
    schedule_id = jobs.list_schedules(limit=1).schedules[0].id

    def count(what: str, call: Any) -> Any:
        world.begin()
        answer = call()
        found[what] = world.units()
        return answer

    def whole_list() -> None:
        seen, page = 0, None
        while True:
            part = jobs.list_runs(status="failed", limit=100, page=page)
            seen, page = seen + len(part.runs), part.next_page
            if page is None:
                break
        assert seen >= FAILED

    count("a page of 50 runs", lambda: jobs.list_runs(status="failed", limit=50))
    count("a page of 100 runs", lambda: jobs.list_runs(status="failed", limit=100))
    count(f"a list of {FAILED:,} runs, 100 a page", whole_list)
    count("a search for a part of an id, 500 runs looked at", lambda: jobs.list_runs(status="failed", text="nowhere"))
    count("a page with a filter by job that nothing fits", lambda: jobs.list_runs(status="failed", job_name="nobody"))
    for minutes in (5, 60):
        count(f"stats of {minutes} minutes", lambda minutes=minutes: jobs.stats(minutes=minutes, fresh=True))
    count("stats that another process has counted", lambda: _another(world).stats(minutes=60))

    app = build(
        jobs,
        authorize=lambda request: Access(act=True, payloads=True),
        read_only=False,
        hosts=None,
        title="units",
        dead_letters_of=lambda: None,  # type: ignore[arg-type,return-value]  # no page of these asks for it
        clock=lambda: world.now,
    )
    client = TestClient(app)

    def look(what: str, address: str, *, part: bool = False) -> str:
        world.now += timedelta(seconds=10)  # past what is shared for five seconds
        headers = {"HX-Request": "true"} if part else {}
        answer = count(what, lambda: client.get(address, headers=headers))
        assert answer.status_code == 200, (address, answer.text)
        return str(answer.text)

    look("the overview: the page", "/")
    look("the overview: an update", "/overview", part=True)
    shown = look("the runs: the page", "/runs?status=failed")
    [again] = {html.unescape(at) for at in re.findall(r'hx-get="([^"]*runs/rows[^"]*)"', shown)}
    ids = "".join(f"&id=failed-{number}" for number in range(ON_THE_SCREEN))
    look("the runs: an update", again + ids, part=True)
    look("a run: the page", "/runs/failed-7")
    look("a run: an update", "/runs/failed-7/live", part=True)
    look("the batches: the page", "/batches")
    look("a batch: the page", f"/batches/{batch_id}")
    look("a batch: an update", f"/batches/{batch_id}/live", part=True)
    look("the jobs: the page", "/jobs")
    look("the jobs: an update", "/jobs", part=True)
    look("the schedules: the page", "/schedules")
    look("the schedules: an update", "/schedules", part=True)
    look("a schedule: the page", f"/schedules/{schedule_id}")
    look("a schedule: an update", f"/schedules/{schedule_id}", part=True)
    return found


def _another(world: _World) -> Any:
    """Return a ``Jobs`` as another process would have it: it finds the shared answer in the table alone."""
    from kumofire_core import Jobs

    return Jobs(
        table=world.jobs._store.table.name,
        queue_url="queue",
        dynamodb=world.counting,  # type: ignore[arg-type]
        sqs=AnyQueue(),  # type: ignore[arg-type]
        clock=lambda: world.now,
    )


if __name__ == "__main__":
    main()
