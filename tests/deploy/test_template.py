"""What ``template.yaml`` promises, read from its translation to plain CloudFormation, since emulators check little."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
import yaml
from botocore.client import BaseClient
from moto import mock_aws
from samtranslator.translator.transform import transform

from examples.deployment import PROJECT, load_template
from kumofire_core import JobContext, Limit, jobs
from kumofire_core.config import OPTIONAL, REQUIRED, settings_from
from kumofire_core.model.batch import member_run_id
from kumofire_core.rules.redelivery import seconds_until_redelivery
from kumofire_core.rules.retry import DEFAULT_MAX_ATTEMPTS
from tests.builders import NOW_MS, Aws, Clock, LambdaContext, event, failures, message

EDGE_SETTINGS = {
    "KUMOFIRE_JOBS",
    "POWERTOOLS_SERVICE_NAME",
    "POWERTOOLS_METRICS_NAMESPACE",
    "POWERTOOLS_LOG_LEVEL",
}
FUNCTIONS = ("Consumer", "Dispatcher")

TEMPLATE = load_template()
PARAMETERS = TEMPLATE["Parameters"]


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    template = copy.deepcopy(TEMPLATE)
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        translated: dict[str, Any] = transform(template, {}, SimpleNamespace(load=dict))["Resources"]
    return translated


def properties(resources: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = resources[name]["Properties"]
    return found


def resolved(value: Any, **parameters: Any) -> Any:
    """Return what CloudFormation makes of a ``Ref`` to a parameter or a ``FindInMap``; anything else as it is."""
    match value:
        case {"Ref": name} if name in PARAMETERS:
            return parameters.get(name, PARAMETERS[name]["Default"])
        case {"Fn::If": ["KeepsLargePayloads", kept, otherwise]}:
            return kept if parameters.get("LargePayloads") == "true" else otherwise
        case {"Fn::FindInMap": [table, key, column]}:
            return TEMPLATE["Mappings"][table][str(resolved(key, **parameters))][str(resolved(column, **parameters))]
        case _:
            return value


def environment(resources: dict[str, Any], name: str = "Consumer") -> dict[str, Any]:
    variables: dict[str, Any] = properties(resources, name)["Environment"]["Variables"]
    return variables


def policies(resources: dict[str, Any], function: str, *conditions: str) -> list[dict[str, Any]]:
    """Return the policies of a function's role: those that it always has and those that it has under conditions."""
    role = properties(resources, properties(resources, function)["Role"]["Fn::GetAtt"][0])
    found = []
    for policy in role["Policies"]:
        match policy:
            case {"Fn::If": [condition, under_it, {"Ref": "AWS::NoValue"}]}:
                found += [under_it] if condition in conditions else []
            case _:
                found.append(policy)
    return found


def statements(resources: dict[str, Any], function: str, *conditions: str) -> list[dict[str, Any]]:
    return [
        statement
        for policy in policies(resources, function, *conditions)
        for statement in policy["PolicyDocument"]["Statement"]
    ]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_the_template_has_no_yaml_aliases_which_cloudformation_does_not_read() -> None:
    events = yaml.parse((PROJECT / "template.yaml").read_text())

    assert not [event for event in events if isinstance(event, yaml.AliasEvent)]


def test_every_reference_names_something_that_exists(resources: dict[str, Any]) -> None:
    def names(value: Any) -> list[str]:
        match value:
            case {"Ref": str(name)}:
                return [name]
            case {"Fn::GetAtt": [str(name), *_]}:
                return [name]
            case {"Fn::Sub": str(text)}:
                return [name.partition(".")[0] for name in re.findall(r"\$\{([^}]+)\}", text)]
            case {"Fn::If": [str(condition), *branches]}:
                return [condition, *names(branches)]
            case dict():
                return [name for child in value.values() for name in names(child)]
            case list():
                return [name for child in value for name in names(child)]
            case _:
                return []

    known = {*resources, *PARAMETERS, *TEMPLATE["Conditions"]}
    used = names([resources, TEMPLATE["Outputs"], TEMPLATE["Conditions"], TEMPLATE["Rules"]])

    assert not {name for name in used if not name.startswith("AWS::")} - known
    assert {resource["Condition"] for resource in resources.values() if "Condition" in resource} <= known


def test_every_parameter_explains_itself_and_is_used() -> None:
    text = (PROJECT / "template.yaml").read_text()
    shown = [
        name
        for group in TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        for name in group["Parameters"]
    ]

    assert sorted(shown) == sorted(PARAMETERS)
    for name, parameter in PARAMETERS.items():
        assert parameter["Description"], name
        assert "Default" in parameter, name
        assert re.search(rf"!Ref {name}\b", text), name


