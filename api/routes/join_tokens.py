"""`/api/v1/join-tokens`: each lets one machine become a worker. `/api/v1/authority`: whom such a machine may trust."""

from datetime import datetime, timedelta

import structlog
from fastapi import APIRouter
from sqlmodel import Session

from api.audit import note
from api.deps import AdminDep, AfterDep, ContextDep, JoinTokenPath, LimitDep
from api.errors import not_found, refusals
from api.schemas.join_tokens import JoinTokenCreate, JoinTokenCreated, JoinTokenRead
from api.schemas.pages import Page, page_of
from stoker.domain.join_tokens import JoinTokenStatus
from stoker.domain.reports import AuthorityAnswer
from stoker.secrets import new_one_time_token
from stoker.storage.join_tokens import JoinTokens

log = structlog.get_logger()
router = APIRouter(tags=["workers"])

REFUSALS = refusals(401, 403, 404, 413, 422, 503)


@router.post("/join-tokens", status_code=201, responses=REFUSALS)
async def create_join_token(body: JoinTokenCreate, context: ContextDep, _: AdminDep) -> JoinTokenCreated:
    """Makes a token with which one machine may join. It is shown in this answer and never again."""
    fingerprint = context.authority.fingerprint
    token_id, token = new_one_time_token(fingerprint)
    note.concerns("join-token", token_id)
    valid = timedelta(seconds=body.ttl_seconds)

    def add(session: Session, now: datetime) -> JoinTokenStatus:
        return JoinTokens(session, now).add(token_id, context.secret.digest(token), labels=body.labels, valid=valid)

    status = await context.write(add)
    log.info("join_token_made", id=token_id, expires_at=status.expires_at.isoformat())
    read = JoinTokenRead.of_status(status).model_dump()
    return JoinTokenCreated(**read, token=token, authority_fingerprint=fingerprint)


@router.get("/join-tokens", responses=REFUSALS)
async def list_join_tokens(
    context: ContextDep, _: AdminDep, limit: LimitDep = 100, after: AfterDep = ""
) -> Page[JoinTokenRead]:
    """The tokens that were made for one machine each: used ones too, and those that expired in the last seven days."""
    items = await context.read(lambda session, now: JoinTokens(session, now).all(after=after, limit=limit + 1))
    return page_of([JoinTokenRead.of_status(item) for item in items], [item.id for item in items], limit)


@router.delete("/join-tokens/{token_id}", status_code=204, responses=REFUSALS)
async def delete_join_token(token_id: JoinTokenPath, context: ContextDep, _: AdminDep) -> None:
    """Takes a token back: from now on it lets nobody in. A worker that joined with it stays."""
    if not await context.write(lambda session, now: JoinTokens(session, now).remove(token_id)):
        raise not_found("join token", token_id)
    log.info("join_token_removed", id=token_id)


@router.get("/authority")
async def get_authority(context: ContextDep) -> AuthorityAnswer:
    """The certificate of the cluster's authority, for everybody: it is no secret."""
    return AuthorityAnswer(certificate=context.authority.certificate, fingerprint=context.authority.fingerprint)
