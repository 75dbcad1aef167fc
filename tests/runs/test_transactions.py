"""A run exists if and only if the transaction that it is part of was committed, once, and then its message is sent."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from examples.deployment import PROJECT
from examples.local_aws import LocalAws
from kumofire_core import (
    DedupeKeyConflictError,
    DedupeKeyTakenError,
    InvalidArgumentError,
    JobContext,
    Jobs,
    RunEvent,
    UnknownJobError,
)
from tests.builders import NOW_MS, Aws, Clock, make_aws, message
from tests.faults import Outage, Refused, Repeated

ORDERS = {
    "TableName": "orders",
    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    "BillingMode": "PAY_PER_REQUEST",
}


def order(order_id: str = "42", *, new: bool = True) -> dict[str, Any]:
    """Return the application's own entry; not ``new`` is one that replaces what is there."""
    put: dict[str, Any] = {"TableName": "orders", "Item": {"id": {"S": order_id}}}
    return {"Put": put | ({"ConditionExpression": "attribute_not_exists(id)"} if new else {})}


def orders(client: Any) -> list[str]:
    return [item["id"]["S"] for item in client.scan(TableName="orders", ConsistentRead=True)["Items"]]


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    aws.dynamodb.client.create_table(**ORDERS)
    return aws.jobs(clock=clock)


def test_a_run_is_stored_with_the_applications_item_and_then_sent(jobs: Jobs, aws: Aws):
    pending = jobs.create_in_transaction("email", {"order": 42})
    assert aws.items() == []
    assert aws.sent() == []

    with pending:
        aws.dynamodb.transact_write_items(TransactItems=[order(), pending.entry])

    assert aws.sent() == [(pending.run_id, 0)]
    assert orders(aws.dynamodb) == ["42"]
    run = jobs.get_status(pending.run_id)
    assert (run.status, run.job_name, run.payload) == ("queued", "email", {"order": 42})


def test_a_committed_run_is_executed(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: ctx.payload["order"] + 1)
    pending = jobs.create_in_transaction("email", {"order": 42})
    with pending:
        aws.dynamodb.transact_write_items(TransactItems=[order(), pending.entry])

    assert jobs.consume(message(pending.run_id)).outcome == "succeeded"
    assert jobs.get_status(pending.run_id).output == 43


def test_the_item_is_the_one_that_create_puts(jobs: Jobs, aws: Aws):
    given = {"delay": 30, "max_attempts": 7, "dedupe_key": "k", "group": "tenant-42"}
    pending = jobs.create_in_transaction("email", [1], **given)
    aws.dynamodb.transact_write_items(TransactItems=[pending.entry])
    committed = aws.item(pending.run_id)
    jobs.cancel(pending.run_id)
    jobs.delete(pending.run_id)

    assert jobs.create("email", [1], **given) == pending.run_id
    created = aws.item(pending.run_id)
    assert committed.pop("create_token") != created.pop("create_token")
    assert committed == created
    assert committed["group"] == "tenant-42"


def test_it_takes_what_create_takes():
    assert (
        inspect.signature(Jobs.create_in_transaction).parameters.items()
        == inspect.signature(Jobs.create).parameters.items()
    )


@pytest.mark.moto
def test_a_resources_client_commits_the_same_item(jobs: Jobs, aws: Aws):
    client = boto3.resource("dynamodb", region_name="us-east-1").meta.client
    pending = jobs.create_in_transaction("email", {"order": 42}, delay=30)
    mine = {"Put": {"TableName": "orders", "Item": {"id": "42"}}}

    with pending:
        client.transact_write_items(TransactItems=[mine, pending.plain_entry])
    stored = aws.item(pending.run_id)
    with pending:
        client.transact_write_items(TransactItems=[mine, pending.plain_entry])

    assert {"pk": f"run#{pending.run_id}", "sk": "run", **pending._attributes} == stored
    assert aws.sent() == [(pending.run_id, 30)]


def test_a_canceled_transaction_leaves_no_run_and_sends_nothing(jobs: Jobs, aws: Aws):
    aws.dynamodb.client.put_item(TableName="orders", Item={"id": {"S": "42"}})
    pending = jobs.create_in_transaction("email")

    with pytest.raises(ClientError, match="TransactionCanceledException") as refusal, pending:
        aws.dynamodb.transact_write_items(TransactItems=[order(), pending.entry])

    assert not pending.committed(refusal.value)
    assert aws.item(pending.run_id) is None
    assert aws.sent() == []


