"""How the program finds a deployment, and what it makes of what it finds."""

from __future__ import annotations

import pytest

from examples.local_aws import LocalAws
from kumofire_core.cli.invocation import Invocation
from tests.cli.conftest import Kumofire
from tests.deployment.arranged import Deployed, deployed
from tests.deployment.test_discovery import a_stack

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd"


@pytest.fixture
def stack(ministack: LocalAws) -> Deployed:
    return deployed(ministack)


def stack_of(stack: Deployed, **parameters: str) -> str:
    outputs = {"TableName": stack.deployment.table, "QueueUrl": stack.deployment.queue_url}
    return a_stack(stack.aws, outputs, **({"PayloadKeyArn": ""} | parameters))


def test_a_stack_is_named_on_the_line_or_in_the_environment(
    kumofire: Kumofire, stack: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, endpoint = stack_of(stack), ["--endpoint-url", stack.aws.endpoint_url]

    run_id = kumofire("runs", "create", "email", "--stack-name", name, *endpoint).out.strip()
    monkeypatch.delenv("KUMOFIRE_TABLE")
    monkeypatch.setenv("KUMOFIRE_STACK_NAME", name)
    form = kumofire("runs", "show", run_id, "--json", *endpoint).form

    assert form["id"] == run_id
    assert stack.deployment.jobs().get_status(run_id) is not None


def test_the_table_on_the_line_counts_more_than_a_stack_in_the_environment(
    kumofire: Kumofire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUMOFIRE_STACK_NAME", "no-such-stack")

    assert kumofire("runs", "show", "x").err == "kumofire: there is no run 'x'\n"


def test_a_stack_that_is_not_there_is_trouble(kumofire: Kumofire, ministack: LocalAws) -> None:
    ended = kumofire("runs", "list", "--stack-name", "no-such", "--endpoint-url", ministack.endpoint_url)

    assert (ended.code, ended.out) == (3, "")
    assert "there is no stack 'no-such'" in ended.err


def test_a_payload_is_not_stored_in_the_clear_where_the_deployment_encrypts(
    kumofire: Kumofire, stack: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Invocation, "_can_encrypt", False)
    where = ["--stack-name", stack_of(stack, PayloadKeyArn=KEY), "--endpoint-url", stack.aws.endpoint_url]

    for words in (["runs", "create", "email"], ["schedules", "create", "email", "--cron", "@daily"]):
        ended = kumofire(*words, "--payload", '"secret"', *where)
        assert (ended.code, ended.out) == (3, "")
        assert "pip install 'kumofire-jobs[cli,encryption]'" in ended.err
    assert kumofire("runs", "list", "--json", *where).form["runs"] == []
    assert kumofire("schedules", "list", "--json", *where).form["schedules"] == []


def test_a_profile_on_the_line_counts_more_than_the_environments_credentials(
    kumofire: Kumofire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")

    ended = kumofire("runs", "show", "x", "--profile", "no-such-profile")

    assert ended.code == 3
    assert "no-such-profile" in ended.err


def test_an_endpoint_that_nobody_answers_at_is_trouble(kumofire: Kumofire) -> None:
    ended = kumofire("runs", "show", "x", "--endpoint-url", "http://127.0.0.1:1")

    assert (ended.code, ended.out) == (3, "")
    assert "127.0.0.1:1" in ended.err
    assert "Traceback" not in ended.err
