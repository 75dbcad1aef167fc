"""A history: the choices that a simulation makes, from a seed or from a list, and the lines that tell what happened."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Option = TypeVar("Option")

LIMITS = "limits"
LIMITS_FROM = 10**12
"""Histories from this seed on are about jobs with limits."""

WORKERS = "workers"
WORKERS_FROM = 2 * 10**12
"""Histories from this seed on are about workers that renew their leases."""


class Choices:
    """Choices drawn from a seed, each kept in ``taken``. The first option is always the plainest one."""

    what = ""
    """What the history is about; nothing special if empty."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random
        if seed >= LIMITS_FROM:
            self.what = LIMITS if seed < WORKERS_FROM else WORKERS
        self.taken: list[int] = []

    def below(self, count: int) -> int:
        """Return a number from 0 to ``count - 1``."""
        value = int(self._random() * count)
        self.taken.append(value)
        return value

    def chance(self, probability: float) -> bool:
        """Say yes with a probability."""
        if not probability:
            return False
        value = self._random() < probability
        self.taken.append(value)
        return value

    def of(self, options: Sequence[Option]) -> Option:
        """Return one of ``options``."""
        value = int(self._random() * len(options))
        self.taken.append(value)
        return options[value]


class Replay(Choices):
    """Choices taken from a list; the first option of each where the list has ended."""

    def __init__(self, given: Sequence[int], what: str = "") -> None:
        self._given = given
        self.what = what
        self.taken = []

    def below(self, count: int) -> int:
        at = len(self.taken)
        value = min(self._given[at], count - 1) if at < len(self._given) else 0
        self.taken.append(value)
        return value

    def chance(self, probability: float) -> bool:
        return bool(probability) and bool(self.below(2))

    def of(self, options: Sequence[Option]) -> Option:
        return options[self.below(len(options))]


class Violation(Exception):
    """An invariant does not hold. ``name`` tells which; the text tells where."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        super().__init__(f"{name}: {text}")
