"""What ``template.yaml`` promises, read from its translation to plain CloudFormation, since emulators check little."""

from __future__ import annotations

import copy
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from samtranslator.translator.transform import transform

from examples.deployment import PROJECT, load_template
from kumofire_core import jobs, retry
from kumofire_core.config import OPTIONAL, REQUIRED, settings_from

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
        case {"Fn::FindInMap": [table, key, column]}:
            return TEMPLATE["Mappings"][table][str(resolved(key, **parameters))][column]
        case _:
            return value


def environment(resources: dict[str, Any], name: str = "Consumer") -> dict[str, Any]:
    variables: dict[str, Any] = properties(resources, name)["Environment"]["Variables"]
    return variables


def statements(resources: dict[str, Any], function: str) -> dict[str, dict[str, Any]]:
    """Return the statements of a function's role by their Sid."""
    role = properties(resources, properties(resources, function)["Role"]["Fn::GetAtt"][0])
    return {
        statement["Sid"]: statement
        for policy in role["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
    }


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
            case dict():
                return [name for child in value.values() for name in names(child)]
            case list():
                return [name for child in value for name in names(child)]
            case _:
                return []

    known = {*resources, *PARAMETERS}

    assert not {name for name in names([resources, TEMPLATE["Outputs"]]) if not name.startswith("AWS::")} - known


def test_every_parameter_explains_itself_and_is_used() -> None:
    text = (PROJECT / "template.yaml").read_text()

    for name, parameter in PARAMETERS.items():
        assert parameter["Description"], name
        assert "Default" in parameter, name
        assert f"!Ref {name}\n" in text or f"!Ref {name}," in text or f"!Ref {name}]" in text, name


def test_the_table_has_the_keys_and_the_index_of_the_protocol(resources: dict[str, Any]) -> None:
    table = properties(resources, "Table")
    types = {a["AttributeName"]: a["AttributeType"] for a in table["AttributeDefinitions"]}
    [index] = table["GlobalSecondaryIndexes"]

    assert [(k["AttributeName"], k["KeyType"]) for k in table["KeySchema"]] == [("pk", "HASH"), ("sk", "RANGE")]
    assert index["IndexName"] == "wake"
    assert [(k["AttributeName"], k["KeyType"]) for k in index["KeySchema"]] == [
        ("wake_shard", "HASH"),
        ("wake_at", "RANGE"),
    ]
    assert index["Projection"] == {"ProjectionType": "KEYS_ONLY"}
    assert types == {"pk": "S", "sk": "S", "wake_shard": "N", "wake_at": "N"}
    assert table["BillingMode"] == "PAY_PER_REQUEST"


def test_the_table_is_kept_restorable_and_encrypted_and_drops_what_expired(resources: dict[str, Any]) -> None:
    table = properties(resources, "Table")

    assert resources["Table"]["DeletionPolicy"] == "Retain"
    assert resources["Table"]["UpdateReplacePolicy"] == "Retain"
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    assert table["SSESpecification"]["SSEEnabled"] is True
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}


@pytest.mark.parametrize("timeout_seconds", PARAMETERS["FunctionTimeout"]["AllowedValues"])
def test_a_message_stays_hidden_for_six_times_the_time_its_consumer_may_take(
    resources: dict[str, Any], timeout_seconds: int
) -> None:
    timeout = resolved(properties(resources, "Consumer")["Timeout"], FunctionTimeout=timeout_seconds)
    hidden = resolved(properties(resources, "Queue")["VisibilityTimeout"], FunctionTimeout=timeout_seconds)

    assert timeout == timeout_seconds
    assert hidden >= 6 * timeout


def test_a_message_that_no_consumer_can_take_ends_on_the_dead_letter_queue(resources: dict[str, Any]) -> None:
    redrive = properties(resources, "Queue")["RedrivePolicy"]

    assert redrive == {"deadLetterTargetArn": {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}, "maxReceiveCount": 5}
    assert "RedrivePolicy" not in properties(resources, "DeadLetterQueue")


@pytest.mark.parametrize("queue", ["Queue", "DeadLetterQueue"])
def test_a_queue_is_encrypted_and_keeps_messages_as_long_as_sqs_can(resources: dict[str, Any], queue: str) -> None:
    assert properties(resources, queue)["SqsManagedSseEnabled"] is True
    assert timedelta(seconds=properties(resources, queue)["MessageRetentionPeriod"]) == timedelta(days=14)


def test_the_consumer_is_fed_by_the_queue_and_answers_record_by_record(resources: dict[str, Any]) -> None:
    mapping = properties(resources, "ConsumerQueue")

    assert mapping["FunctionName"] == {"Ref": "Consumer"}
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": ["Queue", "Arn"]}
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BatchSize"] == 10
    assert mapping["MaximumBatchingWindowInSeconds"] == 0
    assert properties(resources, "Consumer")["Handler"] == "handler.consumer.handler"


