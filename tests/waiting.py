"""How a test waits for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def eventually(look: Callable[[], Found | None], *, seconds: float) -> Found:
    """Return what ``look`` returns as soon as that is true; fail after ``seconds``."""
    give_up = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.05)
    return found
