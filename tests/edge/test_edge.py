"""The Lambda edge, imported afresh in processes of its own: what it logs, counts, answers, and when it ends itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.deployment import PROJECT
from kumofire_core import ConfigurationError, Jobs

SECRET = "hunter2-šifra"

APPLICATION = """
import logging
import threading
from datetime import timedelta

from kumofire_core import Jobs, RetryPolicy

jobs = Jobs.from_env(retry=RetryPolicy(2))
log = logging.getLogger("application.of.someone")


@jobs.handler("speak")
def speak(ctx):
    log.info("spoken plainly", extra={"language": "en"})
    log.debug("whispered")
    ctx.logger.info("spoken by the context")
    return {"secret": ctx.payload["secret"]}


@jobs.handler("speak_async")
async def speak_async(ctx):
    log.info("spoken asynchronously")


@jobs.handler("broken")
def broken(ctx):
    raise ValueError(f"can't use {ctx.payload['secret']}")


@jobs.handler("unstorable")
def unstorable(ctx):
    return {ctx.payload["secret"]: {ctx.payload["secret"]}}


@jobs.handler("stuck", timeout=timedelta(milliseconds=50))
def stuck(ctx):
    threading.Event().wait(20)
"""

PROCESS = """
import json
import os
import sys

from moto import mock_aws

mock_aws().start()

import boto3

from kumofire_core import Jobs
from tests import builders

aws = builders.make_aws(boto3.client("dynamodb"), boto3.client("sqs"))
os.environ.update(KUMOFIRE_TABLE=aws.table, KUMOFIRE_QUEUE_URL=aws.queue_url)
Jobs.from_env().pause("paused")
given = json.load(open(sys.argv[1]))
for fields in given["runs"]:
    aws.a_run(scheduled_for=0, **fields)
records = [*builders.event(*(fields["run_id"] for fields in given["runs"]))["Records"], *given["records"]]

from handler.consumer import handler

