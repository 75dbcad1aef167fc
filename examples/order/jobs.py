"""An order: reserve, charge, wait for an approval, ship. Where it does not go through, what was done is undone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from examples.order import shop
from kumofire_core import Cancel, JobContext, Jobs, RetryPolicy

jobs = Jobs.from_env()


@dataclass
class Order:
    """What a customer has ordered."""

    id: str
    item: str
    quantity: int
    cents: int
    card: str


@dataclass
class Shipped:
    """What has become of an order."""

    receipt: str
    parcel: str


# A whole answer, and not None: a signal without a payload is None as well.
NOBODY_ANSWERED = {"approved": False, "reason": "nobody answered within two days"}


@jobs.handler("order", retry=RetryPolicy.patient())
def order(ctx: JobContext[Order]) -> Shipped:
    """Carry out an order. It takes as long as the approval does, and no function runs meanwhile."""
    wanted = ctx.payload
    if not ctx.step("reserve", shop.reserve, wanted.id, wanted.item, wanted.quantity):
        raise Cancel(f"{wanted.item}: sold out")

    charge = ctx.step("charge", shop.charge, wanted.id, wanted.card, wanted.cents)
    if "declined" in charge:
        ctx.step("release", shop.release, wanted.id, wanted.item, wanted.quantity)
        raise Cancel(charge["declined"])

    answer = ctx.wait_for("approval", timeout=timedelta(days=2), default=NOBODY_ANSWERED)
    if not answer["approved"]:
        ctx.step("refund", shop.refund, wanted.id, wanted.cents)
        ctx.step("release", shop.release, wanted.id, wanted.item, wanted.quantity)
        raise Cancel(answer["reason"])

    parcel = ctx.step("ship", shop.ship, wanted.id)
    return Shipped(receipt=charge["receipt"], parcel=parcel)


def place(wanted: Order) -> str:
    """Place an order and return the id of its run. An order that is placed again gets the run that it has."""
    return order.create(wanted, dedupe_key=f"order/{wanted.id}")


def approve(order_id: str) -> bool:
    """Approve an order; return ``False`` where it had another answer, or had ended, or does not exist."""
    return _answer(order_id, {"approved": True})


def refuse(order_id: str, reason: str) -> bool:
    """Refuse an order; return ``False`` as ``approve`` does."""
    return _answer(order_id, {"approved": False, "reason": reason})


def _answer(order_id: str, answer: dict[str, object]) -> bool:
    run = jobs.find_run(dedupe_key=f"order/{order_id}")
    return run is not None and jobs.signal(run.id, "approval", answer)
