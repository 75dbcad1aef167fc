"""Errors of AWS say which table or queue, where, by which setting, and what to do; and what can't pass is told so."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError, NoRegionError

from examples.local_aws import LocalAws
from kumofire_core import ConfigurationError, Jobs
from tests.builders import Aws, LambdaContext, event, failures, message, raises
from tests.faults import Refused

FIFO = "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs.fifo"


class Fails:
    """Answers every request with this error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def request(**_: Any) -> None:
            raise self.error

        return request


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


@pytest.mark.parametrize("url", [FIFO, f"{FIFO}/", f" {FIFO} "])
def test_a_fifo_queue_is_refused_where_it_is_configured(url: str):
    with pytest.raises(ConfigurationError, match=r"queue_url is .*a FIFO queue.*standard queue"):
        Jobs(table="t", queue_url=url)
    with pytest.raises(ConfigurationError, match=r"KUMOFIRE_QUEUE_URL is .*a FIFO queue.*standard queue"):
        Jobs.from_env({"KUMOFIRE_TABLE": "t", "KUMOFIRE_QUEUE_URL": url})


def test_a_fifo_queue_of_the_environment_does_no_harm_where_another_is_given():
    Jobs.from_env({"KUMOFIRE_TABLE": "t", "KUMOFIRE_QUEUE_URL": FIFO}, queue_url="https://queue")


PERMANENT = [
    "AWS.SimpleQueueService.NonExistentQueue",
    "QueueDoesNotExist",
    "AccessDenied",
    "AccessDeniedException",
    "MissingParameter",
    "InvalidAddress",
    "InvalidParameterValue",
    "SignatureDoesNotMatch",
    "AWS.SimpleQueueService.UnsupportedOperation",
    "InvalidClientTokenId",
    "KmsAccessDenied",
]
PASSING = ["ThrottlingException", "RequestThrottled", "ServiceUnavailable", "InternalFailure", "SomethingNew"]


@pytest.mark.parametrize("code", PERMANENT)
def test_an_error_of_the_queue_that_can_not_pass_is_told_as_such_counted_and_not_repeated(
    aws: Aws, caplog: pytest.LogCaptureFixture, code: str
):
    jobs = aws.jobs(sqs=Refused(code), handlers={"email": raises(ValueError())})
    jobs.create("email")
    jobs.create_many([{"name": "email"}] * 12)

    lines = [line for line in caplog.records if line.levelname == "ERROR"]
    assert [line.permanent for line in lines] == [True] * 3  # one, ten and two messages
    assert all("will not pass by itself" in line.getMessage() and aws.queue_url in line.getMessage() for line in lines)
    assert all(code in line.getMessage() and "KUMOFIRE_QUEUE_URL" in line.getMessage() for line in lines)
    assert jobs.dispatch().refused == 13


@pytest.mark.parametrize("code", PASSING)
def test_an_error_of_the_queue_that_may_pass_is_not_told_as_permanent(
    aws: Aws, caplog: pytest.LogCaptureFixture, code: str
):
    jobs = aws.jobs(sqs=Refused(code), handlers={"email": raises(ValueError())})
    jobs.create("email")
    jobs.create_many([{"name": "email"}] * 2)

    assert not [line for line in caplog.records if getattr(line, "permanent", False)]
    assert jobs.dispatch().refused == 0


def test_an_entry_of_a_batch_that_sqs_refuses_for_good_is_told_and_not_sent_again(
    aws: Aws, caplog: pytest.LogCaptureFixture
):
    requests: list[int] = []

    class Partly:
        def send_message_batch(self, **request: Any) -> Any:
            requests.append(len(request["Entries"]))
            failed = [("0", "InvalidParameterValue", True), ("1", "InternalError", False)]
            if len(requests) > 1:
                return {}
            return {"Failed": [{"Id": id, "Code": code, "SenderFault": fault} for id, code, fault in failed]}

    jobs = aws.jobs(sqs=Partly(), handlers={"email": raises(ValueError())})
    ids = jobs.create_many([{"name": "email"}] * 3)

    assert requests == [3, 1]  # the one that may pass is sent once more
    [line] = [line for line in caplog.records if getattr(line, "permanent", False)]
    assert line.job_run_id == ids[0]
    assert jobs.dispatch().refused == 1


