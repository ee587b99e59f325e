"""HTTP whose every wait on the network ends by a deadline, whoever is at the other end.

httpx's timeouts bound the wait for each piece of an answer, so a server that sends a byte every few seconds, of its
headers say, is waited for as long as it likes. Here each wait lasts at most until the deadline of the request.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ssl import SSLContext

import httpcore2
import httpx2

_deadline: ContextVar[float] = ContextVar("deadline")


@contextmanager
def network_deadline(deadline: float) -> Iterator[None]:
    """What is sent and received inside, in this thread and through a `DeadlineTransport`, must be so by `deadline`.

    `deadline` is of `time.monotonic`. A wait that it cuts short raises httpx2.TimeoutException, as any that times out.
    """
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


class DeadlineTransport(httpx2.HTTPTransport):
    """Keeps connections, HTTP/1.1 only. It is used inside `network_deadline` and raises LookupError outside."""

    def __init__(self, ssl_context: SSLContext) -> None:
        super().__init__(verify=ssl_context, trust_env=False)
        # httpx2 has no parameter for the network, httpcore2 below it has.
        self._pool = httpcore2.ConnectionPool(ssl_context, max_connections=None, network_backend=_Network())


class _Network(httpcore2.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options))


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)  # ssl counts a handshake as one wait
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None, error: type[httpcore2.TimeoutException]) -> float:
    """Seconds that a wait may take, which are more than 0; else it has timed out, with `error`."""
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise error("timed out")
    return left if timeout is None else min(timeout, left)
