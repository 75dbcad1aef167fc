"""What may a year's claims cost an insurer? A thousand runs play one year each, and one more sums them up."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import fmean

from kumofire_core import Fail, JobContext, Jobs

YEARS = 1_000

jobs = Jobs.from_env()


@dataclass
class Year:
    portfolio: str
    number: int


@dataclass
class Risk:
    years: int
    mean: int
    one_in_a_hundred: int


@jobs.handler("play_year")
def play_year(ctx: JobContext[Year]) -> int:
    """Return a year's claims in euros. The seed makes every attempt play the same year."""
    chance = random.Random(f"{ctx.payload.portfolio}/{ctx.payload.number}")
    storms = sum(chance.random() < 0.01 for _ in range(365))
    return round(sum(chance.lognormvariate(11, 1.5) for _ in range(storms)))


@jobs.handler("sum_up")
def sum_up(ctx: JobContext[str]) -> Risk:
    """Return the mean, and what one year in a hundred exceeds. This runs once, when all years have succeeded."""
    if ctx.batch is None:
        raise Fail("this job is the callback of a batch; call estimate()")
    claims = sorted(run.output for run in ctx.batch.members())
    return Risk(len(claims), round(fmean(claims)), claims[len(claims) * 99 // 100])


def estimate(portfolio: str, *, years: int = YEARS) -> str:
    """Begin an estimate and return its batch's id; a repeated call goes on with the same batch."""
    return jobs.create_batch(
        [play_year.request(Year(portfolio, number)) for number in range(years)],
        then=sum_up.request(portfolio),
        then_if="succeeded",
        key=f"risk/{portfolio}",
    )
