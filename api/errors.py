"""Errors of the management API: RFC 9457 problem+json. The one place that turns codes into statuses.

ProblemError            anything that a route refuses
└─ TemporalAwayError    Temporal or the control plane does not answer
"""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnectionError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from stoker.domain.base import DEPLOYMENT_NAME_HINT, DEPLOYMENT_NAME_PATTERN, DNS_LABEL_HINT, DNS_LABEL_PATTERN
from stoker.domain.deployments import COMPUTE_CAPABILITY_HINT, COMPUTE_CAPABILITY_PATTERN
from stoker.domain.model_routes import ROUTE_NAME_HINT, ROUTE_NAME_PATTERN
from stoker.secret_shapes import redacted

log = structlog.get_logger()

PROBLEM_JSON = "application/problem+json"

STATUS_BY_CODE: dict[str, int] = {
    # what an administrator named cannot be used
    "model_not_found": 422,
    "file_not_found": 422,
    "not_gguf": 422,
    "invalid_gguf": 422,
    "truncated_gguf": 422,
    "unsupported_gguf": 422,
    "path_not_allowed": 422,
    "url_not_allowed": 422,
    "ambiguous_model": 422,
    "unsupported_model": 422,
    "access_denied": 422,
    "checksum_mismatch": 422,
    "inspection_failed": 422,
    "hub_unavailable": 503,
    "url_unavailable": 503,
    "no_worker": 503,
    # who asks, and for what
    "invalid_request": 422,
    "unauthorized": 401,
    "worker_replaced": 401,
    "worker_removed": 401,
    "join_token_unknown": 401,
    "join_token_expired": 401,
    "join_token_used": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "body_too_large": 413,
    "generation_conflict": 412,
    "route_conflict": 412,
    "deployment_deleting": 409,
    "nothing_to_undo": 409,
    "file_in_use": 409,
    "file_not_own": 409,
    "worker_in_use": 409,
    "key_revoked": 409,
    "worker_name_taken": 409,
    "too_many_certificates": 429,
    # what we depend on
    "temporal_unavailable": 503,
    "control_plane_unavailable": 503,
    "database_unavailable": 503,
    "worker_unreachable": 502,
    "disk_error": 502,
    "internal_error": 500,
}


_CODE_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 408: "request_timeout", 413: "body_too_large"}
"""Refusals that come from the framework, not from us."""

_LONGEST_VALUE = 200  # characters of what was sent that are repeated


# What a pattern means, for people.
_HINTS = {
    DNS_LABEL_PATTERN: f"write {DNS_LABEL_HINT}",
    DEPLOYMENT_NAME_PATTERN: f"write {DEPLOYMENT_NAME_HINT}",
    COMPUTE_CAPABILITY_PATTERN: f"write {COMPUTE_CAPABILITY_HINT}",
    ROUTE_NAME_PATTERN: f"write {ROUTE_NAME_HINT}",
}


class FieldError(BaseModel):
    """One field that is wrong. `value` is what was sent, where it is short and no object."""

    field: str
    message: str
    value: Any = None


class Problem(BaseModel):
    """What every refusal looks like (application/problem+json)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] = []


class ProblemError(Exception):
    """A refusal with a stable code from STATUS_BY_CODE."""

    def __init__(self, code: str, detail: str, *, errors: list[FieldError] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.errors = code, detail, errors or []


class TemporalAwayError(ProblemError):
    """Temporal (or the control plane behind it) does not answer."""


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's OpenAPI description: the statuses with which it may refuse."""
    return {status: {"model": Problem} for status in statuses}


def not_found(kind: str, name: str) -> ProblemError:
    """There is no such thing."""
    return ProblemError("not_found", f"there is no {kind} {name!r}")


