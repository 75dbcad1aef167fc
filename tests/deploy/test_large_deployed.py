"""Large payloads in the whole stack, on a local AWS: the bucket, the functions, and the stream of the table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from examples import deployment as local
from examples.local_aws import LocalAws
from kumofire_core import Jobs
from tests.emulators import ministack

__all__ = ["ministack"]

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("large")]

PAYLOAD = {"name": "ä" * 500_000}
WAIT_SECONDS = 60


@dataclass(frozen=True)
class Deployed:
    """The stack, and a process of an application beside it."""

    aws: LocalAws
    outputs: dict[str, str]
    jobs: Jobs

    def objects(self) -> list[str]:
        found = self.aws.client("s3").list_objects_v2(Bucket=self.outputs["BucketName"])
        return [each["Key"] for each in found.get("Contents", ())]


@pytest.fixture(scope="module")
def deployed(ministack: LocalAws) -> Deployed:
    local.deploy(ministack, name="large", parameters={"LargePayloads": "true"})
    outputs = local.outputs_of(ministack, "large")
    jobs = Jobs(
        table=outputs["TableName"],
        queue_url=outputs["QueueUrl"],
        bucket=outputs["BucketName"],
        dynamodb=ministack.client("dynamodb"),
        sqs=ministack.client("sqs"),
        s3=ministack.client("s3"),
        allow_unknown_jobs=True,
    )
    return Deployed(ministack, outputs, jobs)


def until(what: Callable[[], Any]) -> Any:
    """Return what comes true, as soon as it does."""
    ends = time.monotonic() + WAIT_SECONDS
    while not (found := what()) and time.monotonic() < ends:
        time.sleep(0.2)
    return found


def test_a_large_payload_goes_through_the_stack_and_its_objects_go_with_its_run(deployed: Deployed) -> None:
    jobs = deployed.jobs
    run_id = jobs.create("hello", PAYLOAD)

    assert until(lambda: jobs.get_status(run_id, payloads=False).status == "succeeded")
    run = jobs.get_status(run_id)
    assert (run.payload, run.output["greeting"]) == (PAYLOAD, f"Hello, {PAYLOAD['name']}!")
    assert sorted(key.rpartition("/")[2].partition("-")[0] for key in deployed.objects()) == ["output", "payload"]

    put_before(deployed, run_id, seconds=7_200)
    assert jobs.delete(run_id)

    assert until(lambda: deployed.objects() == [])


def put_before(deployed: Deployed, run_id: str, *, seconds: int) -> None:
    """Let the item say that its objects were put longer ago than they were: a cleaner leaves young ones alone."""
    table = deployed.aws.client("dynamodb")
    request = {"TableName": deployed.outputs["TableName"], "Key": {"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}}}
    item = table.get_item(**request)["Item"]
    for name in ("payload", "output"):
        key, size, digest, put_ms = json.loads(item[name]["S"].removeprefix("object:"))
        item[name]["S"] = f"object:{json.dumps([key, size, digest, put_ms - seconds * 1000])}"
    table.put_item(TableName=request["TableName"], Item=item)
