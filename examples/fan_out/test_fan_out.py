"""The fan-out, with thirty years in place of a thousand."""

from __future__ import annotations

from statistics import fmean

import pytest

from examples.fan_out.jobs import Year, estimate, jobs, play_year, sum_up
from kumofire_core import Batch, JobContext, Jobs, Run
from kumofire_core.testing import InProcessAWS

YEARS = 30


@pytest.fixture
def kumofire_jobs() -> Jobs:
    return jobs


def begun() -> str:
    return estimate("storms", years=YEARS)


def found(batch_id: str) -> Batch:
    batch = jobs.get_batch(batch_id)
    assert batch is not None
    return batch


def gathered(kumofire: InProcessAWS) -> Run:
    """Return the callback's run, of which there is one."""
    [run] = kumofire.runs(sum_up)
    return run


def claims() -> list[int]:
    """Return what the years cost: each handler called by itself."""
    return [play_year(JobContext.for_test(Year("storms", number))) for number in range(YEARS)]


def test_the_last_run_gathers_what_all_others_returned(kumofire: InProcessAWS) -> None:
    batch_id = begun()
    kumofire.drain()

    kumofire.assert_created(play_year, count=YEARS)
    assert found(batch_id).state == "done"
    assert gathered(kumofire).output == {
        "years": YEARS,
        "mean": round(fmean(claims())),
        "one_in_a_hundred": max(claims()),
    }


def test_a_creator_that_calls_again_makes_no_second_batch(kumofire: InProcessAWS) -> None:
    assert begun() == begun()
    kumofire.drain()
    assert begun()

    kumofire.assert_created(play_year, count=YEARS)
    kumofire.assert_created(sum_up, count=1)


def test_nothing_is_gathered_without_a_year_until_that_is_retried(kumofire: InProcessAWS) -> None:
    batch_id = begun()
    missing = kumofire.runs(play_year)[7]
    jobs.cancel(missing.id, "the machine was needed")
    kumofire.drain()
    assert gathered(kumofire).status == "canceled"

    jobs.retry(missing.id)
    kumofire.drain()
    jobs.retry(gathered(kumofire).id)
    kumofire.drain()

    assert found(batch_id).succeeded == YEARS
    assert gathered(kumofire).output["mean"] == round(fmean(claims()))


@pytest.mark.kumofire(chaos=True)
def test_whatever_goes_wrong_each_year_counts_once(kumofire: InProcessAWS) -> None:
    begun()
    kumofire.drain()

    assert gathered(kumofire).output["years"] == YEARS
    assert gathered(kumofire).output["mean"] == round(fmean(claims()))
