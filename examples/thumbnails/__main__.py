"""Upload images to a bucket whose events call a function, and look at the thumbnails."""

from __future__ import annotations

import io
import os
import time

import boto3
from PIL import Image

from examples.deployment import artifact
from examples.on_local_aws import expect
from examples.thumbnails.jobs import jobs, s3
from kumofire_core import Run

BUCKET = "pictures"


def main() -> None:
    deploy()
    print("uploading a panorama, a portrait and a text", flush=True)
    for key, width, height in (("uploads/a panorama.jpg", 1600, 400), ("uploads/portrait.jpg", 600, 800)):
        image = io.BytesIO()
        Image.linear_gradient("L").resize((width, height)).convert("RGB").save(image, "JPEG")
        s3().put_object(Bucket=BUCKET, Key=key, Body=image.getvalue())
    s3().put_object(Bucket=BUCKET, Key="uploads/notes.txt", Body=b"no image")

    for upload, size in (("uploads/a panorama.jpg", (200, 50)), ("uploads/portrait.jpg", (150, 200))):
        key = f"thumbnails/{upload}.png"
        s3().get_waiter("object_exists").wait(Bucket=BUCKET, Key=key, WaiterConfig={"Delay": 1, "MaxAttempts": 100})
        with Image.open(s3().get_object(Bucket=BUCKET, Key=key)["Body"]) as opened:
            expect(f"{key} is an image of {size[0]} by {size[1]} pixels", opened.size == size)
    run = failed_run()
    expect(f"the text has no thumbnail, after one attempt: {run.last_error}", run.failed_attempts == 1)


def deploy() -> None:
    """Make the bucket and the function that it calls, as the template in README.md does."""
    print("deploying the function that S3 calls", flush=True)
    aws_lambda = boto3.client("lambda")
    names = ("AWS_ENDPOINT_URL", "KUMOFIRE_TABLE", "KUMOFIRE_QUEUE_URL")
    function = aws_lambda.create_function(
        FunctionName="on-upload",
        Handler="examples.thumbnails.on_upload.handler",
        Runtime="provided.al2023",
        Role="arn:aws:iam::000000000000:role/on-upload",
        Code={"ZipFile": artifact(("kumofire_core", "examples"))},
        Environment={"Variables": {name: os.environ[name] for name in names}},
        Timeout=30,
    )
    s3().create_bucket(Bucket=BUCKET)
    s3().put_bucket_notification_configuration(
        Bucket=BUCKET,
        NotificationConfiguration={
            "LambdaFunctionConfigurations": [
                {
                    "LambdaFunctionArn": function["FunctionArn"],
                    "Events": ["s3:ObjectCreated:*"],
                    # Without the prefix, each thumbnail would be an upload too, and have a thumbnail made of it.
                    "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "uploads/"}]}},
                }
            ]
        },
    )


def failed_run() -> Run:
    """Return the run that has failed, as soon as there is one."""
    for _ in range(500):
        if found := jobs.list_runs(status="failed", job_name="thumbnail").runs:
            return found[0]
        time.sleep(0.2)
    raise SystemExit("wrong: no run has failed")


if __name__ == "__main__":
    main()
