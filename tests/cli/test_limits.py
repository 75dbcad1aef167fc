"""``kumofire limits``, and how a run that waits for one is shown."""

from __future__ import annotations

from datetime import timedelta

from kumofire_core import JobContext, Jobs, Limit, Rate
from tests.builders import Aws, Clock, message
from tests.cli.conftest import Kumofire

HOLDER, SECOND, THIRD = "holder", "second", "third"


def test_the_slots_of_a_limit_and_who_waits_for_them_are_shown(
    kumofire: Kumofire, jobs: Jobs, aws: Aws, clock: Clock
) -> None:
    seen = []

    @jobs.handler("sync", concurrency=Limit(1, key=lambda payload: payload), rate=Rate(1, per=timedelta(minutes=1)))
    def sync(ctx: JobContext) -> None:
        for run_id in (SECOND, THIRD):
            assert jobs.consume(message(run_id)).reason == "limited"
        seen.extend(
            [
                kumofire("limits", "sync", "--key", "ann"),
                kumofire("limits", "sync", "--key", "ann", "--json"),
                kumofire("limits", "sync", "--key", "bob"),
                kumofire("runs", "show", SECOND),
                kumofire("runs", "list", "--status", "scheduled"),
            ]
        )

    for run_id in (HOLDER, SECOND, THIRD):
        aws.a_run(run_id, job_name="sync", payload='"ann"')
    assert jobs.consume(message(HOLDER)).outcome == "succeeded"

    table, form, other, run, runs = seen
    assert [line.split()[0] for line in table.out.splitlines()[1:]] == [HOLDER, SECOND, THIRD]
    assert "1 of 1 slots are taken, and 2 runs wait" in table.err
    assert form.form == {
        "job_name": "sync",
        "key": "ann",
        "name": None,
        "slots": 1,
        "holders": [HOLDER],
        "waiting": [SECOND, THIRD],
        "complete": True,
        "next_start": None,
    }
    assert other.out == ""
    assert "it waits for its turn" in run.out
    assert "limited" in runs.out
    rate = kumofire("limits", "sync", "--json").form
    assert rate["next_start"] == "2026-03-14T12:01:01.000Z"
