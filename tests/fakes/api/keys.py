"""`/api/v1/keys`."""

from datetime import UTC, datetime

from fastapi import FastAPI

from api.errors import not_found
from api.schemas.keys import KeyCreate, KeyCreated, KeyRead, KeyUpdate
from api.schemas.pages import Page, page_of
from stoker.domain.keys import KeyLimits, KeyStatus
from tests.fakes.api.state import ApiState
from tests.fakes.api.values import CREATED_AT


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.get("/api/v1/keys")
    async def listing(limit: int = 100, after: str = "") -> Page[KeyRead]:
        items = [key for key in fake.keys if key.id > after]
        return page_of(items, [item.id for item in items], min(limit, fake.page))

    @app.post("/api/v1/keys", status_code=201)
    async def create(body: KeyCreate) -> KeyCreated:
        status = KeyStatus(
            id=f"{len(fake.keys):012x}",
            name=body.name,
            role=body.role,
            created_at=CREATED_AT,
            expires_at=body.expiry(datetime.now(UTC)),
            models=tuple(body.models),
            limits=KeyLimits(**body.limits.model_dump()),
        )
        made = KeyRead.of_status(status)
        fake.keys.append(made)
        return KeyCreated(**made.model_dump(), key=f"sk-stoker-{made.id}-secret")

    @app.patch("/api/v1/keys/{key_id}")
    async def change(key_id: str, body: KeyUpdate) -> KeyRead:
        number = find(key_id)
        status = KeyStatus.model_validate(fake.keys[number].model_dump())
        fake.keys[number] = KeyRead.of_status(body.merged(status, datetime.now(UTC)))
        return fake.keys[number]

    @app.delete("/api/v1/keys/{key_id}", status_code=204)
    async def revoke(key_id: str) -> None:
        number = find(key_id)
        fake.keys[number] = fake.keys[number].model_copy(update={"revoked_at": datetime.now(UTC)})

    def find(key_id: str) -> int:
        for number, key in enumerate(fake.keys):
            if key.id == key_id:
                return number
        raise not_found("key", key_id)
