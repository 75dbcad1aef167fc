"""Checks of the queue, of what Lambda takes from it, and of its dead letters."""

from __future__ import annotations

import json
import re

from botocore.exceptions import ClientError

from kumofire_core.aws.error_notes import code_of
from kumofire_core.deployment.dead_letters import DeadLetterError, DeadLetters
from kumofire_core.deployment.examination import NO_QUEUE, Examination
from kumofire_core.deployment.findings import Finding, error, note, warning
from kumofire_core.rules.redelivery import seconds_until_redelivery

VISIBILITY_FACTOR = 6
"""How many times the function's timeout the visibility timeout must be.
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""

MOST_RECORDS = 10
SHORTEST_OUTAGE_SECONDS = 3600
DEPLOY = "Deploy the stack again, as template.yaml has it."


def queue(look: Examination) -> list[Finding]:
    """A standard queue, in the region that is asked."""
    url, region = look.deployment.queue_url, look.deployment.clients.region
    named = re.search(r"//(?:sqs\.)?([a-z]{2}(?:-[a-z]+)+-[0-9])\.(?:queue\.)?(?:amazonaws\.com|api\.aws)", url)
    if named and named[1] != region:
        return [
            error(
                "queue",
                f"The queue is in {named[1]}, but {region} is asked: no message can be sent.",
                "Make AWS_REGION (or --region) the queue's region, or give the URL of the queue in this region.",
            )
        ]
    if url.rstrip("/").endswith(".fifo") or look.queue().get("FifoQueue") == "true":
        return [
            error(
                "queue",
                "The queue is a FIFO queue, which refuses messages without a group and with a delay of their own.",
                "Use a standard queue, as template.yaml makes it.",
            )
        ]
    return _redrive(look.queue())


def _redrive(attributes: dict[str, str]) -> list[Finding]:
    try:
        policy = json.loads(attributes["RedrivePolicy"])
        receives = int(policy["maxReceiveCount"])
    except (KeyError, TypeError, ValueError):
        return [
            warning(
                "queue",
                "The queue has no dead-letter queue: a message that no consumer can take comes again for 14 days.",
                DEPLOY,
            )
        ]
    # How long records are given back, at the shortest, before the last receive.
    lasts = sum(seconds_until_redelivery("", receives=number) for number in range(1, min(receives, 1000)))
    if lasts >= SHORTEST_OUTAGE_SECONDS:
        return []
    return [
        warning(
            "queue",
            f"A message goes to the dead-letter queue after {receives} receives (maxReceiveCount), and so after an "
            f"outage of {max(1, lasts // 60)} minutes.",
            f"{DEPLOY} It allows 200, which outlasts an outage of hours.",
        )
    ]


def visibility_timeout(look: Examination) -> list[Finding]:
    """Six times the function's timeout, and the batch window."""
    hidden, timeout = int(look.queue()["VisibilityTimeout"]), int(look.consumer()["Timeout"])
    window = max((int(each.get("MaximumBatchingWindowInSeconds") or 0) for each in look.mappings()), default=0)
    needed = VISIBILITY_FACTOR * timeout + window
    if hidden >= needed:
        return []
    do = f"Set the queue's VisibilityTimeout to {needed} s; the stack derives it from its parameter FunctionTimeout."
    if hidden < timeout:
        return [
            error(
                "visibility-timeout",
                f"The queue hides a message for {hidden} s, less than the {timeout} s that the consumer may take: "
                "messages come again while their batch is still being consumed.",
                do,
            )
        ]
    return [
        warning(
            "visibility-timeout",
            f"The queue hides a message for {hidden} s. That is less than six times the consumer's timeout of "
            f"{timeout} s and the batch window of {window} s, so messages of a throttled consumer come too early.",
            do,
        )
    ]


def event_source_mapping(look: Examination) -> list[Finding]:
    """One mapping, enabled, whose last look at the queue succeeded."""
    mappings = look.mappings()
    if not mappings:
        return [
            error(
                "event-source-mapping",
                "Nothing takes messages from the queue: it has no event source mapping. No run is executed.",
                f"{DEPLOY} If another process consumes the queue (consume), this is as it should be.",
            )
        ]
    findings = []
    if len(mappings) > 1:
        names = ", ".join(sorted(each["FunctionArn"] for each in mappings))
        findings.append(
            warning(
                "event-source-mapping",
                f"{len(mappings)} functions take messages from the queue: {names}. Each gets a part of the runs.",
                "Delete the mappings of other functions than the stack's consumer.",
            )
        )
    for mapping in mappings:
        state = mapping.get("State", "Enabled")
        if state in ("Disabled", "Disabling") and look.deployment.consumed_by_workers:
            continue
        if state in ("Disabled", "Disabling"):
            findings.append(
                error(
                    "event-source-mapping",
                    f"The event source mapping is {state.lower()}: no run is executed, and all wait in the queue.",
                    "Enable it: aws lambda update-event-source-mapping --enabled --uuid " + str(mapping["UUID"]),
                )
            )
        elif state != "Enabled":
            findings.append(
                note(
                    "event-source-mapping",
                    f"The event source mapping is {state.lower()}.",
                    "Wait for a minute, and look again.",
                )
            )
        result = str(mapping.get("LastProcessingResult") or "")
        if result.startswith("PROBLEM"):
            findings.append(
                error(
                    "event-source-mapping",
                    f"Lambda can't take messages from the queue: {result}",
                    "Give the consumer's role its rights on the queue, as template.yaml does, and look at its state.",
                )
            )
    return findings


def batches(look: Examination) -> list[Finding]:
    """Batches that the consumer can answer record by record, as large as it is made for."""
    findings = []
    for mapping in look.mappings():
        if "ReportBatchItemFailures" not in (mapping.get("FunctionResponseTypes") or ()):
            findings.append(
                error(
                    "batches",
                    "The event source mapping lacks ReportBatchItemFailures: Lambda deletes the messages that the "
                    "consumer gives back. Their runs wait until the dispatcher sends them again.",
                    DEPLOY,
                )
            )
        size = int(mapping.get("BatchSize") or 0)
        if size > MOST_RECORDS:
            findings.append(
                warning(
                    "batches",
                    f"A batch has up to {size} records, which share one timeout of the function. The stack allows "
                    f"{MOST_RECORDS}.",
                    f"Set BatchSize to {MOST_RECORDS} at most.",
                )
            )
        if (mapping.get("FilterCriteria") or {}).get("Filters"):
            findings.append(
                warning(
                    "batches",
                    "The event source mapping has a filter: Lambda deletes the messages that it refuses, unseen.",
                    "Take the filter away.",
                )
            )
    return findings


def dead_letters(look: Examination) -> list[Finding]:
    """No messages that no consumer could take."""
    with look.asking("sqs"):
        try:
            count = DeadLetters(look.deployment).count()
        except DeadLetterError:
            return []  # the check of the queue tells of it
        except ClientError as failure:
            if code_of(failure) not in NO_QUEUE:
                raise
            look.queue()  # raises where it is the queue itself that is gone
            return [
                warning(
                    "dead-letters",
                    "The dead-letter queue does not exist any more: SQS deletes what no consumer can take.",
                    DEPLOY,
                )
            ]
    if not count:
        return []
    messages = "1 message is" if count == 1 else f"About {count} messages are"
    return [
        warning(
            "dead-letters",
            f"{messages} on the dead-letter queue: no consumer could take them. Their runs are safe, and the "
            "dispatcher sends those that are unfinished again.",
            "See which runs they name (kumofire dlq show) and why in the consumer's log. Then redrive or purge them; "
            "both are harmless.",
        )
    ]
