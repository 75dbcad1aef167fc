"""Deploys what ``sam build`` made into a local AWS with the SAM CLI itself, and runs the job ``hello`` there.

``python -m examples.deploy_local`` keeps it running until Ctrl-C or SIGTERM, and says how to reach it; ``--once`` ends
it at once. Called again while one keeps running for the same project, it deploys into that one, whose table stays, and
ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples import running
from examples.deployment import PROJECT, outputs_of
from examples.local_aws import REGION, LocalAws, interpreters, local_aws, local_aws_at
from examples.local_invoke import for_plain_sam
from kumofire_core import Jobs, Run, RunStatus

STACK = "kumofire-jobs"
BUILT_TEMPLATE = Path(".aws-sam/build/template.yaml")
RUN_SECONDS = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Deploy, run the job ``hello`` where there is one, and keep the local AWS; return 1 when the job failed."""
    parser = argparse.ArgumentParser(prog="python -m examples.deploy_local", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the job")
    parser.add_argument("--no-consumer", action="store_true", help="then let runs wait for `make local-invoke RUN=…`")
    parser.add_argument("--no-containers", action="store_true", help="open no way to it for containers")
    parser.add_argument("--project", type=Path, default=PROJECT, metavar="FOLDER", help="where `sam build` was called")
    parser.add_argument(
        "--parameter-overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="as `sam deploy` does",
    )
    given = parser.parse_args(arguments)
    if not (given.project / BUILT_TEMPLATE).is_file():
        parser.error(f"there is no {BUILT_TEMPLATE}; call `make build` or `sam build` first")
    if given.once:
        with local_aws() as aws:
            return deploy_and_try(aws, given.project, given.parameter_overrides)
    try:
        if address := running.find(given.project):
            print(f"updating the local AWS that runs at {address}", flush=True)
            return deploy_and_try(local_aws_at(address), given.project, given.parameter_overrides)
        with running.kept(given.project) as tell, local_aws() as aws:
            deploy_and_try(aws, given.project, given.parameter_overrides)
            if given.no_consumer:
                stop_consumer(aws)
            tell(aws.endpoint_url)
            # Python ends without a word on SIGTERM, and a shell's background job gets no Ctrl-C.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            keep(aws, outputs_of(aws, STACK), given.project, containers=not given.no_containers)
    except running.StillStartingError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


def keep(aws: LocalAws, outputs: dict[str, str], project: Path, *, containers: bool) -> None:
    """Print how to reach the local AWS, and let it run until a signal ends this process."""
    settings = environment_of(aws, outputs)
    with for_plain_sam(project, settings) if containers else contextlib.nullcontext("") as note:
        print("\nThe local AWS keeps running until Ctrl-C. To reach it from another terminal:\n")
        for name, value in settings.items():
            print(f"export {name}={value}")
        print(f"\n{note}" if note else "")
        print("To deploy changed jobs into it, call `make deploy-local` there again. The table stays.")
        sys.stdout.flush()
        threading.Event().wait()


def stop_consumer(aws: LocalAws) -> None:
    """Disconnect the consumer from the queue: new runs wait until somebody invokes a function."""
    functions = aws.client("lambda")
    for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
        functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)


def deploy_and_try(aws: LocalAws, project: Path, overrides: Sequence[str] = ()) -> int:
    """Deploy, and run the job ``hello`` where there is one; return 1 when it failed."""
    sam_deploy(aws, project, overrides)
    outputs = outputs_of(aws, STACK)
    print(under_which_python(aws, outputs))
    run = run_job(aws, outputs, "hello", {"name": "world"})
    if run.last_error == 'Missing handler for job "hello"':
        print("your jobs have no 'hello': nothing was run; create a run of one of yours")
        return 0
    print(f"a run of the job 'hello': {run.status}, output {run.output!r}, last error {run.last_error!r}")
    return 0 if run.status is RunStatus.SUCCEEDED else 1


def under_which_python(aws: LocalAws, outputs: dict[str, str]) -> str:
    """Return a sentence that says which interpreter the functions run under: their runtime's, or the local AWS's."""
    function = aws.client("lambda").get_function_configuration(FunctionName=outputs["ConsumerFunction"])
    runtime = function["Runtime"]
    if found := interpreters().get(runtime):
        return f"the functions run under {runtime} ({found}), and see nothing but the build"
    return (
        f"warning: the functions run under Python {platform.python_version()}, since there is no {runtime} here: put"
        " it on the path or name it in BYTECODE_PYTHON; they see nothing but the build"
    )


def sam_deploy(aws: LocalAws, project: Path, overrides: Sequence[str] = ()) -> None:
    """Deploy the build in ``project`` with ``sam deploy``; the variable ``SAM`` may name the executable.

    ``overrides`` are parameters of the template, each as ``name=value``.

    Called again it updates the stack. Raises ``subprocess.CalledProcessError``; what SAM says is shown.
    """
    command = [os.environ.get("SAM") or "sam", "deploy", "--template-file", str(BUILT_TEMPLATE), "--stack-name", STACK]
    command += ["--resolve-s3", "--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset", "--no-progressbar"]
    command += ["--parameter-overrides", *overrides] if overrides else []
    subprocess.run(
        command,
        cwd=project,
        env={**os.environ, **credentials(aws), "SAM_CLI_TELEMETRY": "0"},
        stdin=subprocess.DEVNULL,
        check=True,
    )


def run_job(aws: LocalAws, outputs: dict[str, str], name: str, payload: Any) -> Run:
    """Create a run as an application would, and return it when it has ended, or after a minute as it then is."""
    jobs = Jobs(
        table=outputs["TableName"],
        queue_url=outputs["QueueUrl"],
        dynamodb=aws.client("dynamodb"),
        sqs=aws.client("sqs"),
        allow_unknown_jobs=True,
    )
    run_id = jobs.create(name, payload)
    give_up = time.monotonic() + RUN_SECONDS
    while True:
        run = jobs.get_status(run_id)
        assert run is not None, "a run that was created is there"
        if run.finished_at is not None or time.monotonic() > give_up:
            return run
        time.sleep(0.1)


def environment_of(aws: LocalAws, outputs: dict[str, str]) -> dict[str, str]:
    """Return the variables by which ``Jobs.from_env()`` and the AWS tools reach the stack."""
    return {
        **credentials(aws),
        "KUMOFIRE_TABLE": outputs["TableName"],
        "KUMOFIRE_QUEUE_URL": outputs["QueueUrl"],
    }


def credentials(aws: LocalAws) -> dict[str, str]:
    """Return the variables by which the AWS tools reach the local AWS."""
    return {
        "AWS_ENDPOINT_URL": aws.endpoint_url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
