"""`/api/v1/audit`."""

from fastapi import FastAPI

from api.schemas.audit import AuditEntryRead
from api.schemas.pages import Page, page_of
from tests.fakes.api.state import ApiState


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.get("/api/v1/audit")
    async def listing(limit: int = 100) -> Page[AuditEntryRead]:
        return page_of(fake.audit, [str(number) for number in range(len(fake.audit))], limit)
