"""`/api/v1/join-tokens`."""

from datetime import UTC, datetime, timedelta

from fastapi import FastAPI

from api.errors import not_found
from api.schemas.join_tokens import JoinTokenCreate, JoinTokenCreated, JoinTokenRead
from api.schemas.pages import Page, page_of
from tests.fakes.api.state import ApiState


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.get("/api/v1/join-tokens")
    async def listing(limit: int = 100, after: str = "") -> Page[JoinTokenRead]:
        items = [token for token in fake.join_tokens if token.id > after]
        return page_of(items, [item.id for item in items], min(limit, fake.page))

    @app.post("/api/v1/join-tokens", status_code=201)
    async def create(body: JoinTokenCreate) -> JoinTokenCreated:
        now = datetime.now(UTC)
        made = JoinTokenRead(
            id=f"{len(fake.join_tokens):012x}",
            labels=body.labels,
            created_at=now,
            expires_at=now + timedelta(seconds=body.ttl_seconds),
            used_at=None,
            used_by="",
        )
        fake.join_tokens.append(made)
        return JoinTokenCreated(**made.model_dump(), token=f"st-join-{made.id}-secret", authority_fingerprint="ab" * 32)

    @app.delete("/api/v1/join-tokens/{token_id}", status_code=204)
    async def delete(token_id: str) -> None:
        kept = [token for token in fake.join_tokens if token.id != token_id]
        if len(kept) == len(fake.join_tokens):
            raise not_found("join token", token_id)
        fake.join_tokens = kept
