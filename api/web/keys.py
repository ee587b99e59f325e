"""`/keys`: API keys. Each is shown once, on the page that answers its making."""

from datetime import datetime
from typing import Any

from fastapi import Request, Response

from api.deps import ContextDep, KeyPath
from api.errors import ProblemError
from api.routes import keys
from api.schemas.keys import KeyCreate, KeyRead, KeyUpdate, LimitsRead
from api.web.forms import Form, FormDep, checked, refused_field
from api.web.rendering import problem_status, redirect, render
from api.web.route import page_router
from api.web.session import AdminPageDep, Visitor, address_of
from stoker.domain.units import format_count, parse_count, parse_duration

router = page_router()

LIMITS = {
    "requests_per_minute": "Requests a minute",
    "tokens_per_minute": "Tokens a minute",
    "tokens_per_month": "Tokens a month",
    "concurrency": "Requests at once",
}
"""The limits of a key, as its form names them."""

_MOST = 1000


@router.get("/keys")
async def show_keys(request: Request, context: ContextDep, visitor: AdminPageDep, after: str = "") -> Response:
    """All keys, those that can be used first."""
    found = await keys.list_keys(context, visitor.key, limit=_MOST, after=after)
    now = context.clock()
    listed = sorted(found.data, key=lambda key: (standing_of(key, now) != "active", key.name.lower(), key.id))
    return render(
        request,
        "keys.html",
        keys=listed,
        more=found.last if found.has_more else None,
        standing_of=standing_of,
        limits_text=limits_text,
    )


@router.get("/keys/new")
async def show_new_key(request: Request, _: AdminPageDep) -> Response:
    """The form of a key to make."""
    return render(request, "key_new.html", values={}, problem=None, limits=LIMITS)


@router.post("/keys/new")
async def create_key(request: Request, context: ContextDep, visitor: AdminPageDep, form: FormDep) -> Response:
    """Makes a key, and shows it this once."""
    try:
        expiry = {"expires_in_seconds": seconds} if (seconds := _seconds(form)) is not None else {}
        asked = {"name": form.get("name"), "role": form.get("role"), "models": form.words("models")}
        made = await keys.create_key(
            checked(KeyCreate, {**asked, **expiry, "limits": _limits(form)}), context, visitor.key
        )
    except ProblemError as problem:
        status = problem_status(problem)
        return render(request, "key_new.html", status=status, values=form.values(), problem=problem, limits=LIMITS)
    return render(request, "key_made.html", made=made, base_url=f"{address_of(request)}/v1")


@router.get("/keys/{key_id}")
async def show_key(key_id: KeyPath, request: Request, context: ContextDep, visitor: AdminPageDep) -> Response:
    """One key, and what can be changed of it."""
    key = await keys.get_key(key_id, context, visitor.key)
    return _key_page(request, visitor, key)


@router.post("/keys/{key_id}")
async def change_key(
    key_id: KeyPath, request: Request, context: ContextDep, visitor: AdminPageDep, form: FormDep
) -> Response:
    """Changes its name, its models, its limits and, where that is asked for, its end."""
    key = await keys.get_key(key_id, context, visitor.key)
    try:
        changes: dict[str, Any] = {"name": form.get("name"), "models": form.words("models"), "limits": _limits(form)}
        if form.get("expiry") == "never":
            changes["expires_at"] = None
        elif form.get("expiry") == "in":
            changes["expires_in_seconds"] = _seconds(form, needed=True)
        await keys.change_key(key_id, checked(KeyUpdate, changes), context, visitor.key)
    except ProblemError as problem:
        return _key_page(request, visitor, key, form.values(), problem)
    return redirect(request, "/keys", f"the key {form.get('name')} is changed")


@router.post("/keys/{key_id}/revoke")
async def revoke_key(
    key_id: KeyPath, request: Request, context: ContextDep, visitor: AdminPageDep, _: FormDep
) -> Response:
    """For good."""
    key = await keys.get_key(key_id, context, visitor.key)
    await keys.revoke_key(key_id, context, visitor.key)
    return redirect(request, "/keys", f"the key {key.name} is revoked: within a second it opens nothing any more")


def standing_of(key: KeyRead, now: datetime) -> str:
    """`active`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def limits_text(limits: LimitsRead) -> str:
    """`60 requests a minute, 100k tokens a month`; empty: as much as there is."""
    given = limits.model_dump()
    return ", ".join(
        f"{format_count(given[name])} {title[0].lower()}{title[1:]}" for name, title in LIMITS.items() if given[name]
    )


def _key_page(
    request: Request,
    visitor: Visitor,
    key: KeyRead,
    values: dict[str, str] | None = None,
    problem: ProblemError | None = None,
) -> Response:
    """`values`: as they were sent, to be mended; None: as the key has them."""
    if values is None:
        values = {"name": key.name, "models": " ".join(key.models), "expiry": "keep"}
        given = key.limits.model_dump()
        values |= {f"limits.{name}": format_count(given[name]) for name in LIMITS if given[name]}
    return render(
        request,
        "key.html",
        status=problem_status(problem) if problem else 200,
        key=key,
        is_own=key.id == visitor.key.id,
        standing=standing_of(key, request.app.state.context.clock()),
        values=values,
        problem=problem,
        limits=LIMITS,
    )


def _seconds(form: Form, *, needed: bool = False) -> int | None:
    """In how long it expires. Raises ProblemError."""
    text = form.get("expires_in_seconds")
    if not text and not needed:
        return None
    try:
        return int(parse_duration(text))
    except ValueError as error:
        raise refused_field("expires_in_seconds", text, str(error)) from error


def _limits(form: Form) -> dict[str, int | None]:
    """All limits; None: as much as there is. Raises ProblemError."""
    found: dict[str, int | None] = {}
    for name in LIMITS:
        field = f"limits.{name}"
        try:
            found[name] = parse_count(form.get(field)) if field in form else None
        except ValueError as error:
            raise refused_field(field, form.get(field), str(error)) from error
    return found
