"""Who is signed in: a cookie that names a key and is signed by the server. The key itself is nowhere in it."""

import re
import secrets
from datetime import datetime, timedelta
from typing import Annotated, NamedTuple
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request, Response

from api.audit import note
from api.deps import ApiContext, ContextDep
from api.errors import ProblemError
from stoker.domain.keys import KeyStatus, Role
from stoker.secrets import ServerSecret

COOKIE = "stoker_session"
LASTS = timedelta(hours=12)

SIGNED_OUT = "event: signed-out\ndata: \n\n"
"""What a page that listens to us is told when its session is over."""

_TOKEN = re.compile(r"([0-9a-f]{12})\.([0-9]{1,12})\.([A-Za-z0-9_-]{16})\.([0-9a-f]{64})")


class Visitor(NamedTuple):
    """Someone who is signed in."""

    key: KeyStatus
    form_token: str  # which each form of theirs must send back

    @property
    def is_admin(self) -> bool:
        """Whether they may see and change everything."""
        return self.key.role is Role.ADMIN


class SignInNeededError(Exception):
    """Nobody is signed in, or not any more."""


def new_session(secret: ServerSecret, key: KeyStatus, now: datetime) -> str:
    """The cookie's value for whoever has just shown `key`."""
    content = f"{key.id}.{int((now + LASTS).timestamp())}.{secrets.token_urlsafe(12)}"
    return f"{content}.{_signature(secret, content)}"


def visitor_of(context: ApiContext, token: str | None) -> Visitor | None:
    """Whose session it is. Their key is looked up each time: of one that was revoked or has expired it is None."""
    found = _TOKEN.fullmatch(token or "")
    if token is None or found is None:
        return None
    content, _, signature = token.rpartition(".")
    if not secrets.compare_digest(signature, _signature(context.secret, content)):
        return None
    if int(found[2]) <= context.clock().timestamp():
        return None
    key = context.keyring.living(found[1])
    return Visitor(key, context.secret.digest(f"web form {token}")) if key is not None else None


def set_session(response: Response, request: Request, token: str) -> None:
    """Signs the browser in. A page that came by https gets a cookie that only goes by https."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=int(LASTS.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=comes_by_https(request),
    )


def end_session(response: Response) -> None:
    """Signs the browser out."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def comes_by_https(request: Request) -> bool:
    """Whether the browser speaks https, also where a proxy in front of us ends it: its own `Origin` tells."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def address_of(request: Request) -> str:
    """The server's own address as the browser knows it, like `https://stoker.example`."""
    return f"{'https' if comes_by_https(request) else 'http'}://{request.url.netloc}"


def is_from_our_page(request: Request) -> bool:
    """Whether a browser says that one of our own pages sent this. It says so of every POST."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return False
    return site is not None or origin is not None  # a plain http address in a network gets Origin only


def local_path(asked: str | None) -> str | None:
    """`asked` where it is a path of ours; None for what would lead elsewhere."""
    if not asked or not re.fullmatch(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*", asked):
        return None
    return asked


def sign_in_path(request: Request) -> str:
    """Where to sign in, and come back to what was asked for."""
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.method != "GET" or local_path(wanted) is None:
        return "/sign-in"
    return "/sign-in" if wanted == "/" else f"/sign-in?next={quote(wanted, safe='')}"


def _signature(secret: ServerSecret, content: str) -> str:
    return secret.digest(f"web session {content}")


async def _visitor(request: Request, context: ContextDep) -> Visitor:
    visitor = visitor_of(context, request.cookies.get(COOKIE))
    if visitor is None:
        raise SignInNeededError
    request.state.visitor = visitor
    note.asked_by(visitor.key.id, visitor.key.name)
    return visitor


PageDep = Annotated[Visitor, Depends(_visitor)]


async def _admin(visitor: PageDep) -> Visitor:
    if not visitor.is_admin:
        raise ProblemError(
            "forbidden", f"the key {visitor.key.name!r} has the role {visitor.key.role}; this page needs admin"
        )
    return visitor


AdminPageDep = Annotated[Visitor, Depends(_admin)]
