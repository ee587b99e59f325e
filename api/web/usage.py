"""`/usage`: what was used, by model, key or time. A user's key sees its own."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import Query, Request, Response

from api.deps import ApiContext, ContextDep
from api.routes import usage
from api.schemas.usage import UsageGroupRead, UsageRead
from api.web.rendering import render
from api.web.route import page_router
from api.web.session import PageDep, Visitor
from api.web.usage_view import HEIGHT, WIDTH, chart_of
from stoker.domain.base import DEPLOYMENT_NAME_PATTERN
from stoker.domain.usage import UsageBy
from stoker.storage.keys import Keys

router = page_router()

PERIODS = {
    "24h": ("the last 24 hours", timedelta(hours=24)),
    "7d": ("the last 7 days", timedelta(days=7)),
    "30d": ("the last 30 days", timedelta(days=30)),
    "all": ("all time", None),
}
GROUPS = {
    UsageBy.MODEL: "Model",
    UsageBy.KEY: "Key",
    UsageBy.DAY: "Day (UTC)",
    UsageBy.HOUR: "Hour (UTC)",
    UsageBy.STATUS: "Status",
}
_LAST_REQUESTS = 20
_MOST_KEYS = 1000

ModelFilter = Annotated[str, Query(pattern=f"^$|{DEPLOYMENT_NAME_PATTERN}", max_length=63)]
KeyFilter = Annotated[str, Query(pattern="^$|^[0-9a-f]{12}$")]


@router.get("/usage")
async def show_usage(
    request: Request,
    context: ContextDep,
    visitor: PageDep,
    by: UsageBy = UsageBy.MODEL,
    period: Literal["24h", "7d", "30d", "all"] = "7d",
    model: ModelFilter = "",
    key: KeyFilter = "",
) -> Response:
    """Sums over a time, a chart of them, and the last requests."""
    now = context.clock()
    length = PERIODS[period][1]
    since = now - length if length is not None else None
    over = UsageBy.HOUR if length == timedelta(hours=24) else UsageBy.DAY
    of_model, of_key = model or None, key or None

    async def sums_by(what: UsageBy) -> UsageRead:
        return await usage.get_usage(context, visitor.key, by=what, since=since, model=of_model, key=of_key)

    sums = await sums_by(by)
    over_time = sums if by is over else await sums_by(over)
    last = await usage.list_usage_requests(
        context, visitor.key, since=since, model=of_model, key=of_key, limit=_LAST_REQUESTS
    )
    names = await key_names(context, visitor)
    return render(
        request,
        "usage.html",
        by=by,
        period=period,
        model=model,
        key=key,
        key_names=names,
        periods={name: title for name, (title, _) in PERIODS.items()},
        groups=GROUPS,
        sums=sums,
        title_of=lambda group: title_of(group, by, names),
        chart=chart_of(over_time.data, over, since, now),
        chart_of_hours=over is UsageBy.HOUR,
        chart_size=(WIDTH, HEIGHT),
        requests=last.data,
    )


async def key_names(context: ApiContext, visitor: Visitor) -> Mapping[str, str]:
    """What keys are called, by id, as far as the visitor may know."""
    if not visitor.is_admin:
        return {visitor.key.id: visitor.key.name}
    found = await context.read(lambda session, now: Keys(session, now).all(after="", limit=_MOST_KEYS))
    return {status.id: status.name for status in found}


def title_of(group: UsageGroupRead, by: UsageBy, names: Mapping[str, str]) -> str:
    """What a line of the table is about."""
    if by is UsageBy.KEY:
        return f"{names[group.group]} ({group.group})" if group.group in names else group.group or "no key"
    return group.group or "\N{EN DASH}"
