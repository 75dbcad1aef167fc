"""Processes that spread runs over different numbers of index partitions: the dispatcher reads them all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kumofire_core import DispatchResult, Jobs, PartlyDispatchedError
from kumofire_core.engine import run_store
from tests.builders import Aws, message
from tests.faults import Outage
from tests.worlds import World

pytestmark = pytest.mark.long

HOUR = timedelta(hours=1)
SETTINGS = {"pk": {"S": "settings#wake"}, "sk": {"S": "settings"}}


@pytest.fixture
def world(aws: Aws) -> World:
    """A world whose dispatcher has the default number of partitions."""
    return World(aws.dynamodb.client, wake_shards=8)


def stored_shards(aws: Aws) -> int | None:
    """Return the number of partitions that is stored."""
    item = aws.dynamodb.client.get_item(TableName=aws.table, Key=SETTINGS).get("Item")
    return None if item is None else int(item["wake_shards"]["N"])


def store_shards(aws: Aws, value: dict[str, Any]) -> None:
    item = SETTINGS | {"schema": {"N": "1"}, "wake_shards": value}
    aws.dynamodb.client.put_item(TableName=aws.table, Item=item)


def in_partitions(aws: Aws, run_ids: list[str]) -> set[int]:
    """Return the partitions that runs are in."""
    return {aws.item(run_id)["wake_shard"] for run_id in run_ids}


def each(jobs: Jobs) -> list[str]:
    return [jobs.create("work", delay=HOUR) for _ in range(20)]


def at_once(jobs: Jobs) -> list[str]:
    return jobs.create_many({"name": "work", "delay": HOUR} for _ in range(40))


@pytest.mark.parametrize("create", [each, at_once])
@pytest.mark.parametrize("limit", [None, 1000])
def test_runs_of_a_creator_with_more_partitions_than_the_dispatcher_start(
    world: World, create: Callable[[Jobs], list[str]], limit: int | None
):
    run_ids = create(world.another(wake_shards=64))
    assert max(in_partitions(world.aws, run_ids)) >= 8
    world.clock.advance(hours=1)

    assert world.tick(limit=limit).dispatched == len(run_ids)
    world.settle()
    assert world.statuses() == {"succeeded": len(run_ids)}


def test_runs_of_a_creator_with_the_default_start_although_the_dispatcher_has_fewer_partitions(world: World):
    run_ids = each(world.jobs)
    world.clock.advance(hours=1)

    assert world.another(wake_shards=1).dispatch().dispatched == len(run_ids)
    assert stored_shards(world.aws) is None


@pytest.mark.parametrize("lowered_to", [1, 8, 20])
def test_runs_of_before_the_number_was_lowered_start(world: World, lowered_to: int):
    """A stack of an earlier release stored no number: its dispatcher does so in the first pass of this release."""
    run_ids = [world.aws.a_run(job_name="work", status="queued", wake_shard=shard) for shard in range(64)]
    assert world.another(wake_shards=64).dispatch() == DispatchResult()
    assert stored_shards(world.aws) == 64
    world.clock.advance(hours=1)

    assert world.another(wake_shards=lowered_to).dispatch().resent == len(run_ids)


def test_a_run_that_a_person_retries_from_a_process_with_more_partitions_is_found(world: World):
    run_ids = [
        world.aws.a_run(job_name="work", status="failed", finished_at=1, without=("wake_shard", "wake_at"))
        for _ in range(20)
    ]
    person = world.another(wake_shards=64)

    assert all(person.retry(run_id) for run_id in run_ids)

    world.queue.waiting.clear()  # lost
    assert max(in_partitions(world.aws, run_ids)) >= 8
    world.clock.advance(hours=1)
    assert world.tick().resent == len(run_ids)


def test_a_run_that_a_schedule_makes_by_hand_is_found(world: World):
    schedule_id = world.jobs.create_schedule("work", schedule_type="cron", schedule_expr="@yearly")
    person = world.another(wake_shards=1000)

    run_ids = [person.trigger_schedule(schedule_id) for _ in range(10)]

    world.queue.waiting.clear()  # lost
    assert max(in_partitions(world.aws, run_ids)) >= 8
    world.clock.advance(hours=1)
    assert world.tick().resent == len(run_ids)


@pytest.mark.parametrize(("shards", "requests"), [(1, 20), (8, 20), (9, 21), (1000, 21)])
def test_telling_the_dispatcher_costs_one_request_a_process_and_none_for_the_default(
    aws: Aws, shards: int, requests: int
):
    jobs = aws.jobs(wake_shards=shards)

    for _ in range(20):
        jobs.create("email")

    assert aws.dynamodb.count() == {"put_item": requests}
    assert stored_shards(aws) == (shards if requests > 20 else None)


def test_many_runs_at_once_tell_the_dispatcher_once(aws: Aws):
    jobs = aws.jobs(wake_shards=64)

    jobs.create_many({"name": "email"} for _ in range(200))

    assert aws.dynamodb.count() == {"put_item": 201}


def test_consuming_costs_no_request_more_whatever_the_number(aws: Aws):
    run_id = aws.a_run(wake_shard=60)
    jobs = aws.jobs(wake_shards=64)
    jobs.handler("email")(lambda ctx: 1 / 0 if ctx.attempt == 1 else None)

    assert jobs.consume(message(run_id)).outcome == "retried"

    assert aws.dynamodb.count() == {"get_item": 1, "update_item": 2}, "one reads which jobs are paused"
    assert aws.item(run_id)["wake_shard"] == 60


def test_a_pass_reads_the_number_once_and_writes_it_only_where_its_own_is_larger(aws: Aws):
    def requests(jobs: Jobs) -> dict[str, int]:
        aws.dynamodb.requests.clear()
        jobs.dispatch()
        return dict(aws.dynamodb.count())

    large = aws.jobs(wake_shards=20)
    assert requests(large) == {"get_item": 2, "put_item": 1, "query": 21}
    assert requests(large) == {"get_item": 2, "query": 21}
    assert requests(aws.jobs(wake_shards=20)) == {"get_item": 2, "query": 21}
    assert requests(aws.jobs(wake_shards=8)) == {"get_item": 2, "query": 21}
    assert all(read["ConsistentRead"] for read in aws.dynamodb.parameters("get_item"))


def test_the_stored_number_only_grows(aws: Aws):
    for shards in (64, 20, 100, 99, 8):
        aws.jobs(wake_shards=shards).create("email")

    assert stored_shards(aws) == 100


def test_of_many_processes_that_start_together_the_largest_number_is_stored(aws: Aws):
    start, numbers = threading.Barrier(8), range(9, 17)

    def begin(shards: int) -> None:
        start.wait()
        aws.jobs(wake_shards=shards).create("email")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, numbers))

    assert stored_shards(aws) == 16


@pytest.mark.parametrize("value", [{"N": "0"}, {"N": "-5"}, {"N": "1" + "0" * 30}, {"N": "70.5"}])
def test_whatever_number_is_stored_a_run_in_the_partitions_of_its_creator_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, value: dict[str, str]
):
    monkeypatch.setattr(run_store, "MOST_SHARDS", 70)
    store_shards(world.aws, value)
    run_ids = each(world.another(wake_shards=64))
    assert max(in_partitions(world.aws, run_ids)) >= 8
    world.clock.advance(hours=1)
    world.aws.dynamodb.requests.clear()

    assert world.tick().dispatched == len(run_ids)

    assert world.aws.dynamodb.count()["query"] <= 71


def test_a_stored_number_that_is_none_is_told_and_all_partitions_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(run_store, "MOST_SHARDS", 70)
    run_ids = each(world.another(wake_shards=64))
    store_shards(world.aws, {"S": "many"})
    world.clock.advance(hours=1)

    assert world.tick().dispatched == len(run_ids)

    assert "settings#wake holds no whole number" in caplog.text


class Denied:
    """A client whose policy is of a release without ``settings#wake``."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, operation: str) -> Any:
        return getattr(self._client, operation)

    def put_item(self, **parameters: Any) -> Any:
        if not parameters["Item"]["pk"]["S"].startswith("run#"):
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "not authorized"}}, "PutItem")
        return self._client.put_item(**parameters)


