"""The engine in the simulated world: no history violates an invariant, every deliberate mistake is caught."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from examples.local_aws import LocalAws
from tests.builders import make_aws
from tests.simulation.__main__ import main
from tests.simulation.comparison import differences
from tests.simulation.history import LIMITS_FROM, WORKERS_FROM, Choices, Violation
from tests.simulation.mutations import MUTATIONS
from tests.simulation.processes import play, simulated_engine
from tests.simulation.table import SimulatedTable, typed
from tests.simulation.world import START_MS, DiedError, Process, World

HISTORIES = 1_500
LIMIT_HISTORIES = 100
WORKER_HISTORIES = 200
CATCH_WITHIN = 3_000
"""How many histories a mistake may survive. From its recorded seed on it is the first, until the engine changes."""


@pytest.fixture
def simulated() -> Iterator[None]:
    with simulated_engine():
        yield


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize("first", [0, pytest.param(HISTORIES // 2, marks=pytest.mark.long)])
def test_no_history_violates_an_invariant(first: int) -> None:
    for seed in range(first, first + HISTORIES // 2):
        assert play(Choices(seed))[1] is None, f"replay with: make simulate SEED={seed}"


@pytest.mark.usefixtures("simulated")
def test_no_history_about_limits_violates_an_invariant() -> None:
    for seed in range(LIMITS_FROM, LIMITS_FROM + LIMIT_HISTORIES):
        assert play(Choices(seed))[1] is None, f"replay with: make simulate SEED={seed}"


@pytest.mark.usefixtures("simulated")
def test_no_history_about_workers_violates_an_invariant() -> None:
    for seed in range(WORKERS_FROM, WORKERS_FROM + WORKER_HISTORIES):
        assert play(Choices(seed))[1] is None, f"replay with: make simulate SEED={seed}"


def _a_part_at_once(names: Iterable[str]) -> list[Any]:
    """Return every fourth name for each run of the tests, and the others for the long ones."""
    return [
        name if number % 4 == 0 else pytest.param(name, marks=pytest.mark.long) for number, name in enumerate(names)
    ]


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize("name", _a_part_at_once(MUTATIONS))
def test_a_deliberate_mistake_in_the_engine_is_caught(name: str) -> None:
    mutation = MUTATIONS[name]
    with mutation.made():
        violation = first_violation(mutation.seed, CATCH_WITHIN)
    assert violation is not None
    assert "TypeError" not in str(violation), "the mistake can't be made any more: what it replaces has changed"


def first_violation(seed: int, count: int) -> Violation | None:
    found = (play(Choices(each))[1] for each in range(seed, seed + count))
    return next((violation for violation in found if violation is not None), None)


def test_nothing_of_a_process_goes_on_after_it_died_although_a_task_has_caught_that() -> None:
    world, process, caught = World(Choices(0), Counter()), Process("consumer-1"), list[int]()

    def stubborn() -> None:
        for length_ms in (50, 7_000):
            with suppress(DiedError):
                world.pause(length_ms)
                continue
            caught.append(world.now)

    task = world.start(process, stubborn)
    world.at(START_MS + 1, lambda: None)
    world.at(START_MS + 20, lambda: (world.kill(process), caught.append(-1)))
    world.run(START_MS + 60_000)

    assert caught == [START_MS + 20, START_MS + 20, -1]
    assert task.ended
    assert not world.tasks


def story(*seeds: int) -> list[str]:
    with simulated_engine():
        return [line for seed in seeds for line in play(Choices(seed), record=True)[0].world.lines or ()]


def test_a_seed_tells_the_same_story_whatever_was_played_before_it() -> None:
    assert story(11) == story(7, 8, 9, 11)[-len(story(11)) :] != []


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_tells_the_same_story_in_another_process(hash_seed: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", "11"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines()[1:-1] == story(11)


def test_a_violation_is_told_shrunk_and_with_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    mutation = MUTATIONS["leave a finished run in the index"]
    with mutation.made():
        status = main(["--seed", str(mutation.seed), "--runs", "100", "--seconds", "1"])
    told = capsys.readouterr().out
    assert status == 1
    assert "nothing finished is in the index" in told
    assert f"make simulate SEED={mutation.seed}" in told
    assert len(told.splitlines()) < 40


def test_histories_without_a_violation_are_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", "5"]) == 0
    assert "5 histories from seed 0" in capsys.readouterr().out


@pytest.mark.long
def test_two_workers_play_what_one_plays(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for workers in ("1", "2"):
        assert main(["--seed", "400", "--runs", "401", "--workers", workers]) == 0
        told.append(capsys.readouterr().out.splitlines()[:-1])  # the last line has the rate
    assert told[0] == told[1] != []


def test_a_statement_may_remove_attributes_and_show_only_what_it_changed() -> None:
    table = SimulatedTable(lambda: 0, lambda key, old, new: None)
    item = {"pk": "run#a", "sk": "run", "status": "running", "lease_token": "t", "wake_at": 1, "note": "n"}
    table.put_item(TableName="table", Item=typed(item))

    def finish(returning: str) -> dict[str, Any]:
        values = ("succeeded", "t", "run#a", "run", "running")
        return {
            "Statement": 'UPDATE "table" SET "status"=? SET "settled_by"=? REMOVE "lease_token" REMOVE "wake_at" '
            f'WHERE "pk"=? AND "sk"=? AND "status" IN [?] RETURNING {returning} *',
            "Parameters": [{"S": value} for value in values],
        }

    made = table.execute_statement(finish("MODIFIED NEW"))
    refused = table.execute_statement(finish("ALL NEW"))

    assert made["Item"] == typed({"status": "succeeded", "settled_by": "t"})
    assert refused["Error"]["Code"] == "ConditionalCheckFailed"
    assert table.items["run#a", "run"] == {
        "pk": "run#a",
        "sk": "run",
        "status": "succeeded",
        "settled_by": "t",
        "note": "n",
    }


def test_the_simulated_table_answers_as_ministack_does(ministack: LocalAws) -> None:
    for seed in (1, 2):
        name = f"simulated-{uuid.uuid4().hex[:8]}"
        client = ministack.client("dynamodb")
        make_aws(client, ministack.client("sqs"), name=name)
        assert differences(client, name, seed=seed, requests=250, strict=False)[0] == []


@pytest.mark.dynamodb_local
def test_the_simulated_table_answers_as_dynamodb_local_does(dynamodb_local: Any, ministack: LocalAws) -> None:
    for seed in range(10):
        name = f"simulated-{uuid.uuid4().hex[:8]}"
        make_aws(dynamodb_local, ministack.client("sqs"), name=name)
        assert differences(dynamodb_local, name, seed=seed, requests=400, strict=True)[0] == []
