"""How each route of the web page answers: with the page's headers, and refusals in words instead of JSON."""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnectionError

from api.errors import ProblemError, field_errors
from api.web.headers import HEADERS, NOT_KEPT
from api.web.rendering import problem_status, render
from api.web.session import SIGNED_OUT, SignInNeededError, sign_in_path
from stoker.secret_shapes import redacted

log = structlog.get_logger()

_AWAY = (OperationalError, InterfaceError, NoFreeConnectionError)


class PageRoute(APIRoute):
    """A route that answers people."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, and around it what every page has."""
        answer = super().get_route_handler()

        async def answer_people(request: Request) -> Response:
            try:
                response = await answer(request)
            except SignInNeededError:
                response = _to_sign_in(request)
            except ProblemError as problem:
                response = problem_page(request, problem)
            except RequestValidationError as error:
                fields = field_errors(error.errors())
                detail = "; ".join(f"{field.field}: {field.message}" for field in fields)
                response = problem_page(request, ProblemError("invalid_request", detail))
            except _AWAY as error:
                log.error("database_unavailable", error=str(error))
                away = ProblemError("database_unavailable", "the database does not answer; try again shortly")
                response = problem_page(request, away)
            except HTTPException:
                raise
            except Exception as error:  # the last guard: whatever is wrong with us, people get a page
                log.error("unhandled_error", path=redacted(request.url.path), exc_info=error)
                bug = ProblemError("internal_error", "an unexpected error; the server's log has the details")
                response = problem_page(request, bug)
            for name, value in {**NOT_KEPT, **HEADERS}.items():
                response.headers.setdefault(name, value)
            return response

        return answer_people


def page_router() -> APIRouter:
    """A router for pages. They are no part of the API's description."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def problem_page(request: Request, problem: ProblemError) -> Response:
    """A page that says what was refused and why."""
    return render(request, "problem.html", status=problem_status(problem), problem=problem)


def _to_sign_in(request: Request) -> Response:
    path = sign_in_path(request)
    if "text/event-stream" in request.headers.get("accept", ""):  # whoever listens would make nothing of a page
        return Response(SIGNED_OUT, media_type="text/event-stream")
    if "hx-request" in request.headers:  # a part of a page: the whole page goes
        return Response(status_code=401, headers={"hx-redirect": "/sign-in"})
    return RedirectResponse(path, status_code=303)
