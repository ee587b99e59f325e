"""The agent's only listener: it answers the API's questions for process logs."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from hmac import compare_digest

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from worker_agent.supervisor import HostSupervisor

MAX_LINES = 10_000


def log_app(supervisor: HostSupervisor, key: Callable[[], str]) -> Starlette:
    """`GET /logs/{instance_id}?tail=N&follow=true`, for whoever shows `key()` as a bearer."""

    async def logs(request: Request) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not compare_digest(given.encode(), key().encode()):
            return PlainTextResponse("wrong key\n", status_code=401)
        instance_id = request.path_params["instance_id"]
        asked = request.query_params.get("tail", "200")
        if not (asked.isascii() and asked.isdigit()):
            return PlainTextResponse(f"tail={asked!r} is no number of lines: write it like 200\n", status_code=400)
        tail = min(MAX_LINES, int(asked[:9]))
        try:
            found = await supervisor.read_log(instance_id, None, tail)
        except LookupError:
            return PlainTextResponse("no log\n", status_code=404)
        if request.query_params.get("follow", "").lower() in ("1", "true"):
            lines = supervisor.follow_log(instance_id, None, tail)
            return StreamingResponse(_encoded(lines), media_type="text/plain; charset=utf-8")
        return PlainTextResponse("".join(f"{line}\n" for line in found))

    return Starlette(routes=[Route("/logs/{instance_id}", logs)])


async def _encoded(lines: AsyncGenerator[str, None]) -> AsyncIterator[bytes]:
    async with aclosing(lines):
        async for line in lines:
            yield f"{line}\n".encode()
