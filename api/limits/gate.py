"""The gate of the OpenAI door: lets a key's requests in as far as its limits allow, and says so in headers."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import structlog

from api.limits.counter_file import CounterError, CounterFile
from api.limits.counters import Account, Counted, Counters, Refused, Standing
from api.openai.admission import OPEN_ADMISSION, Admission
from api.openai.auth import Principal
from api.openai.errors import RATE_LIMIT, SERVER_ERROR, APIError, Header
from stoker.domain.keys import KeyLimits
from stoker.domain.rate_limits import Refusal, duration_text, month_begins

_log = structlog.get_logger()

INSUFFICIENT_QUOTA = "insufficient_quota"


class LimitGate:
    """A Gate that counts in a file, together with the host's other API processes. For one thread, once a process."""

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens the file, or makes it. `monotonic` and `clock` as Counters takes them. Raises CounterError."""
        self._path, self._monotonic, self._clock = path, monotonic, clock
        self.refusals = dict.fromkeys(Refusal, 0)  # by this process, by reason
        self._known: dict[str, _Known] = {}
        self._unsettled: list[tuple[Counters, Counted, int | None]] = []
        self._counters = self._open()

    def admit(self, principal: Principal, tokens: int) -> Admission:
        """Lets a request in that may take `tokens`. Raises APIError (429; 503 when it cannot be counted)."""
        limits = principal.limits
        if limits is None:
            return OPEN_ADMISSION
        try:
            known = self._known.get(principal.key_id)
            if known is None or known.principal is not principal:
                known = self._meet(principal, limits)
            found = self._counters.admit(known.account, limits, tokens)
        except CounterError as error:
            _log.warning("limits_not_counted", key_id=principal.key_id, reason=str(error))
            raise _uncountable() from error
        if isinstance(found, Refused):
            self.refusals[found.reason] += 1
            raise _refusal(principal, limits, found, tokens, known.headers(limits, found.standing))
        return _Admitted(self, self._counters, found, known.headers(limits, found.standing))

    def settle(self, counters: Counters, counted: Counted, tokens: int | None) -> None:
        """For admissions: what could not be settled is settled later."""
        try:
            counters.settle(counted, tokens)
        except CounterError as error:
            _log.warning("limits_not_settled", reason=str(error))
            self._unsettled.append((counters, counted, tokens))

    def settle_rest(self) -> None:
        """Tries again what could not be settled."""
        waiting, self._unsettled = self._unsettled, []
        for counters, counted, tokens in waiting:
            self.settle(counters, counted, tokens)

    def count_month(self, used: dict[str, int], month: int) -> None:
        """Takes in how many tokens keys have used this month on all hosts together. Raises CounterError."""
        for key_id, tokens in used.items():
            known = self._known.get(key_id)
            account = known.account if known is not None else self._counters.account(key_id)
            self._counters.at_least(account, month, tokens)

    def keep_only(self, key_ids: Collection[str], *, idle_seconds: float) -> None:
        """Forgets the keys that are no more; see Counters.forget. Raises CounterError."""
        for key_id in [key_id for key_id in self._known if key_id not in key_ids]:
            del self._known[key_id]
        self._counters.forget(key_ids, idle_seconds=idle_seconds)

    def reopen_if_moved(self) -> bool:
        """Counts in another file from now on, where the path leads to another one, or none. Raises CounterError."""
        if not self._counters.file.has_moved():
            return False
        self._counters = self._open()
        self._known.clear()
        return True

    def close(self) -> None:
        """Nothing may be admitted or settled afterwards."""
        self._counters.file.close()

    def _open(self) -> Counters:
        return Counters(CounterFile(self._path), monotonic=self._monotonic, clock=self._clock)

    def _meet(self, principal: Principal, limits: KeyLimits) -> "_Known":
        known = _Known(principal, limits, self._counters.account(principal.key_id))
        self._known[principal.key_id] = known
        return known


class _Known:
    """A key with limits, and what of its headers is always the same."""

    __slots__ = ("_requests", "_tokens", "account", "principal")

    def __init__(self, principal: Principal, limits: KeyLimits, account: Account) -> None:
        self.principal, self.account = principal, account
        self._requests = (b"x-ratelimit-limit-requests", b"%d" % (limits.requests_per_minute or 0))
        self._tokens = (b"x-ratelimit-limit-tokens", b"%d" % (limits.tokens_per_minute or 0))

    def headers(self, limits: KeyLimits, standing: Standing) -> list[Header]:
        found: list[Header] = []
        reset = b""
        if limits.requests_per_minute is not None:
            reset = duration_text(standing.requests_reset).encode()
            left = max(0, limits.requests_per_minute - standing.requests)
            found += (
                self._requests,
                (b"x-ratelimit-remaining-requests", b"%d" % left),
                (b"x-ratelimit-reset-requests", reset),
            )
        if limits.tokens_per_minute is not None:
            if not reset or standing.tokens_reset != standing.requests_reset:
                reset = duration_text(standing.tokens_reset).encode()
            left = max(0, limits.tokens_per_minute - standing.tokens)
            found += (
                self._tokens,
                (b"x-ratelimit-remaining-tokens", b"%d" % left),
                (b"x-ratelimit-reset-tokens", reset),
            )
        return found


class _Admitted:
    """One request that was let in."""

    __slots__ = ("_counted", "_counters", "_gate", "headers")

    def __init__(self, gate: LimitGate, counters: Counters, counted: Counted, headers: Sequence[Header]) -> None:
        self._gate, self._counters, self.headers = gate, counters, headers
        self._counted: Counted | None = counted

    def settle(self, tokens: int | None) -> None:
        counted, self._counted = self._counted, None
        if counted is not None:
            self._gate.settle(self._counters, counted, tokens)


def _refusal(principal: Principal, limits: KeyLimits, refused: Refused, tokens: int, headers: list[Header]) -> APIError:
    message = _message(principal, limits, refused, tokens)
    if refused.reason is Refusal.MONTH:
        return APIError(
            429, message, type=INSUFFICIENT_QUOTA, code=INSUFFICIENT_QUOTA, should_retry=False, headers=tuple(headers)
        )
    if refused.reason is Refusal.TOO_LARGE:
        return APIError(
            429, message, type=RATE_LIMIT, code="rate_limit_exceeded", should_retry=False, headers=tuple(headers)
        )
    headers.append((b"retry-after-ms", b"%d" % math.ceil(refused.wait * 1000)))
    return APIError(
        429,
        f"{message} Try again in {duration_text(refused.wait)}.",
        type=RATE_LIMIT,
        code="rate_limit_exceeded",
        retry_after=refused.wait,
        should_retry=True,
        headers=tuple(headers),
    )


def _message(principal: Principal, limits: KeyLimits, refused: Refused, tokens: int) -> str:
    name, standing = repr(principal.name), refused.standing
    may_take = f"this request may take {tokens} (its prompt, and all that it lets the model write)"
    if refused.reason is Refusal.REQUESTS:
        limit = limits.requests_per_minute
        return f"The key {name} may make {limit} requests a minute, and has made {standing.requests}."
    if refused.reason is Refusal.CONCURRENCY:
        return f"The key {name} may have {limits.concurrency} requests worked on at once, and has {standing.in_flight}."
    if refused.reason is Refusal.TOKENS:
        limit = limits.tokens_per_minute
        return f"The key {name} may use {limit} tokens a minute and has used {standing.tokens}; {may_take}."
    if refused.reason is Refusal.TOO_LARGE:
        limit = limits.tokens_per_minute
        return f"The key {name} may use {limit} tokens a minute; {may_take}. Lower 'max_tokens', or shorten the prompt."
    spent = f"The key {name} has used {standing.month_used} of its {limits.tokens_per_month} tokens of this month"
    if refused.reason is Refusal.MONTH_HELD:
        return f"{spent}, and its other requests may take what is left; {may_take}."
    begins = month_begins(refused.month + 1)
    return f"{spent}; {may_take}. The next month begins on {begins:%Y-%m-%d} (UTC)."


def _uncountable() -> APIError:
    return APIError(
        503,
        "The limits of this key cannot be counted just now.",
        type=SERVER_ERROR,
        code="limits_unavailable",
        retry_after=1,
        should_retry=True,
    )
