"""A deployment is found by its stack, by its table and queue, or by the environment, or the error says what to do."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from examples.deployment import load_template
from examples.local_aws import REGION, LocalAws
from kumofire_core.deployment.discovery import OUTPUTS, Deployment, DiscoveryError, deployment_of_stack, find_deployment
from kumofire_core.model.message import decode_body
from tests.deployment.arranged import clients_of, deployed, refusing

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd"
QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/queue"

_names = itertools.count(1)


def a_stack(aws: LocalAws, outputs: dict[str, str], **parameters: str) -> str:
    """Make a stack with these outputs and parameters, and next to nothing in it; return its name."""
    name = f"discovered-{next(_names)}"
    template = {
        "Parameters": {key: {"Type": "String"} for key in parameters},
        "Resources": {"Queue": {"Type": "AWS::SQS::Queue"}},
        "Outputs": {key: {"Value": value} for key, value in outputs.items()},
    }
    cloudformation = aws.client("cloudformation")
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    return name


def found(aws: LocalAws, **given: Any) -> Deployment:
    return find_deployment(**{"region": REGION, "endpoint_url": aws.endpoint_url, "environment": {}} | given)


def test_the_outputs_that_are_read_are_those_of_the_template() -> None:
    assert set(OUTPUTS) <= set(load_template()["Outputs"])


def test_a_stack_tells_all_of_its_deployment(ministack: LocalAws) -> None:
    outputs = {name: f"the-{name}" for name in OUTPUTS}
    name = a_stack(ministack, outputs, PayloadKeyArn=KEY, ConsumeWith="workers")

    deployment = found(ministack, stack_name=name)

    assert deployment.consumed_by_workers
    assert {output: getattr(deployment, field) for output, field in OUTPUTS.items()} == outputs
    assert (deployment.stack_name, deployment.payload_key_arn, deployment.missing_outputs) == (name, KEY, ())


def test_a_stack_of_an_earlier_release_is_found_and_what_it_lacks_is_named(ministack: LocalAws) -> None:
    outputs = {name: f"the-{name}" for name in OUTPUTS if name != "DispatcherRule"}

    deployment = found(ministack, stack_name=a_stack(ministack, outputs, PayloadKeyArn=""))

    assert deployment.missing_outputs == ("DispatcherRule",)
    assert (deployment.dispatcher_rule, deployment.payload_key_arn) == (None, None)


def test_a_stack_that_does_not_exist_is_named_with_the_region_that_was_asked(ministack: LocalAws) -> None:
    with pytest.raises(DiscoveryError, match="there is no stack 'nowhere' in us-east-1; check its name, the region"):
        found(ministack, stack_name="nowhere")


def test_a_stack_of_something_else_is_not_taken_for_a_deployment(ministack: LocalAws) -> None:
    name = a_stack(ministack, {"Website": "https://example.com", "QueueUrl": "https://example.com"})

    with pytest.raises(DiscoveryError, match=rf"the stack '{name}' .* has no output TableName, so it is not"):
        found(ministack, stack_name=name)


@pytest.mark.parametrize("name", ["", "my stack", "-x", "x" * 129, "a/b"])
def test_what_can_be_no_stacks_name_is_refused_before_anything_is_asked(name: str) -> None:
    with pytest.raises(DiscoveryError, match="is not a stack's name"):
        find_deployment(stack_name=name)


def test_a_stack_that_may_not_be_read_says_which_right_is_missing(ministack: LocalAws) -> None:
    clients = clients_of(ministack)

    with (
        refusing(clients.client("cloudformation"), "AccessDenied", message="not cloudformation:DescribeStacks"),
        pytest.raises(DiscoveryError, match=r"can't be read .*not cloudformation:DescribeStacks.*OperatorPolicyArn"),
    ):
        deployment_of_stack("mine", clients)


@pytest.mark.long
def test_an_endpoint_that_does_not_answer_is_named() -> None:
    with pytest.raises(DiscoveryError, match=r"http://127\.0\.0\.1:9.*check the endpoint, AWS_ENDPOINT_URL"):
        find_deployment(stack_name="mine", region=REGION, endpoint_url="http://127.0.0.1:9")


def test_an_endpoint_that_is_no_address_is_named() -> None:
    with pytest.raises(DiscoveryError, match="nonsense"):
        find_deployment(stack_name="mine", region=REGION, endpoint_url="nonsense")


def test_without_a_region_the_error_says_how_to_give_one() -> None:
    with pytest.raises(DiscoveryError, match=r"no AWS region is given: .* --region, AWS_REGION"):
        find_deployment(stack_name="mine")


@pytest.mark.parametrize(
    ("variables", "given", "region"),
    [
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, None, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-2"}, None, "eu-west-2"),
        ({"AWS_REGION": ""}, "eu-west-3", "eu-west-3"),
        ({"AWS_REGION": "eu-west-2"}, "eu-west-3", "eu-west-3"),
    ],
)
def test_the_region_is_that_of_the_aws_command_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], given: str | None, region: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert find_deployment(table="t", queue_url=QUEUE, region=given).clients.region == region


def test_a_profile_that_does_not_exist_is_named() -> None:
    with pytest.raises(DiscoveryError, match=r"The config profile \(absent\) could not be found: .* AWS_PROFILE"):
        find_deployment(stack_name="mine", profile="absent")


def test_a_profile_gives_the_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("[profile far]\nregion = sa-east-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    deployment = find_deployment(table="t", queue_url=QUEUE, environment={}, profile="far")

    assert deployment.client("sqs").meta.region_name == "sa-east-1"


def test_a_table_and_a_queue_are_taken_as_they_are() -> None:
    deployment = find_deployment(table="t", queue_url=QUEUE, environment={"KUMOFIRE_TABLE": "other"})

    assert (deployment.table, deployment.queue_url, deployment.stack_name) == ("t", QUEUE, None)
    assert (deployment.missing_outputs, deployment.dead_letter_queue_url) == ((), None)


def test_the_environment_names_a_deployment_as_it_does_for_an_application(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TABLE", "t"), ("QUEUE_URL", QUEUE), ("PAYLOAD_KEY_ARN", KEY)):
        monkeypatch.setenv(f"KUMOFIRE_{name}", value)

    deployment = find_deployment()

    assert (deployment.table, deployment.queue_url, deployment.payload_key_arn) == ("t", QUEUE, KEY)


def test_a_table_without_its_queue_gets_it_from_the_environment() -> None:
    deployment = find_deployment(table="t", environment={"KUMOFIRE_QUEUE_URL": QUEUE})

    assert (deployment.table, deployment.queue_url) == ("t", QUEUE)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, r"a table \(KUMOFIRE_TABLE\) and a queue \(KUMOFIRE_QUEUE_URL\)"),
        ({"table": "t"}, r"a queue \(KUMOFIRE_QUEUE_URL\)"),
        ({"queue_url": QUEUE, "environment": {"KUMOFIRE_TABLE": ""}}, r"a table \(KUMOFIRE_TABLE\)"),
    ],
)
def test_a_deployment_that_is_not_named_says_what_is_missing(given: dict[str, Any], missing: str) -> None:
    with pytest.raises(DiscoveryError, match=rf"no deployment is named: {missing} is missing; name a stack"):
        find_deployment(**{"environment": {}} | given)


def test_a_stack_and_a_table_at_once_are_refused_since_they_could_differ() -> None:
    with pytest.raises(DiscoveryError, match="could be of two deployments"):
        find_deployment(stack_name="mine", table="t")


def test_a_deployment_has_jobs_that_create_and_read_its_runs(ministack: LocalAws) -> None:
    stack = deployed(ministack)

    run_id = stack.deployment.jobs().create("email", {"to": "x"})

    assert stack.deployment.jobs().get_status(run_id).payload == {"to": "x"}
    [message] = ministack.client("sqs").receive_message(QueueUrl=stack.deployment.queue_url)["Messages"]
    assert decode_body(message["Body"]) == run_id


def test_payloads_under_the_deployments_key_are_decrypted_by_its_session(ministack: LocalAws) -> None:
    pytest.importorskip("aws_encryption_sdk", reason="the extra 'encryption' is not installed")
    stack = deployed(ministack)
    key = ministack.client("kms").create_key()["KeyMetadata"]["Arn"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", ministack.endpoint_url)
        deployment = find_deployment(
            table=stack.deployment.table,
            queue_url=stack.deployment.queue_url,
            environment={"KUMOFIRE_PAYLOAD_KEY_ARN": key},
            region=REGION,
        )
        run_id = deployment.jobs().create("email", "secret")

        assert deployment.jobs().get_status(run_id).payload == "secret"
    assert "secret" not in str(stack.deployment.jobs().get_status(run_id))