def test_an_error_of_the_application_goes_on_and_sends_nothing(jobs: Jobs, aws: Aws):
    with pytest.raises(ZeroDivisionError), jobs.create_in_transaction("email"):
        print(1 // 0)

    assert aws.sent() == []


@pytest.mark.parametrize("new", [True, False], ids=["guarded by the application", "not guarded"])
def test_a_transaction_that_is_repeated_is_committed_once_and_known_again(jobs: Jobs, aws: Aws, new: bool):
    pending = jobs.create_in_transaction("email")
    client = Outage(applied=True).wrap(aws.dynamodb)
    with pytest.raises(ConnectionClosedError), pending:
        client.transact_write_items(TransactItems=[order(new=new), pending.entry])
    assert aws.sent() == []
    aws.dynamodb.client.delete_item(TableName="orders", Key={"id": {"S": "42"}})

    with pending:
        aws.dynamodb.transact_write_items(TransactItems=[order(new=new), pending.entry])

    assert orders(aws.dynamodb) == []  # deleted since, and not written a second time
    assert aws.sent() == [(pending.run_id, 0)]


def test_a_repeat_that_comes_when_the_run_has_ended_changes_nothing(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: "sent")
    pending = jobs.create_in_transaction("email")
    aws.dynamodb.transact_write_items(TransactItems=[order(), pending.entry])
    jobs.consume(message(pending.run_id))

    with pytest.raises(ClientError) as refusal:
        aws.dynamodb.transact_write_items(TransactItems=[order(), pending.entry])

    assert pending.committed(refusal.value)
    assert jobs.get_status(pending.run_id).output == "sent"


def test_another_run_does_not_know_the_refusal_for_its_own(jobs: Jobs, aws: Aws):
    first, second = jobs.create_in_transaction("email"), jobs.create_in_transaction("email")
    aws.dynamodb.transact_write_items(TransactItems=[order(), first.entry])

    with pytest.raises(ClientError) as refusal, second:
        aws.dynamodb.transact_write_items(TransactItems=[first.entry, second.entry])

    assert first.committed(refusal.value)
    assert not second.committed(refusal.value)
    assert aws.sent() == []


def test_several_runs_of_one_transaction_are_all_sent_after_a_repeat(jobs: Jobs, aws: Aws):
    first, second = jobs.create_in_transaction("email"), jobs.create_in_transaction("bill")
    with first, second:
        Repeated(aws.dynamodb).transact_write_items(TransactItems=[order(), first.entry, second.entry])

    assert sorted(aws.sent()) == sorted([(first.run_id, 0), (second.run_id, 0)])


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "TransactionInProgressException"])
def test_a_service_that_refuses_is_no_commit(jobs: Jobs, aws: Aws, code: str):
    pending = jobs.create_in_transaction("email")

    with pytest.raises(ClientError, match=code), pending:
        Refused(code).transact_write_items(TransactItems=[order(), pending.entry])

    assert aws.sent() == []


def canceled(*reasons: dict[str, Any]) -> ClientError:
    response: Any = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": list(reasons)}
    return ClientError(response, "TransactWriteItems")


def test_a_conflict_and_a_refusal_without_an_item_are_no_commit(jobs: Jobs):
    pending = jobs.create_in_transaction("email")

    assert not pending.committed(canceled({"Code": "TransactionConflict"}, {"Code": "None"}))
    assert not pending.committed(canceled({"Code": "ConditionalCheckFailed"}))
    assert not pending.committed(ValueError())


def test_a_dead_process_leaves_a_run_that_the_dispatcher_sends(jobs: Jobs, aws: Aws, clock: Clock):
    pending = jobs.create_in_transaction("email")
    aws.dynamodb.transact_write_items(TransactItems=[order(), pending.entry])
    clock.advance(minutes=2, seconds=1)

    jobs.dispatch()

    (batch,) = aws.sqs.parameters("send_message_batch") or [{"Entries": aws.sqs.parameters("send_message")}]
    assert [pending.run_id in entry["MessageBody"] for entry in batch["Entries"]] == [True]


