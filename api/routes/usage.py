"""`/api/v1/usage`."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from api.deps import CallerDep, ContextDep, LimitDep
from api.errors import FieldError, ProblemError, refusals
from api.schemas.moments import Moment
from api.schemas.pages import Page, page_of
from api.schemas.usage import UsageRead, UsageRequestRead
from stoker.domain.base import DEPLOYMENT_NAME_PATTERN
from stoker.domain.keys import KeyStatus, Role
from stoker.domain.usage import UsageBy
from stoker.storage.usage import Stretch, kept_from, place_of, usage_requests, usage_sums

router = APIRouter(prefix="/usage", tags=["usage"])

REFUSALS = refusals(401, 403, 422, 503)

_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Nothing was used before or will be after: what lies beyond is taken for these, that no arithmetic overflows."""

ModelDep = Annotated[str | None, Query(pattern=DEPLOYMENT_NAME_PATTERN, description="Only this deployment's.")]
KeyDep = Annotated[str | None, Query(pattern="^[0-9a-f]{12}$", description="Only this key's, by its id.")]
SinceDep = Annotated[Moment | None, Query(description="Only what ended then or later.")]
UntilDep = Annotated[Moment | None, Query(description="Only what ended before.")]
AfterRequestDep = Annotated[
    str,
    Query(pattern="^([0-9]{1,18}-[0-9]{1,18})?$", description="Only requests behind this: `last` of the page before."),
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
    asked, of_key = _stretch(since, until), _key(caller, key)
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
    asked, of_key = _stretch(since, until), _key(caller, key)
    try:
        place = place_of(after) if after else None
    except ValueError as error:
        raise _refused("after", after, str(error)) from error
    found = await context.read(
        lambda session, _: usage_requests(session, asked, limit=limit + 1, after=place, model=model, key_id=of_key)
    )
    return page_of([UsageRequestRead.of_record(one.record) for one in found], [one.cursor for one in found], limit)


def _stretch(since: datetime | None, until: datetime | None) -> Stretch:
    earliest = None if since is None else min(max(since, _FIRST), _LAST).astimezone(UTC)
    latest = None if until is None else min(max(until, _FIRST), _LAST).astimezone(UTC)
    if since is not None and until is not None and since >= until:
        raise _refused("until", until.isoformat(), f"must be later than since, {since.isoformat()}")
    return Stretch(earliest, latest)


def _key(caller: KeyStatus, asked: str | None) -> str | None:
    """The key whose usage is shown; None: everybody's. Raises ProblemError (403)."""
    if caller.role is Role.ADMIN:
        return asked
    if asked is not None and asked != caller.id:
        raise ProblemError(
            "forbidden", f"the key {caller.name!r} has the role {caller.role}: it sees its own usage, {caller.id}, only"
        )
    return caller.id


def _refused(field: str, value: str, message: str) -> ProblemError:
    errors = [FieldError(field=field, message=message, value=value)]
    return ProblemError("invalid_request", f"{field}: {message}", errors=errors)
