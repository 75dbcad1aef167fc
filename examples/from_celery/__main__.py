"""Announces a statement before it arrives, and one that is wrong: ``make example NAME=from_celery``."""

from __future__ import annotations

import json

from examples.from_celery.jobs import jobs, statement_announced
from examples.from_celery.work import s3
from examples.on_local_aws import expect, finished, wait_for

BUCKET = "statements"


def main() -> None:
    s3().create_bucket(Bucket=BUCKET)
    run_id = statement_announced(BUCKET, "november.csv")
    run = wait_for(jobs, run_id, lambda run: run.failed_attempts)
    print(f"attempt 1: {run.last_error}", flush=True)

    s3().put_object(Bucket=BUCKET, Key="november.csv", Body=b"rent,800.00\nbooks,12.50\nbooks,7.25\n")
    run = finished(jobs, run_id)
    expect(f"attempt {run.failed_attempts + 1} has succeeded: {run.output}", run.status == "succeeded")
    stored = json.load(s3().get_object(Bucket=BUCKET, Key="totals/november.csv.json")["Body"])
    expect("the totals are stored beside the statement", stored == {"books": "19.75", "rent": "800.00"} == run.output)

    s3().put_object(Bucket=BUCKET, Key="wrong.csv", Body=b"rent,a lot\n")
    run = finished(jobs, statement_announced(BUCKET, "wrong.csv"))
    expect(f"what is wrong is attempted once: {run.last_error}", (run.status, run.failed_attempts) == ("failed", 1))


if __name__ == "__main__":
    main()
