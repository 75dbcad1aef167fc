"""Checks of what a deployment depends on: the payload key, the bucket of large payloads, and the clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from kumofire_core.aws.error_notes import code_of
from kumofire_core.deployment.checks.functions import consumers_key
from kumofire_core.deployment.examination import Examination
from kumofire_core.deployment.findings import Finding, error, warning

CLOCK_TOLERANCE = timedelta(seconds=1)
CLOCK_REFUSED = timedelta(minutes=1)

UNUSABLE = {
    "Disabled": "Enable it: aws kms enable-key --key-id",
    "PendingDeletion": "Cancel its deletion now, and enable it: aws kms cancel-key-deletion --key-id",
}


def payload_key(look: Examination) -> list[Finding]:
    """A key that encrypts and decrypts, for the credentials of this process."""
    arn = look.deployment.payload_key_arn or look.setting(look.consumer(), "KUMOFIRE_PAYLOAD_KEY_ARN")
    if not arn:
        return []
    unusable = f"Payloads can't be decrypted, so their runs wait. The key is {arn}"
    try:
        state = _kms(look, arn, "describe_key", KeyId=arn)["KeyMetadata"]["KeyState"]
    except ClientError as failure:
        if code_of(failure) != "NotFound":
            raise
        return [error("payload-key", f"{unusable}, which does not exist.", "Name the key that PayloadKeyArn must be.")]
    if state != "Enabled":
        do = UNUSABLE.get(state, "Look at the key's state: aws kms describe-key --key-id")
        return [error("payload-key", f"{unusable}, which is {state}.", f"{do} {arn}")]
    # What the cipher asks. A key's policy may refuse what the role's policy allows, so only trying shows it.
    sealed = _kms(look, arn, "generate_data_key", KeyId=arn, KeySpec="AES_256")["CiphertextBlob"]
    _kms(look, arn, "decrypt", KeyId=arn, CiphertextBlob=sealed)
    return consumers_key(look)


def _kms(look: Examination, arn: str, operation: str, **request: Any) -> Any:
    region = arn.split(":")[3]
    with look.asking("kms"):
        return getattr(look.deployment.clients.client("kms", region=region), operation)(**request)


def bucket(look: Examination) -> list[Finding]:
    """A bucket that is there, and that the consumer has as well."""
    named, has = look.deployment.bucket, look.setting(look.consumer(), "KUMOFIRE_BUCKET")
    found = []
    if (named or "") != has and (named or look.deployment.stack_name):
        found.append(
            warning(
                "bucket",
                f"The consumer keeps large payloads in {has or 'no bucket'}, and here {named or 'none'} is named.",
                "Give both the same KUMOFIRE_BUCKET: without it such a payload can't be read, and its run waits.",
            )
        )
    name = named or has
    if not name:
        return found
    with look.asking("s3") as s3:
        try:
            s3.list_objects_v2(Bucket=name, MaxKeys=1)
        except ClientError as failure:
            if code_of(failure) != "NoSuchBucket":
                raise
            found.append(
                error(
                    "bucket",
                    f"There is no bucket {name}: large payloads can't be read, so their runs wait.",
                    "Check the name and the account. If it was deleted, its payloads are lost: make it again, and the "
                    "runs that need them fail and say so.",
                )
            )
    return found


def clock(look: Examination) -> list[Finding]:
    """This machine's clock within a second of AWS's, as the Date of an answer tells it."""
    before = look.clock()
    with look.asking("sqs") as sqs:
        try:
            reply = sqs.get_queue_attributes(QueueUrl=look.deployment.queue_url, AttributeNames=["QueueArn"])
        except ClientError as failure:
            reply = failure.response  # it has a date as well
    apart = seconds_apart(before, look.clock(), reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date"))
    if abs(apart) <= CLOCK_TOLERANCE:
        return []
    tell = error if abs(apart) >= CLOCK_REFUSED else warning
    direction = "ahead of" if apart > timedelta(0) else "behind"
    return [
        tell(
            "clock",
            f"The clock of this machine is {abs(apart).total_seconds():.0f} s {direction} AWS's: runs that it creates "
            "are due too early or too late, and AWS refuses requests whose time is minutes off.",
            "Synchronise the clock (NTP).",
        )
    ]


def seconds_apart(before: datetime, after: datetime, date: str | None) -> timedelta:
    """Return how far a clock is ahead of the ``Date`` of an answer, at least; the header has whole seconds.

    The answer was made between ``before`` and ``after``. A gap is certain only outside of both intervals.
    https://www.rfc-editor.org/rfc/rfc9110#field.date
    """
    try:
        second = parsedate_to_datetime(date or "")
    except ValueError:
        return timedelta(0)
    if before > second + timedelta(seconds=1):
        return before - (second + timedelta(seconds=1))
    return min(timedelta(0), after - second)
