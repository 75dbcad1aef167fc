"""The names and signatures that applications are written against."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
import tomllib
from importlib.resources import files
from typing import Any

import pytest

import kumofire_core
from examples.deployment import PROJECT
from kumofire_core import ConsumeResult, JobContext, Jobs, Outcome, RetryPolicy, Run, UnknownJobError
from tests.builders import Aws, message

PROMISED = {"Jobs", "JobContext", "RetryPolicy", "ConsumeResult", "Run", "RunStatus", "Outcome"}
ERRORS = {
    "AttemptTimeoutError",
    "ConfigurationError",
    "CorruptItemError",
    "DeadlineTooCloseError",
    "InvalidArgumentError",
    "InvalidJSONError",
    "KumofireError",
    "LeaseExpiredError",
    "MalformedMessageError",
    "NewerSchemaError",
    "UnknownJobError",
    "UnsupportedMessageVersionError",
}


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def test_the_promised_names_are_exported():
    assert set(kumofire_core.__all__) >= PROMISED | ERRORS
    assert all(hasattr(kumofire_core, name) for name in kumofire_core.__all__)
    assert sorted(set(kumofire_core.__all__)) == sorted(kumofire_core.__all__)


def test_every_error_of_ours_has_one_base():
    errors = [getattr(kumofire_core, name) for name in kumofire_core.__all__ if name.endswith("Error")]

    assert all(issubclass(error, kumofire_core.KumofireError) for error in errors)


def test_jobs_takes_its_arguments_by_keyword_and_two_are_required():
    found = parameters(Jobs)

    names = {"table", "queue_url", "dynamodb", "sqs", "handlers", "retry", "lease", "retention", "clock"}
    assert names <= set(found)
    assert {parameter.kind for parameter in found.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert {name for name, parameter in found.items() if parameter.default is parameter.empty} == {"table", "queue_url"}


@pytest.mark.parametrize(
    ("function", "positional", "keyword_only"),
    [
        (Jobs.handler, ["self", "name"], {"max_attempts", "retry"}),
        (Jobs.create, ["self", "name", "payload"], {"run_at", "delay", "max_attempts", "dedupe_key"}),
        (Jobs.consume, ["self", "message"], {"deadline"}),
        (Jobs.consume_batch, ["self", "event", "context"], set()),
        (Jobs.get_status, ["self", "run_id"], set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_calls_have_the_promised_signatures(function: Any, positional: list[str], keyword_only: set[str]):
    found = parameters(function)

    kinds = {name: parameter.kind for name, parameter in found.items()}
    assert [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == positional
    named = {name for name, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY}
    assert named >= keyword_only
    assert all(found[name].default is None for name in keyword_only)
    assert all(found[name].default is not inspect.Parameter.empty for name in named)


def test_a_retry_policy_takes_attempts_and_a_rule():
    assert list(parameters(RetryPolicy))[:2] == ["max_attempts", "next_run_at"]
    assert parameters(RetryPolicy)["max_attempts"].default == 3
    assert {"attempt", "error", "run", "now"} == set(parameters(RetryPolicy().next_run_at))


def test_a_context_and_a_run_have_the_promised_attributes():
    context = {"payload", "run", "attempt", "fencing_token", "now", "time_left", "logger"}
    run = {
        "id",
        "job_name",
        "payload",
        "status",
        "attempt",
        "max_attempts",
        "scheduled_for",
        "created_at",
        "updated_at",
        "started_at",
        "finished_at",
        "last_error",
        "output",
        "schedule_id",
        "dedupe_key",
    }

    assert context <= set(dir(JobContext))
    assert run <= {field.name for field in dataclasses.fields(Run)}
    assert {"outcome", "job_run_id"} <= set(dir(ConsumeResult))


def test_what_an_application_is_given_can_not_be_changed(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    result = jobs.consume(message(run_id := aws.a_run()))

    with pytest.raises(AttributeError):
        result.outcome = "failed"  # type: ignore[assignment, misc]
    with pytest.raises(AttributeError):
        jobs.get_status(run_id).status = "failed"  # type: ignore[assignment, misc]


def test_results_are_equal_when_outcome_and_run_are():
    one = ConsumeResult(outcome=Outcome.FAILED, job_run_id="1", reason="TypeError")

    assert one == ConsumeResult(Outcome.FAILED, "1", attempt=2)
    assert (one != ConsumeResult(Outcome.FAILED, "1", attempt=2)) is False
    assert len({one, ConsumeResult(Outcome.FAILED, "1")}) == 1
    assert one != ConsumeResult(Outcome.FAILED, "2", reason="TypeError")
    assert one != ConsumeResult(Outcome.CANCELED, "1", reason="TypeError")
    assert one != tuple(one)


@pytest.mark.parametrize("name", ["run", "payload", "attempt", "fencing_token", "now", "logger", "another"])
def test_a_context_can_not_be_changed(aws: Aws, name: str):
    contexts = []
    aws.jobs(handlers={"email": contexts.append}).consume(message(aws.a_run()))

    with pytest.raises(AttributeError):
        setattr(contexts[0], name, None)


def test_the_text_of_a_run_and_of_a_context_quotes_no_data(aws: Aws):
    contexts = []
    jobs = aws.jobs(handlers={"email": lambda ctx: contexts.append(ctx) or "secret"})
    run_id = aws.a_run(payload='"secret"', last_error="secret")

    jobs.consume(message(run_id))

    assert "secret" not in f"{contexts[0]!r} {jobs.get_status(run_id)!r}"


def test_an_unknown_job_is_named_with_those_that_are_known():
    text = str(UnknownJobError("typo", ["b", "a"]))

    assert text.startswith("no handler for job 'typo' (registered: a, b); register it with @jobs.handler('typo')")


def test_the_package_is_typed():
    assert files("kumofire_core").joinpath("py.typed").is_file()


def test_importing_the_package_imports_no_aws_client_and_no_edge():
    others = ("boto3", "aws_lambda_powertools", "handler")
    code = f"import sys, kumofire_core; print([name for name in {others} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_who_creates_and_reads_runs_needs_no_powertools():
    metadata = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    code = """
