"""Runs one of the examples on an embedded local AWS: ``make example NAME=email``.

``python -m examples.on_local_aws email`` starts a local AWS with a table and a queue, takes the place of the consumer
and the dispatcher of ``examples.email.jobs``, and executes ``python -m examples.email`` in a process of its own, as an
application beside the deployed functions. It ends with that program, and with 1 if the program takes too long.

``wait_for``, ``finished`` and ``expect`` are for those programs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kumofire_core import AttemptLogFilter, Jobs, Run

if TYPE_CHECKING:
    from examples.local_aws import LocalAws

EXAMPLES = Path(__file__).parent
NAME = "example"
PROGRAM_SECONDS = 300
"""How long a program may take on a busy machine. On an idle one none takes half a minute."""

WAIT_SECONDS = 100.0
"""How long it waits for a run."""

CONSUMERS = 2
TICK_SECONDS = 1.0
FINAL = ("succeeded", "failed", "canceled")


def wait_for(jobs: Jobs, run_id: str, condition: Callable[[Run], object], *, seconds: float = WAIT_SECONDS) -> Run:
    """Read the run until the condition holds for it, and return it. Raises ``SystemExit`` where that takes too long."""
    give_up = time.monotonic() + seconds
    while True:
        run = jobs.get_status(run_id)
        if run is not None and condition(run):
            return run
        if time.monotonic() > give_up:
            raise SystemExit(f"wrong: after {seconds:g} s the run is still {run}")
        time.sleep(0.1)


def finished(jobs: Jobs, run_id: str, *, seconds: float = WAIT_SECONDS) -> Run:
    """Read the run until it has ended, and return it. Raises ``SystemExit`` where that takes too long."""
    return wait_for(jobs, run_id, lambda run: run.status in FINAL, seconds=seconds)


def expect(fact: str, holds: bool) -> None:
    """Print the fact. Raises ``SystemExit``, which ends the program with 1, where it does not hold."""
    if not holds:
        raise SystemExit(f"wrong: it does not hold that {fact}")
    print(f"ok: {fact}", flush=True)


def names() -> list[str]:
    """Return the names of all examples."""
    return sorted(program.parent.name for program in EXAMPLES.glob("*/__main__.py"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example that the argument names; return the exit code of its program."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 1 or given[0] not in names():
        print(f"name one example: make example NAME={'|'.join(names())}", file=sys.stderr)
        return 2
    [name] = given
    from examples.local_aws import local_aws

    print("starting a local AWS …", flush=True)
    with local_aws() as aws:
        os.environ.update(environment_of(aws), KUMOFIRE_JOBS=f"examples.{name}.jobs:jobs")
        os.environ.update(make_table_and_queue(aws))
        jobs = importlib.import_module(f"examples.{name}.jobs").jobs
        show_logs()
        with consumers(jobs):
            try:
                return subprocess.run(
                    [sys.executable, "-m", f"examples.{name}"],
                    cwd=EXAMPLES.parent,
                    stdin=subprocess.DEVNULL,
                    timeout=PROGRAM_SECONDS,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                print(f"wrong: the program did not end within {PROGRAM_SECONDS} s", file=sys.stderr)
                return 1


def environment_of(aws: LocalAws) -> dict[str, str]:
    """Return the variables by which boto3 reaches this local AWS. Forget all other AWS settings of this process."""
    for variable in [each for each in os.environ if each.startswith(("AWS_", "KUMOFIRE_"))]:
        del os.environ[variable]
    return {
        "AWS_ENDPOINT_URL": aws.endpoint_url,
        "AWS_REGION": aws.session.region_name,
        "AWS_DEFAULT_REGION": aws.session.region_name,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def make_table_and_queue(aws: LocalAws) -> dict[str, str]:
    """Make what the stack makes, for as far as jobs see it; return the variables that name it."""
    from kumofire_core.deployment.table import make_table

    make_table(aws.client("dynamodb"), NAME)
    sqs = aws.client("sqs")
    dead = sqs.create_queue(QueueName=f"{NAME}-dead-letters")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 200})
    queue_url = sqs.create_queue(QueueName=NAME, Attributes={"RedrivePolicy": policy})["QueueUrl"]
    return {"KUMOFIRE_TABLE": NAME, "KUMOFIRE_QUEUE_URL": queue_url}


@contextlib.contextmanager
def consumers(jobs: Jobs) -> Iterator[None]:
    """Let threads take the place of the deployed consumer and dispatcher for the length of the block."""
    ended = threading.Event()
    threads = [threading.Thread(target=consume, args=(jobs, ended), daemon=True) for _ in range(CONSUMERS)]
    threads.append(threading.Thread(target=dispatch, args=(jobs, ended), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(5)


def consume(jobs: Jobs, ended: threading.Event) -> None:
    """Receive messages and hand them over as Lambda does, until ``ended``."""
    sqs: Any = jobs.sqs_client
    while not ended.is_set():
        messages = sqs.receive_message(
            QueueUrl=jobs.queue_url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"]
        ).get("Messages", [])
        if not messages:
            ended.wait(0.1)
            continue
        records = [
            {
                "messageId": each["MessageId"],
                "receiptHandle": each["ReceiptHandle"],
                "body": each["Body"],
                "attributes": each.get("Attributes", {}),
                "eventSource": "aws:sqs",
            }
            for each in messages
        ]
        again = {each["itemIdentifier"] for each in jobs.consume_batch({"Records": records})["batchItemFailures"]}
        done = [
            {"Id": str(place), "ReceiptHandle": each["ReceiptHandle"]}
            for place, each in enumerate(messages)
            if each["MessageId"] not in again
        ]
        if done:
            sqs.delete_message_batch(QueueUrl=jobs.queue_url, Entries=done)


def dispatch(jobs: Jobs, ended: threading.Event) -> None:
    """Make a pass of the dispatcher every second, until ``ended``. The deployed one makes one a minute."""
    while not ended.wait(TICK_SECONDS):
        jobs.dispatch()


def show_logs() -> None:
    """Print what jobs and library log, with the job and the attempt that it is about."""

    class Line(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            about = f"{record.job_name} " if hasattr(record, "job_name") else ""
            about += f"(attempt {record.attempt}) " if hasattr(record, "attempt") else ""
            return f"  consumer: {about}{record.getMessage()}"

    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(AttemptLogFilter())
    handler.setFormatter(Line())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # warns of each connection over the pool's size
    logging.getLogger("kumofire_core").setLevel(logging.INFO)
    logging.getLogger("examples").setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