def test_a_retry_that_the_queue_refuses_for_good_is_counted_with_its_batch(aws: Aws):
    jobs = aws.jobs(sqs=Refused("QueueDoesNotExist"), handlers={"email": raises(ValueError())})

    assert jobs.run_batch(event(aws.a_run()), LambdaContext()).refused_messages == 1
    assert jobs.run_batch(event(aws.a_run(status="succeeded")), LambdaContext()).refused_messages == 0


def test_a_queue_that_was_deleted_is_told_as_permanent_by_a_real_service(
    ministack: LocalAws, aws: Aws, caplog: pytest.LogCaptureFixture
):
    sqs = ministack.client("sqs")
    url = sqs.create_queue(QueueName="deleted-under-us")["QueueUrl"]
    sqs.delete_queue(QueueUrl=url)
    jobs = Jobs(
        table=aws.table,
        queue_url=url,
        dynamodb=aws.dynamodb,
        sqs=sqs,
        allow_unknown_jobs=True,  # type: ignore[arg-type]
    )

    jobs.create("email")

    [line] = [line for line in caplog.records if getattr(line, "permanent", False)]
    assert "there is no such queue" in line.getMessage()
    assert ministack.endpoint_url in line.getMessage()


CALLS: dict[str, Callable[[Jobs], object]] = {
    "create": lambda jobs: jobs.create("email"),
    "get_status": lambda jobs: jobs.get_status("r"),
    "cancel": lambda jobs: jobs.cancel("r"),
    "retry": lambda jobs: jobs.retry("r"),
    "consume": lambda jobs: jobs.consume(message("r")),
    "get_schedule": lambda jobs: jobs.get_schedule("s"),
    "list_schedules": lambda jobs: jobs.list_schedules(),
    "create_schedule": lambda jobs: jobs.create_schedule(
        "email", schedule_type="interval", schedule_expr="rate(1 hour)"
    ),
    "upsert_schedule": lambda jobs: jobs.upsert_schedule(
        "email", schedule_key="k", schedule_type="interval", schedule_expr="rate(1 hour)"
    ),
    "delete_schedule": lambda jobs: jobs.delete_schedule("s"),
    "disable_schedule": lambda jobs: jobs.disable_schedule("s"),
    "trigger_schedule": lambda jobs: jobs.trigger_schedule("s"),
}


@pytest.mark.moto
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_error_that_leaves_the_public_api_says_which_table_where_by_which_setting_and_what_to_do(
    aws: Aws, call: Callable[[Jobs], object]
):
    jobs = aws.jobs(table="no-such-table", dynamodb=aws.dynamodb.client, allow_unknown_jobs=True)

    with pytest.raises(ClientError) as caught:
        call(jobs)

    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
    assert notes(caught.value).count("Kumofire: ") == 1
    for part in ("'no-such-table'", "us-east-1", "KUMOFIRE_TABLE", "table=", "check the name"):
        assert part in notes(caught.value)


def test_a_pass_over_a_table_that_is_not_there_tells_it_with_its_cause(aws: Aws):
    from kumofire_core.engine.dispatcher import PartlyDispatchedError

    with pytest.raises(PartlyDispatchedError) as caught:
        aws.jobs(table="no-such-table", dynamodb=aws.dynamodb.client).dispatch()

    assert caught.value.__cause__ is not None
    assert "'no-such-table'" in notes(caught.value.__cause__)


