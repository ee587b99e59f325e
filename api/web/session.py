"""Who is signed in: a cookie that names a key and is signed by the server. The key itself is nowhere in it."""

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request, Response

from api.audit import note
from api.deps import ApiContext, ContextDep
from api.errors import ProblemError
from stoker.domain.keys import KeyStatus, Role
from stoker.secrets import ServerSecret
from stoker.storage.ended_sessions import EndedSessions

COOKIE = "stoker_session"
HTTPS_COOKIE = "__Host-stoker_session"
"""Of a page that came by https. Browsers take it over https from this very host only, and send it nowhere else."""
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
    """Whose session it is; None where it is over. Their key is looked up each time: one that was revoked, or has
    expired, has none."""
    session = _session(context.secret, token)
    if token is None or session is None or session.expires <= context.clock().timestamp():
        return None
    if context.keyring.has_ended(session.digest):
        return None
    key = context.keyring.living(session.key_id)
    return Visitor(key, context.secret.digest(f"web form {token}")) if key is not None else None


def cookie_name(request: Request, *, https: bool) -> str:
    """With our port in it: cookies know no ports, and another Stoker on the same host would overwrite this one's."""
    port = request.url.port
    return f"{HTTPS_COOKIE if https else COOKIE}{f'_{port}' if port else ''}"


def token_of(request: Request) -> str | None:
    """The session that the browser shows. A GET behind a proxy does not tell https: the stricter cookie goes first."""
    names = (cookie_name(request, https=https) for https in (True, False))
    return next((request.cookies[name] for name in names if name in request.cookies), None)


def set_session(response: Response, request: Request, token: str) -> None:
    """Signs the browser in. A page that came by https gets a cookie that only goes by https."""
    https = comes_by_https(request)
    response.set_cookie(
        cookie_name(request, https=https),
        token,
        max_age=int(LASTS.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=https,
    )


async def end_session(context: ApiContext, token: str) -> None:
    """Ends a session, and every copy of its cookie: here at once, in other processes within a second. Raises
    SQLAlchemyError while the database is away; then only this process knows, until it has read from there again."""
    session = _session(context.secret, token)
    if session is None:
        return
    context.keyring.end(session.digest)
    expires_at = datetime.fromtimestamp(session.expires, UTC)
    await context.write(lambda database, now: EndedSessions(database, now).end(session.digest, expires_at))


def forget_session(response: Response, request: Request) -> None:
    """Signs the browser out."""
    for https in (True, False):
        name = cookie_name(request, https=https)
        response.delete_cookie(name, httponly=True, samesite="strict", secure=https)


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


class _Session(NamedTuple):
    """What a cookie that we signed says."""

    key_id: str
    expires: int  # seconds since 1970
    digest: str  # that names the session and opens nothing


def _session(secret: ServerSecret, token: str | None) -> _Session | None:
    """None for what we have not signed."""
    found = _TOKEN.fullmatch(token or "")
    if token is None or found is None:
        return None
    content, _, signature = token.rpartition(".")
    if not secrets.compare_digest(signature, _signature(secret, content)):
        return None
    return _Session(found[1], int(found[2]), secret.digest(f"ended web session {found[3]}"))


def _signature(secret: ServerSecret, content: str) -> str:
    return secret.digest(f"web session {content}")


async def _visitor(request: Request, context: ContextDep) -> Visitor:
    visitor = visitor_of(context, token_of(request))
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
