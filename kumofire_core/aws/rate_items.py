"""The requests to the items of rates: each reserves the next free moment, in one conditional update.

A repeated request, or a late copy of one, reserves one moment more, which nobody uses. So a rate is never exceeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from kumofire_core.aws.dynamodb import Table
from kumofire_core.aws.errors import explained, require_failed_condition
from kumofire_core.aws.expressions import KNOWN_SCHEMA, typed, typed_key, unmarshal
from kumofire_core.model.write import SCHEMA, Key

RATE = "rate"
"""The kind of the items."""

KEPT_SECONDS = 86_400
"""How long an item is kept after its last reserved moment, before DynamoDB's TTL deletes it."""

_NAMES = {"#next": "next", "#schema": "schema", "#expires_at": "expires_at"}


class RateItems(Table):
    """The items of rates in a table."""

    @classmethod
    def of(cls, table: Table) -> RateItems:
        """Return the items of rates in this table."""
        return cls(table.name, table._client)

    def reserve(self, item_id: str, *, interval_us: int, now_us: int, is_busy: bool) -> int:
        """Reserve the next free moment, and return it, in epoch microseconds: now, or later where others are before.

        One request where ``is_busy`` tells rightly whether moments after now are reserved already; else two or more.
        """
        while True:
            if is_busy:
                moved = self._move(item_id, "#next + :by", "#next >= :now", {":by": interval_us}, now_us)
            else:
                is_free, to = "(attribute_not_exists(#next) OR #next < :now)", {":to": now_us + interval_us}
                moved = self._move(item_id, ":to", is_free, to, now_us)
            if moved is not None:
                return moved - interval_us
            is_busy = not is_busy

    @explained
    def _move(self, item_id: str, to: str, condition: str, given: Mapping[str, int], now_us: int) -> int | None:
        """Move the next free moment on, and return where it is then; ``None`` where the condition does not hold."""
        values = {**given, ":now": now_us, ":schema": SCHEMA, ":expires_at": now_us // 1_000_000 + KEPT_SECONDS}
        try:
            reply: Any = self._client().update_item(
                TableName=self.name,
                Key=typed_key(Key(RATE, item_id)),
                UpdateExpression=f"SET #next = {to}, #schema = :schema, #expires_at = :expires_at",
                ConditionExpression=f"{condition} AND {KNOWN_SCHEMA}",
                ExpressionAttributeNames=_NAMES,
                ExpressionAttributeValues={name: typed(value) for name, value in values.items()},
                ReturnValues="ALL_NEW",
            )
        except ClientError as refusal:
            require_failed_condition(refusal)
            return None
        return int(unmarshal(reply["Attributes"])["next"])