def test_a_creator_whose_policy_is_of_an_earlier_release_uses_the_partitions_that_are_read_anyway(
    aws: Aws, caplog: pytest.LogCaptureFixture
):
    jobs = aws.jobs(dynamodb=Denied(aws.dynamodb), wake_shards=64)

    run_ids = [jobs.create("email", delay=HOUR) for _ in range(40)]

    assert max(in_partitions(aws, run_ids)) < 8
    [line] = caplog.records
    assert "wake_shards is 64" in line.getMessage()
    assert "settings#wake" in line.getMessage()


def test_a_creator_that_can_not_reach_the_table_stores_nothing_and_tells_the_dispatcher_later(aws: Aws):
    jobs = aws.jobs(dynamodb=Outage(applied=False).wrap(aws.dynamodb), wake_shards=64)

    with pytest.raises(Exception, match="Connection was closed"):
        jobs.create("email")
    assert aws.items() == []

    jobs.create("email")
    assert stored_shards(aws) == 64


def test_a_pass_that_can_not_read_the_number_reads_its_own_partitions_and_says_that_it_is_incomplete(world: World):
    [run_id] = [world.aws.a_run(job_name="work", status="scheduled")]
    world.clock.advance(hours=1)
    jobs = world.another(dynamodb=Unread(world.aws.dynamodb))

    with pytest.raises(PartlyDispatchedError) as caught:
        jobs.dispatch()

    assert caught.value.result == DispatchResult(dispatched=1, unread=1, complete=False)
    assert world.queue.taken == [(run_id, 0)]
    assert world.tick().unread == 0


class Unread:
    """A client that can't read the number of partitions."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, operation: str) -> Any:
        return getattr(self._client, operation)

    def get_item(self, **parameters: Any) -> Any:
        if parameters["Key"] != SETTINGS:
            return self._client.get_item(**parameters)
        raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow down"}}, "GetItem")
