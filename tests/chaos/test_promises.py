"""Each promise of a feature is told to be broken by a ledger that breaks it, and kept by one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos import promises
from tests.chaos.ledger import executions_of, overlaps
from tests.chaos.made_up import begin, end

Events = list[dict[str, Any]]


def said(event: str, **fields: Any) -> dict[str, Any]:
    return {"event": event, "pid": 1, "run_id": "r", **fields}


def run(run_id: str = "r", **fields: Any) -> dict[str, Any]:
    return {"pk": f"run#{run_id}", "sk": "run", "status": "succeeded", "job_name": "owned", **fields}


def batch(**fields: Any) -> dict[str, Any]:
    return {"pk": "batch#b", "sk": "batch", "total": 2, "done_at": 1, "succeeded": 2, "then_name": "gather", **fields}


MEMBERS = [run("m", batch="b 0 2"), run("n", batch="b 1 2")]
CALLBACK = run("c", after="b")
IN_ORDER = [begin("m"), begin("n"), end("m"), end("n"), begin("c"), end("c")]


def test_a_batch_whose_callback_follows_its_members_keeps_its_promise():
    assert promises.broken_batches(IN_ORDER, [batch(), *MEMBERS, CALLBACK]) == []
    # Who lost the lease may end at any time; the member has ended by its later claim.
    late = [begin("m"), begin("m", 2, at=10_000), end("m", 2), begin("n"), end("n"), begin("c"), end("m"), end("c")]
    assert promises.broken_batches(late, [batch(), *MEMBERS, CALLBACK]) == []
    # What returns after the run had failed, because its lease was over, returns in vain.
    in_vain = [begin("m"), begin("n"), end("n"), begin("c"), end("m"), end("c")]
    failed = [run("m", batch="b 0 2", status="failed"), MEMBERS[1], CALLBACK]
    assert promises.broken_batches(in_vain, [batch(succeeded=1, failed=1), *failed]) == []
    halted = [run("m", batch="b 0 2", status="failed"), MEMBERS[1]]
    judged = promises.broken_batches(
        [begin("m"), end("m", how="raised"), begin("n"), end("n")],
        [batch(succeeded=1, failed=1, then_if="succeeded"), *halted, run("c", after="b", status="canceled")],
    )
    assert judged == []


@pytest.mark.parametrize(
    ("events", "items", "problem"),
    [
        (IN_ORDER, [batch(), *MEMBERS], "0 callbacks instead of 1"),
        (IN_ORDER, [batch(), *MEMBERS, CALLBACK, run("d", after="b")], "2 callbacks instead of 1"),
        (IN_ORDER, [batch(total=3), *MEMBERS, CALLBACK], "2 members of 3"),
        (IN_ORDER, [batch(succeeded=1, failed=1), *MEMBERS, CALLBACK], "counted 1 succeeded, and 2 are"),
        (IN_ORDER, [{"pk": "batch#b", "total": 2, "then_name": "gather"}, *MEMBERS, CALLBACK], "is not done"),
        (IN_ORDER, [*MEMBERS, CALLBACK], "batch b: is not stored"),
        ([begin("m"), end("m"), begin("c"), begin("n"), end("n")], [batch(), *MEMBERS, CALLBACK], "before n had ended"),
        ([begin("m"), begin("n"), end("n"), begin("c"), end("m")], [batch(), *MEMBERS, CALLBACK], "before m had ended"),
        (
            IN_ORDER,
            [
                batch(succeeded=1, failed=1, then_if="succeeded"),
                MEMBERS[0],
                run("n", batch="b 1 2", status="failed"),
                CALLBACK,
            ],
            "not all members have succeeded",
        ),
    ],
)
def test_a_batch_that_breaks_its_promise_is_told(events: Events, items: Events, problem: str):
    assert any(problem in found for found in promises.broken_batches(events, items))


def test_the_output_that_a_chain_passes_on_is_the_stored_one():
    items = [run("a", output='"out"')]

    assert promises.broken_outputs([said("given", of="a", output="out")], items) == []
    assert promises.broken_outputs([said("given", of="a", output="other")], items) != []
    assert promises.broken_outputs([said("given", of="b", output="out")], items) != []


MADE = said("effect", step="s", fence=1, value="v")
KEPT = said("returned", step="s", value="v")


def test_a_step_that_is_executed_twice_before_it_is_kept_and_read_by_all_keeps_its_promise():
    beside = [begin(), begin(fence=2, at=10_000), MADE, KEPT, said("effect", step="s", fence=2, value="w"), KEPT]
    assert promises.broken_steps(beside) == []
    assert promises.broken_steps([begin(), MADE, begin(fence=2), KEPT]) == []


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([begin(), MADE, KEPT, begin(fence=2), said("effect", step="s", fence=2, value="v")], "executed again"),
        ([begin(), MADE, said("effect", step="s", fence=1, value="w"), KEPT, KEPT | {"value": "w"}], "and before 'v'"),
        ([begin(), MADE, KEPT | {"value": "x"}], "which it never made"),
    ],
)
def test_a_step_that_breaks_its_promise_is_told(events: Events, problem: str):
    assert any(problem in found for found in promises.broken_steps(events))


def test_a_sleep_counts_from_its_first_call():
    first, second = said("sleeps", at_ms=0), said("sleeps", at_ms=900)

    assert promises.broken_sleeps([first, second, said("slept", at_ms=2_000, for_ms=3_000)]) == []
    assert promises.broken_sleeps([first, said("slept", at_ms=1_999, for_ms=3_000)]) == ["r: slept 1001 ms too short"]


GIVES = [said("gives", value="a"), said("gives", value="b")]


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([said("gave", value="a", kept=True), said("gave", value="b", kept=True)], "2 payloads were told"),
        ([said("got", value="a"), said("got", value="b")], "got 2 payloads"),
        ([said("gave", value="a", kept=True), said("got", value="b")], "was told to be the one"),
        ([said("gave", value="a", kept=True), said("got", value=None)], "was told to be the one"),
        ([said("got", value="c")], "which nobody gave"),
    ],
)
def test_a_signal_that_breaks_its_promise_is_told(events: Events, problem: str):
    assert any(problem in found for found in promises.broken_signals([*GIVES, *events]))


@pytest.mark.parametrize(
    "events",
    [
        [said("gave", value="a", kept=True), said("got", value="a"), said("gave", value="b", kept=False)],
        [said("gave", value="a", kept=False), said("gave", value="b", kept=False), said("got", value=None)],
        [said("got", value="a"), said("got", value="a")],
    ],
)
def test_a_signal_that_one_payload_won_keeps_its_promise(events: Events):
    assert promises.broken_signals([*GIVES, *events]) == []


def test_a_limit_counts_who_executes_and_not_who_has_lost_the_lease():
    a, b = begin("a", slots=["k/1"]), begin("b", slots=["k/1"])
    late = begin("b", slots=["k/1"], at=10_000)

    assert promises.broken_limits([a, end("a"), b], [], {"k": 1}) == []
    assert promises.broken_limits([a, late, end("a")], [], {"k": 1}) == []
    assert promises.broken_limits([a, begin("b", slots=["k/2"])], [], {"k": 1}) == []
    assert promises.broken_limits([a, b], [], {"k": 2}) == []
    assert promises.broken_limits([a, b, end("a")], [], {"k": 1}) == [
        "k/1: 2 execute at once, and 1 may; the last is b"
    ]
    assert promises.broken_limits([a, begin("b", slots=["k/1"], at=9_999)], [], {"k": 1}) != []


def test_a_limit_does_not_count_who_was_cut_by_a_time_limit():
    a, b = begin("a", slots=["k/1"], timeout_ms=1_000), begin("b", slots=["k/1"], at=1_200)

    def cut(at_ms: int) -> Events:
        return [run("a", attempt=1, attempts=f'[[0,1,0,{at_ms},"timed_out",null,null,null]]')]

    assert promises.broken_limits([a, b, end("a")], cut(1_100), {"k": 1}) == []
    assert promises.broken_limits([a, b, end("a")], cut(1_201), {"k": 1}) != []
    assert promises.broken_limits([a, b, end("a")], cut(999), {"k": 1}) != []


def test_a_rate_counts_the_starts_within_any_time():
    starts = [begin(str(at), at=at) for at in (0, 500, 1_000)]

    assert promises.broken_rates(starts, job="job", most=2, within_ms=1_000) == []
    assert promises.broken_rates(starts, job="other", most=2, within_ms=1_001) == []
    assert promises.broken_rates(starts, job="job", most=2, within_ms=1_001) == ["job: 3 starts within 1000 ms"]


def test_a_pause_holds_from_a_minute_later_until_it_is_resumed():
    paused, resumes = said("paused", at_ms=0), said("resumes")

    assert promises.broken_pauses([paused, begin(at=60_000)], job="job") == []
    assert promises.broken_pauses([paused, begin(at=60_001)], job="other") == []
    assert promises.broken_pauses([paused, resumes, begin(at=60_001)], job="job") == []
    assert promises.broken_pauses([paused, begin(at=60_001), resumes], job="job") == [
        "r: began 60001 ms after its job was paused"
    ]


OWN = {"pk": "own#1", "sk": "own", "run": "r"}


@pytest.mark.parametrize(
    ("events", "items", "problem"),
    [
        ([], [OWN], "its run r does not exist"),
        ([], [run()], "exists without its item"),
        ([], [OWN, run(), run("s")], "s: exists without its item"),
        ([said("committed")], [], "was told to be committed"),
    ],
)
def test_a_transaction_that_was_made_in_part_is_told(events: Events, items: Events, problem: str):
    assert any(problem in found for found in promises.broken_transactions(events, items, job="owned"))


def test_a_transaction_that_was_made_as_a_whole_or_not_at_all_keeps_its_promise():
    assert (
        promises.broken_transactions([said("committed")], [OWN, run(), run("s", job_name="other")], job="owned") == []
    )
    assert promises.broken_transactions([], [], job="owned") == []


def keyed(run_id: str, generation: int, key: str = "alone-k", **fields: Any) -> dict[str, Any]:
    return run(run_id, dedupe_key=key, generation=generation, created_at=generation * 1_000, **fields)


def test_the_runs_of_a_key_that_is_unfinished_once_follow_each_other():
    runs = [keyed("s", 2), keyed("r", 1)]

    assert promises.broken_keys([begin("r"), end("r"), begin("s")], runs) == []
    assert promises.broken_keys([begin("s")], runs) == []
    assert promises.broken_keys([begin("r"), begin("s"), begin("r", 2)], runs) != []
    assert promises.broken_keys([begin("s"), begin("r")], runs) != []


def test_the_runs_of_a_key_with_a_time_are_that_far_apart():
    runs = [keyed("r", 1, "k"), keyed("s", 2, "k")]

    assert promises.broken_keys([said("period", key="k", period_ms=1_000)], runs) == []
    assert promises.broken_keys([said("period", key="k", period_ms=1_001)], runs) != []


def test_a_debounced_run_gets_the_latest_payload_before_its_call():
    def call(value: str) -> Events:
        return [said("debounces", value=value), said("debounced", value=value)]

    one, two, called = call("1"), call("2"), said("indexes", value="1")

    assert promises.broken_debounces([*one, called, *two]) == []
    assert promises.broken_debounces([two[0], *one, two[1], called]) == [], "they overlap, and either may be later"
    assert promises.broken_debounces([*two, *one, called]) == []
    assert promises.broken_debounces([*one, *two, called]) == ["r: was called with '1', and '2' had replaced it"]
    assert promises.broken_debounces([*one, called, called | {"value": "2"}]) == ["r: was called with two payloads"]


def test_a_worker_s_handler_is_alone_however_long_it_takes():
    long = [said("renews"), begin(fence=1), begin(fence=2, at=60_000), end(fence=1), end(fence=2)]

    assert promises.broken_renewals([*long[:2], end(fence=1), long[2], end(fence=2)]) == []
    assert promises.broken_renewals(long) == ["r: claim 2 ran beside claim 1, which was not cut"]
    cut = said("cut", fence=1, at_ms=50_000)
    assert promises.broken_renewals([*long[:2], cut, *long[2:]]) == []
    assert promises.broken_renewals([*long[:3], cut, *long[3:]]) != []  # later than the other began
    freezes, thawed = said("freezes"), said("thawed")
    assert promises.broken_renewals([*long[:2], freezes, *long[2:], thawed]) == []
    assert promises.broken_renewals([long[0], freezes, long[1], thawed, *long[2:]]) == []  # it begins before it stops
    assert promises.broken_renewals([freezes, thawed, *long]) != []  # an earlier time is no excuse
    assert promises.broken_renewals([*long, freezes, thawed]) != []  # nor a later one
    assert promises.broken_renewals(long[1:]) == []  # a process that renews nothing may outlive its lease


def test_a_claim_holds_its_run_no_longer_than_until_its_handler_saw_that_it_was_cut():
    beside = [begin(fence=1), begin(fence=2, at=4_000), end(fence=1), end(fence=2)]

    assert overlaps(executions_of(beside)[0]) == ["r: claim 2 ran while claim 1 had 6000 ms of its lease"]
    assert overlaps(executions_of([beside[0], said("cut", fence=1, at_ms=3_000), *beside[1:]])[0]) == []


def test_a_bulk_operation_changes_each_run_once_and_is_done():
    told = said("bulk", bulk_id="o", run_ids=["r", "s"])
    done = {"pk": "bulk#o", "sk": "bulk", "done_at": 1}

    assert promises.broken_bulk([told], [done, run(retries=1), run("s")]) == []
    assert promises.broken_bulk([told], [done, run(retries=2)]) == ["r: retried 2 times by 1 operations"]
    assert promises.broken_bulk([told], [run(retries=1)]) == ["operation o: is not done"]
