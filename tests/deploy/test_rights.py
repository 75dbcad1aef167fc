"""Each right of the policies for workers, creators, readers and operators is needed by a call; together they suffice.

``CALLS`` is the list of what people and applications do. A call gets the ``World`` and makes its requests through
``world.jobs()`` and ``world.mine``, which a ``Guard`` judges as IAM would; what it needs beforehand it arranges through
``world.others``, which may do anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from examples import deployment as local
from examples.local_aws import REGION, LocalAws
from kumofire_core import BulkOperation, Jobs
from kumofire_core.deployment.dead_letters import DeadLetters
from kumofire_core.deployment.discovery import AwsClients, Deployment, deployment_of_stack
from kumofire_core.deployment.doctor import examine
from kumofire_core.deployment.logs import lines_about, lines_of_attempt
from kumofire_core.engine.renewal import Renewal
from kumofire_core.engine.sqs_batch import SqsBatchReport
from kumofire_core.engine.worker import Worker
from kumofire_core.handlers.handler_pool import HandlerPool
from kumofire_core.model.run import AttemptEnding
from kumofire_core.model.run_view import Attempt
from tests.builders import body
from tests.deploy.rights import Guard, Right, rights_of

STACK = "guarded-rights"
HOURLY: dict[str, Any] = {"schedule_type": "interval", "schedule_expr": "rate(1 hour)"}


@dataclass(frozen=True, kw_only=True)
class World:
    """A deployment as someone with a policy sees it, and as someone sees it who may do anything."""

    guard: Guard
    mine: Deployment
    others: Deployment

    def jobs(self, **settings: Any) -> Jobs:
        """Return a ``Jobs`` of someone who has the policy; it has no cipher unless one is asked for."""
        return self.mine.jobs(**{"cipher": None, **settings})

    def a_run(self, *, failed: bool = False, **given: Any) -> str:
        """Make a run that waits for an hour, or one that has failed."""
        jobs = self.others.jobs(cipher=None)
        run_id = jobs.create("email", {"to": "x"}, **{"delay": timedelta(hours=1), **given})
        if failed:
            failing = self.others.jobs(cipher=None, clock=lambda: datetime.now(UTC) + timedelta(hours=2))
            failing.consume(json.loads(body(run_id)))
            assert str(jobs.get_status(run_id).status) == "failed"
        return run_id

    def a_schedule(self, **given: Any) -> str:
        return self.others.jobs(cipher=None).create_schedule("email", {"to": "x"}, **HOURLY, **given)

    def a_dead_letter(self) -> DeadLetters:
        """Bury a message, and return the dead letters as someone with the policy sees them."""
        self.others.client("sqs").send_message(QueueUrl=self.others.dead_letter_queue_url, MessageBody=body("x"))
        return DeadLetters(self.mine, wait=lambda seconds: None)


Call = Callable[[World], object]


def read_lists(world: World) -> None:
    world.a_run()
    world.a_run(failed=True)
    for status in ("scheduled", "queued", "failed", "canceled"):
        world.jobs().list_runs(status=status)


def read_schedules(world: World) -> None:
    schedule = world.a_schedule()
    world.jobs().get_schedule(schedule)
    world.jobs().list_schedules()


def read_log_of_an_attempt(world: World) -> None:
    stream = f"stream-{datetime.now(UTC).timestamp()}"
    group, now = world.others.consumer_log_group, datetime.now(UTC)
    world.others.client("logs").create_log_stream(logGroupName=group, logStreamName=stream)
    ended = AttemptEnding.SUCCEEDED
    lines_of_attempt(world.mine, Attempt(number=1, started_at=now, ended_at=now, ended=ended, log_stream=stream))


def queue_names_its_dead_letter_queue(world: World) -> None:
    DeadLetters(replace(world.mine, dead_letter_queue_url=None)).count()


def dispatch(world: World) -> None:
    world.a_schedule()
    past = world.a_run(delay=None)
    world.jobs(clock=lambda: datetime.now(UTC) + timedelta(hours=3)).dispatch()
    assert past


def steer_schedules(world: World) -> None:
    jobs = world.jobs()
    schedule = jobs.create_schedule("email", {"to": "x"}, **HOURLY)
    jobs.update_schedule(schedule, payload={"to": "y"})
    jobs.trigger_schedule(schedule)
    jobs.delete_schedule(schedule)


def create_one_after_another(world: World) -> None:
    key = f"one-{datetime.now(UTC).timestamp()}"
    first = world.jobs().create("email", dedupe_key=key, dedupe="unfinished", delay=60)
    world.others.jobs().cancel(first)
    assert world.jobs().create("email", dedupe_key=key, dedupe="unfinished", delay=60) != first


def debounce(world: World) -> None:
    key = f"quiet-{datetime.now(UTC).timestamp()}"
    first = world.jobs().create("email", 1, dedupe_key=key, dedupe="debounce", delay=60)
    assert world.jobs().create("email", 2, dedupe_key=key, dedupe="debounce", delay=60) == first


def create_in_a_transaction(world: World) -> None:
    pending = world.jobs().create_in_transaction("email", delay=60)
    with pending:
        world.mine.client("dynamodb").transact_write_items(TransactItems=[pending.entry])


def a_batch(world: World, *, mine: bool = False) -> str:
    jobs = (world if mine else world.others).jobs(cipher=None)
    return jobs.create_batch([{"name": "email", "delay": 3600}], then="email", payload={"to": "y"})


def create_a_batch(world: World) -> None:
    a_batch(world, mine=True)
    world.jobs().create_batch([], then="email")


def read_batches(world: World) -> None:
    batch_id = a_batch(world)
    assert world.jobs().get_batch(batch_id).pending == 1
    assert len(list(world.jobs().batch_members(batch_id))) == 1
    world.jobs().list_batches()


def cancel_a_batch(world: World) -> None:
    batch_id = a_batch(world)
    assert world.jobs().cancel_batch(batch_id)
    assert world.others.jobs(cipher=None).get_batch(batch_id).state == "done"


def later() -> datetime:
    """Return a time after the end of a run that has failed."""
    return datetime.now(UTC) + timedelta(hours=3)


def an_interrupted_operation(world: World) -> str:
    """Store an operation over many runs whose caller stopped it; return its id."""
    begun: list[str] = []

    def stop(operation: BulkOperation) -> None:
        begun.append(str(operation.id))
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        world.others.jobs(clock=later).retry_many(run_ids=[world.a_run(failed=True)], on_progress=stop)
    return begun[0]


def read_encrypted(world: World) -> None:
    run_id = world.others.jobs().create("email", {"to": "x"}, delay=timedelta(hours=1))
    assert world.mine.jobs().get_status(run_id).payload == {"to": "x"}


def read_stats(world: World) -> None:
    world.a_run()
    world.jobs().stats(fresh=True)
    world.jobs().stats()


READS: dict[str, Call] = {
    "get_status": lambda world: world.jobs().get_status(world.a_run()),
    "get_status of an encrypted run": read_encrypted,
    "find_run": lambda world: world.jobs().find_run(dedupe_key="nobody's"),
    "pauses": lambda world: world.jobs().pauses(),
    "list_runs": read_lists,
    "stats": read_stats,
    "steps": lambda world: world.jobs().steps(world.a_run()),
    "batches": read_batches,
    "get_limit": lambda world: world.jobs().get_limit("email", key="customer"),
    "get_bulk": lambda world: world.jobs().get_bulk(an_interrupted_operation(world)),
    "count for an operation": lambda world: world.jobs().retry_many(status="failed", dry_run=True),
    "schedules": read_schedules,
    "find the stack": lambda world: deployment_of_stack(STACK, world.mine.clients),
    "count dead letters": lambda world: DeadLetters(world.mine).count(),
    "find the dead-letter queue": queue_names_its_dead_letter_queue,
    "log of a run": lambda world: lines_about(world.mine, "run-1", since=datetime.now(UTC)),
    "log of an attempt": read_log_of_an_attempt,
}


def free_keys(world: World) -> None:
    """Delete a run that has a key, which leaves the key to a new run."""
    run_id = world.a_run(failed=True, dedupe_key=f"freed {datetime.now(UTC)}")
    assert world.jobs(clock=later).delete_many(run_ids=[run_id], free_dedupe_keys=True).changed == 1


def pause_and_resume(world: World) -> None:
    world.jobs().pause("paused")
    assert world.jobs().resume("paused")


CREATES: dict[str, Call] = {
    "create": lambda world: world.jobs().create("email", {"to": "x"}),
    "create an encrypted run": lambda world: world.mine.jobs().create("email", {"to": "x"}),
    "create one after another": create_one_after_another,
    "create in a transaction": create_in_a_transaction,
    "debounce": debounce,
    "create a batch": create_a_batch,
    "create in many partitions": lambda world: world.jobs(wake_shards=64).create("email"),
}

STEERS: dict[str, Call] = {
    "cancel": lambda world: world.jobs().cancel(world.a_run()),
    "retry": lambda world: world.jobs().retry(world.a_run(failed=True)),
    "run_now": lambda world: world.jobs().run_now(world.a_run()),
    "signal": lambda world: world.jobs().signal(world.a_run(), "approved"),
    "reschedule": lambda world: world.jobs().reschedule(world.a_run(), datetime.now(UTC) + timedelta(hours=2)),
    "update": lambda world: world.jobs().update(world.a_run(), payload={"to": "y"}),
    "delete": lambda world: world.jobs().delete(world.a_run(failed=True)),
    "pause": pause_and_resume,
    "free keys": free_keys,
    "cancel_batch": cancel_a_batch,
    "cancel_tree": lambda world: world.jobs().cancel_tree(world.a_run()),
    "cancel_many": lambda world: world.jobs().cancel_many(run_ids=[world.a_run()]),
    "retry_many": lambda world: world.jobs(clock=later).retry_many(run_ids=[world.a_run(failed=True)]),
    "delete_many": lambda world: world.jobs(clock=later).delete_many(run_ids=[world.a_run(failed=True)]),
    "resume_bulk": lambda world: world.jobs(clock=later).resume_bulk(an_interrupted_operation(world)),
    "abort_bulk": lambda world: world.jobs().abort_bulk(an_interrupted_operation(world)),
    "dispatch": dispatch,
    "steer schedules": steer_schedules,
    "show dead letters": lambda world: world.a_dead_letter().show(),
    "redrive": lambda world: world.a_dead_letter().redrive(),
    "purge": lambda world: world.a_dead_letter().purge(),
    "doctor": lambda world: examine(world.mine),
}


def work(world: World, *, encrypted: bool = False) -> None:
    """Execute one run as a worker does: receive its message, claim it, call its handler and delete the message."""
    world.others.client("sqs").purge_queue(QueueUrl=world.others.queue_url)
    others, jobs = (
        (world.others.jobs(), world.mine.jobs()) if encrypted else (world.others.jobs(cipher=None), world.jobs())
    )
    run_id = others.create("email", {"to": "x"})
    jobs.handler("email", max_attempts=1)(lambda ctx: ctx.payload)
    consumer = jobs._consumer
    consumer.renewal = Renewal(15_000)
    worker = Worker(consumer.queue, consumer.pool, jobs.run_batch, concurrency=1, renewal=consumer.renewal)
    worker._begin(worker._receive(1))
    assert worker._await_idle(time.monotonic() + 60)
    worker._done.finish()
    assert world.guard.refused == [], world.guard.refused
    assert world.others.jobs(cipher=None).get_status(run_id).status != "queued"


def give_back(world: World) -> None:
    """Let SQS deliver a message at once whose run was not begun."""
    world.others.client("sqs").purge_queue(QueueUrl=world.others.queue_url)
    world.others.jobs(cipher=None).create("email")
    queue = world.jobs()._store.queue
    worker = Worker(queue, HandlerPool(), lambda event: SqsBatchReport(), concurrency=1, poll_seconds=1)
    worker._give_back(worker._receive(1))


def work_with_steps(world: World) -> None:
    """Execute a run that goes on behind what it has kept."""
    run_id = world.others.jobs(cipher=None).create("steps", delay=3600)
    world.others.jobs(cipher=None).signal(run_id, "go")
    world.others.jobs(cipher=None).run_now(run_id)
    jobs = world.jobs()
    jobs.handler("steps", max_attempts=1)(lambda ctx: ctx.wait_for("go"))
    jobs.consume(json.loads(body(run_id)))
    assert world.others.jobs(cipher=None).get_status(run_id).status == "succeeded"


def dispatch_what_is_resumed(world: World) -> None:
    """Make a pass that looks for the runs of a resumed job."""
    others = world.others.jobs(cipher=None)
    others.pause("aside")
    others.resume("aside")
    world.jobs().dispatch()


def work_in_a_batch(world: World) -> None:
    """Execute the only member of a batch, whose end completes it."""
    others = world.others.jobs(cipher=None)
    batch_id = others.create_batch([{"name": "member"}], then="email")
    [member] = others.batch_members(batch_id)
    jobs = world.jobs()
    jobs.handler("member")(lambda ctx: None)
    jobs.handler("email")(lambda ctx: None)
    jobs.consume(json.loads(body(member.id)))
    assert others.get_batch(batch_id).state == "done"


WORKS: dict[str, Call] = {
    "work": work,
    "work on an encrypted run": partial(work, encrypted=True),
    "give a message back": give_back,
    "go on behind steps": work_with_steps,
    "work in a batch": work_in_a_batch,
    "dispatch": dispatch,
    "dispatch what is resumed": dispatch_what_is_resumed,
    "see whether messages wait": lambda world: world.jobs()._store.queue.waiting(),
}

CALLS: dict[str, dict[str, Call]] = {
    "WorkerPolicy": WORKS,
    "CreatorPolicy": CREATES,
    "ReaderPolicy": READS,
    "OperatorPolicy": {**READS, **CREATES, **STEERS},
}

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("rights")]
"""One process makes the deployment, and finds out once which calls need which rights."""

RIGHTS = [right for policy in CALLS for right in rights_of(policy)]


@pytest.fixture(scope="module")
def world(ministack: LocalAws) -> Iterator[World]:
    """A whole deployment with a payload key, in which nothing takes messages from the queue."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("AWS_", "KUMOFIRE_")):
                patch.delenv(name)
        for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("REGION", REGION)):
            patch.setenv(f"AWS_{name}", value)
        # The Encryption SDK makes its own clients.
        patch.setenv("AWS_ENDPOINT_URL", ministack.endpoint_url)
        patch.setenv("NO_PROXY", "127.0.0.1")
        key = ministack.client("kms").create_key()["KeyMetadata"]["Arn"]
        parameters = {"JobsModule": "examples.demo_jobs:jobs", "PayloadKeyArn": key}
        local.deploy(ministack, name=STACK, parameters=parameters, further_sources=("examples",))
        functions = ministack.client("lambda")
        others = deployment_of_stack(STACK, AwsClients())
        for mapping in functions.list_event_source_mappings(FunctionName=others.consumer_function)[
            "EventSourceMappings"
        ]:
            functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
        guard = Guard(
            {
                STACK: "Stack",
                others.table: "Table",
                others.queue_url.rpartition("/")[2]: "Queue",
                str(others.dead_letter_queue_url).rpartition("/")[2]: "DeadLetterQueue",
                f"{others.consumer_function}:live": "Consumer:live",
                str(others.dispatcher_function): "Dispatcher",
                str(others.consumer_log_group): "ConsumerLogs",
                str(others.dispatcher_log_group): "DispatcherLogs",
                str(others.dispatcher_rule): "DispatcherTick",
            }
        )
        mine = replace(others, clients=AwsClients())
        guard.watch(mine.clients.core_session)
        yield World(guard=guard, mine=mine, others=others)


