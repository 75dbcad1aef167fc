"""What ``drain`` returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kumofire_core.engine.consumer import ConsumeResult
from kumofire_core.model.run import Outcome


class Drained:
    """What was executed: the results in order, and how many there are of each outcome. False where there are none."""

    def __init__(self) -> None:
        self.results: list[ConsumeResult] = []
        """One for each attempt: ``job_run_id``, ``job_name``, ``outcome``, ``attempt``, ``reason``."""
        self.ignored: list[ConsumeResult] = []
        """Messages without an attempt, such as a second one of a run; ``reason`` says why."""
        self.undone: list[str] = []
        """Messages that the consumer could not consume, and why; they come again."""

    def add(self, result: ConsumeResult) -> None:
        """Add what became of a message."""
        (self.ignored if result.outcome is Outcome.IGNORED else self.results).append(result)

    @property
    def counts(self) -> dict[str, int]:
        """How many attempts ended in each way: ``succeeded``, ``retried``, ``failed``, ``canceled``, ``lease_lost``.

        An attempt whose run sleeps or waits counts as ``retried``.
        """
        return dict(Counter(result.outcome.value for result in self.results))

    @property
    def succeeded(self) -> int:
        """How many runs succeeded."""
        return self.counts.get(Outcome.SUCCEEDED.value, 0)

    @property
    def retried(self) -> int:
        """How many attempts are followed by another one."""
        return self.counts.get(Outcome.RETRIED.value, 0)

    @property
    def failed(self) -> int:
        """How many runs failed."""
        return self.counts.get(Outcome.FAILED.value, 0)

    @property
    def canceled(self) -> int:
        """How many runs were canceled."""
        return self.counts.get(Outcome.CANCELED.value, 0)

    def __bool__(self) -> bool:
        return bool(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[ConsumeResult]:
        return iter(self.results)

    def __repr__(self) -> str:
        listed = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items()) or "nothing executed"
        return f"<Drained: {listed}>"
