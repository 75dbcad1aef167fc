"""The bucket of large values: the only module that sends requests to S3. It knows keys and bytes, not runs.

Imported where a value is large. Every error of the service or of the network leaves these methods as botocore raised
it, with a note that says which bucket it was, where, and what to do.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from botocore.exceptions import (
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from kumofire_core.aws.errors import explained, where

READS = 2
"""How often an object is asked for whose bytes end too early. The SDK repeats what fails before the first byte only."""

MOST_DELETED = 1_000
"""https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html (keys per request)"""


class Found(NamedTuple):
    """An object of a list."""

    key: str
    put_at: datetime


class Bucket:
    """The objects in one bucket. ``client`` makes the low-level client, on the first request."""

    def __init__(self, name: str, client: Callable[[], Any]) -> None:
        self.name = name
        self._client = client

    def described(self) -> str:
        """Return what a note says of this bucket."""
        return f"bucket {self.name!r}{where(self._client)} (KUMOFIRE_BUCKET, or bucket=… of Jobs)"

    @explained
    def put(self, key: str, body: bytes, *, digest: str) -> None:
        """Put an object; S3 refuses bytes that are not those of ``digest``, their SHA-256 in hexadecimal digits."""
        self._client().put_object(
            Bucket=self.name,
            Key=key,
            Body=body,
            ContentType="application/json",
            ChecksumSHA256=base64.b64encode(bytes.fromhex(digest)).decode(),
        )

    @explained
    def get(self, key: str) -> bytes | None:
        """Return an object's bytes, or ``None`` where there is no such object.

        S3 says that only to those who may list the bucket. To others it refuses the request (``AccessDenied``).
        https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html (permissions)
        """
        for last in (*[False] * (READS - 1), True):
            try:
                body: bytes = self._client().get_object(Bucket=self.name, Key=key)["Body"].read()
                return body
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                    return None
                raise
            except (ReadTimeoutError, ResponseStreamingError, IncompleteReadError):
                if last:
                    raise
        return None  # pragma: no cover - the loop returns or raises

    @explained
    def delete(self, keys: Sequence[str]) -> list[str]:
        """Delete up to 1,000 objects; return the keys of those that S3 could not delete; none that is gone."""
        reply = self._client().delete_objects(
            Bucket=self.name, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
        )
        return [error.get("Key", "") for error in reply.get("Errors", ())]

    @explained
    def page(self, prefix: str, *, after: str, limit: int = 1_000) -> tuple[list[Found], bool]:
        """Return the objects behind a key, in the order of their keys, and whether there are more."""
        reply = self._client().list_objects_v2(Bucket=self.name, Prefix=prefix, StartAfter=after, MaxKeys=limit)
        found = [Found(each["Key"], each["LastModified"]) for each in reply.get("Contents", ())]
        return found, bool(reply.get("IsTruncated"))
