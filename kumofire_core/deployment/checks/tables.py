"""Checks of the table and of its indexes."""

from __future__ import annotations

from typing import Any

from kumofire_core.deployment.examination import NO_STACK, Examination
from kumofire_core.deployment.findings import Finding, error, warning

KEYS = {"pk": "HASH", "sk": "RANGE"}
INDEXES: dict[str, dict[str, str]] = {
    "wake": {"wake_shard": "HASH", "wake_at": "RANGE"},
    "listing": {"list_shard": "HASH", "list_at": "RANGE"},
}
LISTED = {"job_name", "error_type"}
"""What the index ``listing`` has beside the keys."""

WITHOUT = {
    "wake": "the dispatcher finds nothing, so delayed, lost and scheduled runs wait",
    "listing": "failed and canceled runs, and runs of paused jobs, can't be listed",
}


def table(look: Examination) -> list[Finding]:
    """A table of ours that can be restored, and drops what has expired."""
    found = look.table()
    if _keys(found) != KEYS:
        return [
            error(
                "table",
                f"The table {look.deployment.table} has other keys than pk and sk: it is not a table of Kumofire Jobs.",
                "Name the table of the stack's output TableName.",
            )
        ]
    findings = []
    if found.get("TableStatus", "ACTIVE") not in ("ACTIVE", "UPDATING"):
        findings.append(
            error("table", f"The table is {found['TableStatus'].lower()}.", "Wait until it is active, and look again.")
        )
    return findings + _time_to_live(look) + _recovery(look)


def _time_to_live(look: Examination) -> list[Finding]:
    with look.asking("dynamodb") as dynamodb:
        found = dynamodb.describe_time_to_live(TableName=look.deployment.table)["TimeToLiveDescription"]
    if found.get("TimeToLiveStatus") in ("ENABLED", "ENABLING") and found.get("AttributeName") == "expires_at":
        return []
    return [
        warning(
            "table",
            "Time to live is not enabled on expires_at: finished runs stay in the table for ever, and cost storage.",
            "Enable it: aws dynamodb update-time-to-live --time-to-live-specification "
            f"Enabled=true,AttributeName=expires_at --table-name {look.deployment.table}",
        )
    ]


def _recovery(look: Examination) -> list[Finding]:
    with look.asking("dynamodb") as dynamodb:
        found = dynamodb.describe_continuous_backups(TableName=look.deployment.table)["ContinuousBackupsDescription"]
    if found.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus") == "ENABLED":
        return []
    return [
        warning(
            "table",
            "Point-in-time recovery is disabled: what a mistake deletes can't be restored.",
            "Enable it: aws dynamodb update-continuous-backups --point-in-time-recovery-specification "
            f"PointInTimeRecoveryEnabled=true --table-name {look.deployment.table}",
        )
    ]


def indexes(look: Examination) -> list[Finding]:
    """Both indexes, active, with the keys and the attributes that are read from them."""
    found = {each["IndexName"]: each for each in look.table().get("GlobalSecondaryIndexes", ())}
    return [finding for name in INDEXES for finding in _index(name, found.get(name))]


def _index(name: str, found: dict[str, Any] | None) -> list[Finding]:
    tell = error if name == "wake" else warning
    if found is None:
        do = (
            "Update the stack to this release; the index is made in place."
            if name == "listing"
            else "Update the stack."
        )
        return [tell("indexes", f"The table has no index {name}: {WITHOUT[name]}.", do)]
    status = found.get("IndexStatus", "ACTIVE")
    if status in ("CREATING", "DELETING"):
        made = "being filled" if status == "CREATING" else "being deleted"
        return [tell("indexes", f"The index {name} is {made}: until then {WITHOUT[name]}.", "Wait, and look again.")]
    projected = found.get("Projection", {})
    reads_all = name == "wake" or projected.get("ProjectionType") == "ALL"
    if _keys(found) != INDEXES[name] or not (reads_all or set(projected.get("NonKeyAttributes") or ()) >= LISTED):
        return [
            tell(
                "indexes",
                f"The index {name} has other keys or attributes than template.yaml gives it: {WITHOUT[name]}.",
                "Delete the index, and update the stack.",
            )
        ]
    return []


def _keys(found: dict[str, Any]) -> dict[str, str]:
    return {each["AttributeName"]: each["KeyType"] for each in found.get("KeySchema", ())}


def stack(look: Examination) -> list[Finding]:
    """A stack of this release."""
    if look.deployment.stack_name is None:
        return [NO_STACK]
    if not look.deployment.missing_outputs:
        return []
    return [
        warning(
            "stack",
            f"The stack is of an earlier release: it has no output {', '.join(look.deployment.missing_outputs)}.",
            "Update the stack to this release (sam build, sam deploy). What waits in the table and the queue stays.",
        )
    ]
