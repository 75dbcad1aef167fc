"""The built artifact under AWS's runtime client: cold starts, errors, timeouts and deaths, as Lambda has them."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.deployment import PROJECT
from examples.local_aws import LocalAws
from tests.builders import Aws, event, make_aws
from tests.built import build_artifact
from tests.runtime_api import START, ExitedError, FunctionError, LambdaProcess, TimedOutError, runtime_client

CONSUMER = "handler.consumer.handler"
DISPATCHER = "handler.dispatcher.handler"

PROBES = """
import os, signal, time
from kumofire_core import Jobs

jobs = Jobs.from_env()

@jobs.handler("greet")
def greet(ctx):
    return {"hello": ctx.payload["name"], "process": os.getpid()}

@jobs.handler("fail", max_attempts=1)
def fail(ctx):
    raise ConnectionError("no answer")

@jobs.handler("freeze once")
def freeze_once(ctx):
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return "recovered"

@jobs.handler("block", max_attempts=1)
def block(ctx):
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_artifact(tmp_path_factory.mktemp("built") / "artifact", probes=PROBES)


@pytest.fixture
def aws(ministack: LocalAws) -> Aws:
    name = f"runtime-{uuid.uuid4().hex[:8]}"
    return make_aws(ministack.client("dynamodb"), ministack.client("sqs"), name=name)


def settings(ministack: LocalAws, aws: Aws, **changes: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": ministack.endpoint_url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "KUMOFIRE_TABLE": aws.table,
        "KUMOFIRE_QUEUE_URL": aws.queue_url,
        "KUMOFIRE_JOBS": "probes:jobs",
        **changes,
    }


@pytest.fixture
def consumer(artifact: Path, ministack: LocalAws, aws: Aws) -> Iterator[LambdaProcess]:
    with LambdaProcess(artifact, CONSUMER, settings(ministack, aws), timeout_seconds=4) as process:
        yield process


def test_one_environment_serves_many_invocations_after_one_cold_start(consumer: LambdaProcess, aws: Aws) -> None:
    run_ids = [aws.a_run(job_name="greet", payload='{"name": "Ada"}') for _ in range(5)]

    answers = [consumer.invoke(event(run_id)) for run_id in run_ids]

    assert answers == [{"batchItemFailures": []}] * 5
    outputs = [json.loads((aws.item(run_id) or {})["output"]) for run_id in run_ids]
    assert {output["hello"] for output in outputs} == {"Ada"}
    assert len({output["process"] for output in outputs}) == consumer.cold_starts == 1


def test_a_handler_that_raises_fails_its_run_and_not_the_function(consumer: LambdaProcess, aws: Aws) -> None:
    failing, fine = aws.a_run(job_name="fail", max_attempts=1), aws.a_run(job_name="greet", payload='{"name": "Ada"}')

    assert consumer.invoke(event(failing, fine)) == {"batchItemFailures": []}

    assert (aws.item(failing) or {})["status"] == "failed"
    assert (aws.item(fine) or {})["status"] == "succeeded"
    assert consumer.cold_starts == 1


def test_a_function_that_raises_says_so_and_serves_the_next_invocation(
    artifact: Path, ministack: LocalAws, aws: Aws
) -> None:
    environment = settings(ministack, aws, KUMOFIRE_TABLE="no-such-table")
    with LambdaProcess(artifact, DISPATCHER, environment) as dispatcher:
        for _ in range(2):
            with pytest.raises(FunctionError) as raised:
                dispatcher.invoke({})
            assert raised.value.type == "PartlyDispatchedError"
            assert "ResourceNotFoundException" in str(raised.value)

        assert dispatcher.cold_starts == 1


def test_the_dispatcher_answers_its_tick_with_what_it_did(artifact: Path, ministack: LocalAws, aws: Aws) -> None:
    late = aws.a_run(status="scheduled", wake_at=1)
    with LambdaProcess(artifact, DISPATCHER, settings(ministack, aws)) as dispatcher:
        answer = dispatcher.invoke({})

    assert (answer["dispatched"], answer["errors"], answer["complete"]) == (1, 0, True)
    assert (aws.item(late) or {})["status"] == "queued"


@pytest.mark.parametrize("handler", [CONSUMER, DISPATCHER])
def test_a_function_without_a_setting_does_not_start_and_names_it(
    artifact: Path, ministack: LocalAws, aws: Aws, handler: str
) -> None:
    environment = settings(ministack, aws)
    del environment["KUMOFIRE_TABLE"]
    with LambdaProcess(artifact, handler, environment) as process, pytest.raises(FunctionError) as raised:
        process.invoke({"Records": []})

    assert raised.value.type == "ConfigurationError"
    assert "KUMOFIRE_TABLE is not set" in raised.value.message


