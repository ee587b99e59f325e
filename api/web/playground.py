"""`/playground`: talk to several models side by side.

The browser holds a session, no key: `/playground/chat` is the door of `/v1` for whoever is signed in, with their key's
models, limits and usage. What is said is kept on the page only.
"""

from secrets import compare_digest
from typing import NamedTuple

from fastapi import Request, Response
from starlette.types import Message, Receive, Scope, Send
from structlog.contextvars import get_contextvars

from api.deps import ApiContext, ContextDep
from api.errors import ProblemError
from api.openai.auth import Principal
from api.openai.router import ModelState
from api.openai.routes import OpenAIApp
from api.web.forms import TOKEN_HEADER
from api.web.headers import HEADERS
from api.web.live import Topic
from api.web.rendering import render
from api.web.route import page_router
from api.web.session import PageDep, Visitor, is_from_our_page
from stoker.domain.keys import Role
from stoker.storage.deployments import Deployments

router = page_router()

_MOST_SIDE_BY_SIDE = 4
_TONES = {ModelState.READY: "good", ModelState.LOADING: "busy", ModelState.PENDING: "warn", ModelState.FAILED: "bad"}

_REQUEST_ID = b"x-request-id"
_PAGE_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class TalkingModel(NamedTuple):
    """A model that can be asked, as clients name it."""

    name: str
    state: str
    tone: str


@router.get("/playground")
async def show_playground(request: Request, context: ContextDep, visitor: PageDep, model: str = "") -> Response:
    """The page; `?model=NAME` is the one that is asked first."""
    return render(
        request,
        "playground.html",
        live=["models"],
        models=await talking_models(context, visitor),
        first=model,
        most=_MOST_SIDE_BY_SIDE,
    )


@router.post("/playground/chat")
async def forward_chat(request: Request, context: ContextDep, visitor: PageDep) -> Response:
    """`/v1/chat/completions` for whoever is signed in. Raises ProblemError for what another site sent."""
    token = request.headers.get(TOKEN_HEADER, "")
    if not is_from_our_page(request) or not compare_digest(token.encode(), visitor.form_token.encode()):
        raise ProblemError(
            "forbidden", "this was not sent by a page of this session: open the page again, and repeat it"
        )
    principal = context.keyring.principals.get(visitor.key.id)
    if principal is None:
        raise ProblemError("unauthorized", "the key of this session is not known any more: sign in again")
    return _Forwarded(request.app.state.openai, principal)


async def talking_models(context: ApiContext, visitor: Visitor) -> list[TalkingModel]:
    """The models, and other names for them, that the visitor's key may ask to talk, those that answer now first."""
    statuses = await context.read(lambda session, now: Deployments(session, now).all())
    silent = {status.spec.name for status in statuses if status.spec.options.embeddings}
    table = context.routes.current()
    models = [TalkingModel(name, model.state, _TONES.get(model.state, "")) for name, model in table.models.items()]
    models += [TalkingModel(name, "", "") for name in table.routes if name not in table.models]
    may_ask = [one for one in models if one.name not in silent and one.name in (visitor.key.models or [one.name])]
    return sorted(may_ask, key=lambda one: (one.state not in (ModelState.READY, ""), one.name))


class _Forwarded(Response):
    """The answer of the applications' door, which reads the request's body and writes its own headers."""

    def __init__(self, door: OpenAIApp, principal: Principal) -> None:
        super().__init__()
        self._door, self._principal = door.on_behalf_of(principal), principal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_as_a_page(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The request's id comes from the layers around us; the door, left to itself, would add another.
                headers = [header for header in message["headers"] if header[0] != _REQUEST_ID]
                message = {**message, "headers": [*headers, *_PAGE_HEADERS]}
            await send(message)

        request_id = str(get_contextvars().get("request_id", ""))
        headers = [header for header in scope["headers"] if header[0] not in (_REQUEST_ID, b"x-client-request-id")]
        passed = {**scope, "path": "/v1/chat/completions", "root_path": ""}
        passed["headers"] = [*headers, (_REQUEST_ID, request_id.encode())]
        passed["extensions"] = {}  # the server's, by which the door would write past the layers around us
        await self._door(passed, receive, send_as_a_page)


async def _look(context: ApiContext, _: str) -> object:
    table = context.routes.current()
    return {name: model.state for name, model in table.models.items()}, tuple(table.routes)


TOPICS = {"models": Topic(_look, Role.USER)}
