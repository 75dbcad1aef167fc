"""Making a history that violates an invariant shorter, by making its choices plainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import monotonic


def shrink(taken: Sequence[int], still_fails: Callable[[list[int]], list[int] | None], *, seconds: float) -> list[int]:
    """Return the plainest choices found in ``seconds`` that still fail.

    ``still_fails`` plays choices and returns those that were taken, or ``None`` where nothing is violated any more. A
    choice of 0 is the plainest, and what is cut off counts as 0; so fewer and smaller numbers make a simpler history.
    """
    ends, best = monotonic() + seconds, list(taken)

    def keep(candidate: list[int]) -> bool:
        nonlocal best
        if monotonic() > ends or _size(candidate) >= _size(best):
            return False
        played = still_fails(candidate)
        if played is None:
            return False
        best = min(_trimmed(candidate), _trimmed(played), key=_size)
        return True

    improved = True
    while improved and monotonic() < ends:
        improved = False
        width = max(1, len(best) // 2)
        while width and monotonic() < ends:
            at = 0
            while at < len(best) and monotonic() < ends:
                if any(keep(plainer) for plainer in _plainer(best, at, width)):
                    improved = True
                else:
                    at += width
            width //= 2
    return best


def _plainer(choices: list[int], at: int, width: int) -> Iterator[list[int]]:
    before, part, after = choices[:at], choices[at : at + width], choices[at + width :]
    yield before + after
    if any(part):
        yield before + [0] * len(part) + after
    if width == 1 and part[0] > 1:
        yield [*before, part[0] - 1, *after]


def _trimmed(choices: list[int]) -> list[int]:
    while choices and not choices[-1]:
        choices = choices[:-1]
    return choices


def _size(choices: list[int]) -> tuple[int, int]:
    trimmed = _trimmed(choices)
    return len(trimmed), sum(trimmed)
