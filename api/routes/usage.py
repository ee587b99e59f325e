"""`/api/v1/usage`."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.by_time import place, stretch
from api.deps import CallerDep, ContextDep, LimitDep
from api.errors import ProblemError, refusals
from api.schemas.moments import Moment
from api.schemas.pages import Page, page_of
from api.schemas.usage import UsageRead, UsageRequestRead
from stoker.domain.base import DEPLOYMENT_NAME_PATTERN
from stoker.domain.keys import KeyStatus, Role
from stoker.domain.usage import UsageBy
from stoker.storage.by_time import CURSOR_PATTERN
from stoker.storage.usage import kept_from, usage_requests, usage_sums

router = APIRouter(prefix="/usage", tags=["usage"])

REFUSALS = refusals(401, 403, 422, 503)

ModelDep = Annotated[str | None, Query(pattern=DEPLOYMENT_NAME_PATTERN, description="Only this deployment's.")]
KeyDep = Annotated[str | None, Query(pattern="^[0-9a-f]{12}$", description="Only this key's, by its id.")]
SinceDep = Annotated[Moment | None, Query(description="Only what ended then or later.")]
UntilDep = Annotated[Moment | None, Query(description="Only what ended before.")]
AfterRequestDep = Annotated[
    str,
    Query(pattern=CURSOR_PATTERN, description="Only requests behind this: `last` of the page before."),
]


@router.get("", responses=REFUSALS)
async def get_usage(
    context: ContextDep,
    caller: CallerDep,
    by: UsageBy = UsageBy.MODEL,
    since: SinceDep = None,
    until: UntilDep = None,
    model: ModelDep = None,
    key: KeyDep = None,
) -> UsageRead:
    """The sums of what requests used, by model, key, hour, day or class of status. A user's key sees its own only.

    Sums are kept for good, single requests for a time: of what lies further back, an hour of which a part is asked
    for counts whole. What has just ended comes in within two seconds.
    """
    asked, of_key = stretch(since, until), _key(caller, key)
    groups = await context.read(
        lambda session, now: usage_sums(
            session, by, asked, kept=kept_from(now, context.usage_days), model=model, key_id=of_key
        )
    )
    return UsageRead.of_groups(by, asked.since, asked.until, groups)


@router.get("/requests", responses=REFUSALS)
async def list_usage_requests(
    context: ContextDep,
    caller: CallerDep,
    since: SinceDep = None,
    until: UntilDep = None,
    model: ModelDep = None,
    key: KeyDep = None,
    limit: LimitDep = 100,
    after: AfterRequestDep = "",
) -> Page[UsageRequestRead]:
    """Single requests, the last ones first, as long as they are kept. A user's key sees its own only."""
    asked, of_key, behind = stretch(since, until), _key(caller, key), place(after)
    found = await context.read(
        lambda session, _: usage_requests(session, asked, limit=limit + 1, after=behind, model=model, key_id=of_key)
    )
    return page_of([UsageRequestRead.of_record(one.record) for one in found], [one.cursor for one in found], limit)


def _key(caller: KeyStatus, asked: str | None) -> str | None:
    """The key whose usage is shown; None: everybody's. Raises ProblemError (403)."""
    if caller.role is Role.ADMIN:
        return asked
    if asked is not None and asked != caller.id:
        raise ProblemError(
            "forbidden", f"the key {caller.name!r} has the role {caller.role}: it sees its own usage, {caller.id}, only"
        )
    return caller.id
