"""A client's connection, as far as the door needs more of it than ASGI gives: that it is lost, and what it still holds.

Our server's protocol (`api.http_protocol`) puts itself into the scope as the extension `stoker.client`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

EXTENSION = "stoker.client"


class ClientConnection(Protocol):
    """One client's connection, which may carry one request after the other."""

    lost: bool
    """Whether the client is gone."""

    def listen(self, on_lost: Callable[[], None] | None) -> None:
        """Calls `on_lost` once, when the client goes from now on; None: nothing any more."""
        ...

    def take_body(self) -> bytes | None:
        """The body of the request in work, once, where all of it is there and none was received; else None."""
        ...

    def reply(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Writes a whole answer at once; False where it has to be sent piece by piece. `headers` tell its length."""
        ...

    def buffered(self) -> int:
        """Bytes of answers that the client has not taken yet, and the system neither."""
        ...

    def abort(self) -> None:
        """Closes it at once; what is buffered is dropped."""
        ...


def client_of(scope: Mapping[str, Any]) -> ClientConnection | None:
    """The connection that a request came by; None where the server does not tell."""
    extensions = scope.get("extensions")
    client: ClientConnection | None = extensions.get(EXTENSION) if extensions else None
    return client
