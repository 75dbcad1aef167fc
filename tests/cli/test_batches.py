"""``kumofire batches``."""

from __future__ import annotations

import pytest

from kumofire_core import Jobs
from kumofire_core.model.batch import member_run_id
from tests.builders import message
from tests.cli.conftest import Kumofire


@pytest.fixture
def batch_id(jobs: Jobs) -> str:
    """A batch of three, of which one has failed and one has succeeded."""

    @jobs.handler("part", max_attempts=1)
    def part(ctx: object) -> None:
        if ctx.payload == "fail":  # type: ignore[attr-defined]
            raise ValueError("bad \u202e part")

    @jobs.handler("gather")
    def gather(ctx: object) -> None: ...

    requests = [{"name": "part", "payload": payload} for payload in ("a", "fail", "c")]
    batch_id = jobs.create_batch(requests, then="gather", key="nightly")  # type: ignore[arg-type]
    for index in (0, 1):
        jobs.consume(message(member_run_id(batch_id, index)))
    return batch_id


def test_a_batch_is_listed_and_shown_with_its_failed_members(kumofire: Kumofire, batch_id: str) -> None:
    listed = kumofire("batches", "list").out.splitlines()
    assert listed[0].split() == ["ID", "STATE", "ENDED", "CREATED", "THEN", "KEY"]
    assert listed[1].split()[:3] == [batch_id, "running", "0/3"]

    shown = kumofire("batches", "show", batch_id, "--members", "failed")
    assert shown.code == 0
    assert "2 of 3" in shown.out
    assert "gather" in shown.out
    assert "bad \\u202e part" in shown.out
    assert "bad" not in kumofire("batches", "show", batch_id).out


def test_the_json_of_a_batch_has_these_names(kumofire: Kumofire, batch_id: str) -> None:
    form = kumofire("batches", "show", batch_id, "--members", "all", "--limit", "2", "--json").form

    assert [run["id"] for run in form.pop("members")] == [member_run_id(batch_id, index) for index in (0, 1)]
    assert form == {
        "id": batch_id,
        "state": "running",
        "key": "nightly",
        "total": 3,
        "succeeded": 1,
        "failed": 1,
        "canceled": 0,
        "missing": 0,
        "pending": 1,
        "as_of": "2026-03-14T12:00:00.000Z",
        "created_at": "2026-03-14T12:00:00.000Z",
        "done_at": None,
        "then": "gather",
        "then_if": "ended",
        "then_run_id": form["then_run_id"],
        "parent_id": None,
        "cancel_requested": False,
        "cancel_reason": None,
    }
    listed = kumofire("batches", "list", "--json").form
    assert ([batch["id"] for batch in listed["batches"]], listed["next_page"]) == ([batch_id], None)


def test_a_batch_is_canceled_after_a_question(kumofire: Kumofire, jobs: Jobs, batch_id: str) -> None:
    assert kumofire("batches", "cancel", batch_id).code == 2
    assert jobs.get_batch(batch_id).pending == 1

    canceled = kumofire("batches", "cancel", batch_id, "--reason", "why", typed="y\n", terminal=True)

    assert (canceled.code, canceled.out) == (0, f"{batch_id} canceled\n")
    assert "Cancel 1 run of batch" in canceled.err
    assert jobs.get_batch(batch_id).canceled == 1
    assert kumofire("batches", "cancel", batch_id, "--yes").code == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["show", "unknown"], 1),
        (["cancel", "unknown", "--yes"], 1),
        (["show", "unknown", "--members", "some"], 2),
        (["show", "unknown", "--limit", "0"], 2),
        (["list", "--limit", "0"], 2),
        (["list", "--page", "x"], 2),
    ],
)
def test_what_is_not_there_and_what_can_t_be_meant_end_differently(
    kumofire: Kumofire, words: list[str], code: int
) -> None:
    assert kumofire("batches", *words).code == code


def test_a_tree_of_runs_is_canceled(kumofire: Kumofire, jobs: Jobs) -> None:
    @jobs.handler("parent")
    def parent(ctx: object) -> None:
        ctx.create_children([{"name": "child"}] * 2)  # type: ignore[attr-defined]
        ctx.wait_for_children()  # type: ignore[attr-defined]

    @jobs.handler("child")
    def child(ctx: object) -> None: ...

    run_id = jobs.create("parent")
    jobs.consume(message(run_id))

    canceled = kumofire("runs", "cancel", run_id, "--tree", "--reason", "why")

    assert (canceled.code, canceled.out) == (0, f"{run_id}: 3 runs canceled\n")
    again = kumofire("runs", "cancel", run_id, "--tree", "--json")
    assert (again.code, again.form) == (1, {"changed": {run_id: 0}})
    assert kumofire("runs", "cancel", "--job", "parent", "--tree", "--dry-run").code == 2
