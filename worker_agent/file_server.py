"""The listener that gives this host's model files to other workers. The gateway lets them in to it.

It is a Unix socket in a folder of this user's alone: it asks for no key, and files may be of models that not everybody
on this host may read.
"""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

_LONGEST_PATH = 100  # bytes: of a Unix socket the systems take 103 to 107

HeldFile = Callable[[str, str], Path | None]
"""Where the file of that path is, of the model of that key (`ModelFiles.key`); None: it is not held here."""


class _Content(FileResponse):
    chunk_size = 1 << 20  # each is a thread's turn


def file_app(held: HeldFile) -> Starlette:
    """`GET /files?model=KEY&path=PATH`, with `Range`: files of models that are held here whole, by their names only."""

    async def give(request: Request) -> Response:
        model, path = request.query_params.get("model", ""), request.query_params.get("path", "")
        found = await run_in_threadpool(held, model, path)
        if found is None:
            return PlainTextResponse("no such file of a model that is held here\n", status_code=404)
        return _Content(found, media_type="application/octet-stream")

    return Starlette(routes=[Route("/files", give)])


@contextmanager
def file_listener(folder: Path) -> Iterator[socket.socket]:
    """The socket to listen on, by `getsockname` its path: in `folder`, or where that is too deep in one of its own.

    What an earlier agent has left there is replaced. Raises OSError.
    """
    with ExitStack() as stack:
        path = folder / "files.sock"
        if len(os.fsencode(path.absolute())) > _LONGEST_PATH:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stoker-"))) / path.name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        stack.callback(path.unlink, missing_ok=True)
        listener.bind(str(path.absolute()))
        path.chmod(0o600)  # before anybody is listened to
        listener.listen()
        yield listener
