"""The doctor: examines a deployment, and says in sentences what is wrong with it and what to do.

Each check looks at one thing. What a check may not ask AWS becomes a finding of its own, and stops no other check.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from botocore.exceptions import BotoCoreError, ClientError

from kumofire_core.aws.error_notes import advice, code_of
from kumofire_core.deployment.checks import batch_writes, functions, queues, runs, surroundings, tables
from kumofire_core.deployment.discovery import Deployment, DiscoveryError
from kumofire_core.deployment.examination import Examination
from kumofire_core.deployment.findings import Diagnosis, Finding, Severity, Trouble, error, warning
from kumofire_core.model.times import utc_now

Check = Callable[[Examination], list[Finding]]

CHECKS: dict[str, Check] = {
    "stack": tables.stack,
    "clock": surroundings.clock,
    "table": tables.table,
    "indexes": tables.indexes,
    "queue": queues.queue,
    "dead-letters": queues.dead_letters,
    "event-source-mapping": queues.event_source_mapping,
    "batches": queues.batches,
    "visibility-timeout": queues.visibility_timeout,
    "consumer": functions.consumer,
    "dispatcher": functions.dispatcher,
    "wake-ups": runs.wake_ups,
    "partitions": runs.partitions,
    "runs": runs.runs,
    "schedules": runs.schedules,
    "payload-key": surroundings.payload_key,
    "bucket": surroundings.bucket,
}

TRIALS: dict[str, Check] = {batch_writes.CHECK: batch_writes.batch_writes}
"""The checks that write, on items of their own. Each is made only where it is asked for."""

READER, OPERATOR = "ReaderPolicyArn", "OperatorPolicyArn"

ACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "GetQueueAttributes": ("sqs:GetQueueAttributes", (READER, OPERATOR)),
    "GetItem": ("dynamodb:GetItem", (READER, OPERATOR)),
    "BatchGetItem": ("dynamodb:BatchGetItem", (READER, OPERATOR)),
    "Query": ("dynamodb:Query", (READER, OPERATOR)),
    "FilterLogEvents": ("logs:FilterLogEvents", (READER, OPERATOR)),
    "DescribeTable": ("dynamodb:DescribeTable", (OPERATOR,)),
    "DescribeTimeToLive": ("dynamodb:DescribeTimeToLive", (OPERATOR,)),
    "DescribeContinuousBackups": ("dynamodb:DescribeContinuousBackups", (OPERATOR,)),
    "ListEventSourceMappings": ("lambda:ListEventSourceMappings", (OPERATOR,)),
    "GetFunctionConfiguration": ("lambda:GetFunctionConfiguration", (OPERATOR,)),
    "DescribeRule": ("events:DescribeRule", (OPERATOR,)),
    "ListObjectsV2": ("s3:ListBucket", (READER, OPERATOR)),
    "DescribeKey": ("kms:DescribeKey", (OPERATOR,)),
    "GenerateDataKey": ("kms:GenerateDataKey", (OPERATOR,)),
    "Decrypt": ("kms:Decrypt", (READER, OPERATOR)),
}
"""The requests of the checks: the permission that each needs, and the stack's outputs whose policies have it."""

TRIAL_ACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "PutItem": ("dynamodb:PutItem", (OPERATOR,)),
    "DeleteItem": ("dynamodb:DeleteItem", (OPERATOR,)),
    "BatchExecuteStatement": ("dynamodb:PartiQLUpdate", ()),
}
"""The same for the trials."""

NOBODY = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "SSOTokenLoadError",
    "ExpiredToken",
    "UnrecognizedClient",
    "InvalidClientTokenId",
    "InvalidSignature",
    "SignatureDoesNotMatch",
    "RequestExpired",
    "RequestTimeTooSkewed",
)
"""Errors that every further request would meet as well: of the credentials, and of the clock they are used by."""


def examine(
    deployment: Deployment,
    *,
    clock: Callable[[], datetime] = utc_now,
    on_check: Callable[[str], object] | None = None,
    try_batch_writes: bool = False,
) -> Diagnosis:
    """Examine a deployment: some 40 small requests, none of which writes. Errors of AWS become findings.

    ``try_batch_writes`` also makes batched claims and ends of attempts on three items of its own in the table, which it
    deletes again, and says whether they did what the consumer's ``batch_writes`` counts on. It needs the right to
    ``dynamodb:PartiQLUpdate``, which no policy of the stack's outputs has. ``on_check`` is called with the name of each
    check before it begins. Raises ``DiscoveryError`` where no request can be made at all: without a region, or with a
    profile that does not exist.
    """
    look = Examination(deployment, clock)
    findings: list[Finding] = []
    passed: list[str] = []
    unseen: dict[str, list[str]] = {}
    for name, check in {**CHECKS, **(TRIALS if try_batch_writes else {})}.items():
        if on_check is not None:
            on_check(name)
        try:
            found = check(look)
        except Trouble as trouble:
            found = [trouble.finding]
        except DiscoveryError:
            raise
        except (BotoCoreError, ClientError) as failure:
            if _is_denied(failure):
                unseen.setdefault(_operation(failure), []).append(name)
                continue
            found = [_of_error(failure)]
            if code_of(failure) in NOBODY:
                findings += found
                break
        findings += found
        tried = name in TRIALS and all(finding.severity is Severity.NOTE for finding in found)
        passed += [name] if tried or not found else []
    findings += [_not_allowed(operation, checks) for operation, checks in unseen.items()]
    order = list(Severity)
    return Diagnosis(
        findings=tuple(sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.severity))),
        passed=tuple(passed),
    )


def _is_denied(failure: Exception) -> bool:
    return code_of(failure) in ("AccessDenied", "UnauthorizedOperation", "AuthorizationError")


def _operation(failure: Exception) -> str:
    return failure.operation_name if isinstance(failure, ClientError) else ""


def _not_allowed(operation: str, checks: list[str]) -> Finding:
    action, outputs = {**ACTIONS, **TRIAL_ACTIONS}.get(operation, (operation, (OPERATOR,)))
    if not outputs:
        return warning(
            "permissions",
            f"These credentials lack {action}, so {_checks(checks)} could not be done.",
            f"Allow {action} on the table to the role for this trial; no policy of the stack's outputs has it.",
        )
    policies = "the policy" if len(outputs) == 1 else "one of the policies"
    also = " If it is there, the key's own policy refuses it." if action.startswith("kms:") else ""
    return warning(
        "permissions",
        f"These credentials lack {action}, so {_checks(checks)} could not be done.",
        f"Attach {policies} that the stack's outputs have as {' and '.join(outputs)}, or allow {action} to the role."
        f"{also}",
    )


def _checks(names: list[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return f"the check {quoted[0]}" if len(quoted) == 1 else f"the checks {', '.join(quoted[:-1])} and {quoted[-1]}"


def _of_error(failure: Exception) -> Finding:
    """Return the finding of an error that is none of the things that a check looks for."""
    do = advice(failure)
    return error("requests", f"AWS could not be asked: {failure}", f"{do[0].upper()}{do[1:]}.")
