"""The examples of docs/creating.md and docs/settings.md, executed as they are printed."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from examples.deployment import PROJECT
from kumofire_core import Jobs
from tests.builders import Aws


def execute(page: str, example: str, **names: Any) -> dict[str, Any]:
    text = (PROJECT / page).read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if example in block]
    exec(compile(code, page, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def environment(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TABLE", aws.table), ("QUEUE_URL", aws.queue_url)):
        monkeypatch.setenv(f"KUMOFIRE_{name}", value)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_a_run_is_created_and_read_by_the_environment_alone(capsys: pytest.CaptureFixture[str]) -> None:
    names = execute("docs/creating.md", "delay=timedelta(hours=2), dedupe_key")

    assert capsys.readouterr().out == "scheduled 0 None None\n"
    assert names["jobs"].find_run(dedupe_key="welcome-42").id == names["run_id"]


def test_many_requests_make_a_run_each_however_often_they_are_made(aws: Aws) -> None:
    jobs = aws.jobs()
    first, again = (execute("docs/creating.md", "create_many", jobs=jobs, users=["a", "b"])["run_ids"] for _ in "12")

    assert first == again
    assert len(set(first)) == 2


def test_a_function_of_one_s_own_creates_a_run_once_for_an_event() -> None:
    names = execute("docs/creating.md", "def handler(event")
    event = {"key": "photo.png", "version": "7"}

    assert names["handler"](event, None) == names["handler"](event, None)


def test_a_coroutine_creates_a_run(aws: Aws) -> None:
    text = (PROJECT / "docs/creating.md").read_text()
    (line,) = re.findall(r"^run_id = (await jobs\.aio\.create\(.*\))$", text, re.MULTILINE)
    names: dict[str, Any] = {"jobs": aws.jobs()}
    exec(f"async def create():\n    return {line}", names)

    assert isinstance(asyncio.run(names["create"]()), str)


def test_settings_given_in_code_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUMOFIRE_MAX_ATTEMPTS", "7")
    monkeypatch.setenv("KUMOFIRE_CREATOR", "another")

    jobs: Jobs = execute("docs/settings.md", "creator=")["jobs"]

    created = jobs.get_status(jobs.create("email"))
    assert created is not None
    assert created.created_by == "web"
    assert jobs._registry.retry.max_attempts == 41
