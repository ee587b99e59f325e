"""`/api/v1/audit`."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.by_time import place, stretch
from api.deps import AdminDep, ContextDep, LimitDep
from api.errors import refusals
from api.schemas.audit import AuditEntryRead
from api.schemas.moments import Moment
from api.schemas.pages import Page, page_of
from stoker.storage.audit import AuditFilter, audit_entries
from stoker.storage.by_time import CURSOR_PATTERN

router = APIRouter(prefix="/audit", tags=["audit"])

ByDep = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=100,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]+$",
        description="Only of this key, by its id or its name then.",
    ),
]
ObjectDep = Annotated[
    str | None,
    Query(
        max_length=300,
        pattern="^[a-z-]+(/[^\\x00-\\x1f\\x7f-\\x9f]+)?$",
        description="Only about this: deployment/smol, or every deployment.",
    ),
]
SinceDep = Annotated[Moment | None, Query(description="Only what came in then or later.")]
UntilDep = Annotated[Moment | None, Query(description="Only what came in before.")]
RefusedDep = Annotated[bool | None, Query(description="true: only what was refused or failed; false: only the rest.")]
AfterEntryDep = Annotated[
    str, Query(pattern=CURSOR_PATTERN, description="Only entries behind this: `last` of the page before.")
]


@router.get("", responses=refusals(401, 403, 422, 503))
async def list_audit(
    context: ContextDep,
    _: AdminDep,
    by: ByDep = None,
    object: ObjectDep = None,
    since: SinceDep = None,
    until: UntilDep = None,
    refused: RefusedDep = None,
    limit: LimitDep = 100,
    after: AfterEntryDep = "",
) -> Page[AuditEntryRead]:
    """Who changed what, or was refused to, the last ones first. What has just been asked for comes in within a second.

    Reports and certificates of agents are not in it, nor are questions (estimates, placements, dry runs).
    """
    asked, behind = AuditFilter(stretch(since, until), by, object, refused), place(after)
    found = await context.read(lambda session, _: audit_entries(session, asked, limit=limit + 1, after=behind))
    return page_of([AuditEntryRead.of_entry(one.entry) for one in found], [one.cursor for one in found], limit)
