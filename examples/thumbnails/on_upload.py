"""The Lambda function that S3 calls for each uploaded object. It creates the run and is done in milliseconds."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_plus

from examples.thumbnails.jobs import Upload, jobs, make_thumbnail

jobs.make_clients()


def handler(event: dict[str, Any], context: object) -> list[str]:
    """Create a run for each record, and return the runs' ids."""
    run_ids = []
    for record in event["Records"]:
        stored = record["s3"]
        upload = Upload(stored["bucket"]["name"], unquote_plus(stored["object"]["key"]))
        # S3 may deliver an event twice. The id of the request that uploaded the object is the same then.
        request_id = record["responseElements"]["x-amz-request-id"]
        run_ids.append(make_thumbnail.create(upload, dedupe_key=f"thumbnail/{request_id}"))
    return run_ids
