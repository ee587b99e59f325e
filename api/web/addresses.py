"""Addresses that there are not: who typed one gets a page, a program the JSON that it reads."""

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from api.errors import of_http, problem_response
from api.web.headers import HEADERS, NOT_KEPT
from api.web.route import problem_page
from api.web.session import token_of, visitor_of

_FOR_PROGRAMS = "/api/"


def install(app: FastAPI) -> None:
    """Makes the framework's own refusals pages where people asked."""
    app.add_exception_handler(HTTPException, _on_http)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for this type only)
    problem, headers = of_http(request, error)
    wants_page = "text/html" in request.headers.get("accept", "")
    if not wants_page or request.url.path.startswith(_FOR_PROGRAMS):
        return problem_response(problem.code, problem.detail, headers=headers)
    request.state.visitor = visitor_of(request.app.state.context, token_of(request))
    page = problem_page(request, problem)
    page.headers.update({**NOT_KEPT, **HEADERS, **headers})
    return page
