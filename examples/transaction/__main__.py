"""Places orders, one of them twice, and sees each confirmed once: ``make example NAME=transaction``."""

from __future__ import annotations

from examples.on_local_aws import expect, finished
from examples.transaction.jobs import TABLE, OrderExistsError, dynamodb, jobs, place


def main() -> None:
    """Place the orders, and look at the items and the runs that are there then."""
    dynamodb().create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    run_ids = {order_id: place(order_id, customer) for order_id, customer in (("1001", "Ada"), ("1002", "Grace"))}
    print(f"placed: {run_ids}", flush=True)
    try:
        place("1001", "Mallory")
    except OrderExistsError as refused:
        print(f"refused: {refused}", flush=True)

    runs = [finished(jobs, run_id) for run_id in run_ids.values()]
    orders = {item["id"]["S"]: item for item in dynamodb().scan(TableName=TABLE)["Items"]}
    for run, (order_id, item) in zip(runs, sorted(orders.items()), strict=True):
        print(f"order {order_id} of {item['customer']['S']}: {run.status} at {item['confirmed_at']['S']}", flush=True)
    expect("each order names its run", {key: item["run_id"]["S"] for key, item in orders.items()} == run_ids)
    expect("each run has confirmed its order", [run.output for run in runs] == ["Ada", "Grace"])
    stored = dynamodb().scan(
        TableName=jobs.table_name,
        FilterExpression="job_name = :confirm",
        ExpressionAttributeValues={":confirm": {"S": "confirm"}},
    )
    expect("the refused order has left no run", stored["Count"] == len(run_ids))


if __name__ == "__main__":
    main()
