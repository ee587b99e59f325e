"""`/api/v1/keys`."""

from datetime import datetime

from fastapi import APIRouter
from sqlmodel import Session

from api.deps import AdminDep, AfterDep, ContextDep, KeyPath, LimitDep
from api.errors import not_found, refusals
from api.schemas.keys import KeyCreate, KeyCreated, KeyRead
from api.schemas.pages import Page, page_of
from stoker.domain.keys import KeyStatus
from stoker.secrets import new_key
from stoker.storage.keys import Keys

router = APIRouter(prefix="/keys", tags=["keys"])

REFUSALS = refusals(401, 403, 404, 413, 422, 503)


@router.post("", status_code=201, responses=REFUSALS)
async def create_key(body: KeyCreate, context: ContextDep, _: AdminDep) -> KeyCreated:
    """Makes a key. It is shown in this answer and never again."""
    key_id, key = new_key()

    def add(session: Session, now: datetime) -> KeyStatus:
        return Keys(session, now).add(key_id, body.name, body.role, context.secret.digest(key))

    status = await context.write(add)
    await context.keyring.refresh()
    return KeyCreated(**KeyRead.of_status(status).model_dump(), key=key)


@router.get("", responses=REFUSALS)
async def list_keys(context: ContextDep, _: AdminDep, limit: LimitDep = 100, after: AfterDep = "") -> Page[KeyRead]:
    """All keys, revoked ones too."""
    items = await context.read(lambda session, now: Keys(session, now).all(after=after, limit=limit + 1))
    return page_of([KeyRead.of_status(item) for item in items], [item.id for item in items], limit)


@router.delete("/{key_id}", status_code=204, responses=REFUSALS)
async def revoke_key(key_id: KeyPath, context: ContextDep, _: AdminDep) -> None:
    """Revokes a key for good; within a second it opens nothing any more."""
    if not await context.write(lambda session, now: Keys(session, now).revoke(key_id)):
        raise not_found("key", key_id)
    await context.keyring.refresh()