@pytest.mark.parametrize("concurrency", PARAMETERS["ConsumerConcurrency"]["AllowedValues"])
def test_the_mapping_gets_its_concurrency_as_a_number(resources: dict[str, Any], concurrency: int) -> None:
    scaling = properties(resources, "ConsumerQueue")["ScalingConfig"]

    assert resolved(scaling["MaximumConcurrency"], ConsumerConcurrency=concurrency) == concurrency
    # A Ref would arrive as text, and stall a local emulator's poller.
    assert "Ref" not in scaling["MaximumConcurrency"]


def test_the_dispatcher_ticks_once_a_minute_and_only_its_rule_may_call_it(resources: dict[str, Any]) -> None:
    rule = properties(resources, "DispatcherTick")
    permission = properties(resources, "DispatcherTickPermission")

    assert rule["ScheduleExpression"] == "rate(1 minute)"
    assert [target["Arn"] for target in rule["Targets"]] == [{"Fn::GetAtt": ["Dispatcher", "Arn"]}]
    assert permission["Principal"] == "events.amazonaws.com"
    assert permission["SourceArn"] == {"Fn::GetAtt": ["DispatcherTick", "Arn"]}
    assert properties(resources, "Dispatcher")["Handler"] == "handler.dispatcher.handler"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_gets_every_setting_that_the_code_reads_and_no_other(
    resources: dict[str, Any], function: str
) -> None:
    assert set(environment(resources, function)) == {*REQUIRED, *OPTIONAL, *EDGE_SETTINGS}
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
    assert settings["max_attempts"] == retry.DEFAULT_MAX_ATTEMPTS


@pytest.mark.parametrize("setting", OPTIONAL)
@pytest.mark.parametrize("bound", ["MinValue", "MaxValue"])
def test_a_value_that_the_template_allows_is_one_that_the_code_takes(
    resources: dict[str, Any], setting: str, bound: str
) -> None:
    parameter = PARAMETERS[environment(resources)[setting]["Ref"]]
    required = dict.fromkeys(REQUIRED, "x")

    assert len(settings_from({**required, setting: str(parameter[bound])})) == len(required) + 1


def test_the_consumer_may_do_what_it_does_and_nothing_else(resources: dict[str, Any]) -> None:
    allowed = statements(resources, "Consumer")

    assert {sid: (set(listed(s["Action"])), s["Resource"]) for sid, s in allowed.items()} == {
        "Runs": (
            {"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"},
            {"Fn::GetAtt": ["Table", "Arn"]},
        ),
        "Messages": (
            {"sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"},
            {"Fn::GetAtt": ["Queue", "Arn"]},
        ),
        "Logs": ({"logs:CreateLogStream", "logs:PutLogEvents"}, {"Fn::GetAtt": ["ConsumerLogs", "Arn"]}),
    }


def test_the_dispatcher_may_do_what_it_does_and_nothing_else(resources: dict[str, Any]) -> None:
    allowed = statements(resources, "Dispatcher")

    assert {sid: (set(listed(s["Action"])), s["Resource"]) for sid, s in allowed.items()} == {
        "Due": ({"dynamodb:Query"}, {"Fn::Sub": "${Table.Arn}/index/wake"}),
        "Runs": (
            {"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"},
            {"Fn::GetAtt": ["Table", "Arn"]},
        ),
        "Messages": ({"sqs:SendMessage"}, {"Fn::GetAtt": ["Queue", "Arn"]}),
        "Logs": ({"logs:CreateLogStream", "logs:PutLogEvents"}, {"Fn::GetAtt": ["DispatcherLogs", "Arn"]}),
    }


def test_no_role_has_a_wildcard_or_a_policy_that_someone_else_writes(resources: dict[str, Any]) -> None:
    roles = {name: r["Properties"] for name, r in resources.items() if r["Type"] == "AWS::IAM::Role"}

    assert set(roles) == {"ConsumerRole", "DispatcherRole"}
    for name, role in roles.items():
        assert "ManagedPolicyArns" not in role, name
        assert "*" not in str(role), name


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_functions_logs_go_to_a_group_of_its_own_that_forgets(resources: dict[str, Any], function: str) -> None:
    group = properties(resources, function)["LoggingConfig"]["LogGroup"]["Ref"]

    assert group == f"{function}Logs"
    assert resolved(properties(resources, group)["RetentionInDays"]) == 30


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_runs_on_arm_and_python_313_unless_told_otherwise(resources: dict[str, Any], function: str) -> None:
    assert resolved(properties(resources, function)["Runtime"]) == "python3.13"
    assert [resolved(a) for a in properties(resources, function)["Architectures"]] == ["arm64"]


def test_an_application_finds_the_table_and_the_queues_in_the_outputs() -> None:
    assert {name: output["Value"] for name, output in TEMPLATE["Outputs"].items()} == {
        "TableName": {"Ref": "Table"},
        "QueueUrl": {"Ref": "Queue"},
        "DeadLetterQueueUrl": {"Ref": "DeadLetterQueue"},
        "ConsumerFunction": {"Ref": "Consumer"},
        "DispatcherFunction": {"Ref": "Dispatcher"},
        "ConsumerLogGroup": {"Ref": "ConsumerLogs"},
    }