@pytest.fixture(scope="module")
def users(world: World) -> Callable[[Right], list[str]]:
    """Return the names of the calls that need a right, where the whole policy is there."""
    known: dict[str, dict[str, set[Right]]] = {}

    def users_of(right: Right) -> list[str]:
        if right.policy not in known:
            known[right.policy] = {}
            for name, call in CALLS[right.policy].items():
                with world.guard.allowing(rights_of(right.policy)):
                    call(world)
                    known[right.policy][name] = world.guard.used
        return [name for name, used in known[right.policy].items() if right in used]

    return users_of


every_call = pytest.mark.parametrize(
    ("policy", "name"), [(policy, name) for policy, calls in CALLS.items() for name in calls]
)


@every_call
def test_a_policy_suffices_for_what_its_users_do(world: World, policy: str, name: str) -> None:
    with world.guard.allowing(rights_of(policy)):
        CALLS[policy][name](world)

        assert world.guard.refused == []
        assert world.guard.used


@pytest.mark.parametrize("right", RIGHTS, ids=str)
def test_without_one_right_a_call_that_needs_it_is_refused(
    world: World, users: Callable[[Right], list[str]], right: Right
) -> None:
    needing = users(right)
    assert needing, "no call needs it: add the call to the lists above, or take the right from the policy"

    with world.guard.allowing([each for each in rights_of(right.policy) if each != right]):
        # A call needs the right to put an item only while the item is missing, and an earlier test may have put it:
        # then the next call is tried.
        for name in needing:
            try:
                CALLS[right.policy][name](world)
            except Exception:
                if not world.guard.refused:
                    raise
            if world.guard.refused:
                break

        assert {(need.action, need.resource) for need in world.guard.refused} == {(right.action, right.resource)}


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        # Whoever may change the run of a debounced key may also cancel one whose id they know.
        *(("CreatorPolicy", name) for name in (*READS, *STEERS) if name != "cancel"),
        *(("ReaderPolicy", name) for name in (*CREATES, *STEERS)),
    ],
)
def test_a_policy_does_not_allow_what_others_are_for(world: World, policy: str, name: str) -> None:
    with world.guard.allowing(rights_of(policy)):
        try:
            CALLS["OperatorPolicy"][name](world)
        except Exception:
            if not world.guard.refused:
                raise

        assert world.guard.refused