def test_the_table_has_the_keys_and_the_indexes_of_the_protocol(resources: dict[str, Any]) -> None:
    table = properties(resources, "Table")
    types = {a["AttributeName"]: a["AttributeType"] for a in table["AttributeDefinitions"]}
    wake, listing = table["GlobalSecondaryIndexes"]

    assert [(k["AttributeName"], k["KeyType"]) for k in table["KeySchema"]] == [("pk", "HASH"), ("sk", "RANGE")]
    assert wake["IndexName"] == "wake"
    assert [(k["AttributeName"], k["KeyType"]) for k in wake["KeySchema"]] == [
        ("wake_shard", "HASH"),
        ("wake_at", "RANGE"),
    ]
    assert wake["Projection"] == {"ProjectionType": "KEYS_ONLY"}
    assert listing["IndexName"] == "listing"
    assert [(k["AttributeName"], k["KeyType"]) for k in listing["KeySchema"]] == [
        ("list_shard", "HASH"),
        ("list_at", "RANGE"),
    ]
    assert listing["Projection"] == {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["job_name", "error_type"]}
    assert types == {"pk": "S", "sk": "S", "wake_shard": "N", "wake_at": "N", "list_shard": "S", "list_at": "N"}
    assert table["BillingMode"] == "PAY_PER_REQUEST"


def test_the_table_is_kept_restorable_and_encrypted_and_drops_what_expired(resources: dict[str, Any]) -> None:
    table = properties(resources, "Table")

    assert resources["Table"]["DeletionPolicy"] == "Retain"
    assert resources["Table"]["UpdateReplacePolicy"] == "Retain"
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    assert table["SSESpecification"]["SSEEnabled"] is True
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}


@pytest.mark.parametrize("timeout_seconds", PARAMETERS["FunctionTimeout"]["AllowedValues"])
@pytest.mark.parametrize("window_seconds", PARAMETERS["BatchWindowSeconds"]["AllowedValues"])
def test_a_message_stays_hidden_for_six_times_the_time_its_consumer_may_take_and_the_window(
    resources: dict[str, Any], timeout_seconds: int, window_seconds: int
) -> None:
    chosen = {"FunctionTimeout": timeout_seconds, "BatchWindowSeconds": window_seconds}
    timeout = resolved(properties(resources, "Consumer")["Timeout"], **chosen)
    window = resolved(properties(resources, "ConsumerQueue")["MaximumBatchingWindowInSeconds"], **chosen)
    hidden = resolved(properties(resources, "Queue")["VisibilityTimeout"], **chosen)

    assert (timeout, window) == (timeout_seconds, window_seconds)
    assert hidden == 6 * timeout + window


def test_a_message_that_no_consumer_can_take_ends_on_the_dead_letter_queue(resources: dict[str, Any]) -> None:
    redrive = properties(resources, "Queue")["RedrivePolicy"]

    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}
    assert "RedrivePolicy" not in properties(resources, "DeadLetterQueue")


def test_a_record_that_is_given_back_outlasts_an_outage_of_hours(resources: dict[str, Any]) -> None:
    receives = properties(resources, "Queue")["RedrivePolicy"]["maxReceiveCount"]

    for message_id in ("m1", "m2", "m3"):
        waits = [seconds_until_redelivery(message_id, receives=number) for number in range(1, receives)]
        assert timedelta(hours=8) < timedelta(seconds=sum(waits)) < timedelta(days=1)


@pytest.mark.parametrize("queue", ["Queue", "DeadLetterQueue"])
def test_a_queue_is_encrypted_and_keeps_messages_as_long_as_sqs_can(resources: dict[str, Any], queue: str) -> None:
    assert properties(resources, queue)["SqsManagedSseEnabled"] is True
    assert timedelta(seconds=properties(resources, queue)["MessageRetentionPeriod"]) == timedelta(days=14)


def test_the_consumer_is_fed_by_the_queue_and_answers_record_by_record(resources: dict[str, Any]) -> None:
    mapping = properties(resources, "ConsumerQueue")

    # The alias; its Ref is its ARN.
    assert mapping["FunctionName"] == {"Ref": "ConsumerAliaslive"}
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": ["Queue", "Arn"]}
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    # A filter would delete what is malformed unseen, where the consumer counts it.
    assert "FilterCriteria" not in mapping
    assert resolved(mapping["BatchSize"]) == 10
    assert resolved(mapping["MaximumBatchingWindowInSeconds"]) == 0
    assert properties(resources, "Consumer")["Handler"] == "handler.consumer.handler"


def accepts(parameter: str, value: object) -> bool:
    return re.fullmatch(PARAMETERS[parameter]["AllowedPattern"], str(value)) is not None


def test_as_many_consumers_as_lambda_takes_can_be_chosen_or_no_limit() -> None:
    # https://docs.aws.amazon.com/lambda/latest/api/API_ScalingConfig.html
    taken = {value for value in range(-1, 10_001) if accepts("ConsumerConcurrency", value)}

    assert taken == {0, *range(2, 1001)}
    assert accepts("ConsumerConcurrency", "")
    assert not any(accepts("ConsumerConcurrency", value) for value in ("02", "2.0", "1e2", " 2", "2\n", "ten"))
    assert accepts("ConsumerConcurrency", PARAMETERS["ConsumerConcurrency"]["Default"])


