"""The job behind the API: it counts the words of a text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kumofire_core import Cancel, JobContext, Jobs

jobs = Jobs.from_env()


@dataclass
class Text:
    """What a client sends."""

    text: str


@dataclass
class Words:
    """What comes of it."""

    total: int
    most_used: dict[str, int]


@jobs.handler("count-words")
def count_words(ctx: JobContext[Text]) -> Words:
    """Count line by line, tell how far it is, and stop where somebody canceled the run."""
    counted: Counter[str] = Counter()
    lines = ctx.payload.text.splitlines()
    for number, line in enumerate(lines, start=1):
        if ctx.cancel_requested():
            raise Cancel
        counted.update(line.lower().split())
        ctx.progress(number / len(lines), f"line {number} of {len(lines)}")
    return Words(total=counted.total(), most_used=dict(counted.most_common(3)))
