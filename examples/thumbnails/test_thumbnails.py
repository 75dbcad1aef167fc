"""Thumbnails, on a bucket in memory."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import quote_plus

import pytest
from PIL import Image

from examples.thumbnails import jobs as app
from examples.thumbnails.jobs import make_thumbnail
from examples.thumbnails.on_upload import handler
from kumofire_core import Jobs, Run
from kumofire_core.testing import InProcessAWS

BUCKET = "pictures"


@pytest.fixture
def kumofire_jobs() -> Jobs:
    return app.jobs


@pytest.fixture
def s3(kumofire: InProcessAWS, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(app, "s3", lambda: kumofire.s3)
    return kumofire.s3


def image(width: int, height: int, *, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    written = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(written, "JPEG", exif=exif)
    return written.getvalue()


def upload(s3: Any, key: str, body: bytes) -> dict[str, Any]:
    """Put an object, and return the event that S3 calls the function with."""
    answer = s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    found = {"bucket": {"name": BUCKET}, "object": {"key": quote_plus(key, safe="/")}}
    return {"Records": [{"s3": found, "responseElements": {"x-amz-request-id": f"put of {answer['ETag']}"}}]}


def thumbnail_size(s3: Any, key: str) -> tuple[int, int]:
    with Image.open(s3.get_object(Bucket=BUCKET, Key=f"thumbnails/{key}.png")["Body"]) as opened:
        return opened.size


def made(kumofire: InProcessAWS, event: dict[str, Any]) -> Run:
    [run_id] = handler(event, None)
    return kumofire.drain_run(run_id)


def test_a_picture_has_a_thumbnail_that_keeps_its_shape(kumofire: InProcessAWS, s3: Any) -> None:
    run = made(kumofire, upload(s3, "uploads/a panorama.jpg", image(1600, 400)))

    assert run.output == {"key": "thumbnails/uploads/a panorama.jpg.png", "width": 200, "height": 50}
    assert thumbnail_size(s3, "uploads/a panorama.jpg") == (200, 50)


def test_a_picture_that_was_taken_sideways_has_a_thumbnail_that_stands(kumofire: InProcessAWS, s3: Any) -> None:
    made(kumofire, upload(s3, "uploads/portrait.jpg", image(800, 400, orientation=6)))

    assert thumbnail_size(s3, "uploads/portrait.jpg") == (100, 200)


def test_an_event_that_comes_twice_makes_one_run(kumofire: InProcessAWS, s3: Any) -> None:
    event = upload(s3, "uploads/a.jpg", image(30, 30))

    assert handler(event, None) == handler(event, None)
    kumofire.assert_created(make_thumbnail, bucket=BUCKET, key="uploads/a.jpg", count=1)


def test_of_two_uploads_to_one_key_the_later_one_counts(kumofire: InProcessAWS, s3: Any) -> None:
    for body in (image(400, 200), image(200, 400)):
        handler(upload(s3, "uploads/a.jpg", body), None)
    kumofire.drain()

    kumofire.assert_created(make_thumbnail, count=2)
    assert thumbnail_size(s3, "uploads/a.jpg") == (100, 200)


def test_what_is_no_image_is_tried_once(kumofire: InProcessAWS, s3: Any) -> None:
    run = made(kumofire, upload(s3, "uploads/notes.txt", b"no image"))

    assert (run.status, run.failed_attempts) == ("failed", 1)
    assert "can't be read as an image" in str(run.last_error)


def test_a_picture_that_was_cut_off_is_tried_once(kumofire: InProcessAWS, s3: Any) -> None:
    run = made(kumofire, upload(s3, "uploads/half.jpg", image(400, 400)[:2000]))

    assert (run.status, run.failed_attempts) == ("failed", 1)


def test_a_picture_that_was_deleted_meanwhile_cancels_its_run(kumofire: InProcessAWS, s3: Any) -> None:
    event = upload(s3, "uploads/a.jpg", image(30, 30))
    s3.delete_object(Bucket=BUCKET, Key="uploads/a.jpg")

    assert made(kumofire, event).status == "canceled"


@pytest.mark.kumofire(chaos=True)
def test_whatever_goes_wrong_there_is_one_thumbnail(kumofire: InProcessAWS, s3: Any) -> None:
    run = made(kumofire, upload(s3, "uploads/a.jpg", image(400, 200)))

    assert run.status == "succeeded"
    assert sorted(s3.objects[BUCKET]) == ["thumbnails/uploads/a.jpg.png", "uploads/a.jpg"]
