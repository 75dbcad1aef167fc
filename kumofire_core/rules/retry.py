"""When a failed run is attempted again. Pure: ``now`` is an argument, and run and attempt determine the jitter."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kumofire_core.errors import AttemptTimeoutError, ConfigurationError, LeaseExpiredError, short_repr
from kumofire_core.model.error_text import error_leaves, error_places
from kumofire_core.model.steering import RetryAfter
from kumofire_core.model.times import from_ms, require_aware, to_ms

if TYPE_CHECKING:
    from kumofire_core.model.run_view import Run
else:  # so that annotations can be resolved at run time
    Run = Any

log = logging.getLogger("kumofire_core")

DEFAULT_MAX_ATTEMPTS = 3


class RetryPolicy:
    """How often a run is attempted, and when the next attempt is made.

    The default rule is exponential backoff: it waits ``base`` after the first failure and doubles the wait after each
    further one, up to ``cap``. ``jitter`` is the share of each wait that is random, from 0 (none) to 1 ("full jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). The random part is derived from the
    run's id and the attempt, so a history can be replayed.

    ``next_run_at`` replaces this rule, as a method of that name in a subclass does. It gets ``attempt`` (the number of
    failed attempts, from 1), ``error``, ``run`` and ``now``. It returns an aware datetime, or ``None`` to give up
    before the last attempt. If it raises or returns anything else, that is logged, and the default policy's backoff
    decides: an error in a policy does not end the run.

    Raises ``ConfigurationError``, which names every wrong argument.
    """

    __slots__ = ("_rule", "base", "cap", "jitter", "max_attempts")

    def __init__(
        self,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        next_run_at: Callable[..., datetime | None] | None = None,
        *,
        base: timedelta = timedelta(seconds=1),
        cap: timedelta = timedelta(seconds=60),
        jitter: float = 0.0,
    ) -> None:
        problems = []
        if not is_attempt_count(max_attempts):
            problems.append(f"max_attempts must be a whole number of at least 1, not {short_repr(max_attempts)}")
        if next_run_at is not None and not callable(next_run_at):
            problems.append(f"next_run_at must be callable, not {type(next_run_at).__name__}")
        if not isinstance(base, timedelta) or base < timedelta(0):
            problems.append(f"base must be a timedelta that is not negative, not {short_repr(base)}")
        if not isinstance(cap, timedelta) or cap < timedelta(0):
            problems.append(f"cap must be a timedelta that is not negative, not {short_repr(cap)}")
        if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not 0 <= jitter <= 1:
            problems.append(f"jitter must be a number from 0 to 1, not {short_repr(jitter)}")
        if problems:
            raise ConfigurationError(problems)
        self.max_attempts = max_attempts
        self.base = base
        self.cap = cap
        self.jitter = float(jitter)
        self._rule: Callable[..., datetime | None] = next_run_at or self.backoff

    @classmethod
    def patient(cls) -> RetryPolicy:
        """Return a policy for jobs that call a network: about a day of attempts, with jitter.

        The waits double from 10 seconds up to one hour, and half of each wait is random. The 41 attempts take 16 to 32
        hours. The default policy, three attempts within three seconds, does not outlast a short outage.
        """
        return cls(41, base=timedelta(seconds=10), cap=timedelta(hours=1), jitter=0.5)

    def next_run_at(self, *, attempt: int, error: BaseException, run: Run, now: datetime) -> datetime | None:
        """Return when a run with ``attempt`` failed attempts is attempted again, or ``None`` for never."""
        return self._rule(attempt=attempt, error=error, run=run, now=now)

    def backoff(self, *, attempt: int, error: BaseException, run: Run, now: datetime) -> datetime:
        """Return ``now`` plus the exponential backoff after ``attempt`` failed attempts; ``error`` is ignored."""
        # Floats, because a timedelta would overflow. 2**60 times any base is longer than every cap.
        seconds = min(self.base.total_seconds() * 2.0 ** min(max(attempt - 1, 0), 60), self.cap.total_seconds())
        if self.jitter:
            seconds *= 1 - self.jitter * _spread(run.id, attempt)
        return now + timedelta(seconds=seconds)

    def __repr__(self) -> str:
        rule = "backoff" if self._rule == self.backoff else repr(self._rule)
        return f"RetryPolicy(max_attempts={self.max_attempts}, next_run_at={rule}, jitter={self.jitter})"


def next_attempt_at(policy: RetryPolicy, run: Run, error: BaseException, *, now_ms: int) -> int | None:
    """Return the epoch milliseconds of the next attempt after a failed one, or ``None`` for never.

    The time is not in the past. An error in the policy's code does not make it ``None``.
    """
    attempt = run.attempt + 1
    if attempt >= run.max_attempts:
        return None
    now = from_ms(now_ms)
    try:
        moment = policy.next_run_at(attempt=attempt, error=error, run=run, now=now)
        due_ms = None if moment is None else to_ms(require_aware("what next_run_at returned", moment))
    except KeyboardInterrupt:
        raise
    except BaseException as wrong:  # sys.exit() too: an error in a policy does not end the run
        log.error(
            "the retry policy of job %r failed with %s; using the default one",
            run.job_name,
            type(wrong).__name__,
            extra={"job_run_id": run.id, "error_at": error_places(wrong)},
        )
        due_ms = to_ms(RetryPolicy().backoff(attempt=attempt, error=error, run=run, now=now))
    return None if due_ms is None else max(due_ms, now_ms)


def is_retried(
    error: BaseException,
    *,
    retry_on: tuple[type[BaseException], ...] | None,
    fail_on: tuple[type[BaseException], ...],
) -> bool:
    """Return whether a job's ``retry_on`` and ``fail_on`` allow another attempt after this error.

    Of an ``ExceptionGroup`` no leaf may be in ``fail_on``, and every leaf must be in ``retry_on``. Errors that are not
    the handler's own (its time was over, its worker was lost) need not be in ``retry_on``.
    """
    if isinstance(error, RetryAfter) or (retry_on is None and not fail_on):
        return True  # RetryAfter is the handler's own decision
    leaves = error_leaves(error)
    if any(isinstance(each, fail_on) for each in (error, *leaves)):
        return False
    if retry_on is None:
        return True
    retried = (*retry_on, AttemptTimeoutError, LeaseExpiredError)
    return isinstance(error, retried) or all(isinstance(leaf, retried) for leaf in leaves)


def is_attempt_count(value: object) -> bool:
    """Return whether ``value`` is a whole number from 1 to 1,000,000, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000


def _spread(run_id: str, attempt: int) -> float:
    digest = hashlib.sha256(f"{run_id}:{attempt}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7]) / (1 << 56)