def test_the_mapping_gets_the_number_of_consumers_that_was_chosen(resources: dict[str, Any]) -> None:
    condition, limited, unlimited = properties(resources, "ConsumerQueue")["ScalingConfig"]["Fn::If"]
    [none] = TEMPLATE["Conditions"][condition]["Fn::Not"]

    assert limited == {"MaximumConcurrency": {"Ref": "ConsumerConcurrency"}}
    assert unlimited == {}
    assert [each["Fn::Equals"] for each in none["Fn::Or"]] == [
        [{"Ref": "ConsumerConcurrency"}, ""],
        [{"Ref": "ConsumerConcurrency"}, "0"],
    ]


def test_the_dispatcher_ticks_once_a_minute_and_only_its_rule_may_call_it(resources: dict[str, Any]) -> None:
    rule = properties(resources, "DispatcherTick")
    permission = properties(resources, "DispatcherTickPermission")

    assert rule["ScheduleExpression"] == "rate(1 minute)"
    assert [target["Arn"] for target in rule["Targets"]] == [{"Fn::GetAtt": ["Dispatcher", "Arn"]}]
    assert permission["Principal"] == "events.amazonaws.com"
    assert permission["SourceArn"] == {"Fn::GetAtt": ["DispatcherTick", "Arn"]}
    assert properties(resources, "Dispatcher")["Handler"] == "handler.dispatcher.handler"


IN_FUNCTIONS = [name for name in OPTIONAL if name != "KUMOFIRE_CREATOR"]
"""The settings that the template gives. Lambda itself says a function's name, which is its runs' creator."""
CHOSEN = [name for name in IN_FUNCTIONS if name != "KUMOFIRE_BUCKET"]
"""Those that are parameters."""


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_gets_every_setting_that_the_code_reads_and_no_other(
    resources: dict[str, Any], function: str
) -> None:
    assert set(environment(resources, function)) == {*REQUIRED, *IN_FUNCTIONS, *EDGE_SETTINGS}
    assert environment(resources, function)["KUMOFIRE_TABLE"] == {"Ref": "Table"}
    # A queue's Ref is its URL.
    assert environment(resources, function)["KUMOFIRE_QUEUE_URL"] == {"Ref": "Queue"}


def test_the_defaults_of_the_template_are_those_of_the_code(resources: dict[str, Any]) -> None:
    variables = environment(resources)
    settings = settings_from({name: str(resolved(value)) for name, value in variables.items()})

    assert settings["concurrency"] == jobs.DEFAULT_CONCURRENCY
    assert settings["wake_shards"] == jobs.DEFAULT_WAKE_SHARDS
    assert settings["retention"] == jobs.DEFAULT_RETENTION
    assert settings["lease"] == jobs.DEFAULT_LEASE
    assert settings["max_attempts"] == DEFAULT_MAX_ATTEMPTS
    assert settings["large_from"] == jobs.DEFAULT_LARGE_FROM
    assert "bucket" not in settings


@pytest.mark.parametrize("setting", CHOSEN)
@pytest.mark.parametrize("bound", [0, -1], ids=["least", "most"])
def test_a_value_that_the_template_allows_is_one_that_the_code_takes(
    resources: dict[str, Any], setting: str, bound: int
) -> None:
    name = environment(resources)[setting]["Ref"]
    parameter = PARAMETERS[name]
    required = dict.fromkeys(REQUIRED, "x")
    allowed = parameter.get("AllowedValues") or LONGEST.get(name) or [parameter["MinValue"], parameter["MaxValue"]]
    assert all(re.fullmatch(parameter.get("AllowedPattern", ".*"), str(value)) for value in allowed)

    assert len(settings_from({**required, setting: str(allowed[bound])})) == len(required) + 1


LONGEST = {
    "PayloadKeyArn": ["arn:aws:kms:eu-west-1:123456789012:key/1", f"arn:aws-us-gov:kms:a-b-1:{'1' * 12}:key/{'a' * 36}"]
}
"""Values of parameters that have no bounds but a pattern."""

POLLER = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
"""What Lambda itself does by the consumer's role. https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""

LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}


def granted(policy_statements: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return the actions that statements allow, each with the resource it is allowed on."""
    return {
        (action, resource_name(resource))
        for statement in policy_statements
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    }


def resource_name(resource: Any) -> str:
    match resource:
        case {"Fn::GetAtt": [name, "Arn"]}:
            return str(name)
        case {"Fn::Sub": str(text)}:
            return text.replace("${Table.Arn}", "Table")
        case {"Ref": name}:
            return str(name)
    return str(resource)


def under(policy_statements: list[Any], *conditions: str) -> list[dict[str, Any]]:
    """Return the statements of a policy that are there under these conditions."""
    found = []
    for statement in policy_statements:
        match statement:
            case {"Fn::If": [condition, under_it, {"Ref": "AWS::NoValue"}]}:
                found += [under_it] if condition in conditions else []
            case _:
                found.append(statement)
    return found


