"""A test of an application: its table and queue made, a run created, executed and read; in memory and on moto."""

from __future__ import annotations

import json
from typing import Any, cast

import boto3
from moto import mock_aws

from benchmarks.endpoint import Endpoint
from benchmarks.measure import Row, cpu_ms, ratio, rounds
from kumofire_core import JobContext, Jobs
from kumofire_core.deployment.table import make_table
from kumofire_core.testing import in_process

PAYLOAD = {"to": "user@example.com"}


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure, on one core. The endpoint is not asked: neither of the two leaves the process."""
    session: Any = boto3.Session()
    url = "https://{}.us-east-1.amazonaws.com"  # moto takes the requests to these
    clients = {name: session.client(name, endpoint_url=url.format(name)) for name in ("dynamodb", "sqs")}
    queue_url = "https://sqs.us-east-1.amazonaws.com/123456789012/jobs"
    settings: dict[str, Any] = {"table": "jobs", "queue_url": queue_url, "handlers": {"email": send}}
    ours = Jobs(**settings)
    count = 2 if quick else 10

    def in_memory() -> None:
        for _ in range(count):
            with in_process(ours) as aws:
                run_id = ours.create("email", PAYLOAD)
                aws.drain()
                require_succeeded(ours, run_id)

    def on_moto() -> None:
        for _ in range(count):
            with mock_aws():
                make_table(clients["dynamodb"], "jobs")
                clients["sqs"].create_queue(QueueName="jobs")
                theirs = Jobs(**settings, **cast(Any, clients))
                run_id = theirs.create("email", PAYLOAD)
                [message] = clients["sqs"].receive_message(QueueUrl=queue_url)["Messages"]
                theirs.consume(json.loads(message["Body"]))
                clients["sqs"].delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
                require_succeeded(theirs, run_id)

    found = rounds({"memory": cpu_ms(in_memory, count), "moto": cpu_ms(on_moto, count)}, 3 if quick else 21)
    each = sorted(found["memory"])[len(found["memory"]) // 2]
    return [
        Row(what="a test with the fixture, create, drain, get_status: ms of CPU", value=each, at_most=20),
        ratio(found, "memory", "moto", "the same, over a test on moto", at_most=0.1),
    ]


def send(ctx: JobContext) -> dict[str, str]:
    """Do next to nothing."""
    return {"sent_to": ctx.payload["to"]}


def require_succeeded(jobs: Jobs, run_id: str) -> None:
    """Raise where a run was not executed: then there is nothing to measure."""
    run = jobs.get_status(run_id)
    if run is None or run.status != "succeeded":
        raise RuntimeError(f"the run is {run and run.status}")
