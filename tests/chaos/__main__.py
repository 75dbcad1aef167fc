"""A longer chaos than the tests': ``python -m tests.chaos --minutes 5 [--seed N]``.

Races and storms alternate, each with a seed of its own that is printed. It ends with 1 at the first violation, and
says which seed it was; the moments at which processes are killed are not repeated by a seed.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
import uuid

from examples.local_aws import local_aws
from tests.builders import make_aws
from tests.chaos.kills import storm
from tests.chaos.races import Settings, race


def main() -> int:
    """Alternate races and storms until the time is over; return 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long (default 5)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the first race")
    given = parser.parse_args()
    logging.disable(logging.ERROR)
    seed, ends = given.seed, time.monotonic() + given.minutes * 60
    while time.monotonic() < ends:
        for name, verdict_of in (("race", a_race), ("storm", a_storm)):
            told, problems = verdict_of(seed)
            print(f"{name} {seed}: {told}", flush=True)
            if problems:
                print("\n".join(problems), file=sys.stderr)
                return 1
        seed += 1
    return 0


def a_race(seed: int) -> tuple[str, list[str]]:
    """Race once on a MiniStack of its own."""
    with local_aws() as local, tempfile.TemporaryDirectory(prefix="kumofire-chaos-") as folder:
        aws = make_aws(local.client("dynamodb"), local.client("sqs"), name=f"chaos-{uuid.uuid4().hex[:8]}")
        result = race(
            Settings(
                endpoint_url=local.endpoint_url,
                table=aws.table,
                queue_url=aws.queue_url,
                ledger=f"{folder}/ledger",
                began=time.time(),
                seed=seed,
                keys=300,
                operations=60,
                batch_writes=seed % 2 == 1,
            ),
            processes=4,
        )
    return str(result), result.verdict.problems + [f"{text} ({count})" for text, count in result.errors.items()]


def a_storm(seed: int) -> tuple[str, list[str]]:
    """Kill and cut for half a minute on a stack of its own."""
    result = storm(seconds=30, seed=seed)
    return str(result), result.verdict.problems


if __name__ == "__main__":
    sys.exit(main())
