"""What steps cost: CPU beside a loop that makes the same requests, and write units as DynamoDB Local reports them.

The units need Java and DynamoDB Local (``tools.dynamodb_local``). Without them only CPU is measured.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.counted import AnyQueue, CountingClient, bench_table
from benchmarks.endpoint import Endpoint
from benchmarks.material import Recorder, Requests, make_jobs, plain_client, run_ids
from benchmarks.measure import Row, cpu_ms, ratio, rounds
from tools.dynamodb_local import NotThereError, beside_dynamodb_local

STEPS = 10


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure, on one core."""
    ids = run_ids(2 if quick else 4)
    requests: Requests = []

    def stepping(client: Any) -> Any:
        return make_jobs(dynamodb=client, email=_ten_steps)

    def ours(jobs: Any) -> Any:
        def work() -> None:
            for run_id in ids:
                jobs.consume({"version": 1, "kumofireJobRunId": run_id})

        return work

    ours(stepping(Recorder(plain_client(), requests)))()
    made = [(operation, given) for operation, given in requests if operation in ("put_item", "update_item")]
    client = plain_client()

    def raw() -> None:
        for operation, parameters in made:
            getattr(client, operation)(**parameters)

    works = {"raw": raw, "ours": ours(stepping(plain_client())), "ours, our client": ours(stepping(None))}
    works["ours"]()
    endpoint.counts()
    works["ours"]()
    puts = endpoint.counts().get("PutItem", 0)
    samples = rounds({name: cpu_ms(work, len(ids) * STEPS) for name, work in works.items()}, 3 if quick else 41)
    return [
        Row(what="requests for a step", value=puts / len(ids) / STEPS, at_most=1, at_least=1),
        ratio(samples, "ours", "raw", "a run of ten steps, on boto3's default client, over the raw loop", at_most=1.25),
        ratio(samples, "ours, our client", "raw", "a run of ten steps as shipped, over the raw loop"),
        *_units(),
    ]


def _units() -> list[Row]:
    what = "write units of a run of ten steps and a sleep, from create to succeeded"
    try:
        units: dict[str, float] = json.loads(beside_dynamodb_local("benchmarks.steps"))
    except NotThereError as reason:
        return [Row(what=what, value=None, detail=str(reason))]
    return [
        Row(what="write units of a run of ten steps", value=units["steps"]),
        Row(what=what, value=units["steps and a sleep"], detail=f"and {units['read']:g} read units"),
        Row(what="write units of a step", value=units["a step"], at_most=1, at_least=1),
        Row(what="write units of a sleep, until the handler goes on", value=units["a sleep"]),
        Row(what="write units of a wait and its signal", value=units["a wait"]),
    ]


def _ten_steps(ctx: Any) -> dict[str, Any]:
    for number in range(STEPS):
        ctx.step(f"step-{number}", dict, number=number)
    return {"sent_to": "user@example.com"}


def main() -> None:
    """Run DynamoDB Local, measure, and print the units as JSON."""
    from kumofire_core import Jobs

    now = [datetime(2026, 3, 14, tzinfo=UTC)]
    with bench_table() as client:
        counting = CountingClient(client)
        jobs = Jobs(
            table="bench",
            queue_url="queue",
            dynamodb=counting,  # type: ignore[arg-type]  # it makes the requests that are measured
            sqs=AnyQueue(),  # type: ignore[arg-type]  # it takes any message
            clock=lambda: now[0],
        )

        @jobs.handler("steps")
        def steps(ctx: Any) -> None:
            for number in range(ctx.payload["steps"]):
                ctx.step(f"step-{number}", dict, number=number)
            if ctx.payload.get("sleeps"):
                ctx.sleep(timedelta(minutes=10))
            if ctx.payload.get("waits"):
                ctx.wait_for("go")

        jobs.consume({"version": 1, "kumofireJobRunId": "nobody"})  # the first one also reads what is paused

        def units(**payload: Any) -> tuple[float, float, float]:
            counting.begin()
            run_id = jobs.create("steps", payload)
            message = {"version": 1, "kumofireJobRunId": run_id}
            jobs.consume(message)
            if payload.get("waits"):
                jobs.signal(run_id, "go", {"by": "Ann"})
                jobs.consume(message)
            if payload.get("sleeps"):
                now[0] += timedelta(minutes=10)
                jobs._consumer._pauses._read_ms = jobs._store.now_ms()
                jobs.consume(message)
            counted = counting.writes, counting.reads, counting.requests
            assert str(jobs.get_status(run_id).status) == "succeeded"  # type: ignore[union-attr]
            return counted

        plain, ten = units(steps=0), units(steps=STEPS)
        slept, slept_after_ten, waited = units(steps=0, sleeps=1), units(steps=STEPS, sleeps=1), units(steps=0, waits=1)
        measured = {
            "steps": ten[0],
            "steps and a sleep": slept_after_ten[0],
            "read": slept_after_ten[1],
            "a step": (ten[0] - plain[0]) / STEPS,
            "a sleep": slept[0] - plain[0],
            "a wait": waited[0] - plain[0],
        }
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
