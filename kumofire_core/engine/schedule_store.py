"""The schedules of one ``Jobs`` in the table: read, written, and their payloads encrypted and decrypted."""

from __future__ import annotations

from dataclasses import replace

from kumofire_core.aws.dynamodb import Answer, Table
from kumofire_core.engine.run_store import text_owner
from kumofire_core.model import json_codec
from kumofire_core.model.encrypted_text import Cipher, decrypt_text, encrypt_text, is_encrypted
from kumofire_core.model.schedule import Schedule, StoredSchedule, read_schedule
from kumofire_core.model.write import Attributes, Key, Write
from kumofire_core.rules.schedule_writes import SCHEDULE_SHARD
from kumofire_core.rules.validation import require_room

SCHEDULE = "schedule"


class ScheduleStore:
    """The schedules of one ``Jobs``. Errors of the table leave as botocore raised them."""

    def __init__(self, table: Table, cipher: Cipher | None) -> None:
        self._table = table
        self._cipher = cipher

    def put(self, schedule_id: str, attributes: Attributes) -> bool:
        """Put a new schedule; ``False`` where its id exists."""
        return self._table.put_new(Key(SCHEDULE, schedule_id), attributes).applied

    def apply(self, schedule_id: str, write: Write, *, read_back: bool = False) -> Answer:
        """Make one write to a schedule."""
        return self._table.apply(Key(SCHEDULE, schedule_id), write, read_back=read_back)

    def delete(self, schedule_id: str) -> bool:
        """Delete a schedule; return whether there was one."""
        return self._table.delete(Key(SCHEDULE, schedule_id))

    def page(self, *, limit: int, after: Attributes | None) -> tuple[list[tuple[str, Attributes]], Attributes | None]:
        """Return a page of ids and items, those that run next first, and what to give as ``after`` for the next."""
        keys, last = self._table.page(SCHEDULE_SHARD, limit=limit, after=after)
        found = self._table.get_many(keys)
        return [(key.id, found[key]) for key in keys if key in found], last

    def encrypted_payload(self, schedule_id: str, text: str) -> str:
        stored = encrypt_text(self._cipher, text, owner=text_owner(SCHEDULE, schedule_id, "payload"))
        require_room(stored)
        return stored

    def payload_text(self, stored: StoredSchedule) -> str:
        """Return a schedule's payload as JSON text; ``DecryptionError`` where that is impossible."""
        return decrypt_text(
            self._cipher, stored.payload_text, owner=text_owner(SCHEDULE, stored.schedule.id, "payload")
        )

    def decrypted(self, stored: StoredSchedule) -> Schedule:
        """Return a schedule with its payload decrypted, or ``ENCRYPTED`` where this process has no cipher."""
        if self._cipher is None or not is_encrypted(stored.payload_text):
            return stored.schedule
        return replace(stored.schedule, payload=json_codec.decode(self.payload_text(stored)))

    def find(self, schedule_id: str) -> StoredSchedule | None:
        item = self._table.get(Key(SCHEDULE, schedule_id))
        return None if item is None else read_schedule(schedule_id, item)
