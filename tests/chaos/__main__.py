"""A longer chaos than the tests': ``python -m tests.chaos --minutes 5 [--seed N] [--on dynamodb-local] [--what flow]``.

The races take turns, and on MiniStack the storm, each with a seed of its own that is printed. It ends with 1 at the
first violation, and says which seed it was; the moments at which threads meet and processes are killed are not
repeated by a seed. On DynamoDB Local, call it through ``python -m tools.dynamodb_local``.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from examples.local_aws import local_aws
from tests.builders import make_aws
from tests.chaos.kills import storm
from tests.chaos.mistakes import MISTAKES
from tests.chaos.racer import NoSqs, Settings
from tests.chaos.races import RACES, race

STORM = "storm"
MINISTACK = "ministack"
DYNAMODB_LOCAL = "dynamodb-local"
TRIES = 3


def main() -> int:
    """Let races and storms take turns until the time is over; return 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long (default 5)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the first race")
    parser.add_argument("--on", choices=(MINISTACK, DYNAMODB_LOCAL), default=MINISTACK, help="default ministack")
    parser.add_argument(
        "--what", action="append", choices=(*RACES, STORM), help="a race, or the storm; may be repeated (default all)"
    )
    parser.add_argument("--mistakes", action="store_true", help="make each race's deliberate mistakes, and find them")
    parser.add_argument("--size", type=float, default=1.0, help="how many times as many operations as usual")
    given = parser.parse_args()
    what = given.what or [*RACES, *([STORM] if given.on == MINISTACK else [])]
    if given.on == DYNAMODB_LOCAL and STORM in what:
        parser.error("the storm needs Lambda and SQS: leave out --on dynamodb-local, or --what storm")
    if given.on == DYNAMODB_LOCAL and "DYNAMODB_LOCAL_URL" not in os.environ:
        parser.error("put `python -m tools.dynamodb_local` before the command: it starts DynamoDB Local")
    logging.disable(logging.ERROR)
    seed, ends = given.seed, time.monotonic() + given.minutes * 60
    if given.mistakes:
        return _make_mistakes([name for name in what if name != STORM], given.on, seed, given.size)
    played: Counter[str] = Counter()
    while time.monotonic() < ends:
        for name in what:
            told, problems = a_storm(seed) if name == STORM else _a_race_on(given.on, name, seed, given.size)
            print(f"{name} {seed}: {told}", flush=True)
            played[name] += 1
            if problems:
                print("\n".join(problems), file=sys.stderr)
                return 1
            if time.monotonic() > ends:
                break
        seed += 1
    print(", ".join(f"{count} of {name}" for name, count in played.items()), "without a violation")
    return 0


def _a_race_on(on: str, what: str, seed: int, size: float, mistake: str | None = None) -> tuple[str, list[str]]:
    if on == DYNAMODB_LOCAL:
        return a_race(what, seed, size, os.environ["DYNAMODB_LOCAL_URL"], mistake=mistake)
    with local_aws() as local:
        return a_race(what, seed, size, local.endpoint_url, sqs=local.client("sqs"), mistake=mistake)


def _make_mistakes(what: Sequence[str], on: str, seed: int, size: float) -> int:
    """Race with each mistake, three times at most, until a judge tells of it; return 1 where one was not told."""
    missed = 0
    for name in what:
        for mistake in MISTAKES[name]:
            for time_of in range(TRIES):
                problems = _a_race_on(on, name, seed + time_of, size, mistake)[1]
                if problems:
                    break
            told = f"race {time_of + 1}: {problems[0][:120]}" if problems else f"NOT FOUND in {TRIES} races"
            print(f"{name}, {mistake}: {told}", flush=True)
            missed += not problems
    return int(missed > 0)


def a_race(
    what: str, seed: int, size: float, endpoint_url: str, *, sqs: Any = None, mistake: str | None = None
) -> tuple[str, list[str]]:
    """Race once on a table of its own; the ledger of a race that broke a promise is kept."""
    plain = what == "runs"
    folder = tempfile.mkdtemp(prefix="kumofire-chaos-")
    settings = Settings(
        what=what,
        endpoint_url=endpoint_url,
        table=f"chaos-{uuid.uuid4().hex[:8]}",
        queue_url=None,
        ledger=f"{folder}/ledger",
        began=time.time(),
        seed=seed,
        keys=max(1, int((300 if plain else 60) * size)),
        threads=16 if plain else 8,
        operations=max(1, int(60 * size)),
        batch_writes=seed % 2 == 1,
        mistake=mistake,
    )
    aws = make_aws(settings.client("dynamodb"), sqs or NoSqs(), name=settings.table)
    result = race(replace(settings, queue_url=aws.queue_url if sqs else None, began=time.time()))
    problems = result.verdict.problems + [f"{text} ({count})" for text, count in result.errors.items()]
    if problems and mistake is None:
        problems.append(f"the ledger is {settings.ledger}")
    else:
        shutil.rmtree(folder)
    return str(result), problems


def a_storm(seed: int) -> tuple[str, list[str]]:
    """Kill and cut for half a minute on a stack of its own."""
    result = storm(seconds=30, seed=seed)
    return str(result), result.verdict.problems


if __name__ == "__main__":
    sys.exit(main())
