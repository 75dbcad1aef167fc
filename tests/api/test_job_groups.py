"""Handlers in modules of their own, collected in a group and registered by ``include``."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kumofire_core import ConfigurationError, JobContext, JobGroup, Jobs, Outcome, RetryPolicy
from tests.builders import Aws, message


def test_a_run_of_a_job_in_a_group_is_executed_with_the_job_s_options(aws: Aws):
    mail = JobGroup()

    @mail.handler("email", max_attempts=1)
    def send(ctx: JobContext) -> None:
        raise ValueError("refused")

    jobs = aws.jobs()
    jobs.include(mail)
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome is Outcome.FAILED
    assert send.__name__ == "send"


def test_a_group_can_be_included_in_several_jobs(aws: Aws):
    mail = JobGroup()
    mail.handler("email")(lambda ctx: "sent")
    first, second = aws.jobs(), aws.jobs()

    for jobs in (first, second):
        jobs.include(mail)
        assert jobs.consume(message(jobs.create("email"))).outcome is Outcome.SUCCEEDED


def test_everything_that_is_wrong_with_a_group_is_named_and_nothing_of_it_is_registered(aws: Aws):
    mail = JobGroup()
    mail.handler("good")(print)
    mail.handler("twice")(print)
    mail.handler("twice")(print)
    mail.handler("taken", max_attempts=0)(print)
    wrong: Any = "no function"
    mail.handler("text", timeout=timedelta(0), retry=RetryPolicy(2))(wrong)
    jobs = aws.jobs()
    jobs.handler("taken")(print)

    with pytest.raises(ConfigurationError) as caught:
        jobs.include(mail)

    for problem in (
        "'twice' has 2 handlers",
        "'taken' has a handler already",
        "max_attempts of job 'taken'",
        "handler of job 'text' must be callable",
        "timeout of job 'text'",
    ):
        assert problem in str(caught.value)
    jobs.handler("good")(print)  # it was not registered before


def test_a_handler_that_comes_after_its_group_was_included_is_refused(aws: Aws):
    mail = JobGroup()
    aws.jobs().include(mail)

    with pytest.raises(ConfigurationError, match="'late' was included already"):
        mail.handler("late")


def test_a_decorator_without_its_parentheses_says_so():
    wrong: Any = JobGroup().handler

    with pytest.raises(ConfigurationError, match="write @group"):
        wrong(print)


@pytest.mark.parametrize("given", [None, "mail", Jobs, {}])
def test_include_takes_a_group_only(aws: Aws, given: Any):
    with pytest.raises(ConfigurationError, match="include takes a group of handlers"):
        aws.jobs().include(given)


def test_modules_of_handlers_are_imported_at_the_top_without_a_circle(tmp_path: Path):
    package = tmp_path / "application"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mail.py").write_text(
        "from kumofire_core import JobGroup\nmail = JobGroup()\n\n\n@mail.handler('email')\ndef send(ctx): ...\n"
    )
    (package / "jobs.py").write_text(
        "from kumofire_core import Jobs\nfrom application.mail import mail\n\n"
        "jobs = Jobs(table='t', queue_url='q')\njobs.include(mail)\n"
    )

    for first in ("application.jobs", "application.mail"):
        program = f"import {first}; from application.jobs import jobs; print(jobs._registry.names())"
        found = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == "['email']"
