"""What was used: one record a request to /v1, and the sums of them."""

from enum import StrEnum
from typing import NamedTuple

GONE = 499
"""The status of a request whose client left before its answer was whole; no answer was sent with it."""


def status_class(status: int) -> str:
    """`4xx` for 404; `gone` for GONE."""
    return "gone" if status == GONE else f"{status // 100}xx"


class UsageRecord(NamedTuple):
    """One request to a model, when it is over. Made on the hot path: a tuple, with nothing to check.

    Tokens: `input_tokens` were read, `cached_tokens` of them from the engine's prompt cache; `output_tokens` were
    written. All 0 where the engine did not say.
    """

    ended_at: float  # Unix seconds
    key_id: str  # empty: keys are off
    model: str  # the deployment that answered, or was asked last
    asked: str  # the model as the client named it
    instance_id: str  # the replica that answered, or was asked last; empty: none was
    path: str  # under /v1
    status: int  # HTTP's; GONE
    streamed: bool
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    first_token_seconds: float  # from the request's arrival; 0: not streamed, or none came
    seconds: float  # from the request's arrival to the end of its answer

    @property
    def seconds_per_token(self) -> float:
        """Between one written token and the next, of a stream; 0 where that cannot be told."""
        if self.output_tokens < 2 or not self.first_token_seconds:
            return 0.0
        return max(0.0, self.seconds - self.first_token_seconds) / (self.output_tokens - 1)


class UsageBy(StrEnum):
    """What sums are asked for by: one for each deployment, key, hour or day (UTC), or class of status."""

    MODEL = "model"
    KEY = "key"
    HOUR = "hour"
    DAY = "day"
    STATUS = "status"


class UsageSums(NamedTuple):
    """The sums of several requests."""

    requests: int = 0
    errors: int = 0  # answered with a status of 400 or more
    gone: int = 0  # their clients left before
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    first_token_seconds: float = 0.0  # of all streams together
    streams: int = 0  # that had a first token
    next_tokens_seconds: float = 0.0  # of all streams that wrote more than one token: from the first to the end
    next_tokens: int = 0  # that they wrote after their first
    seconds: float = 0.0  # of all requests together

    def plus(self, other: "UsageSums") -> "UsageSums":
        """Both together."""
        return UsageSums._make(ours + theirs for ours, theirs in zip(self, other, strict=True))

    @property
    def mean_first_token_seconds(self) -> float | None:
        """From a request's arrival to its first token; None where nothing was streamed."""
        return self.first_token_seconds / self.streams if self.streams else None

    @property
    def mean_seconds_per_token(self) -> float | None:
        """Between one written token and the next, over all tokens; None where nothing was streamed."""
        return self.next_tokens_seconds / self.next_tokens if self.next_tokens else None

    @property
    def mean_seconds(self) -> float | None:
        """From a request's arrival to the end of its answer; None without requests."""
        return self.seconds / self.requests if self.requests else None