import sys, pkgutil, importlib
sys.modules["aws_lambda_powertools"] = None  # an import of it fails
import kumofire_core
for module in pkgutil.walk_packages(kumofire_core.__path__, "kumofire_core."):
    if not module.name.startswith("kumofire_core.edge."):
        importlib.import_module(module.name)
jobs = kumofire_core.Jobs.from_env({"KUMOFIRE_TABLE": "t", "KUMOFIRE_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/q"})
jobs.make_clients()
print("made")
"""
    environment = {**os.environ, "AWS_DEFAULT_REGION": "eu-west-1"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)

    assert found.stdout == "made\n", found.stderr

    code = "import sys; sys.modules['aws_lambda_powertools'] = None; import kumofire_core.edge.telemetry"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)

    assert "pip install 'kumofire-jobs[lambda]'" in found.stderr.splitlines()[-1]
    assert not [each for each in metadata["dependencies"] if "powertools" in each]
    assert [each for each in metadata["optional-dependencies"]["lambda"] if each.startswith("aws-lambda-powertools")]


@pytest.mark.parametrize(
    "module",
    ["model.message", "model.json_codec", "model.run_item", "rules.run_writes", "rules.decisions", "handlers.context"],
)
def test_what_decides_imports_nothing_that_talks(module: str):
    code = f"import kumofire_core.{module}; print('botocore' in sys.modules)"
    bare = (
        "import sys, types, importlib.util; "
        "spec = importlib.util.find_spec('kumofire_core'); "
        "package = types.ModuleType('kumofire_core'); "
        "package.__path__ = list(spec.submodule_search_locations); "
        "sys.modules['kumofire_core'] = package\n"
    )

    found = subprocess.run([sys.executable, "-c", bare + code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "False"
