"""Begin an estimate of a thousand years, watch the batch, and read what the last run has gathered."""

from __future__ import annotations

import time

from examples.fan_out.jobs import YEARS, Risk, estimate, jobs
from examples.on_local_aws import expect, finished


def main() -> None:
    began = time.monotonic()
    batch_id = estimate("storms-2027")
    print(f"{time.monotonic() - began:5.1f} s  created a batch of {YEARS:,} runs", flush=True)
    expect("a second call finds the same batch", estimate("storms-2027") == batch_id)
    while (batch := jobs.get_batch(batch_id)) and batch.state != "done":
        print(f"{time.monotonic() - began:5.1f} s  {batch.succeeded:5,} succeeded, {batch.pending:5,} wait", flush=True)
        time.sleep(2)
    if batch is None or batch.then_run_id is None:
        raise SystemExit(f"wrong: the batch has no callback: {batch}")
    run = finished(jobs, batch.then_run_id)
    expect(f"the callback has succeeded after {time.monotonic() - began:.1f} s", run.status == "succeeded")
    risk = Risk(**run.output)
    expect(f"it has gathered {risk.years:,} years", risk.years == YEARS)
    print(f"a year costs {risk.mean:,} euros on average; one in a hundred costs over {risk.one_in_a_hundred:,}")


if __name__ == "__main__":
    main()