@contextmanager
def calls_of(aws: Aws) -> Iterator[set[tuple[str, str]]]:
    """Collect the permissions that the requests of the block need, each with the resource it is needed on."""
    needed: set[tuple[str, str]] = set()

    def collect(model: Any, params: dict[str, Any], **_: Any) -> None:
        service, operation = model.service_model.service_name, model.name
        request = json.loads(params["body"])
        if service == "sqs":
            needed.add((f"sqs:{operation.removesuffix('Batch')}", "Queue"))
        elif operation == "BatchExecuteStatement":
            for statement in request["Statements"]:
                needed.add((f"dynamodb:PartiQL{statement['Statement'].split()[0].capitalize()}", "Table"))
        else:
            index = f"/index/{request['IndexName']}" if "IndexName" in request else ""
            needed.add((f"dynamodb:{operation}", f"Table{index}"))

    clients = (aws.dynamodb.client, aws.sqs.client)
    for client in clients:
        client.meta.events.register("before-call", collect)
    try:
        yield needed
    finally:
        for client in clients:
            client.meta.events.unregister("before-call", collect)


def every_way_to_consume(aws: Aws, **settings: Any) -> None:
    """Succeed, retry, fail, take over, cancel, put aside, and have a handler look for a cancellation and create.

    And keep steps, wait, wait for a slot, and end a batch.
    """
    jobs = aws.jobs(**settings)
    aws.jobs(allow_unknown_jobs=True).pause("paused")

    @jobs.handler("parent")
    def parent(ctx: JobContext) -> None:
        ctx.cancel_requested()
        jobs.create("child")

    @jobs.handler("child")
    def child(ctx: JobContext) -> None:
        raise ConnectionError

    @jobs.handler("limited", concurrency=Limit(1))
    def limited(ctx: JobContext) -> None:
        if ctx.run.id not in waiting:
            for run_id in waiting:
                jobs.consume(message(run_id))

    waiting = [aws.a_run(job_name="limited") for _ in range(9)]  # more than wait within the limit's item

    @jobs.handler("steps")
    def steps(ctx: JobContext) -> None:
        ctx.step("charge", str)
        ctx.wait_for("approved")

    batch_id = aws.jobs(allow_unknown_jobs=True).create_batch([{"name": "parent"}], then="parent")

    runs = [
        member_run_id(batch_id, 0),
        aws.a_run(job_name="steps", claims=1),
        aws.a_run(job_name="parent"),
        aws.a_run(job_name="limited"),
        aws.a_run(job_name="child"),
        aws.a_run(job_name="child", max_attempts=1),
        aws.a_run(job_name="unknown"),
        aws.a_run(job_name="paused"),
        aws.a_running_run(job_name="parent", lease_until=NOW_MS - 1),
        aws.a_running_run(job_name="child", lease_until=NOW_MS - 1, cancel_requested_at=NOW_MS - 1),
        aws.a_run(status="succeeded"),
        "no-such-run",
    ]
    answer = jobs.consume_batch(event(*runs), LambdaContext())
    assert answer == {"batchItemFailures": []}
    for run_id in waiting:
        assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert failures(jobs.consume_batch(event(aws.a_run("newer", schema=3)), LambdaContext())) == ["m-newer"]


def every_way_to_dispatch(aws: Aws) -> None:
    """Send what is due or soon will be, send again, recover, fail, resume, and fire schedules that look at a run."""
    clock = Clock()
    jobs = aws.jobs(clock=clock, allow_unknown_jobs=True)
    past = {"wake_at": NOW_MS - 1}
    aws.a_run(status="scheduled", scheduled_for=NOW_MS - 1, **past)
    aws.a_run(status="scheduled", scheduled_for=NOW_MS + 60_000, wake_at=NOW_MS + 60_000)
    aws.a_run(**past)
    aws.a_running_run(lease_until=NOW_MS - 1, **past)
    aws.a_running_run(lease_until=NOW_MS - 1, max_attempts=1, **past)
    aws.a_running_run(**past)
    aws.a_run(status="scheduled", parked="pause", list_shard="parked#0", list_at=NOW_MS, wake_at=NOW_MS + 86_400_000)
    jobs.pause("email")
    assert jobs.resume("email")
    jobs.create_batch([{"name": "email", "delay": timedelta(days=1)}])
    result = jobs.dispatch()
    assert (result.errors, result.dispatched, result.resent, result.recovered, result.failed) == (0, 2, 1, 1, 1)
    assert result.resumed == 1
    clock.advance(hours=2)
    assert jobs.dispatch().schedules == 2


def make_schedules(aws: Aws) -> None:
    jobs = aws.jobs(allow_unknown_jobs=True)
    for key, overlap in (("skips", "skip"), ("allows", "allow")):
        schedule = {"schedule_type": "interval", "schedule_expr": "rate(1 hour)", "missed": "latest"}
        jobs.create_schedule("email", schedule_key=key, overlap=overlap, **schedule)


def test_the_consumer_may_do_what_it_does_and_nothing_else(resources: dict[str, Any], aws: Aws) -> None:
    with calls_of(aws) as needed:
        every_way_to_consume(aws, concurrency=1)

    assert granted(statements(resources, "Consumer")) == {
        *needed,
        *((action, "Queue") for action in POLLER),
        *((action, "ConsumerLogs") for action in LOGS),
    }


