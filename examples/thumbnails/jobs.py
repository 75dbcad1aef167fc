"""The job that makes a thumbnail of an uploaded image."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import boto3

from kumofire_core import Cancel, Fail, JobContext, Jobs, Limit, RetryPolicy

SIDE = 200

jobs = Jobs.from_env()


@dataclass
class Upload:
    bucket: str
    key: str


@dataclass
class Thumbnail:
    key: str
    width: int
    height: int


# One at a time for a key: of two uploads to one key, the run that reads the older image must not write last.
@jobs.handler(
    "thumbnail",
    retry=RetryPolicy(8, base=timedelta(seconds=2), jitter=0.5),
    concurrency=Limit(1, key=lambda upload: upload["key"]),
)
def make_thumbnail(ctx: JobContext[Upload]) -> Thumbnail:
    bucket, key = ctx.payload.bucket, ctx.payload.key
    try:
        original = s3().get_object(Bucket=bucket, Key=key)["Body"].read()
    except s3().exceptions.NoSuchKey:
        raise Cancel("the image was deleted") from None
    small, width, height = shrunk(original)
    # The key follows from the upload, so that a second attempt puts the same object again.
    target = f"thumbnails/{key}.png"
    s3().put_object(Bucket=bucket, Key=target, Body=small, ContentType="image/png")
    ctx.logger.info("made %s, %d by %d pixels", target, width, height)
    return Thumbnail(target, width, height)


def shrunk(image: bytes) -> tuple[bytes, int, int]:
    """Return the image as a PNG of at most ``SIDE`` by ``SIDE`` pixels, its width and its height.

    Raises ``Fail`` for what is no image: another attempt would not change that.
    """
    from PIL import Image, ImageOps  # here, so that what only creates runs need not import it

    try:
        with Image.open(io.BytesIO(image)) as opened:
            small = ImageOps.exif_transpose(opened)
            small.thumbnail((SIDE, SIDE))
            result = io.BytesIO()
            small.convert("RGBA").save(result, "PNG")
    except (OSError, Image.DecompressionBombError):
        raise Fail("it can't be read as an image") from None
    return result.getvalue(), small.width, small.height


@cache
def s3() -> Any:
    return boto3.client("s3")
