"""A ggml-rpc-server that has any number of devices, all the memory in the world, and stores nothing.

llama.cpp asks such a server for buffers exactly as it would ask a real one, so that it can plan and even begin to load
a model of any size here. The protocol is that of ggml/src/ggml-rpc/ggml-rpc.cpp.
"""

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

_ALIGNMENT = 32  # bytes: ggml's CPU buffers
_MAX_SIZE = 2**64 - 1
_MEMORY = 1 << 50  # bytes a device
_CAPABILITIES = bytes(24)  # none: plain TCP


class Command(IntEnum):
    """The requests that a llama-server sends until its weights are loaded."""

    ALLOC_BUFFER = 0
    GET_ALIGNMENT = 1
    GET_MAX_SIZE = 2
    BUFFER_GET_BASE = 3
    SET_TENSOR = 6
    SET_TENSOR_HASH = 7
    GET_DEVICE_MEMORY = 11
    GET_ALLOC_SIZE = 13
    HELLO = 14
    DEVICE_COUNT = 15


class _Client(socketserver.BaseRequestHandler):
    """Answers one connection until its other end is gone, or begins to send weights: those are left unread."""

    request: socket.socket
    server: "_Server"

    def handle(self) -> None:
        base = 1 << 40
        while (head := self._take(9)) is not None:
            command, length = head[0], struct.unpack_from("<Q", head, 1)[0]
            if command in (Command.SET_TENSOR, Command.SET_TENSOR_HASH):
                self.server.stopping.wait()
                return
            if (body := self._take(length)) is None:
                return
            answer: bytes | None = None
            match command:
                case Command.HELLO:
                    answer = bytes([*self.server.version, 0]) + _CAPABILITIES
                case Command.DEVICE_COUNT:
                    answer = struct.pack("<I", self.server.devices)
                case Command.GET_ALIGNMENT:
                    answer = struct.pack("<Q", _ALIGNMENT)
                case Command.GET_MAX_SIZE:
                    answer = struct.pack("<Q", _MAX_SIZE)
                case Command.GET_DEVICE_MEMORY:
                    answer = struct.pack("<QQ", _MEMORY, _MEMORY)
                case Command.GET_ALLOC_SIZE:
                    answer = struct.pack("<Q", 0)  # the client then takes the tensor's own size
                case Command.ALLOC_BUFFER:
                    _, size = struct.unpack("<IQ", body)
                    base += 1 << 45
                    answer = struct.pack("<QQ", base, size)
                case Command.BUFFER_GET_BASE:
                    answer = body
            if answer is not None:
                self.request.sendall(struct.pack("<Q", len(answer)) + answer)

    def _take(self, length: int) -> bytes | None:
        received = b""
        while len(received) < length:
            try:
                part = self.request.recv(length - len(received))
            except ConnectionError:
                return None
            if not part:
                return None
            received += part
        return received


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, devices: int, version: tuple[int, int, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.devices, self.version = devices, version
        self.stopping = threading.Event()


@contextmanager
def rpc_stand_in(devices: int, version: tuple[int, int, int] = (7, 0, 0)) -> Iterator[str]:
    """The endpoint of a stand-in with `devices` devices that speaks the RPC protocol `version`."""
    with _Server(devices, version) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            host, port = server.server_address[:2]
            yield f"{host!s}:{port}"
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()
