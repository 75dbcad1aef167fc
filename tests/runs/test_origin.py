"""Where a run came from: the run whose handler created it, and the name of the process that did."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest

from kumofire_core import ConfigurationError, CorruptItemError, JobContext, Jobs
from kumofire_core.config import default_creator
from kumofire_core.model.run_item import item_bytes
from tests.builders import Aws, Clock, event, message
from tests.faults import Recorded, Repeated

HOURLY = {"schedule_type": "cron", "schedule_expr": "0 * * * *"}


@pytest.fixture(autouse=True)
def _outside_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME", raising=False)


def parents(jobs: Jobs, run_ids: list[str]) -> set[str | None]:
    """Return the parents that these runs have as they are stored."""
    found = [jobs.get_status(run_id) for run_id in run_ids]
    assert None not in found
    return {run and run.parent_id for run in found}


@pytest.mark.parametrize("dedupe", [None, "kept", "unfinished", "debounce", timedelta(hours=1)])
@pytest.mark.parametrize("call", ["create", "create_many"])
def test_a_run_that_a_handler_creates_has_the_handlers_run_as_its_parent(
    aws: Aws, call: str, dedupe: str | timedelta | None
):
    jobs = aws.jobs(allow_unknown_jobs=True)
    made: list[str] = []

    @jobs.handler("import")
    def starts_others(ctx: JobContext) -> None:
        requests = [
            {"name": "email", "dedupe": dedupe, "dedupe_key": None if dedupe is None else f"k{number}"}
            for number in range(25)
        ]
        made.extend(jobs.create_many(requests) if call == "create_many" else [jobs.create(**requests[0])])

    parent = jobs.create("import")
    assert jobs.consume(message(parent)).outcome == "succeeded"

    assert len(set(made)) == (25 if call == "create_many" else 1)
    assert parents(jobs, made) == {parent}
    assert parents(jobs, [parent]) == {None}


def test_the_later_runs_of_a_key_have_parents_of_their_own(aws: Aws):
    jobs = aws.jobs(allow_unknown_jobs=True)
    made: list[str] = []

    @jobs.handler("import")
    def starts_another(ctx: JobContext) -> None:
        made.append(jobs.create("email", dedupe_key="k", dedupe="unfinished"))

    first, second = jobs.create("import"), jobs.create("import")
    jobs.consume(message(first))
    jobs.cancel(made[0])
    jobs.consume(message(second))

    assert [parents(jobs, [run_id]) for run_id in made] == [{first}, {second}]


def test_a_run_that_a_key_kept_keeps_the_parent_of_its_first_creation(aws: Aws):
    jobs = aws.jobs(allow_unknown_jobs=True)
    kept = jobs.create("email", 1, dedupe_key="k", dedupe="debounce", delay=60)
    jobs.handler("import")(lambda ctx: jobs.create("email", 2, dedupe_key="k", dedupe="debounce", delay=60))

    result = jobs.consume(message(jobs.create("import")))

    run = jobs.get_status(kept)
    assert result.outcome == "succeeded"
    assert run is not None
    assert (run.payload, run.parent_id) == (2, None)


def test_each_of_a_batch_is_the_parent_of_what_its_own_handler_created(aws: Aws):
    jobs = aws.jobs(concurrency=8, allow_unknown_jobs=True)
    together = threading.Barrier(4, timeout=10)
    made: dict[str, str] = {}

    @jobs.handler("plain")
    def plain(ctx: JobContext) -> None:
        together.wait()
        made[ctx.run.id] = jobs.create("email")

    @jobs.handler("async")
    async def coroutine(ctx: JobContext) -> None:
        await asyncio.sleep(0)
        made[ctx.run.id] = jobs.create("email")

    @jobs.handler("async in a thread")
    async def in_a_thread(ctx: JobContext) -> None:
        made[ctx.run.id] = await asyncio.to_thread(jobs.create, "email")

    run_ids = [jobs.create(name) for name in ("plain", "async", "async in a thread") for _ in range(4)]
    jobs.consume_batch(event(*run_ids))

    assert set(made) == set(run_ids)
    assert {parent: parents(jobs, [child]) for parent, child in made.items()} == {
        parent: {parent} for parent in run_ids
    }


def test_what_is_created_after_an_attempt_or_by_a_hook_has_no_parent(aws: Aws):
    jobs = aws.jobs(allow_unknown_jobs=True, handlers={"email": lambda ctx: None})
    made: list[str] = []
    jobs.on("succeeded")(lambda told: made.append(jobs.create("report")))

    jobs.consume(message(jobs.create("email")))
    made.append(jobs.create("email"))

    assert jobs.wait_for_hooks(timedelta(seconds=10))
    assert len(made) == 2
    assert parents(jobs, made) == {None}


def test_a_run_of_a_schedule_has_the_schedule_and_no_parent(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, creator="the dispatcher", handlers={"email": lambda ctx: None})
    schedule_id = jobs.create_schedule("email", **HOURLY)
    triggered: list[str | None] = []
    jobs.handler("import")(lambda ctx: triggered.append(jobs.trigger_schedule(schedule_id)))
    jobs.consume(message(jobs.create("import")))
    clock.advance(hours=1)

    jobs.dispatch()

    runs = jobs.list_runs(job_name="email").runs
    assert len(runs) == 2
    assert {(run.schedule_id, run.parent_id, run.created_by) for run in runs} == {(schedule_id, None, "the dispatcher")}


def test_a_run_keeps_the_occurrence_that_it_is_for_however_late_and_often_it_is_attempted(aws: Aws, clock: Clock):
    seen: list[datetime | None] = []
    jobs = aws.jobs(clock=clock)

    @jobs.handler("report")
    def fails_once(ctx: JobContext) -> None:
        seen.append(ctx.run.occurrence)
        if ctx.attempt == 1:
            raise ConnectionError

    due = clock.now + timedelta(hours=1)
    jobs.create_schedule("report", schedule_type="once", schedule_expr=due)
    clock.advance(hours=30)
    jobs.dispatch()
    [listed] = jobs.list_runs().runs
    jobs.consume(message(listed.id))
    clock.advance(minutes=1)
    jobs.consume(message(listed.id))

    run = jobs.get_status(listed.id)
    assert run is not None
    assert run.status == "succeeded"
    assert run.scheduled_for > due + timedelta(hours=29), "the retry has moved it"
    assert {listed.occurrence, run.occurrence, *seen} == {due}


def test_a_triggered_run_is_for_the_time_of_the_call_and_another_run_for_none(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, allow_unknown_jobs=True)
    schedule_id = jobs.create_schedule("email", **HOURLY)
    clock.advance(minutes=7)

    triggered = jobs.get_status(str(jobs.trigger_schedule(schedule_id)))
    created = jobs.get_status(jobs.create("email"))

    assert triggered is not None
    assert created is not None
    assert (triggered.occurrence, created.occurrence) == (clock.now, None)


@pytest.mark.parametrize("occurrence", [10**17, "noon"])
def test_an_occurrence_that_is_no_time_makes_an_item_corrupt(aws: Aws, jobs: Jobs, occurrence: object):
    with pytest.raises(CorruptItemError, match="wrong value"):
        jobs.get_status(aws.a_run(occurrence=occurrence))


@pytest.mark.parametrize(
    ("creator", "function", "name"),
    [
        (None, None, None),
        ("the web shop", None, "the web shop"),
        (None, "shop-Checkout-1A2B", "shop-Checkout-1A2B"),
        ("the web shop", "shop-Checkout-1A2B", "the web shop"),
        (None, "", None),
    ],
)
def test_a_run_names_the_process_that_created_it(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, creator: str | None, function: str | None, name: str | None
):
    if function is not None:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", function)
    jobs = aws.jobs(creator=creator, handlers={"email": lambda ctx: None})

    one, *many = [jobs.create("email"), *jobs.create_many([{"name": "email"}, {"name": "email", "dedupe_key": "k"}])]

    stored = [aws.item(run_id) for run_id in (one, *many)]
    assert [item and item.get("created_by") for item in stored] == [name] * 3
    assert ("created_by" in (stored[0] or {})) is (name is not None), "nothing is stored for a process without a name"
    run = aws.jobs(creator="another").get_status(one)
    assert run is not None
    assert run.created_by == name


def test_the_environment_names_a_process(aws: Aws):
    environment = {"KUMOFIRE_TABLE": aws.table, "KUMOFIRE_QUEUE_URL": aws.queue_url, "KUMOFIRE_CREATOR": "the web shop"}
    clients: dict[str, Any] = {"dynamodb": aws.dynamodb, "sqs": aws.sqs}
    jobs = Jobs.from_env(environment, **clients, allow_unknown_jobs=True)

    run = jobs.get_status(jobs.create("email"))

    assert run is not None
    assert run.created_by == "the web shop"
    with pytest.raises(ConfigurationError, match=r"KUMOFIRE_CREATOR is '[x]{40}'; it must be a name of at most 128 p"):
        Jobs.from_env(environment | {"KUMOFIRE_CREATOR": "x" * 129})


def test_a_function_name_that_can_not_be_stored_is_left_out_and_starts_the_function_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "x" * 129)

    assert default_creator() is None


def test_where_a_run_came_from_is_listed_and_read_without_its_payload(aws: Aws):
    jobs = aws.jobs(creator="web", allow_unknown_jobs=True)
    jobs.handler("import")(lambda ctx: jobs.create("email", run_at=None))
    parent = jobs.create("import")
    jobs.consume(message(parent))

    [listed] = jobs.list_runs(job_name="email").runs
    alone = jobs.get_status(listed.id, payloads=False)

    assert (listed.parent_id, listed.created_by) == (parent, "web")
    assert alone == listed


def test_a_run_of_an_earlier_release_does_not_say_where_it_came_from(aws: Aws, jobs: Jobs):
    run = jobs.get_status(aws.a_run())

    assert run is not None
    assert (run.parent_id, run.created_by, run.occurrence) == (None, None, None)


@pytest.mark.parametrize("name", ["parent_id", "created_by"])
def test_an_origin_that_is_no_text_makes_an_item_corrupt(aws: Aws, jobs: Jobs, name: str):
    with pytest.raises(CorruptItemError, match="wrong value"):
        jobs.get_status(aws.a_run(**{name: 5}))


def test_a_create_whose_reply_was_lost_keeps_one_run_with_its_origin(aws: Aws):
    jobs = aws.jobs(dynamodb=Repeated(aws.dynamodb), creator="web", allow_unknown_jobs=True)
    jobs.handler("import")(lambda ctx: jobs.create("email"))
    parent = jobs.create("import")

    assert jobs.consume(message(parent)).outcome == "succeeded"

    [child] = [item for item in aws.items() if item.get("job_name") == "email"]
    assert (child["parent_id"], child["created_by"]) == (parent, "web")


def test_the_origin_costs_no_request_and_a_usual_run_stays_within_the_kilobyte_that_a_write_unit_pays(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    """The longest function name has 64 characters, a run's id 40 at most."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f" * 64)
    sizes: list[int] = []

    class Measured(Recorded):
        def __getattr__(self, operation: str) -> Any:
            request = super().__getattr__(operation)

            def measured(**parameters: Any) -> Any:
                reply = request(**parameters)
                sizes.extend(item_bytes(item) for item in aws.items() if item.get("job_name") == "email")
                return reply

            return measured

    jobs = aws.jobs(dynamodb=Measured(aws.dynamodb), allow_unknown_jobs=True)
    made: list[str] = []
    payload = {"to": "user@example.com", "order": "5f1c2f0e-4f0a-4f6e-9d8e-2f4b8f3f4a51", "lines": list(range(30))}

    @jobs.handler("import")
    def starts_another(ctx: JobContext) -> None:
        made.append(jobs.create("email", payload, dedupe_key="order-5f1c2f0e-4f0a-4f6e-9d8e-2f4b8f3f4a51"))

    parent = jobs.create("import", dedupe_key="import")
    jobs.consume(message(parent))
    jobs.handler("email")(lambda ctx: {"message_id": "0102018f-5f1c2f0e"})
    aws.dynamodb.requests.clear()

    assert jobs.consume(message(made[0])).outcome == "succeeded"

    assert aws.dynamodb.count() == {"update_item": 2}
    item = aws.item(made[0])
    assert item is not None
    assert (len(item["parent_id"]), len(item["created_by"])) == (40, 64)
    assert 600 < max(sizes) <= 1024
