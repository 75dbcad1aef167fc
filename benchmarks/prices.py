"""AWS's list prices, and how the page of growth writes amounts and tables. Free of AWS and of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MONTH_HOURS = 730
MONTH_SECONDS = MONTH_HOURS * 3600


@dataclass(frozen=True, kw_only=True)
class Prices:
    """List prices in US dollars, us-east-1; docs/growth.md says where each was read, and when."""

    write_unit: float = 0.625e-6
    read_unit: float = 0.125e-6
    stored_gb_month: float = 0.25
    backup_gb_month: float = 0.20
    s3_put: float = 5e-6
    s3_get: float = 0.40e-6
    s3_gb_month: float = 0.023
    sqs_request: float = 0.40e-6
    lambda_request: float = 0.20e-6
    lambda_gb_second: float = 0.0000133334
    """On arm64, what the template deploys."""
    fargate_vcpu_hour: float = 0.03238
    fargate_gb_hour: float = 0.00356
    fargate_spot_share: float = 0.3
    """What a task on Spot costs of one that is not; AWS says up to 70 % less. Both on arm64."""
    standard_transition: float = 25e-6
    express_request: float = 1e-6
    express_gb_second: float = 0.00001667
    durable_operation: float = 8e-6
    durable_written_gb: float = 0.25
    durable_kept_gb_month: float = 0.15
    scheduler_invocation: float = 1e-6


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)) + "\n"


def money(dollars: float) -> str:
    """Return an amount in dollars, to the cent below a hundred; half a cent is rounded up."""
    dollars += 1e-9
    return f"{dollars:,.0f}" if dollars >= 100 else f"{dollars:.2f}" if dollars >= 0.005 else "< 0.01"
