"""Signing in and out, and the choice of light or dark."""

from typing import Annotated

import structlog
from fastapi import Query, Request, Response
from sqlalchemy.exc import SQLAlchemyError

from api.deps import ContextDep
from api.errors import ProblemError
from api.web.forms import FormDep, read_form
from api.web.navigation import home_of
from api.web.rendering import THEME_COOKIE, THEMES, problem_status, redirect, render
from api.web.route import page_router
from api.web.session import (
    PageDep,
    comes_by_https,
    end_session,
    forget_session,
    local_path,
    new_session,
    set_session,
    token_of,
    visitor_of,
)

log = structlog.get_logger()

router = page_router()

_A_YEAR = 365 * 24 * 3600

NextDep = Annotated[str, Query(alias="next", max_length=2000)]


@router.get("/sign-in")
async def show_sign_in(request: Request, context: ContextDep, wanted: NextDep = "") -> Response:
    """Asks for a key."""
    visitor = visitor_of(context, token_of(request))
    if visitor is not None:
        return redirect(request, local_path(wanted) or home_of(visitor.key.role))
    return render(request, "sign_in.html", wanted=wanted, problem=None)


@router.post("/sign-in")
async def sign_in(request: Request, context: ContextDep, wanted: NextDep = "") -> Response:
    """Takes a key, and leaves a cookie in its place."""
    form = await read_form(request)
    key = context.keyring.authenticate(form.get("key"))
    if key is None:
        text = "this API key is not known, has expired, or was revoked" if "key" in form else "enter an API key"
        problem = ProblemError("unauthorized", text)
        log.warning("sign_in_refused", client=_client(request), why=text)
        return render(request, "sign_in.html", status=problem_status(problem), wanted=wanted, problem=problem)
    log.info("signed_in", key_id=key.id, key_name=key.name, client=_client(request))
    response = redirect(request, local_path(wanted) or home_of(key.role))
    set_session(response, request, new_session(context.secret, key, context.clock()))
    return response


@router.post("/sign-out")
async def sign_out(request: Request, context: ContextDep, visitor: PageDep, _: FormDep) -> Response:
    """Forgets who it was."""
    log.info("signed_out", key_id=visitor.key.id, key_name=visitor.key.name, client=_client(request))
    told = "you are signed out"
    try:
        await end_session(context, token_of(request) or "")
    except SQLAlchemyError as error:  # the browser is signed out all the same
        log.error("session_end_not_kept", error=str(error))
        told += "; the database does not answer, so a copy of the session's cookie may hold for up to 12 hours"
    response = redirect(request, "/sign-in", told)
    forget_session(response, request)
    return response


@router.post("/theme")
async def choose_theme(request: Request) -> Response:
    """Light, dark, or as the system has it; nobody needs to be signed in."""
    form = await read_form(request)
    theme = form.get("theme")
    if theme not in THEMES:
        raise ProblemError("invalid_request", f"theme: {theme[:50]!r} is none of {', '.join(THEMES)}")
    response = redirect(request, local_path(form.get("next")) or "/")
    response.set_cookie(
        THEME_COOKIE, theme, max_age=_A_YEAR, httponly=True, samesite="strict", secure=comes_by_https(request)
    )
    return response


def _client(request: Request) -> str:
    """The address that asks: behind a proxy the proxy's, as whatever it says of others could be forged."""
    return request.client.host if request.client is not None else ""
