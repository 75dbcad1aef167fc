"""Large payloads and outputs: put into S3 before the item's write that names them, and read back.

Imported where a value is large. ``engine.cleaning`` removes the objects of runs that are gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from kumofire_core.aws.errors import AWS_ERRORS, is_access_denied
from kumofire_core.aws.s3 import Bucket
from kumofire_core.errors import InvalidJSONError, LargeValueError
from kumofire_core.model.error_text import error_name
from kumofire_core.model.large_value import (
    LEFT_ALONE_MS,
    MOST_BYTES,
    LargeValue,
    digest_of,
    large_in,
    new_key,
    read_large,
    run_of,
)
from kumofire_core.model.run_item import MAX_PAYLOAD_BYTES

log = logging.getLogger("kumofire_core")


class LargeValues:
    """The values of one ``Jobs`` that are kept in its bucket. Errors of S3 leave as botocore raised them."""

    def __init__(self, bucket: Bucket, table: str, *, now_ms: Callable[[], int], new_token: Callable[[], str]) -> None:
        self.bucket = bucket
        self._table = table
        self._now_ms = now_ms
        self._new_token = new_token

    def put(self, run_id: str, what: str, stored: str) -> str:
        """Put a payload or an output as it would be stored in the item; return what the item has to hold.

        Where S3 can't be reached, that is the value itself, if the item has room for it. An error of a payload's put
        that does not pass by itself is raised all the same: its creator has to learn of it. An output has no such
        reader. Raises ``InvalidJSONError`` for a value that is too large even for S3.
        """
        body = stored.encode()
        if len(body) > MOST_BYTES:
            raise InvalidJSONError(
                f"the {what} has {len(body)} bytes as it would be stored; a value in S3 may have {MOST_BYTES}; "
                "store it elsewhere and pass a reference"
            )
        digest = digest_of(body)
        key = new_key(self._table, run_id, what, self._new_token())
        value = LargeValue(key=key, size=len(body), digest=digest, put_ms=self._now_ms())
        try:
            self.bucket.put(value.key, body, digest=digest)
        except AWS_ERRORS as error:
            if len(body) > MAX_PAYLOAD_BYTES or (what == "payload" and _is_permanent(error)):
                raise
            log.warning(
                "the %s of run %s could not be put into S3 (%s); it is stored in the table",
                what,
                run_id,
                error_name(error),
            )
            return stored
        return value.text()

    def load(self, run_id: str, owner: str, text: str) -> str:
        """Return the stored text that a text in an item stands for; ``LargeValueError`` where it is lost."""
        try:
            value = read_large(text)
        except ValueError:
            raise LargeValueError(owner, "the item does not say where it is", permanent=True) from None
        if run_of(value.key) != run_id:
            raise LargeValueError(owner, f"the item names an object of another run, {value.key}", permanent=True)
        body = self.bucket.get(value.key)
        if body is None:
            problem = f"there is no object {value.key} in bucket {self.bucket.name!r}"
            raise LargeValueError(owner, problem, permanent=True)
        return value.verified(owner, body)

    def discard(self, text: object, *, certain: bool) -> None:
        """Delete the object that nothing names any more, if text stands for one; log what fails.

        Unless it is ``certain`` that no copy of a request that names it can still arrive, an object that was put a
        while ago is deleted only, and another one is left to the sweep.
        """
        value = large_in(text)
        if value is None or not (certain or self._now_ms() - value.put_ms > LEFT_ALONE_MS):
            return
        try:
            self.bucket.delete([value.key])
        except AWS_ERRORS as error:
            if is_access_denied(error):
                return  # a creator may not delete any, and the sweep does
            log.warning("an object that is not needed any more stays in S3 (%s): %s", error_name(error), value.key)


def _is_permanent(error: BaseException) -> bool:
    from kumofire_core.aws.error_notes import is_permanent

    return is_permanent(error)
