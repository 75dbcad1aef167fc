"""Checks of the consumer and of the dispatcher: whether they can start, whether they did, and what they work on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from botocore.exceptions import ClientError

from kumofire_core.aws.error_notes import code_of
from kumofire_core.deployment.examination import Examination
from kumofire_core.deployment.findings import Finding, error, warning
from kumofire_core.model.times import to_ms

SILENT_AFTER = timedelta(minutes=5)
"""How long the dispatcher, which ticks once a minute, may be silent. CloudWatch shows a line after some seconds."""

MOST_PAGES = 20


def consumer(look: Examination) -> list[Finding]:
    """A function that can start, and works on this table and queue."""
    return _function(look, "consumer", look.consumer())


def dispatcher(look: Examination) -> list[Finding]:
    """A function that can start and works on this table and queue, its rule enabled, and a pass in the last minutes."""
    findings = _function(look, "dispatcher", look.dispatcher())
    return findings + _rule(look) + _last_pass(look)


def _function(look: Examination, role: str, function: dict[str, Any]) -> list[Finding]:
    findings = []
    state, update = function.get("State", "Active"), function.get("LastUpdateStatus", "Successful")
    if state == "Failed" or update == "Failed":
        reason = function.get("StateReason") or function.get("LastUpdateStatusReason") or "Lambda does not say why"
        findings.append(
            error(
                role,
                f"The {role}'s function can't be started: {reason}",
                "Remove the cause, and deploy the stack again.",
            )
        )
    for name, expected in (
        ("KUMOFIRE_TABLE", look.deployment.table),
        ("KUMOFIRE_QUEUE_URL", look.deployment.queue_url),
    ):
        found = look.setting(function, name)
        if _path(found) != _path(expected):
            findings.append(
                error(
                    role,
                    f"The {role} works on {found or 'nothing'} ({name}), and not on {expected}.",
                    "Name the table and the queue that belong together, or deploy the stack again.",
                )
            )
    return findings


def _path(name: str) -> str:
    """Return a name as it is, and of a URL its path: a queue has URLs at several hosts."""
    return name.partition("://")[2].partition("/")[2] or name


def _rule(look: Examination) -> list[Finding]:
    name = look.deployment.dispatcher_rule
    if name is None:
        return []  # a stack of an earlier release; its own check tells of it
    with look.asking("events") as events:
        try:
            state = events.describe_rule(Name=name)["State"]
        except ClientError as failure:
            if code_of(failure) != "ResourceNotFound":
                raise
            return [
                error(
                    "dispatcher",
                    f"The rule {name}, which makes the dispatcher tick, does not exist any more. Delayed, lost and "
                    "scheduled runs wait.",
                    "Deploy the stack again.",
                )
            ]
    if not str(state).startswith("DISABLED"):
        return []
    return [
        error(
            "dispatcher",
            f"The rule {name}, which makes the dispatcher tick, is disabled. Delayed, lost and scheduled runs wait.",
            f"Enable it: aws events enable-rule --name {name}",
        )
    ]


def _last_pass(look: Examination) -> list[Finding]:
    """Look in the dispatcher's log for its passes. Each writes its metric, whatever the level of the log."""
    group = look.deployment.dispatcher_log_group
    if group is None or _logged(look, group, '"DispatcherPasses"'):
        return []
    minutes = int(SILENT_AFTER.total_seconds()) // 60
    if _logged(look, group, ""):
        return [
            error(
                "dispatcher",
                f"The dispatcher was started in the last {minutes} minutes, but completed no pass. Delayed, lost and "
                "scheduled runs wait.",
                f"Read its log {group}.",
            )
        ]
    return [
        error(
            "dispatcher",
            f"The dispatcher has not run in the last {minutes} minutes. Delayed, lost and scheduled runs wait.",
            "Look whether its rule is enabled, and whether the account's concurrency is used up. A stack that is "
            "younger than that needs a moment.",
        )
    ]


def _logged(look: Examination, group: str, pattern: str) -> bool:
    since = look.clock() - SILENT_AFTER
    request: dict[str, Any] = {"logGroupName": group, "startTime": to_ms(since), "limit": 1}
    if pattern:
        request["filterPattern"] = pattern
    with look.asking("logs") as logs:
        # A page can be empty although more follow.
        # https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html
        for _ in range(MOST_PAGES):
            try:
                reply = logs.filter_log_events(**request)
            except ClientError as failure:
                if code_of(failure) != "ResourceNotFound":
                    raise
                return False
            if reply["events"]:
                return True
            if not reply.get("nextToken"):
                return False
            request["nextToken"] = reply["nextToken"]
    return False


def consumers_key(look: Examination) -> list[Finding]:
    """The key that the stack names is the one that the consumer has."""
    has, named = look.setting(look.consumer(), "KUMOFIRE_PAYLOAD_KEY_ARN"), look.deployment.payload_key_arn or ""
    if has == named or (not look.deployment.stack_name and not named):
        return []
    return [
        warning(
            "payload-key",
            f"The consumer encrypts with {has or 'no key'}, and here {named or 'no key'} is set.",
            "Give every process of the deployment the same KUMOFIRE_PAYLOAD_KEY_ARN.",
        )
    ]
