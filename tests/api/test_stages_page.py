"""The examples of docs/stages.md, executed as they are printed."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.deployment import PROJECT
from kumofire_core import Jobs
from tests.builders import Aws

PAGE = (PROJECT / "docs/stages.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_a_creator_of_another_account_assumes_its_role(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (profile,) = blocks("ini")
    (tmp_path / "config").write_text(profile)
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):  # they would come before the profile's region
        monkeypatch.delenv(name, raising=False)
    for name, value in (
        ("AWS_CONFIG_FILE", str(tmp_path / "config")),
        ("AWS_ACCESS_KEY_ID", "of-the-creator"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("KUMOFIRE_TABLE", aws.table),
        ("KUMOFIRE_QUEUE_URL", aws.queue_url),
    ):
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {}
    (code,) = [block for block in blocks("python") if "profile_name" in block]

    exec(compile(code.replace("eu-central-1", "us-east-1"), "docs/stages.md", "exec"), names)

    credentials = names["session"].get_credentials()
    assert credentials.method == "assume-role"
    assert credentials.access_key != "of-the-creator"
    assert names["session"].region_name == "eu-central-1"
    assert isinstance(names["jobs"], Jobs)


def test_a_role_of_the_template_can_name_the_policy() -> None:
    (role,) = [block for block in blocks("yaml") if "AWS::IAM::Role" in block]
    plain = yaml.safe_load(role.replace("!Ref ", ""))

    (named,) = plain["WebCreator"]["Properties"]["ManagedPolicyArns"]
    assert f"\n  {named}:\n    Type: AWS::IAM::ManagedPolicy" in (PROJECT / "template.yaml").read_text()
    (policy,) = blocks("json")
    name = plain["WebCreator"]["Properties"]["RoleName"]
    assert json.loads(policy)["Statement"][0]["Resource"].endswith(f":role/{name}")
    assert f":role/{name}\n" in blocks("ini")[0]


def test_the_stages_name_parameters_that_the_template_has() -> None:
    (settings,) = blocks("toml")
    parameters = re.findall(
        r"^  (\w+):\n    Type: (?:String|Number)$", (PROJECT / "template.yaml").read_text(), re.MULTILINE
    )

    for stage in ("test", "prod"):
        given = tomllib.loads(settings)[stage]["global"]["parameters"]["parameter_overrides"]
        assert {pair.partition("=")[0] for pair in given} <= set(parameters)
