"""`/api/v1/keys`."""

from datetime import datetime, timedelta

from fastapi import APIRouter
from sqlmodel import Session

from api.audit import note
from api.deps import AdminDep, AfterDep, ContextDep, KeyPath, LimitDep
from api.errors import FieldError, ProblemError, not_found, refusals
from api.schemas.keys import LONGEST_EXPIRY_SECONDS, KeyCreate, KeyCreated, KeyRead, KeyUpdate
from api.schemas.pages import Page, page_of
from stoker.domain.keys import KeyLimits, KeyStatus
from stoker.secrets import new_key
from stoker.storage.keys import Keys

router = APIRouter(prefix="/keys", tags=["keys"])

REFUSALS = refusals(401, 403, 404, 413, 422, 503)


@router.post("", status_code=201, responses=REFUSALS)
async def create_key(body: KeyCreate, context: ContextDep, _: AdminDep) -> KeyCreated:
    """Makes a key. It is shown in this answer and never again."""
    key_id, key = new_key()
    note.concerns("key", key_id)
    note.changed(None, body)

    def add(session: Session, now: datetime) -> KeyStatus:
        expires_at = body.expiry(now)
        _check_expiry(expires_at, now)
        return Keys(session, now).add(
            key_id,
            body.name,
            body.role,
            context.secret.digest(key),
            expires_at=expires_at,
            models=body.models,
            limits=KeyLimits(**body.limits.model_dump()),
        )

    status = await context.write(add)
    await context.keyring.refresh()
    return KeyCreated(**KeyRead.of_status(status).model_dump(), key=key)


@router.get("", responses=REFUSALS)
async def list_keys(context: ContextDep, _: AdminDep, limit: LimitDep = 100, after: AfterDep = "") -> Page[KeyRead]:
    """All keys, expired and revoked ones too."""
    items = await context.read(lambda session, now: Keys(session, now).all(after=after, limit=limit + 1))
    return page_of([KeyRead.of_status(item) for item in items], [item.id for item in items], limit)


@router.get("/{key_id}", responses=REFUSALS)
async def get_key(key_id: KeyPath, context: ContextDep, _: AdminDep) -> KeyRead:
    """One key: never the key itself."""
    status = await context.read(lambda session, now: Keys(session, now).get(key_id))
    if status is None:
        raise not_found("key", key_id)
    return KeyRead.of_status(status)


@router.patch("/{key_id}", responses=REFUSALS | refusals(409))
async def change_key(key_id: KeyPath, body: KeyUpdate, context: ContextDep, _: AdminDep) -> KeyRead:
    """Changes a key's name, expiry, models or limits; within a second that counts everywhere."""
    note.concerns("key", key_id)

    def change(session: Session, now: datetime) -> KeyStatus:
        keys = Keys(session, now)
        status = keys.get(key_id, to_change=True)
        if status is None:
            raise not_found("key", key_id)
        wanted = body.merged(status, now)
        note.changed(KeyRead.of_status(status), KeyRead.of_status(wanted))
        if wanted.expires_at != status.expires_at:
            _check_expiry(wanted.expires_at, now)
        if status.revoked_at is not None or not keys.put(wanted):
            raise ProblemError("key_revoked", f"the key {key_id!r} was revoked, for good: make another one")
        return wanted

    status = await context.write(change)
    await context.keyring.refresh()
    return KeyRead.of_status(status)


@router.delete("/{key_id}", status_code=204, responses=REFUSALS)
async def revoke_key(key_id: KeyPath, context: ContextDep, _: AdminDep) -> None:
    """Revokes a key for good; within a second it opens nothing any more."""
    note.concerns("key", key_id)
    if not await context.write(lambda session, now: Keys(session, now).revoke(key_id)):
        raise not_found("key", key_id)
    await context.keyring.refresh()


def _check_expiry(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is None:
        return
    fault = ""
    if expires_at <= now:
        fault = "is past: name a moment to come, or revoke the key"
    elif expires_at > now + timedelta(seconds=LONGEST_EXPIRY_SECONDS):
        fault = "is more than 100 years away: leave it out for a key that never expires"
    if fault:
        message, value = f"{expires_at.isoformat()} {fault}", expires_at.isoformat()
        error = FieldError(field="expires_at", message=message, value=value)
        raise ProblemError("invalid_request", f"expires_at: {message}", errors=[error])
