"""The moved job on its own, and beside the task of Celery that it replaces."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import timedelta
from typing import Any

import pytest

from examples.deployment import PROJECT
from examples.from_celery import work
from examples.from_celery.jobs import add_up, jobs, statement_announced
from examples.local_aws import REGION, local_aws
from examples.on_local_aws import make_table_and_queue
from kumofire_core import Jobs
from kumofire_core.testing import InProcessAWS

BUCKET = "statements"
STATEMENT = b"rent,800.00\nbooks,12.50\nbooks,7.25\n"
TOTALS = {"books": "19.75", "rent": "800.00"}


@pytest.fixture
def kumofire_jobs() -> Jobs:
    return jobs


@pytest.fixture
def s3(kumofire: InProcessAWS, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket of this test's own."""
    monkeypatch.setattr(work, "s3", lambda: kumofire.s3)
    return kumofire.s3


def totals_of(s3: Any, key: str) -> Any:
    return json.load(s3.get_object(Bucket=BUCKET, Key=f"totals/{key}.json")["Body"])


def test_a_statement_that_comes_late_is_added_up(kumofire: InProcessAWS, s3: Any) -> None:
    run_id = statement_announced(BUCKET, "november.csv")
    kumofire.drain(until=timedelta(seconds=2))
    assert [run.error_type for run in kumofire.runs(add_up)] == ["NotReadyError"]

    s3.put_object(Bucket=BUCKET, Key="november.csv", Body=STATEMENT)
    run = kumofire.drain_run(run_id)

    assert (run.status, run.failed_attempts, run.output) == ("succeeded", 1, TOTALS)
    assert totals_of(s3, "november.csv") == TOTALS


def test_a_statement_that_does_not_come_is_given_up_after_six_attempts(kumofire: InProcessAWS, s3: Any) -> None:
    run = kumofire.drain_run(statement_announced(BUCKET, "never.csv"))

    assert (run.status, run.failed_attempts) == ("failed", 6)


def test_a_wrong_statement_is_attempted_once(kumofire: InProcessAWS, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="wrong.csv", Body=b"rent,800\nbooks\n")

    run = kumofire.drain_run(statement_announced(BUCKET, "wrong.csv"))

    assert (run.status, run.failed_attempts) == ("failed", 1)
    assert run.last_error == "ValueError: wrong.csv, line 2: ['books'] is not an account and an amount"


@pytest.mark.kumofire(chaos=True)
def test_a_statement_that_is_added_up_twice_has_the_same_totals(kumofire: InProcessAWS, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="november.csv", Body=STATEMENT)

    run = kumofire.drain_run(statement_announced(BUCKET, "november.csv"))

    assert run.output == totals_of(s3, "november.csv") == TOTALS


IN_CELERY = """
import json, sys
from examples.from_celery import before, bridge, work

bucket, *keys = sys.argv[1:]
calls = []
add_up = work.add_up
work.add_up = lambda *given: (calls.append(given), add_up(*given))[1]
ended = {}
for key in keys:
    calls.clear()
    # apply executes the task in this process, and leaves out the waits between its retries.
    result = before.add_up.apply(args=(bucket, key))
    ended[key] = [result.state, type(result.result).__name__, len(calls)]
bridged = [bridge.add_up.apply(args=(bucket, keys[0]), task_id="one-message").result for _ in range(2)]
print(json.dumps({"ended": ended, "bridged": bridged}))
"""


@pytest.mark.long
def test_the_job_does_what_the_task_of_celery_did(kumofire: InProcessAWS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery has an environment of its own, and a local AWS whose S3 the job uses too."""
    python = os.environ.get("CELERY_PYTHON", "")
    if not os.path.exists(python):
        pytest.skip("CELERY_PYTHON names no Python with requirements/celery.txt; `make test-long` makes one")
    statements = {"november.csv": STATEMENT, "never.csv": None, "wrong.csv": b"rent,a lot\n"}
    with local_aws() as aws:
        s3 = aws.client("s3")
        monkeypatch.setattr(work, "s3", lambda: s3)
        s3.create_bucket(Bucket=BUCKET)
        for key, content in statements.items():
            if content is not None:
                s3.put_object(Bucket=BUCKET, Key=key, Body=content)
        names = make_table_and_queue(aws)
        settings = {
            "AWS_ENDPOINT_URL": aws.endpoint_url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        done = subprocess.run(
            [python, "-c", IN_CELERY, BUCKET, *statements],
            cwd=PROJECT,
            env={**os.environ, **settings, **names},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["ended"] == {
            "november.csv": ["SUCCESS", "dict", 1],
            "never.csv": ["FAILURE", "NotReadyError", 6],
            "wrong.csv": ["FAILURE", "ValueError", 1],
        }
        by_celery = totals_of(s3, "november.csv")
        s3.delete_object(Bucket=BUCKET, Key="totals/november.csv.json")

        runs = {key: kumofire.drain_run(statement_announced(BUCKET, key)) for key in statements}
        assert {key: [run.status, run.error_type, len(run.attempts)] for key, run in runs.items()} == {
            "november.csv": ["succeeded", None, 1],
            "never.csv": ["failed", "NotReadyError", 6],
            "wrong.csv": ["failed", "ValueError", 1],
        }
        assert totals_of(s3, "november.csv") == by_celery == TOTALS

        deployed = Jobs(
            table=names["KUMOFIRE_TABLE"],
            queue_url=names["KUMOFIRE_QUEUE_URL"],
            dynamodb=aws.client("dynamodb"),
            sqs=aws.client("sqs"),
        )
        first, second = told["bridged"]
        assert first == second  # a message that Celery delivers twice is one run
        bridged = deployed.get_status(first)
        assert bridged is not None
        assert (bridged.job_name, bridged.payload) == ("add-up", {"bucket": BUCKET, "key": "november.csv"})
