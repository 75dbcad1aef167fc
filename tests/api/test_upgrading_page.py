"""The examples of docs/upgrading.md, executed as they are printed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from examples.deployment import PROJECT
from kumofire_core import JobContext
from tests.builders import Aws, message

PAGE = (PROJECT / "docs/upgrading.md").read_text()


def execute(example: str, **names: Any) -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if example in block]
    exec(compile(code, "docs/upgrading.md", "exec"), {"JobContext": JobContext, **names})


def test_a_renamed_job_executes_the_runs_of_both_names(aws: Aws) -> None:
    jobs = aws.jobs()
    execute('jobs.handler("send-email")', jobs=jobs)

    for name in ("email", "send-email"):
        assert jobs.consume(message(jobs.create(name))).outcome == "succeeded"


def test_a_schedule_gets_the_new_name_of_its_job(aws: Aws) -> None:
    jobs = aws.jobs()
    execute('jobs.handler("send-email")', jobs=jobs)
    schedule_id = jobs.create_schedule("email", schedule_type="cron", schedule_expr="@daily")

    changed = jobs.update_schedule(schedule_id, name="send-email")

    assert changed is not None
    assert changed.job_name == "send-email"


@pytest.mark.parametrize("payload", [{"to": "a@example.com"}, {"recipients": ["a@example.com"]}])
def test_a_handler_takes_both_shapes(aws: Aws, payload: Any) -> None:
    jobs = aws.jobs()
    execute('jobs.handler("email")\ndef', jobs=jobs)

    assert jobs.consume(message(jobs.create("email", payload))).outcome == "succeeded"
