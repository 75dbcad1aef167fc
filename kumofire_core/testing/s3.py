"""A client of S3 whose objects are in memory: what ``kumofire_core.aws.s3`` asks of it."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any, NamedTuple

from kumofire_core.model.times import from_ms
from kumofire_core.testing.refusals import Exceptions, NotImitatedError, service_error


class StoredObject(NamedTuple):
    """An object in a bucket."""

    body: bytes
    put_at: datetime


class MemoryS3:
    """Buckets in memory, behind boto3's methods; a bucket is there when it is first named."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.objects: dict[str, dict[str, StoredObject]] = {}
        """By bucket and key."""
        self.exceptions = Exceptions()
        self.meta = SimpleNamespace(region_name="in-process", endpoint_url=None)
        self._now_ms = now_ms
        self._lock = threading.RLock()

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation.startswith("_"):
            raise AttributeError(operation)
        raise NotImitatedError(f"S3's operation {operation!r}")

    def put_object(
        self, *, Bucket: str, Key: str, Body: Any, ChecksumSHA256: str | None = None, **described: Any
    ) -> dict[str, Any]:
        """Put an object; refused where its bytes are not those of the checksum."""
        body = Body if isinstance(Body, bytes) else Body.encode() if isinstance(Body, str) else bytes(Body.read())
        digest = hashlib.sha256(body).digest()
        if ChecksumSHA256 is not None and base64.b64decode(ChecksumSHA256) != digest:
            raise service_error("PutObject", "BadDigest", "The SHA256 you specified did not match what we received")
        with self._lock:
            self.objects.setdefault(Bucket, {})[Key] = StoredObject(body, from_ms(self._now_ms()))
        return {"ETag": f'"{digest.hex()}"'}

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        """Return an object."""
        with self._lock:
            found = self.objects.get(Bucket, {}).get(Key)
        if found is None:
            raise service_error("GetObject", "NoSuchKey", f"The specified key does not exist: {Key}")
        return {"Body": io.BytesIO(found.body), "ContentLength": len(found.body), "LastModified": found.put_at}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        """Return what is known of an object."""
        with self._lock:
            found = self.objects.get(Bucket, {}).get(Key)
        if found is None:
            raise service_error("HeadObject", "404", "Not Found")
        return {"ContentLength": len(found.body), "LastModified": found.put_at}

    def delete_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        """Delete an object, if it is there."""
        with self._lock:
            self.objects.get(Bucket, {}).pop(Key, None)
        return {}

    def delete_objects(self, *, Bucket: str, Delete: Mapping[str, Any]) -> dict[str, Any]:
        """Delete up to 1,000 objects, those that are there."""
        for each in Delete["Objects"]:
            self.delete_object(Bucket=Bucket, Key=each["Key"])
        return {} if Delete.get("Quiet") else {"Deleted": [{"Key": each["Key"]} for each in Delete["Objects"]]}

    def list_objects_v2(
        self, *, Bucket: str, Prefix: str = "", StartAfter: str = "", MaxKeys: int = 1_000
    ) -> dict[str, Any]:
        """Return a page of the objects behind a key, in the order of their keys."""
        with self._lock:
            found = self.objects.get(Bucket, {})
            keys = sorted(key for key in found if key.startswith(Prefix) and key > StartAfter)
            page = keys[: min(MaxKeys, 1_000)]
            contents = [{"Key": key, "LastModified": found[key].put_at, "Size": len(found[key].body)} for key in page]
        return {"Contents": contents, "KeyCount": len(page), "IsTruncated": len(page) < len(keys)}

    def close(self) -> None:
        """Do nothing: there is no connection."""