response = handler({"Records": records}, builders.LambdaContext(aws_request_id="of-lambda"))
items = {fields["run_id"]: aws.item(fields["run_id"]) for fields in given["runs"]}
json.dump({"response": response, "items": items}, open(sys.argv[1], "w"))
"""


@dataclass
class Invocation:
    """One invocation of the consumer in a process of its own."""

    returncode: int
    stdout: str
    stderr: str
    response: Any
    items: dict[str, Any]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was logged; the metrics are no log."""
        return [line for line in self.output if "_aws" not in line]

    @property
    def metrics(self) -> dict[str, Any]:
        """The values of the metrics, by name."""
        [line] = [line for line in self.output if "_aws" in line and "job" not in line]
        [directive] = line["_aws"]["CloudWatchMetrics"]
        return {metric["Name"]: line[metric["Name"]] for metric in directive["Metrics"]}

    @property
    def metrics_by_job(self) -> list[tuple[str, str, float]]:
        """The job, name and value of each metric of a job, in order."""
        found = []
        for line in self.output:
            if "_aws" in line and "job" in line:
                [directive] = line["_aws"]["CloudWatchMetrics"]
                assert sorted(directive["Dimensions"][0]) == ["job", "service"]
                found += [(line["job"], metric["Name"], line[metric["Name"]][0]) for metric in directive["Metrics"]]
        return sorted(found)

    @property
    def output(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    def said(self, text: str) -> dict[str, Any]:
        """Return the one line that begins with this text."""
        [line] = [line for line in self.lines if line["message"].startswith(text)]
        return line


def environment(**settings: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LANG") if name in os.environ}
    return {
        **kept,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        **settings,
    }


def invoke(folder: Path, runs: list[dict[str, Any]], records: list[Any] | None = None, **settings: str) -> Invocation:
    (folder / "application.py").write_text(APPLICATION)
    exchange = folder / "exchange.json"
    exchange.write_text(json.dumps({"runs": runs, "records": records or []}))
    found = subprocess.run(
        [sys.executable, "-c", PROCESS, str(exchange)],
        cwd=PROJECT,
        env=environment(PYTHONPATH=str(folder), **{"KUMOFIRE_JOBS": "application:jobs", **settings}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    answer = json.loads(exchange.read_text())
    return Invocation(found.returncode, found.stdout, found.stderr, answer.get("response"), answer.get("items", {}))


def run_of(run_id: str, job_name: str, **fields: Any) -> dict[str, Any]:
    return {"run_id": run_id, "job_name": job_name, "payload": json.dumps({"secret": SECRET}), **fields}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Invocation:
    """One batch with a bit of everything, at the most talkative log level."""
    invocation = invoke(
        tmp_path_factory.mktemp("edge"),
        [
            run_of("spoken", "speak", attempt=1),
            run_of("async", "speak_async"),
            run_of("retried", "broken"),
            run_of("failed", "broken", max_attempts=1),
            run_of("unstored", "unstorable"),
            run_of("missing", "nobody"),
            run_of("aside", "paused"),
            run_of("over", "speak", status="succeeded"),
            run_of("corrupt", "speak", created_at="x"),
            run_of("lost", "speak", status="running", lease_token="x", lease_until=1),
        ],
        [
            {"messageId": "m-malformed", "body": "MALFORMED" + "x" * 5000},
            {"messageId": "m-version", "body": '{"version": 9, "kumofireJobRunId": "r"}'},
        ],
        POWERTOOLS_LOG_LEVEL="DEBUG",
        POWERTOOLS_SERVICE_NAME="the-service",
        POWERTOOLS_METRICS_NAMESPACE="TheNamespace",
        KUMOFIRE_CONCURRENCY="1",
    )
    assert invocation.returncode == 0, invocation.stderr
    return invocation


def test_only_what_the_runtime_could_not_do_is_answered(edge: Invocation):
    assert edge.response == {"batchItemFailures": [{"itemIdentifier": "m-corrupt"}]}


def test_the_application_s_jobs_are_executed(edge: Invocation):
    statuses = {run_id: item["status"] for run_id, item in edge.items.items()}

    assert statuses == {
        "spoken": "succeeded",
        "async": "succeeded",
        "retried": "scheduled",
        "failed": "failed",
        "unstored": "failed",
        "missing": "failed",
        "aside": "scheduled",
        "over": "succeeded",
        "corrupt": "running",
        "lost": "succeeded",
    }


@pytest.mark.parametrize(
    ("text", "level", "status", "outcome"),
    [
        ("attempt failed with ValueError; the run is scheduled", "WARNING", "scheduled", "retried"),
        ("attempt failed with ValueError; the run is failed", "ERROR", "failed", "failed"),
        ("the run failed without an attempt", "ERROR", "failed", "failed"),
    ],
)
def test_a_final_failure_is_told_from_a_retry_by_its_level_and_by_fields(
    edge: Invocation, text: str, level: str, status: str, outcome: str
):
    line = edge.said(text)

    assert (line["level"], line["status"], line["outcome"]) == (level, status, outcome)


def test_every_line_is_json_and_comes_once(edge: Invocation):
    assert edge.stderr == ""
    for line in edge.lines:
        assert {"level", "message", "timestamp", "service"} <= set(line)
        assert line["service"] == "the-service"
        assert line["function_request_id"] == "of-lambda"
    of_the_run = [line["message"] for line in edge.lines if line.get("job_run_id") == "spoken"]
    assert of_the_run.count("spoken plainly") == 1


@pytest.mark.parametrize("text", ["spoken plainly", "whispered", "spoken by the context"])
def test_every_line_of_a_handler_carries_run_job_and_attempt_whoever_s_logger_it_was(edge: Invocation, text: str):
    [line] = [line for line in edge.lines if line["message"] == text and line["job_run_id"] == "spoken"]

    assert (line["job_name"], line["attempt"]) == ("speak", 2)


def test_a_line_s_own_fields_are_kept(edge: Invocation):
    lines = [line for line in edge.lines if line["message"] == "spoken plainly"]

    assert [line["language"] for line in lines] == ["en", "en"]
    assert {line["job_run_id"] for line in lines} == {"spoken", "lost"}


def test_a_line_of_an_async_handler_carries_run_job_and_attempt(edge: Invocation):
    line = edge.said("spoken asynchronously")

    assert (line["job_run_id"], line["job_name"], line["attempt"]) == ("async", "speak_async", 1)


@pytest.mark.parametrize(
    ("text", "run_id", "job_name"),
    [
        ("attempt failed with ValueError; the run is scheduled", "retried", "broken"),
        ("attempt failed with ValueError; the run is failed", "failed", "broken"),
        ("attempt failed with InvalidJSONError", "unstored", "unstorable"),
        ("the run failed without an attempt: missing handler", "missing", "nobody"),
        ("the worker of a run was lost; taking the run over", "lost", "speak"),
    ],
)
def test_what_becomes_of_a_run_is_logged_with_run_job_and_attempt(
    edge: Invocation, text: str, run_id: str, job_name: str
):
    line = edge.said(text)

    assert (line["job_run_id"], line["job_name"], line["attempt"]) == (run_id, job_name, 1)


def test_a_failed_attempt_is_logged_with_the_error_s_type_and_places(edge: Invocation):
    line = edge.said("attempt failed with ValueError; the run is failed")

    assert line["error_type"] == "ValueError"
    assert line["error_at"][-1].endswith(" in broken")
    assert "application.py:" in line["error_at"][-1]


def test_no_payload_output_or_error_text_is_in_what_is_logged(edge: Invocation):
    """Though two handlers' errors quote the payload, and the level is DEBUG, and the run's error is stored."""
    assert SECRET in json.loads(edge.items["spoken"]["output"])["secret"]
    assert SECRET in edge.items["failed"]["last_error"]

    for form in (SECRET, ascii(SECRET)[1:-1], "hunter2"):
        assert form not in edge.stdout
        assert form not in edge.stderr


def test_malformed_records_are_logged_with_message_id_and_a_bounded_excerpt(edge: Invocation):
    lines = {line["message_id"]: line for line in edge.lines if line["message"].startswith("malformed record")}

    assert set(lines) == {"m-malformed", "m-version"}
    assert lines["m-malformed"]["excerpt"].startswith("'MALFORMEDxxx")
    assert len(lines["m-malformed"]["excerpt"]) < 120
    assert "unsupported message version 9" in lines["m-version"]["message"]


def test_a_runtime_failure_is_logged_with_message_and_run(edge: Invocation):
    line = edge.said("a record could not be consumed and will be delivered again")

    assert (line["level"], line["message_id"], line["job_run_id"]) == ("ERROR", "m-corrupt", "corrupt")


def test_outcomes_malformed_records_failures_and_durations_are_counted(edge: Invocation):
    metrics = edge.metrics

    durations = metrics.pop("HandlerDuration")
    assert len(durations) == 6
    assert all(0 <= duration < 60_000 for duration in durations)
    assert metrics == {
        "RunsSucceeded": [3],
        "AttemptsRetried": [1],
        "RunsFailed": [3],
        "MessagesIgnored": [1],
        "RunsPaused": [1],
        "MalformedRecords": [2],
        "RecordsToRedeliver": [1],
    }


def test_metrics_go_to_the_namespace_and_service_that_are_set(edge: Invocation):
    lines = [line for line in edge.output if "_aws" in line]

    assert {line["_aws"]["CloudWatchMetrics"][0]["Namespace"] for line in lines} == {"TheNamespace"}
    assert {line["service"] for line in lines} == {"the-service"}
    assert any("job" in line for line in lines)


def test_the_jobs_of_the_project_s_own_handler_folder_are_the_default():
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import handler.jobs; import kumofire_core.edge as edge; print(edge.find_jobs() is handler.jobs.jobs)",
        ],
        cwd=PROJECT,
        env=environment(KUMOFIRE_TABLE="t", KUMOFIRE_QUEUE_URL="https://queue", KUMOFIRE_JOBS=""),
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.strip() == "True"


def test_retries_and_failures_are_counted_for_their_job_and_successes_are_not(tmp_path: Path):
    runs = [run_of("r1", "broken"), run_of("r2", "broken"), run_of("r3", "no such job"), run_of("r4", "speak")]

    found = invoke(tmp_path, runs)

    assert found.metrics_by_job == [("broken", "AttemptsRetried", 2), ("no such job", "RunsFailed", 1)]
    assert found.metrics["AttemptsRetried"] == [2]


def test_a_process_gives_metrics_of_their_own_to_a_bounded_number_of_jobs(monkeypatch: pytest.MonkeyPatch):
    from kumofire_core.edge import telemetry

    monkeypatch.setattr(telemetry, "_jobs_seen", set())
    names = [f"job-{number}" for number in range(telemetry.MOST_JOBS)]

    assert [telemetry._job_dimension(name) for name in names] == names
    assert telemetry._job_dimension("one too many") == "(other)"
    assert telemetry._job_dimension(names[0]) == names[0]


def test_without_settings_of_its_own_a_function_names_the_service_and_leaves_debug_lines_out(tmp_path: Path):
    found = invoke(tmp_path, [run_of("r1", "speak")])

    assert found.said("spoken plainly")["service"] == "kumofire-jobs"
    assert all(line["level"] != "DEBUG" for line in found.lines)


def test_jobs_of_a_group_are_registered_and_stay_so_when_style_is_fixed(
    tmp_path: Path,
):
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    shutil.copytree(PROJECT / "handler", tmp_path / "handler", ignore=shutil.ignore_patterns("__pycache__"))
    application = tmp_path / "handler/jobs.py"
    imports = "from kumofire_core import JobContext, Jobs\n"
    assert imports in application.read_text()
    grouped = application.read_text().replace(imports, f"from handler.of_a_test import group\n{imports}")
    application.write_text(f"{grouped}\njobs.include(group)\n")
    (tmp_path / "handler/of_a_test.py").write_text(
        "from kumofire_core import JobGroup\n\ngroup = JobGroup()\n\n\n"
        "@group.handler('of a test')\ndef of_a_test(ctx):\n    pass\n"
    )

    for command in (("check", "--fix"), ("format",)):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "--no-cache"], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stdout

    for first in ("handler.jobs", "handler.of_a_test"):
        found = subprocess.run(
            [sys.executable, "-c", f"import {first}, handler.jobs; handler.jobs.jobs.create('of nobody')"],
            cwd=tmp_path,
            env=environment(KUMOFIRE_TABLE="t", KUMOFIRE_QUEUE_URL="https://queue", PYTHONPATH=str(PROJECT)),
            capture_output=True,
            text=True,
        )
        # The error lists what is registered.
        assert "UnknownJobError" in found.stderr
        assert "of a test" in found.stderr


def test_in_lambda_a_handler_that_can_not_be_stopped_ends_its_process(tmp_path: Path):
    found = invoke(tmp_path, [run_of("r1", "stuck")], AWS_LAMBDA_RUNTIME_API="127.0.0.1:1")

    assert found.returncode == 1
    assert found.response is None
    line = found.lines[-1]
    assert line["message"] == "handlers that were cut do not stop; ending this execution environment"
    assert (line["level"], line["stray_handlers"]) == ("ERROR", 1)
    assert found.metrics["StrayHandlers"] == [1]
    assert found.metrics["AttemptsRetried"] == [1]


def test_a_hook_that_fails_is_logged_and_counted_and_the_batch_is_answered(tmp_path: Path):
    (tmp_path / "hooked.py").write_text(
        "from application import jobs\n\n"
        "@jobs.on('failed', 'succeeded')\ndef to_slack(event):\n    raise OSError(event.run.payload['secret'])\n"
    )

    runs = [run_of("spoken", "speak"), run_of("failed", "broken", max_attempts=1)]
    found = invoke(tmp_path, runs, KUMOFIRE_JOBS="hooked:jobs")

    assert found.response == {"batchItemFailures": []}
    assert [found.items[run_id]["status"] for run_id in ("spoken", "failed")] == ["succeeded", "failed"]
    assert found.metrics["HookFailures"] == [2]
    lines = [line for line in found.lines if line["message"].startswith("the hook to_slack failed with OSError")]
    assert sorted((line["job_run_id"], line["event"]) for line in lines) == [
        ("failed", "failed"),
        ("spoken", "succeeded"),
    ]
    assert SECRET not in found.stdout


@pytest.fixture(scope="module")
def stuck(tmp_path_factory: pytest.TempPathFactory) -> Invocation:
    """One batch, outside Lambda, with a handler that can't be stopped."""
    return invoke(tmp_path_factory.mktemp("stuck"), [run_of("r1", "stuck")])


def test_outside_lambda_a_handler_that_can_not_be_stopped_is_logged_and_the_process_left_alone(stuck: Invocation):
    assert (stuck.returncode, stuck.response) == (0, {"batchItemFailures": []})
    assert stuck.lines[-1]["message"] == "handlers that were cut do not stop; they go on in this process"
    assert stuck.lines[-1]["stray_handlers"] == 1
    assert "overran" in stuck.items["r1"]["last_error"]


def test_a_line_of_the_edge_s_own_logger_comes_once(stuck: Invocation):
    stuck.said("handlers that were cut do not stop")


def test_a_cold_start_with_wrong_settings_names_every_one():
    found = subprocess.run(
        [sys.executable, "-c", "import handler.consumer"],
        cwd=PROJECT,
        env=environment(KUMOFIRE_TABLE="t", KUMOFIRE_CONCURRENCY="lots", KUMOFIRE_LEASE_SECONDS="0"),
        capture_output=True,
        text=True,
    )

    assert found.returncode == 1
    [last] = found.stderr.splitlines()[-1:]
    assert "ConfigurationError" in last
    for name in ("KUMOFIRE_QUEUE_URL", "KUMOFIRE_CONCURRENCY", "KUMOFIRE_LEASE_SECONDS"):
        assert name in last
    assert "KUMOFIRE_TABLE" not in last


@pytest.mark.parametrize(("function", "clients"), [("consumer", ["dynamodb"]), ("dispatcher", ["dynamodb", "sqs"])])
def test_a_cold_start_makes_the_clients_that_are_needed_and_no_request(function: str, clients: list[str]):
    code = (
        f"import gc, sys, handler.{function}, handler.jobs\n"
        "clients = [name for name, client in handler.jobs.jobs._clients._given.items() if client]\n"
        "print(clients, 'boto3' in sys.modules, gc.isenabled(), gc.get_freeze_count() > 0, "
        "'kumofire_core.model.run_view' in sys.modules)"
    )

    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=environment(
            KUMOFIRE_TABLE="t",
            KUMOFIRE_QUEUE_URL="https://queue",
            AWS_DEFAULT_REGION="eu-central-1",
            AWS_ENDPOINT_URL="http://127.0.0.1:9",  # whoever asks there fails
        ),
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.strip() == f"{clients} False True True False"


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("nocolon", "KUMOFIRE_JOBS is 'nocolon'; it must be 'module:attribute'"),
        (":jobs", "it must be 'module:attribute'"),
        ("module:", "it must be 'module:attribute'"),
        ("no_such_module_here:jobs", "the module 'no_such_module_here', which is not in the package"),
        ("handler.no_such_module_here:jobs", "the module 'handler.no_such_module_here', which is not"),
        ("json:jobs", "'json:jobs', which is NoneType and not a Jobs"),
        ("json:dumps", "'json:dumps', which is function and not a Jobs"),
    ],
)
def test_a_place_of_jobs_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, place: str, problem: str):
    monkeypatch.setenv("KUMOFIRE_JOBS", place)

    from kumofire_core.edge import load_jobs

    with pytest.raises(ConfigurationError) as caught:
        load_jobs(None, sends=False)

    assert problem in str(caught.value)


def test_a_default_place_of_jobs_that_is_not_there_is_told_as_a_variable_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch,
):
    from kumofire_core import edge

    monkeypatch.delenv("KUMOFIRE_JOBS", raising=False)
    monkeypatch.setattr(edge, "DEFAULT_JOBS", "no_such_module_here:jobs")

    with pytest.raises(ConfigurationError, match="KUMOFIRE_JOBS is not set, and its default names the module"):
        edge.find_jobs()


def test_the_jobs_of_an_application_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "an_application.py").write_text(
        "from kumofire_core import Jobs\nwork = Jobs(table='t', queue_url='q')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KUMOFIRE_JOBS", "an_application:work")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")

    from kumofire_core.edge import load_jobs

    assert isinstance(load_jobs(None, sends=False), Jobs)


@pytest.mark.parametrize("source", ["import no_such_module_here", "1 / 0"])
def test_an_error_of_the_application_s_own_module_leaves_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
):
    (tmp_path / "a_broken_application.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KUMOFIRE_JOBS", "a_broken_application:jobs")

    from kumofire_core.edge import load_jobs

    with pytest.raises((ModuleNotFoundError, ZeroDivisionError)):
        load_jobs(None, sends=False)