def of_temporal(error: Exception) -> ProblemError:
    """What a failed call to a deployment's workflow means for whoever asked."""
    if isinstance(error, WorkflowUpdateFailedError):
        cause = error.cause
        if isinstance(cause, ApplicationError):
            return ProblemError(cause.type if cause.type in STATUS_BY_CODE else "inspection_failed", cause.message)
        return ProblemError("internal_error", f"the deployment's workflow refused: {cause}")
    if isinstance(error, WorkflowUpdateRPCTimeoutOrCancelledError):
        return TemporalAwayError(
            "control_plane_unavailable",
            "the control plane has not answered yet; it takes the change up when it is back. "
            "See `stoker ps`, and that `stoker control-plane` runs",
        )
    if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
        return ProblemError("not_found", "the deployment is gone already")
    return TemporalAwayError("temporal_unavailable", f"Temporal does not answer: {error}")


def install(app: FastAPI) -> None:
    """Makes every error of the management API a problem; those of the framework are `api.web.addresses`' to answer."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    for away in (OperationalError, InterfaceError, NoFreeConnectionError):
        app.add_exception_handler(away, _on_database)
    app.add_exception_handler(Exception, _on_bug)


def problem_response(
    code: str, detail: str, *, errors: list[FieldError] | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The response for a code."""
    status = STATUS_BY_CODE[code]
    problem = Problem(
        type=f"urn:stoker:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        errors=errors or [],
    )
    sent = dict(headers or {})
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        sent.setdefault("retry-after", "5")
    if status == HTTPStatus.UNAUTHORIZED:
        sent.setdefault("www-authenticate", "Bearer")
    body = problem.model_dump(mode="json")
    return JSONResponse(body, status_code=status, headers=sent, media_type=PROBLEM_JSON)


async def _on_problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)  # noqa: S101  (registered for this type only)
    return problem_response(error.code, error.detail, errors=error.errors)


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    fields = field_errors(error.errors())
    detail = "; ".join(f"{field.field}: {field.message}" for field in fields)
    return problem_response("invalid_request", detail, errors=fields)


def field_errors(errors: Any) -> list[FieldError]:
    """Pydantic's errors, a field each, with what was given."""
    return [_field_error(error) for error in errors]


def _field_error(error: Mapping[str, Any]) -> FieldError:
    if error["type"] == "json_invalid":
        message = f"no valid JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
        return FieldError(field="body", message=message)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        message = _HINTS.get(error["ctx"]["pattern"], message)
    location = [str(part) for part in error["loc"] if part not in ("body", "query", "path", "header")]
    return FieldError(
        field=_sendable(".".join(location)) or "body",
        message=_sendable(message),
        value=_shown(error.get("input")),
    )


def _shown(value: object) -> Any:
    if isinstance(value, str):
        return _sendable(value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    return value if isinstance(value, int | float) else None


def _sendable(text: str) -> str:
    """JSON may spell half a surrogate pair, which UTF-8 cannot carry back."""
    return text.encode(errors="replace").decode()


def of_http(request: Request, error: HTTPException) -> tuple[ProblemError, Mapping[str, str]]:
    """What a refusal of the framework means, and the headers to send with it."""
    code = _CODE_BY_STATUS.get(error.status_code, "invalid_request")
    headers = {"allow": _allowed(request)} if code == "method_not_allowed" else dict(error.headers or {})
    return ProblemError(code, f"{request.method} {request.url.path}: {error.detail}"), headers


def _allowed(request: Request) -> str:
    """The methods that the path answers: the framework tells those of one of its routes only."""
    found = [
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        for scope in [{**request.scope, "method": "GET" if method == "HEAD" else method}]
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    ]
    return ", ".join(found)


async def _on_database(_: Request, error: Exception) -> JSONResponse:
    log.error("database_unavailable", error=str(error))
    return problem_response("database_unavailable", "the database does not answer; try again shortly")


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("unhandled_error", path=redacted(request.url.path), exc_info=error)
    return problem_response("internal_error", "an unexpected error; the server's log has the details")
