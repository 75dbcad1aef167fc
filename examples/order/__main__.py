"""Places four orders, of which one goes through: ``make example NAME=order``."""

from __future__ import annotations

from examples.on_local_aws import expect, finished, wait_for
from examples.order import shop
from examples.order.jobs import Order, approve, jobs, place, refuse

CARD = "4242424242424242"
TWO_MUGS = Order("1001", "mug", 2, 3_000, CARD)
ONE_MUG = Order("1002", "mug", 1, 1_500, CARD)
TOO_MANY = Order("1003", "mug", 1, 1_500, CARD)
NOT_PAID = Order("1004", "mug", 1, 1_500, shop.DECLINED_CARD)


def main() -> None:
    """Place the orders, answer two, and look at what has become of the orders, the stock and the money."""
    make_table()
    stock(mugs=3)

    approved, refused = place(TWO_MUGS), place(ONE_MUG)
    for run_id in (approved, refused):
        wait_for(jobs, run_id, lambda run: run.waiting_for == "approval")
    print("1001 and 1002 are reserved and charged, and wait for an approval", flush=True)
    expect("nothing is left in the stock", shop.amount("stock/mug") == 0)
    expect("an order that is placed again gets the run that it has", place(TWO_MUGS) == approved)

    sold_out = place(TOO_MANY)
    finished(jobs, sold_out)
    expect("1001 takes its approval", approve("1001"))
    expect("1001 takes no other answer after that", not refuse("1001", "too late"))
    expect("1002 takes its refusal", refuse("1002", "the address does not exist"))
    finished(jobs, refused)
    declined = place(NOT_PAID)

    for run_id in (approved, refused, sold_out, declined):
        run = finished(jobs, run_id)
        names = ", ".join(step.name for step in jobs.steps(run_id))
        print(f"{run.payload['id']}: {run.status} ({names}): {run.output or run.cancel_reason}", flush=True)
    expect("1001 has succeeded", finished(jobs, approved).status == "succeeded")
    expect("1001 alone is paid", shop.amount("account") == 3_000)
    expect("what the others had reserved is in the stock again", shop.amount("stock/mug") == 1)
    expect("one parcel was shipped", shop.amount("parcels") == 1)


def make_table() -> None:
    shop.dynamodb().create_table(
        TableName=shop.TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )


def stock(*, mugs: int) -> None:
    shop.dynamodb().put_item(TableName=shop.TABLE, Item={"id": {"S": "stock/mug"}, "amount": {"N": str(mugs)}})


if __name__ == "__main__":
    main()
