"""What is done for the limits beside the path of requests: the month's tokens of other hosts, and tidying up."""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.keyring import KeyRing
from api.limits.counter_file import CounterError
from api.limits.gate import LimitGate
from stoker.domain.rate_limits import month_begins, month_of

_log = structlog.get_logger()

UPKEEP_SECONDS = 3.0
"""What a key used on other hosts counts towards its month within this time."""

IDLE_SECONDS = 600.0
"""The counts of a key that is no more are kept so long."""

TIDY_SECONDS = 60.0
"""How often they are looked for."""

MonthTokens = Callable[[datetime], Mapping[str, int]]
"""The tokens that requests have used which ended since then (a month's beginning, UTC), by key id. May block."""


class Upkeep:
    """Keeps a gate's counters true and few."""

    def __init__(
        self,
        gate: LimitGate,
        keyring: KeyRing,
        month_tokens: MonthTokens,
        clock: Callable[[], datetime],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gate, self._keyring, self._month_tokens = gate, keyring, month_tokens
        self._clock, self._monotonic = clock, monotonic
        self._counted: tuple[int, dict[str, int]] = (0, {})  # the month, and what was taken in of it
        self._tidied_at = monotonic()
        self._troubled = False

    async def refresh(self) -> None:
        """All of it, once. What cannot be done now is done the next time."""
        try:
            if self._gate.reopen_if_moved():
                _log.warning("limits_file_made_anew")
                self._counted = (0, {})
            self._gate.settle_rest()
            await self._count_months()
            now = self._monotonic()
            if now - self._tidied_at >= TIDY_SECONDS and self._keyring.principals:  # none: not read yet
                self._tidied_at = now
                self._gate.keep_only(self._limited(), idle_seconds=IDLE_SECONDS)
        except (CounterError, SQLAlchemyError, ValueError) as error:
            if not self._troubled:
                _log.warning("limits_not_kept_up", error=str(error))
            self._troubled = True
        else:
            self._troubled = False

    async def run(self) -> None:
        """Does so again and again, until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception:  # noqa: BLE001 - the last guard: what could not be settled would stay so
                _log.exception("limits_upkeep_crashed")
            await asyncio.sleep(UPKEEP_SECONDS)

    def _limited(self) -> set[str]:
        return {key_id for key_id, owner in self._keyring.principals.items() if owner.limits is not None}

    async def _count_months(self) -> None:
        owners = self._keyring.principals.items()
        quotas = {key_id for key_id, owner in owners if owner.limits and owner.limits.tokens_per_month is not None}
        if not quotas:
            return
        month = month_of(self._clock().timestamp())
        tokens = await asyncio.to_thread(self._month_tokens, month_begins(month))
        counted = self._counted[1] if self._counted[0] == month else {}
        news = {key_id: count for key_id in quotas if (count := tokens.get(key_id, 0)) != counted.get(key_id, 0)}
        self._gate.count_month(news, month)
        self._counted = (month, counted | news)
