"""Reads and writes the schedules of one ``Jobs`` in the table, and encrypts and decrypts their payloads."""

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
    """The schedules of one ``Jobs`` in the table. Raises botocore's errors unchanged."""

    def __init__(self, table: Table, cipher: Cipher | None) -> None:
        self._table = table
        self._cipher = cipher

    def put(self, schedule_id: str, attributes: Attributes) -> bool:
        """Put a new schedule; return ``False`` if its id exists."""
        return self._table.put_new(Key(SCHEDULE, schedule_id), attributes).applied

    def apply(self, schedule_id: str, write: Write, *, read_back: bool = False) -> Answer:
        """Make one write to a schedule; with ``read_back`` the answer has the item as it is after the write."""
        return self._table.apply(Key(SCHEDULE, schedule_id), write, read_back=read_back)

    def delete(self, schedule_id: str) -> bool:
        """Delete a schedule; return whether it existed."""
        return self._table.delete(Key(SCHEDULE, schedule_id))

    def page(self, *, limit: int, after: Attributes | None) -> tuple[list[tuple[str, Attributes]], Attributes | None]:
        """Return a page of ids and items, ordered by next run time, and the ``after`` of the next page."""
        keys, last = self._table.page(SCHEDULE_SHARD, limit=limit, after=after)
        found = self._table.get_many(keys)
        return [(key.id, found[key]) for key in keys if key in found], last

    def encrypted_payload(self, schedule_id: str, text: str) -> str:
        stored = encrypt_text(self._cipher, text, owner=text_owner(SCHEDULE, schedule_id, "payload"))
        require_room(stored)
        return stored

    def payload_text(self, stored: StoredSchedule) -> str:
        """Return a schedule's payload as JSON text; raises ``DecryptionError`` if it can't be decrypted."""
        return decrypt_text(
            self._cipher, stored.payload_text, owner=text_owner(SCHEDULE, stored.schedule.id, "payload")
        )

    def decrypted(self, stored: StoredSchedule) -> Schedule:
        """Return a schedule with its payload decrypted, or ``ENCRYPTED`` if this process does not have a cipher."""
        if self._cipher is None or not is_encrypted(stored.payload_text):
            return stored.schedule
        return replace(stored.schedule, payload=json_codec.decode(self.payload_text(stored)))

    def find(self, schedule_id: str) -> StoredSchedule | None:
        item = self._table.get(Key(SCHEDULE, schedule_id))
        return None if item is None else read_schedule(schedule_id, item)
