"""The requests to the items of limits. Each is one conditional update of one item, and returns that item.

Every one of them may be repeated, and a copy may come late: an entry is made only where there is none, a hold changes
only to a later one, and an entry is removed only for the hold that was seen, or an earlier one. Each of these writes
changes ``n`` as well, and no other does. So it always is the number of entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from kumofire_core.aws.dynamodb import Answer, Table
from kumofire_core.aws.errors import explained, require_failed_condition
from kumofire_core.aws.expressions import KNOWN_SCHEMA, typed, typed_key, unmarshal
from kumofire_core.model.limits import HOLD, TICKET, WAITS, limit_key
from kumofire_core.model.write import SCHEMA, Value

KEPT_SECONDS = 90 * 86_400
"""How long an item is kept that nobody uses, before DynamoDB's TTL deletes it."""


class LimitItems(Table):
    """The items of limits in a table."""

    @classmethod
    def of(cls, table: Table) -> LimitItems:
        """Return the items of limits in this table."""
        return cls(table.name, table._client)

    def enter(
        self, item_id: str, run_id: str, *, hold: int, slots: int, most: int, past_overflow: bool, now_ms: int
    ) -> Answer:
        """Give a run the last place in the line, where fewer than ``most`` runs are in the item; makes the item.

        Refused where the run has a place already, and, unless it is ``past_overflow``, where runs wait outside.
        """
        condition = "attribute_not_exists(#ticket) AND (attribute_not_exists(#n) OR #n < :most)"
        names = {"#ticket": TICKET + run_id, "#hold": HOLD + run_id, "#seq": "seq", "#n": "n", "#slots": "slots"}
        if not past_overflow:
            condition += " AND attribute_not_exists(#overflow)"
            names["#overflow"] = "overflow"
        return self._update(
            item_id,
            "SET #ticket = if_not_exists(#seq, :zero), #hold = :hold, #slots = :slots, #schema = :schema, "
            "#expires_at = :expires_at ADD #seq :one, #n :one",
            condition,
            names,
            {":zero": 0, ":one": 1, ":hold": hold, ":slots": slots, ":most": most},
            now_ms,
        )

    def renew(self, item_id: str, run_id: str, *, hold: int, slots: int, now_ms: int) -> Answer:
        """Let a run's place be held by another attempt, or by none; refused where a later one holds it, or none is."""
        return self._update(
            item_id,
            "SET #hold = :hold, #slots = :slots, #expires_at = :expires_at",
            "attribute_exists(#ticket) AND #hold < :hold",
            {"#ticket": TICKET + run_id, "#hold": HOLD + run_id, "#slots": "slots"},
            {":hold": hold, ":slots": slots},
            now_ms,
        )

    def leave(self, item_id: str, run_id: str, *, latest: int, now_ms: int) -> Answer:
        """Give up a run's place, unless a later attempt than the one of this hold has it."""
        return self._remove(item_id, run_id, "#hold <= :latest", {":latest": latest}, now_ms)

    def evict(self, item_id: str, run_id: str, *, seen: int, now_ms: int) -> Answer:
        """Take away a run's place, if it is still held as it was seen."""
        return self._remove(item_id, run_id, "#hold = :seen", {":seen": seen}, now_ms)

    def fill(self, item_id: str, run_ids: Sequence[str], *, most: int, now_ms: int) -> Answer:
        """Give runs that wait outside the last places in the line, where at most ``most`` runs are in the item."""
        names = {"#seq": "seq", "#n": "n"}
        values: dict[str, Value] = {":zero": 0, ":count": len(run_ids), ":most": most, ":waits": WAITS}
        sets, condition = [], ["(attribute_not_exists(#n) OR #n <= :most)"]
        for number, run_id in enumerate(run_ids):
            names |= {f"#ticket{number}": TICKET + run_id, f"#hold{number}": HOLD + run_id}
            values[f":at{number}"] = number
            sets.append(f"#ticket{number} = if_not_exists(#seq, :zero) + :at{number}, #hold{number} = :waits")
            condition.append(f"attribute_not_exists(#ticket{number})")
        return self._update(
            item_id,
            f"SET {', '.join(sets)}, #schema = :schema, #expires_at = :expires_at ADD #seq :count, #n :count",
            " AND ".join(condition),
            names,
            values,
            now_ms,
        )

    def set_overflow(self, item_id: str, *, slots: int, now_ms: int) -> Answer:
        """Note that a run waits outside since now; makes the item."""
        return self._update(
            item_id,
            "SET #overflow = :now, #slots = :slots, #schema = :schema, #expires_at = :expires_at",
            "(attribute_not_exists(#overflow) OR #overflow < :now)",
            {"#overflow": "overflow", "#slots": "slots"},
            {":now": now_ms, ":slots": slots},
            now_ms,
        )

    def clear_overflow(self, item_id: str, *, seen: int, now_ms: int) -> Answer:
        """Note that no run waits outside, unless one came after the one that was seen."""
        return self._update(
            item_id,
            "SET #expires_at = :expires_at REMOVE #overflow",
            "#overflow = :seen",
            {"#overflow": "overflow"},
            {":seen": seen},
            now_ms,
        )

    def _remove(self, item_id: str, run_id: str, condition: str, values: Mapping[str, int], now_ms: int) -> Answer:
        return self._update(
            item_id,
            "SET #expires_at = :expires_at REMOVE #ticket, #hold ADD #n :minus_one",
            f"attribute_exists(#ticket) AND {condition}",
            {"#ticket": TICKET + run_id, "#hold": HOLD + run_id, "#n": "n"},
            {":minus_one": -1, **values},
            now_ms,
        )

    @explained
    def _update(
        self,
        item_id: str,
        update: str,
        condition: str,
        names: Mapping[str, str],
        values: Mapping[str, Value],
        now_ms: int,
    ) -> Answer:
        given = {**values, ":schema": SCHEMA, ":expires_at": now_ms // 1000 + KEPT_SECONDS}
        try:
            reply = self._client().update_item(
                TableName=self.name,
                Key=typed_key(limit_key(item_id)),
                UpdateExpression=update,
                ConditionExpression=f"{condition} AND {KNOWN_SCHEMA}",
                ExpressionAttributeNames={"#schema": "schema", "#expires_at": "expires_at", **names},
                ExpressionAttributeValues={name: typed(value) for name, value in given.items()},
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as refusal:
            require_failed_condition(refusal)
            item: Mapping[str, Any] | None = refusal.response.get("Item")  # type: ignore[assignment]
            return Answer(False, unmarshal(item) if item else None)
        return Answer(True, unmarshal(reply["Attributes"]))
