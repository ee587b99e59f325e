"""Counting requests and tokens by key, together with all processes that have the same file open."""

import math
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from api.limits.counter_file import KEY, CounterError, CounterFile, word_of
from api.limits.record import (
    HELD,
    IN_FLIGHT,
    LAST_SECOND,
    MONTH,
    MONTH_USED,
    REQUEST_BUCKETS,
    REQUESTS,
    SLOT_HELD,
    SLOT_IN_FLIGHT,
    TOKEN_BUCKETS,
    TOKENS,
    begin,
    drop_slot,
    end,
    holders,
    move_to,
    set_right,
    window,
)
from stoker.domain.keys import KeyLimits
from stoker.domain.rate_limits import (
    BUCKETS,
    MOMENTARY_SECONDS,
    Refusal,
    correction,
    month_begins,
    month_of,
    refusals,
    seconds_until_empty,
    seconds_until_room,
)

_TRIES = 3  # to find a record that others give to somebody else meanwhile


class Standing(NamedTuple):
    """What a key has used when a request was let in, that one included, or refused."""

    requests: int  # of the minute
    tokens: int
    in_flight: int
    month_used: int
    requests_reset: float  # seconds until none of the minute's requests counts any more
    tokens_reset: float


class Account:
    """One key's record, as this process knows it."""

    __slots__ = ("number", "record", "word")

    def __init__(self, word: int, number: int, record: memoryview) -> None:
        self.word, self.number, self.record = word, number, record


class Counted(NamedTuple):
    """A request that was let in: what is needed to settle it."""

    account: Account
    reserved: int
    second: int
    standing: Standing


class Refused(NamedTuple):
    """A request that was not. `wait` seconds until it would be, if nothing else comes in between; inf: never."""

    reason: Refusal
    wait: float
    month: int  # see month_of
    standing: Standing


