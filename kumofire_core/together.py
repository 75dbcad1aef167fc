"""Claims made together: an accelerator for a batch, which no answer of the service can make wrong.

Ten claims in one request save most of what ten requests cost. But what DynamoDB does inside a batch of PartiQL
statements is documented in part only. So a run counts as claimed only if it comes back with this claim's own token; for
every other one the ordinary claim is made, with the same token, and decides. Free of boto3.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from kumofire_core import transitions
from kumofire_core.failure import error_name
from kumofire_core.run import StoredRun
from kumofire_core.runs import Runs, new_token

log = logging.getLogger("kumofire_core")

MOST_STATEMENTS = 25
"""https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchExecuteStatement.html"""

PATIENCE = 5
"""After this many requests in a row that claimed nothing, a process makes its claims one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyClaim:
    """A claim that was tried together with others."""

    token: str
    claimed: StoredRun | None
    """The run, where the claim surely was made; ``None`` leaves it undecided."""


class ClaimsTogether:
    """Tries claims in one request, for as long as that gains something. Never raises for what the service does."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._in_vain = 0

    def try_claims(self, run_ids: Sequence[str], *, longest_ms: int) -> dict[str, EarlyClaim]:
        """Try to claim up to 25 different runs; return what is known of each that was tried."""
        wanted = list(dict.fromkeys(run_ids))[:MOST_STATEMENTS]
        if len(wanted) < 2 or self._in_vain >= PATIENCE:
            return {}
        now_ms = self._runs.now_ms()
        tokens = {run_id: new_token() for run_id in wanted}
        claims = {
            run_id: transitions.claim(token, now_ms=now_ms, longest_ms=longest_ms, heeds_timeout=False)
            for run_id, token in tokens.items()
        }
        try:
            claimed = self._runs.try_together(claims)
        except Exception as error:  # whatever it is, the ordinary claims decide
            log.warning("claims could not be made together: %s", error_name(error))
            claimed = {}
        self._in_vain = 0 if claimed else self._in_vain + 1
        if self._in_vain == PATIENCE:
            log.warning("claims made together gain nothing here; this process makes them one by one from now on")
        return {run_id: EarlyClaim(token=token, claimed=claimed.get(run_id)) for run_id, token in tokens.items()}