@pytest.mark.long
def test_a_run_whose_function_was_killed_at_its_timeout_is_executed_by_the_next_one(
    consumer: LambdaProcess, aws: Aws
) -> None:
    run_id = aws.a_run(job_name="freeze once")

    with pytest.raises(TimedOutError):
        consumer.invoke(event(run_id))
    killed = aws.item(run_id) or {}
    too_early = consumer.invoke(event(run_id))
    held = aws.item(run_id)
    aws.change(run_id, lease_until=1)
    recovered = consumer.invoke(event(run_id))

    assert killed["status"] == "running"
    assert (too_early, held) == ({"batchItemFailures": []}, killed)
    assert recovered == {"batchItemFailures": []}
    ended = aws.item(run_id) or {}
    assert (ended["status"], ended["attempt"], ended["output"]) == ("succeeded", 1, '"recovered"')
    assert consumer.cold_starts == 2


@pytest.mark.long
def test_a_handler_that_can_not_be_stopped_takes_its_environment_with_it(consumer: LambdaProcess, aws: Aws) -> None:
    blocking, next_one = aws.a_run(job_name="block", max_attempts=1), aws.a_run(job_name="greet", payload='{"name": 1}')

    with pytest.raises(ExitedError):
        consumer.invoke(event(blocking))
    again = consumer.invoke(event(blocking, next_one))

    assert (aws.item(blocking) or {})["status"] == "failed"
    assert "overran" in (aws.item(blocking) or {})["last_error"]
    assert again == {"batchItemFailures": []}
    assert (aws.item(next_one) or {})["status"] == "succeeded"
    assert consumer.cold_starts == 2


@pytest.mark.parametrize(
    ("name", "malformed"), [("good", 0), ("mixed", 3), ("empty", 0)], ids=["good", "mixed", "empty"]
)
def test_the_event_files_are_what_the_function_takes(
    consumer: LambdaProcess, aws: Aws, name: str, malformed: int
) -> None:
    sent = json.loads((PROJECT / f"events/{name}.json").read_text())
    runs = [aws.a_run(f"example-run-{number}", job_name="greet", payload='{"name": "Ada"}') for number in (1, 2)]

    answer = consumer.invoke(sent)

    assert answer == {"batchItemFailures": []}
    expected = "queued" if name == "empty" else "succeeded"
    assert [(aws.item(run_id) or {})["status"] for run_id in runs] == [expected, expected]
    assert sum("malformed" in line and '"level"' in line for line in consumer.log.splitlines()) == malformed


def test_the_artifact_runs_in_the_emulator_that_sam_local_invoke_uses(
    artifact: Path, ministack: LocalAws, aws: Aws, tmp_path: Path
) -> None:
    run_id = aws.a_run(job_name="greet", payload='{"name": "Ada"}')
    with runtime_interface_emulator(artifact, tmp_path, settings(ministack, aws)) as invoke:
        answers = [invoke(event(run_id)), invoke(event(run_id))]

    assert answers == [{"batchItemFailures": []}] * 2
    assert (aws.item(run_id) or {})["claims"] == 1


@contextmanager
def runtime_interface_emulator(artifact: Path, directory: Path, environment: dict[str, str]) -> Iterator[Any]:
    """Run the consumer in AWS's Runtime Interface Emulator, a part of the SAM CLI; yield a function to invoke it."""
    sam = os.environ.get("SAM")
    if not sam:
        pytest.skip("the variable SAM names no SAM CLI; `make test` sets it")
    machine = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    found = list(
        Path(sam).parent.parent.glob(f"lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}")
    )
    if sys.platform != "linux" or not found:
        pytest.skip("this SAM CLI brings no Runtime Interface Emulator for this machine")
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    emulator = directory / "rie"
    emulator.write_bytes(found[0].read_bytes())
    emulator.chmod(0o755)
    listen = ("--runtime-api-address", "--runtime-interface-emulator-address")
    addresses = [part for name, port in zip(listen, ports, strict=True) for part in (name, f"127.0.0.1:{port}")]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [emulator, *addresses, sys.executable, "-I", "-S", "-c", START, runtime_client(directory), CONSUMER],
            cwd=artifact,
            env={"PATH": "/usr/bin:/bin", "LAMBDA_TASK_ROOT": str(artifact), "AWS_LAMBDA_FUNCTION_TIMEOUT": "20"}
            | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{ports[1]}/2015-03-31/functions/function/invocations"

    def invoke(payload: Any) -> Any:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(payload).encode()), timeout=30) as reply:
            return json.loads(reply.read())

    try:
        give_up = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", ports[1])) == 0:
                    break
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < give_up, "the emulator does not listen"
            time.sleep(0.02)
        yield invoke
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