def test_a_queue_that_fails_does_not_make_the_commit_fail(jobs: Jobs, aws: Aws, clock: Clock):
    broken = aws.jobs(clock=clock, sqs=Refused("InternalError"))
    pending = broken.create_in_transaction("email")

    with pending:
        aws.dynamodb.transact_write_items(TransactItems=[order(), pending.entry])

    assert aws.item(pending.run_id)["status"] == "queued"


def test_a_message_is_sent_once_however_often_it_is_asked_for(jobs: Jobs, aws: Aws):
    pending = jobs.create_in_transaction("email", group="tenant-42")
    with pending:
        aws.dynamodb.transact_write_items(TransactItems=[pending.entry])
    pending.send()

    assert [sent["MessageGroupId"] for sent in aws.sqs.parameters("send_message")] == ["tenant-42"]


def test_a_message_that_could_not_be_sent_is_sent_by_the_next_call(jobs: Jobs, aws: Aws, clock: Clock):
    flaky = aws.jobs(clock=clock, sqs=Outage(applied=False).wrap(aws.sqs))
    pending = flaky.create_in_transaction("email")
    aws.dynamodb.transact_write_items(TransactItems=[pending.entry])
    pending.send()
    assert aws.sent() == []

    pending.send()

    assert aws.sent() == [(pending.run_id, 0)]


@pytest.mark.parametrize(
    ("delay", "waited", "sent"),
    [
        (60, 0, [60]),
        (60, 45, [15]),
        (60, 90, [0]),
        (0, 3_600, [0]),
        (900, -5, [900]),  # the clock was set back: SQS takes no longer delay
        (901, 0, []),  # the wake-up is at its time, so the dispatcher sends it
        (901, 60, []),
    ],
)
def test_the_delay_counts_from_the_call_whenever_it_is_committed(
    jobs: Jobs, aws: Aws, clock: Clock, delay: int, waited: int, sent: list[int]
):
    pending = jobs.create_in_transaction("email", delay=delay)
    clock.advance(seconds=waited)
    with pending:
        aws.dynamodb.transact_write_items(TransactItems=[pending.entry])

    assert [seconds for _, seconds in aws.sent()] == sent
    assert aws.item(pending.run_id)["scheduled_for"] == NOW_MS + delay * 1000


def test_a_run_that_is_committed_an_hour_late_is_found_by_the_next_pass(jobs: Jobs, aws: Aws, clock: Clock):
    pending = jobs.create_in_transaction("email", delay=1_000)
    clock.advance(hours=1)
    aws.dynamodb.transact_write_items(TransactItems=[pending.entry])

    jobs.dispatch()

    assert aws.item(pending.run_id)["status"] == "queued"


