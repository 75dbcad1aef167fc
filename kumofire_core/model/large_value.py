"""Payloads and outputs that are kept in S3: the text that stands for one in its run's item. Free of AWS.

Imported where there is such a value. The text names the object, and holds what tells whether it is unchanged.
"""

from __future__ import annotations

import hashlib
from typing import Any

from kumofire_core.errors import LargeValueError
from kumofire_core.model import json_codec
from kumofire_core.model.encrypted_text import IN_S3

MOST_BYTES = 100 * 1024 * 1024
"""How large a value may be, as it is stored. A single PUT takes 5 GB; a function's memory takes less."""

FOLDER = "runs/"

LEFT_ALONE_MS = 60 * 60_000
"""For how long after its put an object may still be named by a copy of a request that comes late. AWS refuses requests
that were signed more than 15 minutes ago; the rest is for a writer that was held up, and for clocks that differ.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html"""


class LargeValue:
    """A payload or an output that is kept in S3 and was not loaded."""

    __slots__ = ("digest", "key", "put_ms", "size")

    def __init__(self, *, key: str, size: int, digest: str, put_ms: int) -> None:
        self.key = key
        """The object's key in the bucket."""
        self.size = size
        """Its bytes."""
        self.digest = digest
        """The SHA-256 of its bytes, as hexadecimal digits."""
        self.put_ms = put_ms
        """When it was put, in epoch milliseconds."""

    def __repr__(self) -> str:
        return f"LargeValue(size={self.size})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LargeValue) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def text(self) -> str:
        """Return what is stored in the item."""
        return IN_S3 + json_codec.encode("the place of a value", [self.key, self.size, self.digest, self.put_ms])

    def verified(self, owner: str, body: bytes) -> str:
        """Return the stored text that the object's bytes are; ``LargeValueError`` where they were changed."""
        if len(body) != self.size or digest_of(body) != self.digest:
            raise LargeValueError(owner, f"the object {self.key} is not what was put there", permanent=True)
        return body.decode()


def digest_of(body: bytes) -> str:
    """Return what tells an object's bytes from others."""
    return hashlib.sha256(body).hexdigest()


def folder_of(table: str) -> str:
    """Return how the keys of a table's objects begin. So the runs of two tables may share a bucket."""
    return f"{FOLDER}{table.rpartition('/')[2]}/"  # a table may be named by its ARN


def new_key(table: str, run_id: str, what: str, token: str) -> str:
    """Return the key of an object that is about to be put. ``token`` is random, so that none is ever overwritten."""
    return f"{folder_of(table)}{run_id}/{what}-{token}"


def run_of(key: str) -> str | None:
    """Return the run that an object's key names, or ``None`` for a key that is none of ours."""
    table, _, rest = key.removeprefix(FOLDER).partition("/")
    run_id, _, name = rest.rpartition("/")
    return run_id if table and run_id and name and key.startswith(FOLDER) else None


def read_large(stored: str) -> LargeValue:
    """Return the value that a stored text stands for; ``ValueError`` where it is no such text."""
    found: Any = json_codec.decode(stored.removeprefix(IN_S3))
    match found:
        case [str(key), int(size), str(digest), int(put_ms)] if key.startswith(FOLDER):
            return LargeValue(key=key, size=size, digest=digest, put_ms=put_ms)
    raise ValueError("the place of a value")


def large_in(stored: object) -> LargeValue | None:
    """Return the value that an attribute stands for, or ``None`` where it holds its value itself, or nothing."""
    if not isinstance(stored, str) or not stored.startswith(IN_S3):
        return None
    try:
        return read_large(stored)
    except ValueError:
        return None
