"""What was used as REST reads it."""

from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, Field

from stoker.domain.usage import UsageBy, UsageRecord, UsageSums


class UsageSumsRead(BaseModel):
    """The sums of several requests. Times are means, in seconds; null where there is nothing to take the mean of."""

    requests: int
    errors: int = Field(description="Answered with a status of 400 or more.")
    gone: int = Field(description="Their clients left before the answer was whole.")
    input_tokens: int
    output_tokens: int
    cached_tokens: int = Field(description="Of the input, taken from the engine's prompt cache.")
    mean_time_to_first_token: float | None = Field(description="Of streams, from the request's arrival.")
    mean_time_per_output_token: float | None = Field(description="Of streams, between one token and the next.")
    mean_duration: float | None = Field(description="From a request's arrival to the end of its answer.")

    @classmethod
    def of_sums(cls, sums: UsageSums) -> Self:
        """As read from the rows."""
        return cls(**_fields(sums))


class UsageGroupRead(UsageSumsRead):
    """The sums of one group of requests."""

    group: str = Field(description="A model, a key's id, a class of status (2xx … 5xx, gone), an hour or a day (UTC).")

    @classmethod
    def of_group(cls, group: str, sums: UsageSums) -> Self:
        """As read from the rows."""
        return cls(group=group, **_fields(sums))


class UsageRead(BaseModel):
    """Sums by what was asked for, and all of them together."""

    by: UsageBy
    since: datetime | None
    until: datetime | None
    data: list[UsageGroupRead]
    total: UsageSumsRead

    @classmethod
    def of_groups(
        cls, by: UsageBy, since: datetime | None, until: datetime | None, groups: dict[str, UsageSums]
    ) -> Self:
        """As read from the rows."""
        total = UsageSums()
        for sums in groups.values():
            total = total.plus(sums)
        data = [UsageGroupRead.of_group(group, sums) for group, sums in groups.items()]
        return cls(by=by, since=since, until=until, data=data, total=UsageSumsRead.of_sums(total))


class UsageRequestRead(BaseModel):
    """One request. What was said in it is kept nowhere."""

    ended_at: datetime
    key_id: str
    model: str = Field(description="The deployment that answered, or was asked last.")
    asked: str = Field(description="The model as the client named it.")
    instance_id: str = Field(description="The replica that answered, or was asked last; empty: none was.")
    path: str = Field(description="Under /v1.")
    status: int = Field(description="499: the client left before the answer was whole.")
    streamed: bool
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    first_token_seconds: float | None = Field(description="From the request's arrival; null: nothing was streamed.")
    seconds_per_token: float | None = Field(description="Between one token and the next; null: that cannot be told.")
    seconds: float = Field(description="From the request's arrival to the end of its answer.")

    @classmethod
    def of_record(cls, record: UsageRecord) -> Self:
        """As read from its row."""
        values = record._asdict() | {
            "ended_at": datetime.fromtimestamp(record.ended_at, UTC),
            "first_token_seconds": record.first_token_seconds or None,
            "seconds_per_token": record.seconds_per_token or None,
        }
        return cls.model_validate(values)


def _fields(sums: UsageSums) -> dict[str, int | float | None]:
    return {
        "requests": sums.requests,
        "errors": sums.errors,
        "gone": sums.gone,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "cached_tokens": sums.cached_tokens,
        "mean_time_to_first_token": sums.mean_first_token_seconds,
        "mean_time_per_output_token": sums.mean_seconds_per_token,
        "mean_duration": sums.mean_seconds,
    }