def test_the_dispatcher_may_do_what_it_does_and_nothing_else(resources: dict[str, Any], aws: Aws) -> None:
    make_schedules(aws)
    with calls_of(aws) as needed:
        every_way_to_dispatch(aws)

    assert granted(statements(resources, "Dispatcher")) == {
        *needed,
        *((action, "DispatcherLogs") for action in LOGS),
    }


def test_the_dispatcher_may_invoke_itself_and_no_other_function(resources: dict[str, Any]) -> None:
    policy = properties(resources, "DispatcherSpreads")

    assert policy["Roles"] == [{"Ref": "DispatcherRole"}]
    assert granted(policy["PolicyDocument"]["Statement"]) == {("lambda:InvokeFunction", "Dispatcher")}
    others = [name for name, r in resources.items() if r["Type"] == "AWS::IAM::Policy" and name != "DispatcherSpreads"]
    assert others == []


def test_an_invocation_of_a_partition_that_waits_for_a_minute_is_left_to_the_next_tick(
    resources: dict[str, Any],
) -> None:
    [config] = [r["Properties"] for r in resources.values() if r["Type"] == "AWS::Lambda::EventInvokeConfig"]

    assert (config["MaximumRetryAttempts"], config["MaximumEventAgeInSeconds"]) == (0, 60)


def test_claims_in_batches_add_one_permission_and_only_where_they_are_chosen(
    resources: dict[str, Any], aws: Aws
) -> None:
    with calls_of(aws) as one_by_one:
        every_way_to_consume(aws, concurrency=1)
    with calls_of(aws) as in_batches:
        every_way_to_consume(aws, batch_writes=True, concurrency=8)

    always = granted(statements(resources, "Consumer"))
    chosen = granted(statements(resources, "Consumer", "WritesInBatches"))
    assert chosen - always == in_batches - one_by_one != set()
    assert resolved(environment(resources)["KUMOFIRE_BATCH_WRITES"]) == "false"


class Kms:
    """A cipher that asks KMS what ``EnvelopeCipher`` asks, and writes down for which permission."""

    def __init__(self, needed: set[tuple[str, str]]) -> None:
        self._needed = needed

    def encrypt(self, plaintext: bytes) -> bytes:
        self._needed.add(("kms:GenerateDataKey", "PayloadKeyArn"))
        return plaintext

    def decrypt(self, ciphertext: bytes) -> bytes:
        self._needed.add(("kms:Decrypt", "PayloadKeyArn"))
        return ciphertext


def test_the_cipher_asks_kms_for_two_things() -> None:
    # What `Kms` above takes for granted.
    pytest.importorskip("aws_encryption_sdk", reason="the extra 'encryption' is not installed")
    from kumofire_core.encryption import EnvelopeCipher

    asked = []
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        key = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
        call = BaseClient._make_api_call
        patch.setattr(
            BaseClient, "_make_api_call", lambda self, name, given: asked.append(name) or call(self, name, given)
        )
        sealed = EnvelopeCipher.for_kms_key(key).encrypt(b"secret")
        assert asked == ["GenerateDataKey"]
        assert EnvelopeCipher.for_kms_key(key).decrypt(sealed) == b"secret"
    assert asked == ["GenerateDataKey", "Decrypt"]


def consume_sealed(aws: Aws, cipher: Kms) -> None:
    jobs = aws.jobs(cipher=cipher)
    jobs.handler("email")(lambda ctx: ctx.payload)
    run_id = aws.jobs(cipher=Kms(set()), allow_unknown_jobs=True).create("email", 1)
    assert jobs.consume_batch(event(run_id), LambdaContext()) == {"batchItemFailures": []}
    assert jobs.get_status(run_id).status == "succeeded"


def fire_sealed(aws: Aws, cipher: Kms) -> None:
    once = {"schedule_type": "once", "schedule_expr": Clock()()}
    aws.jobs(cipher=Kms(set()), allow_unknown_jobs=True).create_schedule("email", 1, **once)
    assert aws.jobs(cipher=cipher, allow_unknown_jobs=True).dispatch().schedules == 1


def create_sealed(aws: Aws, cipher: Kms) -> None:
    aws.jobs(cipher=cipher, allow_unknown_jobs=True).create("email", 1)


def read_sealed(aws: Aws, cipher: Kms) -> None:
    run_id = aws.jobs(cipher=Kms(set()), allow_unknown_jobs=True).create("email", 1)
    assert aws.jobs(cipher=cipher).get_status(run_id).payload == 1


def operate_sealed(aws: Aws, cipher: Kms) -> None:
    jobs = aws.jobs(cipher=cipher, allow_unknown_jobs=True)
    schedule = jobs.create_schedule("email", 1, schedule_type="interval", schedule_expr="rate(1 hour)")
    assert jobs.update_schedule(schedule, payload=2).payload == 2
    assert jobs.trigger_schedule(schedule)


