"""The demo's own count of handler executions, in a table beside the project's: what really ran, not what a run says."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TABLE = "demo-ledger"


class Ledger:
    """One entry for each call of a handler."""

    def __init__(self, dynamodb: DynamoDBClient) -> None:
        self._dynamodb = dynamodb

    def create(self) -> None:
        """Create the ledger's table, and wait until it can be used."""
        self._dynamodb.create_table(
            TableName=TABLE,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": "run_id", "AttributeType": "S"},
                {"AttributeName": "execution_id", "AttributeType": "S"},
            ],
            KeySchema=[
                {"AttributeName": "run_id", "KeyType": "HASH"},
                {"AttributeName": "execution_id", "KeyType": "RANGE"},
            ],
        )
        self._dynamodb.get_waiter("table_exists").wait(TableName=TABLE, WaiterConfig={"Delay": 1})

    def record(self, run_id: str, attempt: int) -> None:
        """Count one execution. Every call adds an entry, so that a second execution of one attempt shows."""
        self._dynamodb.put_item(
            TableName=TABLE,
            Item={"run_id": {"S": run_id}, "execution_id": {"S": uuid.uuid4().hex}, "attempt": {"N": str(attempt)}},
        )

    def attempts(self, run_id: str) -> list[int]:
        """Return the attempt numbers of all executions of a run, in ascending order."""
        answer = self._dynamodb.query(
            TableName=TABLE,
            ConsistentRead=True,
            KeyConditionExpression="run_id = :run_id",
            ExpressionAttributeValues={":run_id": {"S": run_id}},
        )
        return sorted(int(item["attempt"]["N"]) for item in answer["Items"])
