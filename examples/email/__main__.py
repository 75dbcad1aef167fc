"""Sign a user up three times while the mail service refuses the sender, and see one email come."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

from examples.email.jobs import SENDER, Welcome, jobs, send_welcome, ses, welcome
from examples.on_local_aws import expect, finished, wait_for

ADA = "ada@example.com"


def main() -> None:
    print("a user signs up, and the form is sent three times", flush=True)
    run_ids = {welcome(42, ADA, "Ada") for _ in range(3)}
    expect("three requests made one run", len(run_ids) == 1)
    run = wait_for(jobs, run_id := run_ids.pop(), lambda run: run.failed_attempts)
    print(f"Amazon SES does not take it: {run.last_error}")
    print("we verify the sender; a later attempt sends the email", flush=True)
    for address in (SENDER, ADA):  # while an account is in SES's sandbox, receivers must be verified too
        ses().create_email_identity(EmailIdentity=address)
    run = finished(jobs, run_id)
    expect(f"the run has succeeded, in attempt {run.failed_attempts + 1}", run.status == "succeeded")
    expect("one email was sent", [each["To"] for each in sent()] == [[ADA]])

    run = finished(jobs, send_welcome.create(Welcome("ada", "Ada")))
    expect(f"a wrong address has one attempt: {run.last_error}", run.status == "failed" and run.failed_attempts == 1)


def sent() -> list[dict[str, Any]]:
    """Return what the local AWS has sent. Amazon SES itself has no such list."""
    with urllib.request.urlopen(f"{os.environ['AWS_ENDPOINT_URL']}/_ministack/ses/messages") as answer:
        accounts: dict[str, list[dict[str, Any]]] = json.load(answer)["messages"]
    return [message for messages in accounts.values() for message in messages]


if __name__ == "__main__":
    main()