@pytest.mark.parametrize(
    ("place", "use"),
    [
        ("Consumer", consume_sealed),
        ("Dispatcher", fire_sealed),
        ("WorkerPolicy", consume_sealed),
        ("CreatorPolicy", create_sealed),
        ("ReaderPolicy", read_sealed),
        ("OperatorPolicy", operate_sealed),
    ],
)
def test_a_payload_key_adds_what_its_users_ask_of_that_key_and_only_where_it_is_given(
    resources: dict[str, Any], aws: Aws, place: str, use: Callable[[Aws, Kms], None]
) -> None:
    def allowed(*conditions: str) -> set[tuple[str, str]]:
        if place in FUNCTIONS:
            return granted(statements(resources, place, *conditions))
        return granted(under(properties(resources, place)["PolicyDocument"]["Statement"], *conditions))

    needed: set[tuple[str, str]] = set()
    use(aws, Kms(needed))
    # The doctor's question; tests/deploy/test_rights.py asks it.
    doctors = {("kms:DescribeKey", "PayloadKeyArn")} if place == "OperatorPolicy" else set()

    assert allowed("EncryptsPayloads") - allowed() == needed | doctors != doctors
    assert resolved(environment(resources)["KUMOFIRE_PAYLOAD_KEY_ARN"]) == ""


def statement(resources: dict[str, Any], policy: str, sid: str) -> dict[str, Any]:
    document = properties(resources, policy)["PolicyDocument"]
    [found] = [each for each in under(document["Statement"]) if each["Sid"] == sid]
    return found


def test_who_creates_runs_can_not_read_any(resources: dict[str, Any]) -> None:
    runs = statement(resources, "CreatorPolicy", "Runs")
    debounced = statement(resources, "CreatorPolicy", "DebouncedRuns")
    keys = statement(resources, "CreatorPolicy", "DedupeKeys")

    for writes, action, written in (
        (runs, "dynamodb:PutItem", ["run#*", "dedupe#*", "batch#*"]),
        (debounced, "dynamodb:UpdateItem", ["run#*"]),
    ):
        assert writes["Action"] == action
        assert writes["Condition"] == {
            "ForAllValues:StringLike": {"dynamodb:LeadingKeys": written},
            "StringEqualsIfExists": {"dynamodb:ReturnValues": "NONE"},
        }
    assert keys["Action"] == "dynamodb:GetItem"
    assert keys["Condition"] == {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["dedupe#*"]}}


def test_who_creates_runs_may_put_every_item_that_creating_puts(resources: dict[str, Any], aws: Aws) -> None:
    patterns = [
        *statement(resources, "CreatorPolicy", "Partitions")["Condition"]["ForAllValues:StringLike"].values(),
        *statement(resources, "CreatorPolicy", "Runs")["Condition"]["ForAllValues:StringLike"].values(),
    ]

    aws.jobs(wake_shards=64).create("email")

    keys = [put["Item"]["pk"]["S"] for put in aws.dynamodb.parameters("put_item")]
    assert [[any(fnmatchcase(key, each) for each in listed) for listed in patterns] for key in keys] == [
        [True, False],
        [False, True],
    ]


def test_who_reads_may_read_every_item_that_the_stats_are_made_of(resources: dict[str, Any], aws: Aws) -> None:
    def patterns(sid: str) -> list[str]:
        [found] = statement(resources, "ReaderPolicy", sid)["Condition"]["ForAllValues:StringLike"].values()
        return found

    aws.a_run()

    aws.jobs().stats()

    single = [get["Key"] for get in aws.dynamodb.parameters("get_item")]
    batches = [get["RequestItems"][aws.table]["Keys"] for get in aws.dynamodb.parameters("batch_get_item")]
    assert all(any(fnmatchcase(key["pk"]["S"], each) for each in patterns("Items")) for key in single)
    assert {key["pk"]["S"].split("#")[0] for keys in batches for key in keys} == {"run", "counts"}
    assert all(
        any(fnmatchcase(key["pk"]["S"], each) for each in patterns("ListedItems")) for keys in batches for key in keys
    )


def test_an_update_of_the_stack_replaces_no_policy_that_roles_have(resources: dict[str, Any]) -> None:
    # Those of the release that had each first. https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-iam-managedpolicy.html
    policies = {n: r["Properties"] for n, r in resources.items() if r["Type"] == "AWS::IAM::ManagedPolicy"}

    assert {name: found["Description"] for name, found in policies.items()} == {
        "CreatorPolicy": "Create runs, and nothing else.",
        "ReaderPolicy": "Read runs by their ids.",
        "OperatorPolicy": "Create, read, cancel and retry runs, and manage schedules.",
        "WorkerPolicy": "Execute runs in a process of your own, and dispatch them.",
    }
    assert not [name for name, found in policies.items() if {"ManagedPolicyName", "Path"} & found.keys()]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_traces_are_allowed_only_where_they_are_made(resources: dict[str, Any], function: str) -> None:
    always = granted(statements(resources, function))

    assert granted(statements(resources, function, "IsTraced")) - always == {
        ("xray:PutTraceSegments", "*"),
        ("xray:PutTelemetryRecords", "*"),
    }
    assert properties(resources, function)["TracingConfig"] == {"Mode": {"Ref": "Tracing"}}
    assert PARAMETERS["Tracing"]["Default"] == "PassThrough"


