"""Makes the table of a deployment where no stack makes it: for tests, and for a local AWS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

DEFINITION: dict[str, Any] = {
    "BillingMode": "PAY_PER_REQUEST",
    "AttributeDefinitions": [
        {"AttributeName": "pk", "AttributeType": "S"},
        {"AttributeName": "sk", "AttributeType": "S"},
        {"AttributeName": "wake_shard", "AttributeType": "N"},
        {"AttributeName": "wake_at", "AttributeType": "N"},
        {"AttributeName": "list_shard", "AttributeType": "S"},
        {"AttributeName": "list_at", "AttributeType": "N"},
    ],
    "KeySchema": [
        {"AttributeName": "pk", "KeyType": "HASH"},
        {"AttributeName": "sk", "KeyType": "RANGE"},
    ],
    "GlobalSecondaryIndexes": [
        {
            "IndexName": "wake",
            "KeySchema": [
                {"AttributeName": "wake_shard", "KeyType": "HASH"},
                {"AttributeName": "wake_at", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "KEYS_ONLY"},
        },
        {
            "IndexName": "listing",
            "KeySchema": [
                {"AttributeName": "list_shard", "KeyType": "HASH"},
                {"AttributeName": "list_at", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["job_name", "error_type"]},
        },
    ],
}
"""What the stack's template says of its table. A test compares the two."""


def make_table(dynamodb: DynamoDBClient, name: str) -> None:
    """Create the table with its two indexes. It is for tests and a local AWS: a stack's table has backups too."""
    dynamodb.create_table(TableName=name, **DEFINITION)
