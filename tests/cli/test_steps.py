"""``kumofire runs signal``, and steps in ``runs show``."""

from __future__ import annotations

from kumofire_core import JobContext, Jobs
from tests.builders import Clock, message
from tests.cli.conftest import Kumofire


def a_waiting_run(jobs: Jobs) -> str:
    @jobs.handler("order", max_attempts=1)
    def order(ctx: JobContext) -> None:
        ctx.step("charge", lambda: {"card": "of-a-secret-card"})
        ctx.wait_for("approved", timeout=7200, default=None)
        ctx.sleep(60)

    run_id = jobs.create("order")
    jobs.consume(message(run_id))
    return run_id


def test_signal_wakes_a_run_with_a_payload_and_a_second_one_is_refused(kumofire: Kumofire, jobs: Jobs) -> None:
    run_id = a_waiting_run(jobs)

    ended = kumofire("runs", "signal", run_id, "approved", '{"by": "Ann"}')
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{run_id} got the signal 'approved'\n"
    assert [step.result for step in jobs.steps(run_id) if step.name == "approved"] == [{"by": "Ann"}]

    again = kumofire("runs", "signal", run_id, "approved", "--json")
    assert (again.code, again.form) == (1, {"signaled": False})
    assert "it has that signal already, or its wait for it is over" in again.err


def test_signal_says_why_a_run_did_not_get_it(kumofire: Kumofire, jobs: Jobs) -> None:
    run_id = a_waiting_run(jobs)
    jobs.cancel(run_id)

    assert "it is canceled" in kumofire("runs", "signal", run_id, "approved").err
    unknown = kumofire("runs", "signal", "nobody", "approved")
    assert (unknown.code, "there is no such run" in unknown.err) == (1, True)
    wrong = kumofire("runs", "signal", run_id, "approved", "{")
    assert (wrong.code, "is not JSON" in wrong.err) == (2, True)
    assert kumofire("runs", "signal", run_id, "x" * 101).code == 2


def test_show_lists_the_steps_and_hides_their_results_until_output_is_asked_for(
    kumofire: Kumofire, jobs: Jobs, clock: Clock
) -> None:
    run_id = a_waiting_run(jobs)

    shown = kumofire("runs", "show", run_id).out
    assert "the signal 'approved'" in shown
    assert "1  step  charge" in shown
    assert "2  wait  approved" in shown
    assert "of-a-secret-card" not in shown
    assert "of-a-secret-card" in kumofire("runs", "show", run_id, "--output").out

    form = kumofire("runs", "show", run_id, "--json").form
    assert (form["waiting_for"], form["kept_steps"]) == ("approved", 2)
    assert [(step["name"], step["kind"], step["position"]) for step in form["steps"]] == [
        ("charge", "step", 1),
        ("approved", "wait", 2),
    ]
    assert "result" not in form["steps"][0]
    form = kumofire("runs", "show", run_id, "--json", "--output").form
    assert form["steps"][0]["result"] == {"card": "of-a-secret-card"}

    clock.advance(hours=3)
    jobs.consume(message(run_id))
    assert "no signal came in time" in kumofire("runs", "show", run_id).out
    assert "3  sleep  sleep-1" in kumofire("runs", "show", run_id).out


def test_retry_from_start_forgets_the_steps(kumofire: Kumofire, jobs: Jobs) -> None:
    run_id = a_waiting_run(jobs)
    jobs.cancel(run_id)

    assert kumofire("runs", "retry", run_id, "--from-start").code == 0
    assert jobs.steps(run_id) == ()
    refused = kumofire("runs", "retry", "--status", "failed", "--from-start")
    assert (refused.code, "--from-start is for runs that you name" in refused.err) == (2, True)


def test_show_of_a_run_without_steps_asks_for_none(kumofire: Kumofire, jobs: Jobs) -> None:
    run_id = jobs.create("email")

    assert kumofire("runs", "show", run_id, "--json").form["steps"] == []
    assert "steps" not in kumofire("runs", "show", run_id).out