@pytest.mark.parametrize("queue", ["Queue", "DeadLetterQueue"])
def test_a_queue_takes_no_message_without_tls(resources: dict[str, Any], queue: str) -> None:
    policy = properties(resources, "QueuesPolicy")
    [statement] = policy["PolicyDocument"]["Statement"]

    assert {"Ref": queue} in policy["Queues"]
    assert {"Fn::GetAtt": [queue, "Arn"]} in statement["Resource"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "sqs:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


SHORT_FORMS = {
    "PayloadKey": "${PayloadKeyArn}",
    "Traced": "${Tracing}",
    "Large": "${LargePayloads} ${LargeFromBytes}",
}
"""What a description that has room for 256 characters says in fewer ones."""


def test_a_new_value_of_a_setting_reaches_the_version_that_the_queue_calls(resources: dict[str, Any]) -> None:
    # CloudFormation replaces a version when its description changes, and fails when nothing else did.
    [version] = [r["Properties"] for r in resources.values() if r["Type"] == "AWS::Lambda::Version"]
    text, parts = version["Description"]["Fn::Sub"]
    for name, stands_for in SHORT_FORMS.items():
        text = text.replace(f"${{{name}}}", stands_for)
    described = re.findall(r"\$\{(\w+)\}", text)
    consumer = {name: value for name, value in properties(resources, "Consumer").items() if name != "Tags"}
    used = {name for name in PARAMETERS if f"{{'Ref': '{name}'}}" in str(consumer)}
    assert environment(resources)["KUMOFIRE_BUCKET"] == {"Fn::If": ["KeepsLargePayloads", {"Ref": "Bucket"}, ""]}
    used.add("LargePayloads")

    assert sorted(described) == sorted(used)
    # https://docs.aws.amazon.com/lambda/latest/api/API_PublishVersion.html
    longest = {
        name: max(len(str(v)) for v in (p.get("AllowedValues") or [p.get("MaxValue", "")]))
        for name, p in PARAMETERS.items()
    }
    longest |= {"Tracing": len("t"), "LargePayloads": 0}
    key_id = 36
    assert sum(longest[name] + 1 for name in described) + PARAMETERS["JobsModule"]["MaxLength"] + key_id <= 256
    assert parts == {
        "PayloadKey": {"Fn::Select": [1, {"Fn::Split": ["/", {"Fn::Sub": "${PayloadKeyArn}/"}]}]},
        "Traced": {"Fn::If": ["IsTraced", "t", "n"]},
        "Large": {"Fn::If": ["KeepsLargePayloads", {"Ref": "LargeFromBytes"}, 0]},
    }


def test_no_old_version_stays_to_be_billed(resources: dict[str, Any]) -> None:
    [version] = [r for r in resources.values() if r["Type"] == "AWS::Lambda::Version"]

    assert version["DeletionPolicy"] == "Delete"


def test_snap_start_is_off_unless_asked_for_and_refused_where_lambda_has_none(resources: dict[str, Any]) -> None:
    [assertion] = TEMPLATE["Rules"]["SnapStartNeedsPython312"]["Assertions"]
    able = set(assertion["Assert"]["Fn::Contains"][0])

    assert properties(resources, "Consumer")["SnapStart"] == {"ApplyOn": {"Ref": "SnapStart"}}
    assert PARAMETERS["SnapStart"]["Default"] == "None"
    assert able == set(PARAMETERS["Runtime"]["AllowedValues"]) - {"python3.11"}


def test_the_table_can_not_be_deleted_by_mistake(resources: dict[str, Any]) -> None:
    assert resolved(properties(resources, "Table")["DeletionProtectionEnabled"]) == "true"


ALARMS = {
    "DeadLetterAlarm": ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "DeadLetterQueue"),
    "QueueAgeAlarm": ("AWS/SQS", "ApproximateAgeOfOldestMessage", "Queue"),
    "ConsumerErrorsAlarm": ("AWS/Lambda", "Errors", "Consumer"),
    "ConsumerThrottlesAlarm": ("AWS/Lambda", "Throttles", "Consumer"),
    "DispatcherErrorsAlarm": ("AWS/Lambda", "Errors", "Dispatcher"),
    "CleanerErrorsAlarm": ("AWS/Lambda", "Errors", "Cleaner"),
    "DispatcherNotRunningAlarm": ("Kumofire", "DispatcherPasses", "AWS::StackName"),
    "DispatchErrorsAlarm": ("Kumofire", "DispatchErrors", "AWS::StackName"),
    "MessagesRefusedAlarm": ("Kumofire", "MessagesRefused", "AWS::StackName"),
    "RunsFailedAlarm": ("Kumofire", "RunsFailed", "AWS::StackName"),
    "RecordsFailingAlarm": ("Kumofire", "RecordsToRedeliver", "AWS::StackName"),
    "MalformedRecordsAlarm": ("Kumofire", "MalformedRecords", "AWS::StackName"),
}
METRICS_OF_THE_CODE = set(re.findall(r'"([A-Z][A-Za-z]+)"', (PROJECT / "kumofire_core/edge/telemetry.py").read_text()))


