"""A server that answers at once with what it is told to, and then goes on a byte at a time."""

import socket
import socketserver
import threading
from typing import Self

_PAUSE_SECONDS = 0.05  # between two bytes
_MOST_BYTES = 150  # then it ends by itself, so that a client without a deadline fails and does not hang


class DrippingServer:
    """On 127.0.0.1:`port`; use it in a `with`. The connection n begins with `answers[n]`, the last of them drips."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = iter(answers)
        self._last = answers[-1]
        self._stop = threading.Event()
        self.dripping = threading.Event()
        """It has begun to."""
        self.patient = threading.Event()
        """A client has waited for all of it."""

    def __enter__(self) -> Self:
        fake = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.recv(64 * 1024)
                answer = next(fake._answers)
                self.request.sendall(answer)
                if answer is fake._last:
                    fake._drip(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()  # waits for the connections
        self._thread.join()

    def _drip(self, connection: socket.socket) -> None:
        self.dripping.set()
        for _ in range(_MOST_BYTES):
            try:
                connection.sendall(b"x")
            except OSError:
                return  # the client has gone
            if self._stop.wait(_PAUSE_SECONDS):
                return
        self.patient.set()
