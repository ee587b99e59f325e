"""Makes an entry of each request that changes something or was refused to, as plain ASGI around all routes."""

import re
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.audit.note import Note, current_note
from stoker.domain.audit import UNANSWERED, AuditEntry
from stoker.secret_shapes import redacted

PREFIX = "/api/v1/"

QUESTIONS = frozenset({"create_estimate", "create_placements"})
"""Operations that change nothing."""

ROUTINE = frozenset({"report_worker", "certify_worker"})
"""What agents do by themselves, again and again, with their own credential."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LONGEST_TEXT = 300  # characters of what a client chose freely
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def audited(app: ASGIApp, record: Callable[[AuditEntry], None], clock: Callable[[], datetime]) -> ASGIApp:
    """`record` is called once an entry, when the request is over; it must take it at once.

    What no route takes is no change. Elsewhere than under `/api/v1` only that is one of which `note.concerns` was told.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _SAFE:
            await app(scope, receive, send)
            return
        at, note, status = clock(), Note(), UNANSWERED

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = current_note.set(note)
        try:
            await app(scope, receive, noting)
        finally:
            current_note.reset(token)
            if _is_change(scope, note, status):
                record(_entry(scope, note, at, status))

    return wrapped


def _is_change(scope: Scope, note: Note, status: int) -> bool:
    if note.is_question or status == HTTPStatus.METHOD_NOT_ALLOWED:
        return False
    if not scope["path"].startswith(PREFIX):
        return bool(note.object)
    return "route" in scope and scope["route"].name not in QUESTIONS | ROUTINE


def _entry(scope: Scope, note: Note, at: datetime, status: int) -> AuditEntry:
    return AuditEntry(
        at=at,
        key_id=note.key_id,
        key_name=note.key_name,
        action=scope["route"].name,
        method=scope["method"],
        path=_plain(scope["path"]),
        object=_plain(note.object or _object_of(scope)),
        changes=note.changes,
        status=status,
        request_id=structlog.contextvars.get_contextvars().get("request_id", ""),
    )


def _object_of(scope: Scope) -> str:
    """`worker/w1` of /api/v1/workers/w1/drain; empty where the path names none."""
    names = scope.get("path_params", {}).values()
    kinds = scope["path"].removeprefix(PREFIX).partition("/")[0]
    return "/".join([kinds.removesuffix("s"), *map(str, names)]) if names else ""


def _plain(text: str) -> str:
    """It may be anything that fits into a URL: no column takes a zero byte, no terminal wants what steers it, and
    nobody who reads it may find a key."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", redacted(text))[:_LONGEST_TEXT]
