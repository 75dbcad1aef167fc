"""Deploys this project's own ``template.yaml`` and code into a local AWS, the way ``sam deploy`` would."""

from __future__ import annotations

import io
import json
import shlex
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from botocore.exceptions import WaiterError

from examples.local_aws import LocalAws

PROJECT = Path(__file__).resolve().parent.parent
BUCKET = "kumofire-artifacts"
ARTIFACT = "functions.zip"


class DeploymentError(Exception):
    """The stack was not created; the text holds the reasons that CloudFormation gives."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A deployed stack: the outputs of the template."""

    table: str
    queue_url: str
    dead_letter_queue_url: str
    consumer_log_group: str
    dispatcher_function: str


def deploy(aws: LocalAws, *, name: str, parameters: Mapping[str, str], further_sources: tuple[str, ...] = ()) -> Stack:
    """Create the stack ``name`` and wait for it. ``further_sources`` go into the artifact beside the project's own.

    Raises ``DeploymentError`` when the stack is not created.
    """
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=ARTIFACT, Body=artifact(("handler", "kumofire_core", *further_sources)))
    cloudformation = aws.client("cloudformation")
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=json.dumps(for_local_aws(load_template(), code_uri=f"s3://{BUCKET}/{ARTIFACT}")),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    try:
        cloudformation.get_waiter("stack_create_complete").wait(
            StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
    except WaiterError as error:
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        reasons = [
            f"{e['LogicalResourceId']}: {e['ResourceStatusReason']}" for e in events if "FAILED" in e["ResourceStatus"]
        ]
        raise DeploymentError(f"the stack {name} was not created: {'; '.join(reasons) or error}") from error
    outputs = outputs_of(aws, name)
    return Stack(
        table=outputs["TableName"],
        queue_url=outputs["QueueUrl"],
        dead_letter_queue_url=outputs["DeadLetterQueueUrl"],
        consumer_log_group=outputs["ConsumerLogGroup"],
        dispatcher_function=outputs["DispatcherFunction"],
    )


def outputs_of(aws: LocalAws, name: str) -> dict[str, str]:
    """Return the outputs of a deployed stack."""
    [stack] = aws.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def for_local_aws(template: dict[str, Any], *, code_uri: str) -> dict[str, Any]:
    """Return the template with all that differs locally: the code is uploaded already, and brings this very Python."""
    function = {**template["Globals"]["Function"], "CodeUri": code_uri, "Runtime": "provided.al2023"}
    return {**template, "Globals": {"Function": function}}


def artifact(sources: tuple[str, ...]) -> bytes:
    """Return a zip of these files and folders with a ``bootstrap`` that hands them to AWS's own runtime client."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for source in sources:
            for path in _python_files(PROJECT / source):
                archive.write(path, path.relative_to(PROJECT))
        bootstrap = zipfile.ZipInfo("bootstrap")
        bootstrap.external_attr = 0o755 << 16
        archive.writestr(bootstrap, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m awslambdaric "$_HANDLER"\n')
    return buffer.getvalue()


def load_template(path: Path = PROJECT / "template.yaml") -> dict[str, Any]:
    """Return a CloudFormation template with its short forms (``!Ref X``) in the long one (``{"Ref": "X"}``)."""
    template: dict[str, Any] = yaml.load(path.read_text(), Loader=_TemplateLoader)
    return template


@cache
def table_definition() -> dict[str, Any]:
    """Return what the template says of its table, as the arguments of ``create_table``."""
    properties = load_template()["Resources"]["Table"]["Properties"]
    names = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    return {name: properties[name] for name in names}


def _python_files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    else:
        yield from sorted(source.rglob("*.py"))


class _TemplateLoader(yaml.SafeLoader):  # type: ignore[misc]
    pass


def _long_form(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        if tag == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_TemplateLoader.add_multi_constructor("!", _long_form)