@pytest.mark.parametrize("kind", ["schedule#1", "settings#pause", "progress#queue", "counts#1", "bulk#1"])
def test_a_creator_writes_no_other_item_than_runs_and_their_keys(world: World, kind: str) -> None:
    item = {"pk": {"S": kind}, "sk": {"S": "x"}}
    with world.guard.allowing(rights_of("CreatorPolicy")):
        for call in (
            partial(world.mine.client("dynamodb").put_item, Item=item),
            partial(world.mine.client("dynamodb").update_item, Key=item),
            partial(world.mine.client("dynamodb").get_item, Key=item),
        ):
            with pytest.raises(Exception, match="AccessDenied"):
                call(TableName=world.mine.table)


@pytest.mark.parametrize("kind", ["run#1", "schedule#1", "settings#wake", "progress#queue", "counts#1", "bulk#1"])
def test_a_reader_writes_no_item_but_the_stats_that_readers_share(world: World, kind: str) -> None:
    item = {"pk": {"S": kind}, "sk": {"S": "x"}}
    dynamodb, table = world.mine.client("dynamodb"), world.mine.table
    with world.guard.allowing(rights_of("ReaderPolicy")):
        for call, given in ((dynamodb.put_item, "Item"), (dynamodb.update_item, "Key"), (dynamodb.delete_item, "Key")):
            with pytest.raises(Exception, match="AccessDenied"):
                call(TableName=table, **{given: item})


@pytest.mark.parametrize("returned", ["ALL_OLD", "ALL_NEW", "UPDATED_OLD"])
def test_a_creators_write_does_not_read_what_it_replaces(world: World, returned: str) -> None:
    item = {"pk": {"S": "run#of-another"}, "sk": {"S": "run"}}
    with world.guard.allowing(rights_of("CreatorPolicy")), pytest.raises(Exception, match="AccessDenied"):
        world.mine.client("dynamodb").update_item(TableName=world.mine.table, Key=item, ReturnValues=returned)
