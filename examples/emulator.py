"""The process of the local AWS: MiniStack, with corrections where it differs from AWS.

``examples.local_aws`` starts this file by its path, with MiniStack's environment. This file corrects the differences in
the running emulator only, so neither the template nor the code of the functions has to allow for them.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kumofire_core.cli.dev.emulator import serve_until_alone


def main(descriptor: int, interpreters: Mapping[str, str]) -> None:
    """Serve on an inherited listening socket, until standard input ends with the process at its far end.

    ``interpreters`` names, by runtime, the interpreter that runs functions of this runtime.
    """
    from ministack.core import lambda_runtime  # type: ignore[import-untyped]
    from ministack.services import dynamodb, sqs  # type: ignore[import-untyped]
    from ministack.services.cloudformation import provisioners  # type: ignore[import-untyped]

    isolate_functions(lambda_runtime, interpreters)
    read_numbers_of_mappings(provisioners)
    apply_settings_of_tables(provisioners, dynamodb)
    add_message_move_tasks(sqs)
    serve_until_alone(descriptor)


def isolate_functions(lambda_runtime: Any, interpreters: Mapping[str, str]) -> None:
    """Have functions see the standard library and their artifact, under the interpreter of their runtime.

    MiniStack runs every Python function under its own interpreter, with all that is installed there. A runtime whose
    interpreter is not on this machine still gets that interpreter, but not what is installed.
    """
    folder = Path("bin").resolve()
    folder.mkdir()
    original = lambda_runtime._detect_runtime_binary

    def detect(runtime: str) -> tuple[str, str]:
        binary, worker = original(runtime)
        if not runtime.startswith("python"):
            return binary, worker
        # -S leaves out `site`, which adds `exit` and `quit` to the installed packages; Lambda has these two.
        return str(
            folder / (runtime if runtime in interpreters else "python")
        ), f"import site; site.setquit()\n{worker}"

    for name, interpreter in {**interpreters, "python": sys.executable}.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(interpreter)} -I -S "$@"\n')
        (folder / name).chmod(0o755)
    lambda_runtime._detect_runtime_binary = detect


NUMBERS = (
    "BatchSize",
    "MaximumBatchingWindowInSeconds",
    "MaximumConcurrency",
    "MaximumRecordAgeInSeconds",
    "MaximumRetryAttempts",
    "ParallelizationFactor",
)


def read_numbers_of_mappings(provisioners: Any) -> None:
    """Read the text that a ``Ref`` gives as the number that an event source mapping's property is.

    CloudFormation converts it. MiniStack keeps the text, and its poller stops at comparing it with a number.
    """

    def converted(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: int(found) if name in NUMBERS and isinstance(found, str) else converted(found)
            for name, found in value.items()
        }

    def converting(provision: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: provision(*(converted(each) for each in given))

    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]
    handlers.update({action: converting(handlers[action]) for action in ("create", "update")})


def apply_settings_of_tables(provisioners: Any, dynamodb: Any) -> None:
    """Give a stack's table its time to live and its point-in-time recovery, which MiniStack leaves out."""

    def applying(provision: Callable[..., Any], properties: int) -> Callable[..., Any]:
        def provisioned(*given: Any, **named: Any) -> Any:
            made = provision(*given, **named)
            for apply, setting in (
                (dynamodb._update_ttl, "TimeToLiveSpecification"),
                (dynamodb._update_continuous_backups, "PointInTimeRecoverySpecification"),
            ):
                if setting in given[properties]:
                    apply({"TableName": made[0], setting: given[properties][setting]})
            return made

        return provisioned

    handlers = provisioners._RESOURCE_HANDLERS["AWS::DynamoDB::Table"]
    # A creation is given the properties, and an update the earlier ones before them.
    handlers.update(create=applying(handlers["create"], 1), update=applying(handlers["update"], 2))


def add_message_move_tasks(sqs: Any) -> None:
    """Add ``StartMessageMoveTask`` and ``ListMessageMoveTasks``, by which messages leave a dead-letter queue.

    A task is complete when its start is answered. Moved messages are new ones, with a new id, as on AWS.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_StartMessageMoveTask.html
    """
    tasks: dict[str, list[dict[str, Any]]] = {}

    def queue(arn: str) -> dict[str, Any]:
        found: dict[str, Any] | None = sqs._queue_by_arn(arn)
        if found is None:
            raise sqs._Err("ResourceNotFoundException", f"The resource that you specified doesn't exist: {arn}", 404)
        return found

    def sources_of(arn: str) -> list[str]:
        policies = ((each, each["attributes"].get("RedrivePolicy")) for each in sqs._queues.values())
        return [
            each["attributes"]["QueueArn"]
            for each, policy in policies
            if policy and json.loads(policy).get("deadLetterTargetArn") == arn
        ]

    def start(data: dict[str, Any], _: str) -> dict[str, str]:
        arn, destination = data.get("SourceArn") or "", data.get("DestinationArn")
        source = queue(arn)
        if not sources_of(arn):
            raise sqs._Err("InvalidParameterValue", "Source queue must be configured as a Dead Letter Queue.")
        now = time.time()
        moved = 0
        task = {"Status": "COMPLETED", "SourceArn": arn, "StartedTimestamp": int(now * 1000)}
        if destination:
            queue(destination)
            task["DestinationArn"] = destination
        waiting = [message for message in source["messages"] if message["visible_at"] <= now]
        for message in waiting:
            target = destination or message["sys"].get("DeadLetterQueueSourceArn")
            if not target:
                task.update(Status="FAILED", FailureReason="CouldNotDetermineMessageSource")
                break
            sent = {"MessageBody": message["body"], "MessageAttributes": message["message_attributes"]}
            if message["group_id"]:
                sent |= {"MessageGroupId": message["group_id"], "MessageDeduplicationId": message["dedup_id"]}
            sqs._act_send_message(sent, queue(target)["url"])
            source["messages"].remove(message)
            moved += 1
        task["ApproximateNumberOfMessagesMoved"] = moved
        task["ApproximateNumberOfMessagesToMove"] = len(waiting)
        tasks.setdefault(arn, []).insert(0, task)
        return {"TaskHandle": str(uuid.uuid4())}

    def listed(data: dict[str, Any], _: str) -> dict[str, Any]:
        arn = data.get("SourceArn") or ""
        queue(arn)
        return {"Results": tasks.get(arn, [])[: int(data.get("MaxResults") or 1)]}

    sqs._HANDLERS.update({"StartMessageMoveTask": start, "ListMessageMoveTasks": listed})


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
