"""`/api/v1/usage`."""

from datetime import datetime

from fastapi import FastAPI

from api.schemas.usage import UsageRead
from stoker.domain.usage import UsageBy
from tests.fakes.api.state import ApiState


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.get("/api/v1/usage")
    async def sums(
        by: UsageBy = UsageBy.MODEL,
        since: datetime | None = None,
        until: datetime | None = None,
        model: str | None = None,
    ) -> UsageRead:
        groups = {name: of for name, of in fake.usage.items() if by is not UsageBy.MODEL or model in (None, name)}
        return UsageRead.of_groups(by, since, until, groups)