class Counters:
    """The counters of one file, for this process. Every method may raise CounterError, having changed nothing."""

    def __init__(
        self,
        file: CounterFile,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`monotonic`: seconds, the same in all processes of the host; `clock`: Unix seconds."""
        self.file = file
        self._monotonic, self._clock = monotonic, clock
        self._in_flight, self._held = SLOT_IN_FLIGHT + file.slot, SLOT_HELD + file.slot  # our own words of each record
        self._month, self._month_ends = 0, 0.0
        for number in range(1, file.records + 1):
            with file.locked(number):
                record = file.record(number)
                if record[KEY]:
                    drop_slot(record, file.slot)  # whoever had it before us is dead
                    set_right(record)

    def account(self, key_id: str) -> Account:
        """The key's record."""
        word = word_of(key_id)
        number = self.file.find(word)
        return Account(word, number, self.file.record(number))

    def admit(self, account: Account, limits: KeyLimits, tokens: int) -> Counted | Refused:
        """Lets a request in that may take `tokens`, or says why not."""
        record = self._enter(account)
        try:
            now = self._monotonic()
            second = int(now)
            month_used = self._bring_up_to(record, second)
            reasons = _reasons(record, limits, tokens)
            if reasons and self._reclaim(record):
                reasons = _reasons(record, limits, tokens)
            if reasons:
                refused = _refused(record, limits, tokens, reasons, now)
                end(record)
                return refused
            bucket = second % BUCKETS
            record[REQUEST_BUCKETS + bucket] += 1
            record[TOKEN_BUCKETS + bucket] += tokens
            record[self._in_flight] += 1
            record[self._held] += tokens
            record[REQUESTS] = requests = record[REQUESTS] + 1
            record[TOKENS] = used = record[TOKENS] + tokens
            record[IN_FLIGHT] = in_flight = record[IN_FLIGHT] + 1
            record[HELD] += tokens
            end(record)
        finally:
            self.file.unlock(account.number)
        reset = second + BUCKETS - now  # it is itself the last that will be forgotten
        return Counted(account, tokens, second, Standing(requests, used, in_flight, month_used, reset, reset))

    def settle(self, counted: Counted, tokens: int | None) -> None:
        """The request is over, having used so many tokens; None: none."""
        account, reserved = counted.account, counted.reserved
        record = self._enter(account)
        try:
            second = int(self._monotonic())
            month_used = self._bring_up_to(record, second)
            used = tokens or 0
            then, now = correction(reserved, used, second - counted.second)
            if then:
                bucket = TOKEN_BUCKETS + counted.second % BUCKETS
                then = max(then, -record[bucket])  # less where the record was made anew since
                record[bucket] += then
            if now:
                record[TOKEN_BUCKETS + second % BUCKETS] += now
            record[TOKENS] += then + now
            record[MONTH_USED] = month_used + used
            if record[self._in_flight] > 0:
                held = min(reserved, record[self._held])
                record[self._in_flight] -= 1
                record[self._held] -= held
                record[IN_FLIGHT] -= 1
                record[HELD] -= held
            end(record)
        finally:
            self.file.unlock(account.number)

    def at_least(self, account: Account, month: int, used: int) -> None:
        """The month's tokens are `used` at least, says somebody who knows of other hosts too.

        The larger number is right: what was counted here and is not known there yet is in ours, what was counted
        elsewhere is in theirs.
        """
        record = self._enter(account)
        try:
            if self._bring_up_to(record, int(self._monotonic())) < used and record[MONTH] == month:
                record[MONTH_USED] = used
            end(record)
        finally:
            self.file.unlock(account.number)

    def forget(self, kept: Collection[str], *, idle_seconds: float) -> None:
        """Gives up the records of all keys but `kept` in which nothing was counted for so long.

        The pause is for processes that do not know yet of a key that was just made.
        """
        words = {word_of(key_id) for key_id in kept}
        now = self._monotonic()
        for number in range(1, self.file.records + 1):
            record = self.file.record(number)
            if not record[KEY] or record[KEY] in words:
                continue
            with self.file.locked(number):
                # A last second that is still to come is from before the host's last start.
                if record[KEY] not in words and not now - idle_seconds <= record[LAST_SECOND] <= now:
                    begin(record)
                    self._reclaim(record)
                    if not record[IN_FLIGHT]:
                        record[KEY] = 0
                    end(record)

    def _enter(self, account: Account) -> memoryview:
        """Takes the lock on the key's record, to change it. It may have become another key's since the last time."""
        for _ in range(_TRIES):
            self.file.lock(account.number)
            record = account.record
            if record[KEY] == account.word:
                begin(record)
                return record
            self.file.unlock(account.number)
            account.number = self.file.find(account.word)
            account.record = self.file.record(account.number)
        raise CounterError(f"{self.file.path}: a key's record is given away again and again")

    def _bring_up_to(self, record: memoryview, second: int) -> int:
        """Empties what has left the window; begins a new month. Returns the month's tokens."""
        move_to(record, second)
        now = self._clock()
        if now >= self._month_ends:
            self._month = month_of(now)
            self._month_ends = month_begins(self._month + 1).timestamp()
        if record[MONTH] != self._month:
            record[MONTH_USED] = 0
            record[MONTH] = self._month
        used: int = record[MONTH_USED]
        return used

    def _reclaim(self, record: memoryview) -> bool:
        """Gives back what processes held that have died since. Whether there was any such."""
        dead = [slot for slot in holders(record) if self.file.is_dead(slot)]
        for slot in dead:
            drop_slot(record, slot)
        return bool(dead)


def _reasons(record: memoryview, limits: KeyLimits, tokens: int) -> tuple[Refusal, ...]:
    return refusals(
        limits,
        tokens,
        requests=record[REQUESTS],
        used=record[TOKENS],
        in_flight=record[IN_FLIGHT],
        month_used=record[MONTH_USED],
        month_held=record[HELD],
    )


def _refused(record: memoryview, limits: KeyLimits, tokens: int, reasons: tuple[Refusal, ...], now: float) -> Refused:
    second = int(now)
    requests, used = window(record, REQUEST_BUCKETS, second), window(record, TOKEN_BUCKETS, second)

    def wait(reason: Refusal) -> float:
        if reason in (Refusal.MONTH, Refusal.TOO_LARGE):
            return math.inf
        if reason is Refusal.REQUESTS:
            return second - now + seconds_until_room(requests, sum(requests) + 1 - (limits.requests_per_minute or 0))
        if reason is Refusal.TOKENS:
            return second - now + seconds_until_room(used, sum(used) + tokens - (limits.tokens_per_minute or 0))
        return MOMENTARY_SECONDS

    longest = max(reasons, key=wait)
    standing = Standing(
        record[REQUESTS],
        record[TOKENS],
        record[IN_FLIGHT],
        record[MONTH_USED],
        max(0.0, second - now + seconds_until_empty(requests)),
        max(0.0, second - now + seconds_until_empty(used)),
    )
    return Refused(longest, wait(longest), record[MONTH], standing)
