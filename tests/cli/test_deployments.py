"""How the program finds a deployment, and what it makes of what it finds."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from botocore.session import get_session

from examples.local_aws import LocalAws
from kumofire_core.cli.invocation import Invocation
from tests.builders import NOW_MS, Aws, Clock
from tests.cli.conftest import Kumofire
from tests.cli.test_program import program
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


@pytest.mark.long
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


@pytest.mark.long
def test_a_run_that_is_canceled_from_here_is_kept_for_as_long_as_any_other(
    kumofire: Kumofire, stack: Deployed, clock: Clock
) -> None:
    where = ["--stack-name", stack_of(stack, RetentionDays="90"), "--endpoint-url", stack.aws.endpoint_url]
    run_id = kumofire("runs", "create", "email", *where).out.strip()

    assert kumofire("runs", "cancel", run_id, *where).code == 0

    key = {"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}}
    item = stack.aws.client("dynamodb").get_item(TableName=stack.deployment.table, Key=key)["Item"]
    assert int(item["expires_at"]["N"]) - clock().timestamp() >= timedelta(days=90).total_seconds()


def test_a_profile_on_the_line_counts_more_than_the_environments_credentials(
    kumofire: Kumofire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile mine]\naws_access_key_id = of-the-profile\naws_secret_access_key = s\nregion = eu-west-3\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    kumofire("schedules", "next", "--every", "5m", "--profile", "mine")

    session = get_session()  # as the program's clients make theirs
    assert session.get_credentials().access_key == "of-the-profile"
    assert session.get_config_variable("region") == "eu-west-3"
    assert "no-such" in kumofire("runs", "show", "x", "--profile", "no-such").err


@pytest.mark.long
def test_an_endpoint_that_nobody_answers_at_is_trouble(kumofire: Kumofire) -> None:
    ended = kumofire("runs", "show", "x", "--endpoint-url", "http://127.0.0.1:1")

    assert (ended.code, ended.out) == (3, "")
    assert "127.0.0.1:1" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.long
def test_the_log_of_a_run_is_shown_by_its_parts_and_made_safe(kumofire: Kumofire, stack: Deployed) -> None:
    group = f"/aws/lambda/{stack.deployment.table}"
    outputs = {"TableName": stack.deployment.table, "QueueUrl": stack.deployment.queue_url}
    name = a_stack(stack.aws, outputs | {"ConsumerLogGroup": group, "DispatcherLogGroup": group + "-dispatcher"})
    where = ["--stack-name", name, "--endpoint-url", stack.aws.endpoint_url]
    run_id = stack.deployment.jobs(clock=Clock()).create("email")
    logs = stack.aws.client("logs")
    for each in (group, group + "-dispatcher"):
        logs.create_log_group(logGroupName=each)
        logs.create_log_stream(logGroupName=each, logStreamName="s")
    told = json.dumps({"level": "ERROR", "message": "attempt \x1b[2J failed", "attempt": 2, "job_run_id": run_id})
    texts = [told, f"{run_id} in plain \u202e words", "of another run"]
    logs.put_log_events(
        logGroupName=group,
        logStreamName="s",
        logEvents=[{"timestamp": NOW_MS + 1000 + number, "message": text} for number, text in enumerate(texts)],
    )

    shown, form = kumofire("runs", "logs", run_id, *where), kumofire("runs", "logs", run_id, *where, "--json").form

    assert shown.out.splitlines()[0].split() == ["TIME", "LEVEL", "ATTEMPT", "MESSAGE"]
    assert [line.split(maxsplit=5)[3:] for line in shown.out.splitlines()[1:2]] == [
        ["ERROR", "2", "attempt \\x1b[2J failed"]
    ]
    assert "in plain \\u202e words" in shown.out
    assert [line["text"] for line in form["lines"]] == texts[:2]
    assert kumofire("runs", "logs", run_id, "--attempt", "9", *where).code == 1


def test_what_the_library_warns_of_is_one_safe_line(stack: Deployed) -> None:
    item = {"pk": "run#\x1b[2J", "sk": "run", "list_shard": "failed#0", "job_name": "x"}
    stack.aws.client("dynamodb").put_item(
        TableName=stack.deployment.table, Item={**{k: {"S": v} for k, v in item.items()}, "list_at": {"N": str(NOW_MS)}}
    )
    where = ["--table", stack.deployment.table, "--queue-url", stack.deployment.queue_url]
    variables = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}

    ended = program("runs", "list", *where, "--endpoint-url", stack.aws.endpoint_url, **variables)

    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr.startswith("kumofire: a run is left out of the list: the stored item run#\\x1b[2J")
    assert ended.stderr.count("\n") == 2


def test_a_log_needs_the_stack(kumofire: Kumofire, aws: Aws) -> None:
    ended = kumofire("runs", "logs", aws.a_run())

    assert (ended.code, ended.out) == (3, "")
    assert "--stack-name" in ended.err


def test_doctor_ends_with_4_where_it_finds_something(kumofire: Kumofire, stack: Deployed) -> None:
    where = ["--stack-name", stack_of(stack), "--endpoint-url", stack.aws.endpoint_url]

    shown, form = kumofire("doctor", *where), kumofire("doctor", *where, "--json")

    assert shown.code == form.code == 4
    assert form.form["healthy"] is False
    assert form.form["passed"]
    for finding in form.form["findings"]:
        if finding["check"] == "clock":
            continue  # the test's clock is months slow, by more with every second
        assert set(finding) == {"severity", "check", "what", "do"}
        assert f"  {finding['what']}\n  {finding['do']}\n" in shown.out
