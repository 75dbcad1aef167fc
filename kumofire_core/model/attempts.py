"""The attempts of a run as its item keeps them: the last ten, in a bounded number of bytes.

What names an error is stored plain. Its texts, which may quote the payload, are one text of their own for each attempt,
encrypted where there is a cipher. So an attempt is added without decrypting the earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kumofire_core.model import json_codec
from kumofire_core.model.encrypted_text import is_encrypted
from kumofire_core.model.run import AttemptEnding
from kumofire_core.model.times import from_ms
from kumofire_core.model.write import text_bytes

if TYPE_CHECKING:
    from kumofire_core.model.run_view import Attempt

MOST_ATTEMPTS = 10


class AttemptRecord(NamedTuple):
    """One attempt that has ended, as it is stored."""

    retries: int
    number: int
    started_ms: int | None
    ended_ms: int
    ended: str
    error_type: str | None
    log: str | None
    """Request id and log stream, with a space between."""
    texts: str | None
    """Message and traceback as JSON, encrypted where there is a cipher."""


def texts_of(message: str, traceback: str | None) -> str:
    """Return an error's texts as one text to store."""
    return json_codec.encode("an attempt's texts", [message, traceback])


def attempts_with(records: Sequence[AttemptRecord], new: AttemptRecord, *, most_bytes: int) -> str:
    """Return the stored form of a run's attempts with one more.

    Ten are kept. What would exceed ``most_bytes`` goes: first the texts of the oldest, then the oldest, then the new
    one's texts. A snoozed attempt takes the place of the one before that was snoozed under the same number, so that a
    run which is snoozed for days keeps its failures.
    """
    kept = list(records)
    if kept and new.ended == AttemptEnding.SNOOZED:
        last = kept[-1]
        if (last.ended, last.retries, last.number) == (new.ended, new.retries, new.number):
            kept.pop()
    kept = [*kept, new][-MOST_ATTEMPTS:]
    texts = [_record_text(record) for record in kept]
    sizes = [text_bytes(text) + len(",") for text in texts]

    def cut(index: int) -> None:
        texts[index] = _record_text(kept[index]._replace(texts=None))
        sizes[index] = text_bytes(texts[index]) + len(",")

    for index, record in enumerate(kept[:-1]):
        if sum(sizes) + len("[]") <= most_bytes:
            break
        if record.texts is not None:
            cut(index)
    while len(texts) > 1 and sum(sizes) + len("[]") > most_bytes:
        del texts[0], sizes[0]
    if sum(sizes) + len("[]") > most_bytes:
        cut(-1)
    return f"[{','.join(texts)}]"


def _record_text(record: AttemptRecord) -> str:
    return json_codec.encode("an attempt", list(record))


def read_records(stored: str) -> list[AttemptRecord]:
    """Return the attempts that an item holds; raises ``ValueError``, ``TypeError``, ``OverflowError`` for others."""
    found: Any = json_codec.decode(stored)
    if not isinstance(found, list):
        raise TypeError("attempts")
    records = [AttemptRecord(*each[:8]) for each in found]
    for record in records:
        if not all(isinstance(number, int) for number in (record.retries, record.number, record.ended_ms)):
            raise TypeError("attempts")
        if not isinstance(record.started_ms, int | None) or not isinstance(record.ended, str):
            raise TypeError("attempts")
        if not all(isinstance(text, str | None) for text in record[5:]):
            raise TypeError("attempts")
        AttemptEnding(record.ended)
        for moment in (record.started_ms, record.ended_ms):
            if moment is not None:
                from_ms(moment)
    return records


def attempt_of(record: AttemptRecord, decrypt: Callable[[str], str | None]) -> Attempt:
    """Return a stored attempt as the application sees it; ``decrypt`` returns ``None`` for what it can't decrypt."""
    from kumofire_core.model.run_view import Attempt

    texts = record.texts
    if texts is not None and is_encrypted(texts):
        texts = decrypt(texts)
    message, traceback = _texts(texts)
    request_id, log_stream = log_place(record.log)
    return Attempt(
        number=record.number,
        started_at=None if record.started_ms is None else from_ms(record.started_ms),
        ended_at=from_ms(record.ended_ms),
        ended=AttemptEnding(record.ended),
        error_type=record.error_type,
        message=message,
        traceback=traceback,
        request_id=request_id,
        log_stream=log_stream,
        retries=record.retries,
    )


def _texts(stored: str | None) -> tuple[str | None, str | None]:
    if stored is None:
        return None, None
    try:
        found: Any = json_codec.decode(stored)
        message, traceback = found
    except (ValueError, TypeError):
        return None, None
    return message if isinstance(message, str) else None, traceback if isinstance(traceback, str) else None


def log_place(log: str | None) -> tuple[str | None, str | None]:
    """Return request id and log stream of an attempt."""
    if not log:
        return None, None
    request_id, _, log_stream = log.partition(" ")
    return request_id or None, log_stream or None
