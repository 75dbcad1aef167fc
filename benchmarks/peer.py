"""The peer: a Lambda function as Powertools' documentation has it, with BatchProcessor and idempotency on DynamoDB.

It makes the same two writes for a record, a conditional put and an update, and knows no job's state. Written as an
application would write it; the benchmarks replace its client alone.
"""

from __future__ import annotations

import json
import os
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)

logger = Logger(service="peer")
processor = BatchProcessor(event_type=EventType.SQS)
store = DynamoDBPersistenceLayer(table_name=os.environ["KUMOFIRE_TABLE"])
config = IdempotencyConfig()


@idempotent_function(data_keyword_argument="message", config=config, persistence_store=store)
def execute(message: dict[str, Any]) -> dict[str, Any]:
    """Use the message, and do nothing."""
    return {"sent_to": message["kumofireJobRunId"]}


def record_handler(record: SQSRecord) -> dict[str, Any]:
    """Execute one record."""
    return execute(message=json.loads(record.body))  # type: ignore[no-any-return]  # the decorator is untyped


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: Any) -> Any:
    """Execute a batch, one record after the other."""
    config.register_lambda_context(context)
    return process_partial_response(event=event, record_handler=record_handler, processor=processor, context=context)