def test_what_can_go_wrong_has_an_alarm(resources: dict[str, Any]) -> None:
    alarms = {name: r["Properties"] for name, r in resources.items() if r["Type"] == "AWS::CloudWatch::Alarm"}
    watched = {}
    for name, alarm in alarms.items():
        [dimension] = alarm["Dimensions"]
        of = dimension["Value"].get("Ref") or dimension["Value"]["Fn::GetAtt"][0]
        watched[name] = (alarm["Namespace"], alarm["MetricName"], of)
        label = {"AWS/SQS": "QueueName", "AWS/Lambda": "FunctionName", "Kumofire": "service"}[alarm["Namespace"]]
        assert dimension["Name"] == label, name

    assert watched == ALARMS


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_notifies_the_topic_that_was_given_and_is_quiet_when_nothing_happens(
    resources: dict[str, Any], name: str
) -> None:
    alarm = properties(resources, name)
    notified = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}

    assert alarm["AlarmActions"] == alarm["OKActions"] == notified
    # Only silence of the dispatcher is an alarm.
    expected = "breaching" if name == "DispatcherNotRunningAlarm" else "notBreaching"
    assert alarm["TreatMissingData"] == expected


def test_an_alarm_or_a_graph_shows_what_the_code_measures(resources: dict[str, Any]) -> None:
    variables = environment(resources)
    alarmed = {metric for namespace, metric, _ in ALARMS.values() if namespace == "Kumofire"}
    text = re.sub(r"\$\{[^}]+\}", "x", properties(resources, "Dashboard")["DashboardBody"]["Fn::Sub"])
    widgets = json.loads(text)["widgets"]
    shown = {metric[1] for widget in widgets for metric in widget["properties"]["metrics"] if metric[0] == "Kumofire"}

    assert alarmed | shown <= METRICS_OF_THE_CODE
    assert alarmed <= shown | {"DispatcherPasses"}
    assert variables["POWERTOOLS_METRICS_NAMESPACE"] == "Kumofire"
    assert variables["POWERTOOLS_SERVICE_NAME"] == {"Ref": "AWS::StackName"}


def test_no_role_has_a_wildcard_or_a_policy_that_someone_else_writes(resources: dict[str, Any]) -> None:
    roles = {name: r["Properties"] for name, r in resources.items() if r["Type"] == "AWS::IAM::Role"}

    assert set(roles) == {"ConsumerRole", "DispatcherRole", "CleanerRole"}
    for name, role in roles.items():
        assert "ManagedPolicyArns" not in role, name
    for function in FUNCTIONS:
        # X-Ray has no resources to name.
        assert "*" not in str(policies(resources, function, "WritesInBatches")), function


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_functions_logs_go_to_a_group_of_its_own_that_forgets(resources: dict[str, Any], function: str) -> None:
    group = properties(resources, function)["LoggingConfig"]["LogGroup"]["Ref"]

    assert group == f"{function}Logs"
    assert resolved(properties(resources, group)["RetentionInDays"]) == 30


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_runs_on_arm_and_python_313_unless_told_otherwise(resources: dict[str, Any], function: str) -> None:
    assert resolved(properties(resources, function)["Runtime"]) == "python3.13"
    assert [resolved(a) for a in properties(resources, function)["Architectures"]] == ["arm64"]


def test_the_page_on_deployment_explains_every_parameter_and_policy() -> None:
    page = (PROJECT / "docs/deploy.md").read_text()
    policies = [name for name in TEMPLATE["Outputs"] if name.endswith("PolicyArn")]

    assert not [name for name in (*PARAMETERS, *policies) if f"`{name}`" not in page]


def test_an_application_finds_the_table_and_the_queues_in_the_outputs() -> None:
    assert {name: output["Value"] for name, output in TEMPLATE["Outputs"].items()} == {
        "TableName": {"Ref": "Table"},
        "QueueUrl": {"Ref": "Queue"},
        "DeadLetterQueueUrl": {"Ref": "DeadLetterQueue"},
        "DeadLetterQueueArn": {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]},
        "ConsumerFunction": {"Ref": "Consumer"},
        "DispatcherFunction": {"Ref": "Dispatcher"},
        "DispatcherRule": {"Ref": "DispatcherTick"},
        # A role's Ref is its name.
        "ConsumerRoleName": {"Ref": "ConsumerRole"},
        "ConsumerLogGroup": {"Ref": "ConsumerLogs"},
        "DispatcherLogGroup": {"Ref": "DispatcherLogs"},
        "CreatorPolicyArn": {"Ref": "CreatorPolicy"},
        "ReaderPolicyArn": {"Ref": "ReaderPolicy"},
        "OperatorPolicyArn": {"Ref": "OperatorPolicy"},
        "WorkerPolicyArn": {"Ref": "WorkerPolicy"},
        "DashboardUrl": TEMPLATE["Outputs"]["DashboardUrl"]["Value"],
        "BucketName": {"Ref": "Bucket"},
    }
    assert TEMPLATE["Outputs"]["BucketName"]["Condition"] == "KeepsLargePayloads"
