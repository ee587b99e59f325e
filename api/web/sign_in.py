"""Signing in and out, and the choice of light or dark."""

from typing import Annotated

from fastapi import Query, Request, Response

from api.deps import ContextDep
from api.errors import ProblemError
from api.web.forms import FormDep, read_form
from api.web.navigation import home_of
from api.web.rendering import THEME_COOKIE, THEMES, problem_status, redirect, render
from api.web.route import page_router
from api.web.session import (
    COOKIE,
    comes_by_https,
    end_session,
    local_path,
    new_session,
    set_session,
    visitor_of,
)

router = page_router()

_A_YEAR = 365 * 24 * 3600

NextDep = Annotated[str, Query(alias="next", max_length=2000)]


@router.get("/sign-in")
async def show_sign_in(request: Request, context: ContextDep, wanted: NextDep = "") -> Response:
    """Asks for a key."""
    visitor = visitor_of(context, request.cookies.get(COOKIE))
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
        return render(request, "sign_in.html", status=problem_status(problem), wanted=wanted, problem=problem)
    response = redirect(request, local_path(wanted) or home_of(key.role))
    set_session(response, request, new_session(context.secret, key, context.clock()))
    return response


@router.post("/sign-out")
async def sign_out(request: Request, _: FormDep) -> Response:
    """Forgets who it was."""
    response = redirect(request, "/sign-in", "you are signed out")
    end_session(response)
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