def refused(code: str, text: str = "no") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": text}}, "GetItem")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (refused("ResourceNotFoundException"), "check the name"),
        (refused("AccessDeniedException"), "give their role the permission"),
        (refused("ExpiredTokenException"), "get new ones"),
        (refused("UnrecognizedClientException"), "does not accept the credentials"),
        (refused("ThrottlingException"), "passes by itself"),
        (refused("ProvisionedThroughputExceededException"), "passes by itself"),
        (refused("ValidationException", "The table does not have the specified index: wake"), "lacks the index"),
        (refused("ValidationException", "The provided key element does not match the schema"), "template.yaml"),
        (refused("InternalServerError"), "passes by itself"),
        (refused("NeverHeardOf"), "API reference"),
        (NoCredentialsError(), "there are no credentials"),
        (NoRegionError(), "set AWS_DEFAULT_REGION"),
        (EndpointConnectionError(endpoint_url="http://x"), "check the endpoint"),
    ],
    ids=str,
)
def test_each_kind_of_error_keeps_its_type_and_says_what_to_do(aws: Aws, error: Exception, advice: str):
    with pytest.raises(type(error)) as caught:
        aws.jobs(dynamodb=Fails(error)).get_status("r")

    assert caught.value is error
    assert advice in notes(error)
    assert f"'{aws.table}'" in notes(error)


def test_an_endpoint_that_is_not_one_of_aws_s_is_named_and_theirs_is_not(aws: Aws):
    ours = boto3.client(
        "dynamodb",
        endpoint_url="http://127.0.0.1:9",
        region_name="eu-west-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=_impatient(),
    )
    with pytest.raises(BotoCoreError) as caught:
        aws.jobs(dynamodb=ours).get_status("r")
    assert "in eu-west-1 at http://127.0.0.1:9 (" in notes(caught.value)

    with pytest.raises(ClientError) as refusal:
        aws.jobs(table="no-such-table", dynamodb=aws.dynamodb.client).get_status("r")
    assert "amazonaws.com" not in notes(refusal.value)


def test_a_process_without_a_region_is_told_so(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    jobs = Jobs(table="t", queue_url="https://queue")

    for call in (jobs.make_clients, lambda: jobs.get_status("r")):
        with pytest.raises(NoRegionError) as caught:
            call()
        assert notes(caught.value).count("Kumofire: ") == 1
        assert "set AWS_DEFAULT_REGION" in notes(caught.value)


def test_an_error_that_is_raised_twice_is_noted_once(aws: Aws):
    jobs = aws.jobs(dynamodb=Fails(error := refused("ThrottlingException")))

    for _ in range(2):
        with pytest.raises(ClientError):
            jobs.get_status("r")

    assert notes(error).count("Kumofire: ") == 1


def test_a_record_that_could_not_be_consumed_is_logged_with_the_table_and_without_others_notes(
    aws: Aws, caplog: pytest.LogCaptureFixture
):
    error = refused("ResourceNotFoundException")
    error.add_note("a note that quotes a payload")
    jobs = aws.jobs(dynamodb=Fails(error))

    with caplog.at_level(logging.ERROR, "kumofire_core"):
        assert failures(jobs.consume_batch(event("r"), LambdaContext())) == ["m-r"]

    [line] = caplog.records
    assert f"table '{aws.table}'" in line.getMessage()
    assert "KUMOFIRE_TABLE" in line.getMessage()
    assert "payload" not in json.dumps(line.__dict__, default=str)


def _impatient() -> Any:
    from botocore.config import Config

    return Config(connect_timeout=1, retries={"total_max_attempts": 1})


@pytest.mark.parametrize("refused_messages", [0, 3])
def test_messages_that_sqs_refuses_for_good_are_a_metric_of_the_consumer(
    capsys: pytest.CaptureFixture[str], refused_messages: int
):
    from kumofire_core.edge.telemetry import record_batch
    from kumofire_core.engine.sqs_batch import SqsBatchReport

    record_batch(SqsBatchReport(refused_messages=refused_messages))

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["MessagesRefused"] for line in lines] == ([[3.0]] if refused_messages else [])