def test_a_key_that_has_a_run_cancels_the_whole_transaction_and_names_the_run(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", 1, dedupe_key="k")
    aws.sqs.requests.clear()
    pending = jobs.create_in_transaction("email", 2, dedupe_key="k")

    with pytest.raises(DedupeKeyTakenError, match=f"'k' belongs to run {run_id}") as refusal, pending:
        aws.dynamodb.transact_write_items(TransactItems=[order(), pending.entry])

    assert (refusal.value.run_id, refusal.value.dedupe_key) == (run_id, "k")
    assert isinstance(refusal.value.__cause__, ClientError)
    assert orders(aws.dynamodb) == []
    assert jobs.get_status(run_id).payload == 1
    assert aws.sent() == []


def test_a_key_of_another_jobs_run_is_refused_as_create_does(jobs: Jobs, aws: Aws):
    jobs.create("bill", dedupe_key="k")
    pending = jobs.create_in_transaction("email", dedupe_key="k")

    with pytest.raises(DedupeKeyConflictError, match="of job 'bill'"), pending:
        aws.dynamodb.transact_write_items(TransactItems=[order(), pending.entry])


def test_a_keys_own_first_copy_is_known_again(jobs: Jobs, aws: Aws):
    pending = jobs.create_in_transaction("email", dedupe_key="k")

    with pending:
        Repeated(aws.dynamodb).transact_write_items(TransactItems=[order(), pending.entry])

    assert jobs.create("email", dedupe_key="k") == pending.run_id
    assert aws.sent() == [(pending.run_id, 0)]


@pytest.mark.parametrize("mode", ["unfinished", "debounce", timedelta(hours=1)])
def test_a_mode_that_reads_before_it_writes_is_refused(jobs: Jobs, mode: Any):
    with pytest.raises(InvalidArgumentError, match="dedupe='kept' only"):
        jobs.create_in_transaction("email", dedupe_key="k", dedupe=mode)
    jobs.create_in_transaction("email", dedupe_key="k", dedupe="kept")


def test_a_job_without_a_handler_is_refused_where_there_are_others(jobs: Jobs):
    jobs.handler("email")(lambda ctx: None)

    with pytest.raises(UnknownJobError):
        jobs.create_in_transaction("bill")


def test_a_handlers_committed_runs_are_its_children(jobs: Jobs, aws: Aws):
    @jobs.handler("email")
    def send(ctx: JobContext) -> str:
        pending = jobs.create_in_transaction("email")
        with pending:
            aws.dynamodb.transact_write_items(TransactItems=[pending.entry])
        return pending.run_id

    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    assert jobs.get_status(jobs.get_status(run_id).output).parent_id == run_id


def test_hooks_are_told_of_a_committed_run_once_and_not_of_another(jobs: Jobs, aws: Aws):
    told: list[RunEvent] = []
    jobs.on("created")(told.append)
    lost, pending = jobs.create_in_transaction("email"), jobs.create_in_transaction("email", {"order": 42})
    with pytest.raises(ClientError), lost:
        Refused("InternalServerError").transact_write_items(TransactItems=[lost.entry])
    with pending:
        aws.dynamodb.transact_write_items(TransactItems=[pending.entry])
    pending.send()

    assert jobs.wait_for_hooks()
    assert [(event.run_id, event.run.payload) for event in told] == [(pending.run_id, {"order": 42})]


def test_a_payload_is_encrypted_for_its_run(jobs: Jobs, aws: Aws, clock: Clock):
    encrypting = aws.jobs(clock=clock, cipher=Turned(), creator="shop")
    pending = encrypting.create_in_transaction("email", {"secret": 42})
    aws.dynamodb.transact_write_items(TransactItems=[pending.entry])

    assert "secret" not in str(aws.item(pending.run_id))
    assert "secret" not in repr(pending)
    run = encrypting.get_status(pending.run_id)
    assert (run.payload, run.created_by) == ({"secret": 42}, "shop")


def test_the_page_shows_what_works(jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(boto3, "client", lambda service: {"dynamodb": aws.dynamodb}[service])
    first, again, several = re.findall(
        r"```python\n(.*?)```", (PROJECT / "docs/transactions.md").read_text(), re.DOTALL
    )
    page: dict[str, Any] = {"boto3": boto3, "jobs": jobs, "order": order("7"), "order_id": "7"}
    exec(first, page)

    page["place"]("42", "somebody")
    with pytest.raises(ClientError, match="TransactionCanceled"):
        page["place"]("42", "somebody else")
    exec(several, page)
    lost = Outage(applied=True).wrap(aws.dynamodb)
    confirmation = jobs.create_in_transaction("confirm")
    errors = {"ConnectionClosedError": ConnectionClosedError, "ReadTimeoutError": ConnectionClosedError}
    exec(again, page | errors | {"dynamodb": lost, "order": order("8"), "confirmation": confirmation})

    assert sorted(orders(aws.dynamodb)) == ["42", "7", "8"]
    assert sorted(item["job_name"] for item in aws.items()) == ["bill", "confirm", "confirm", "mail"]
    assert len(aws.sent()) == 4


class Turned:
    """Encrypts by turning bytes round."""

    def encrypt(self, plaintext: bytes) -> bytes:
        return plaintext[::-1]

    def decrypt(self, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


def test_the_number_of_partitions_is_stored_before_the_run_can_be(jobs: Jobs, aws: Aws, clock: Clock):
    aws.jobs(clock=clock, wake_shards=20).create_in_transaction("email")

    (stored,) = aws.items()
    assert (stored["pk"], stored["wake_shards"]) == ("settings#wake", 20)


def test_nothing_is_requested_before_the_commit_and_one_message_after_it(jobs: Jobs, aws: Aws):
    pending = jobs.create_in_transaction("email")
    assert aws.dynamodb.count() == aws.sqs.count() == {}
    with pending:
        aws.dynamodb.transact_write_items(TransactItems=[order(), pending.entry])

    assert aws.dynamodb.count() == {"transact_write_items": 1}
    assert aws.sqs.count() == {"send_message": 1}


def test_a_process_that_uses_no_transaction_does_not_import_them():
    code = "import sys, kumofire_core.jobs; print([name for name in sys.modules if 'transactions' in name])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Services that know a repeat by its ClientRequestToken, as moto does not


@pytest.fixture(params=["MiniStack", pytest.param("DynamoDB Local", marks=pytest.mark.dynamodb_local)])
def service(request: pytest.FixtureRequest, ministack: LocalAws) -> tuple[Aws, str]:
    """A table of runs in a real emulator, and the name of an application's table beside it."""
    if request.param == "DynamoDB Local":
        client = request.getfixturevalue("dynamodb_local")
    else:
        client = ministack.client("dynamodb")
    name = f"transactions-{uuid.uuid4().hex[:8]}"
    client.create_table(**(ORDERS | {"TableName": f"{name}-orders"}))
    return make_aws(client, ministack.client("sqs"), name=name), f"{name}-orders"


@pytest.mark.parametrize("token", [{}, {"ClientRequestToken": "the-token-of-this-commit"}], ids=["new", "the same"])
def test_a_service_commits_a_repeated_transaction_once_whatever_its_token(
    service: tuple[Aws, str], token: dict[str, str]
):
    aws, table = service
    pending = aws.jobs().create_in_transaction("email")
    mine = {"Put": {"TableName": table, "Item": {"id": {"S": "42"}}}}
    for _ in range(3):
        with pending:
            aws.dynamodb.transact_write_items(TransactItems=[mine, pending.entry], **token)
        aws.dynamodb.client.delete_item(TableName=table, Key={"id": {"S": "42"}})

    assert aws.dynamodb.client.scan(TableName=table, ConsistentRead=True)["Items"] == []
    assert aws.item(pending.run_id)["status"] == "queued"
    assert aws.sent() == [(pending.run_id, 0)]


def test_a_service_that_gets_eight_copies_at_once_commits_one(service: tuple[Aws, str]):
    aws, table = service
    pending = aws.jobs().create_in_transaction("email")
    key = {"id": {"S": "42"}}
    count = {"UpdateExpression": "ADD committed :one", "ExpressionAttributeValues": {":one": {"N": "1"}}}
    mine = {"Update": {"TableName": table, "Key": key, **count}}

    def commit(_: int) -> str:
        while True:
            try:
                aws.dynamodb.client.transact_write_items(TransactItems=[mine, pending.entry])
            except ClientError as error:
                if pending.committed(error):
                    return "committed before"
                codes = {reason["Code"] for reason in error.response["CancellationReasons"]}
                assert codes <= {"None", "TransactionConflict"}
            else:
                return "committed"

    with ThreadPoolExecutor(8) as threads:
        came_to = sorted(threads.map(commit, range(8)))

    assert came_to == ["committed", *["committed before"] * 7]
    stored = aws.dynamodb.client.get_item(TableName=table, Key=key, ConsistentRead=True)["Item"]
    assert stored["committed"] == {"N": "1"}


def test_a_service_shows_the_run_that_has_the_key_and_writes_nothing(service: tuple[Aws, str]):
    aws, table = service
    jobs = aws.jobs()
    run_id = jobs.create("email", dedupe_key="k")
    pending = jobs.create_in_transaction("email", dedupe_key="k")

    mine = {"Put": {"TableName": table, "Item": {"id": {"S": "42"}}}}
    with pytest.raises(DedupeKeyTakenError, match=run_id), pending:
        aws.dynamodb.transact_write_items(TransactItems=[mine, pending.entry])

    assert aws.dynamodb.client.scan(TableName=table, ConsistentRead=True)["Items"] == []


@pytest.mark.dynamodb_local  # MiniStack does not count write units as the service does
def test_a_transaction_doubles_what_the_run_costs_in_write_units(dynamodb_local: Any, ministack: LocalAws):
    aws = make_aws(dynamodb_local, ministack.client("sqs"), name=f"transactions-{uuid.uuid4().hex[:8]}")
    pending = aws.jobs().create_in_transaction("email", {"to": "user@example.com"})
    again = aws.jobs().create_in_transaction("email", "x" * 2_500)

    def units(entry: dict[str, Any]) -> float:
        reply = aws.dynamodb.client.transact_write_items(TransactItems=[entry], ReturnConsumedCapacity="INDEXES")
        return sum(each["CapacityUnits"] for each in reply["ConsumedCapacity"])

    assert units(pending.entry) == 4
    assert units(again.entry) == 2 * 3 + 2
