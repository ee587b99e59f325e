"""A plain web server on this machine: files of a folder, with ranges and ETags, and whatever is meant to go wrong.

`/status/NUMBER/…` answers with that status. With `tls`, its certificate (models.test.pem) is one for the names
models.test and cdn.test, good for a hundred years and trusted by nobody.
"""

import gzip
import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

BLOCK = 64 * 1024
CERTIFICATE = Path(__file__).with_name("models.test.pem")


@dataclass(frozen=True)
class Asked:
    """A request, and how it was answered; `sent` counts bytes of content."""

    path: str
    headers: dict[str, str]
    status: int
    sent: int = 0


@dataclass
class FakeWeb:
    """The server, in threads of this process; use it in a `with`. Everything may be changed while it runs."""

    root: Path
    tls: bool = False
    redirects: dict[str, str] = field(default_factory=dict)  # path → where it leads
    ranges: bool = True
    etags: bool = True
    packed: bool = False  # sends gzip unasked
    unsized: bool = False  # does not say how large the file is
    cut_after: int | None = None  # bytes of an answer after which the connection drops
    before_answer: Callable[[str], None] = lambda path: None
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.web = self
        self.port = self._server.server_port
        self.url = f"{'https://models.test' if self.tls else 'http://127.0.0.1'}:{self.port}"
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def sent(self) -> int:
        """Bytes of content in all."""
        return sum(request.sent for request in self.asked)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    web: FakeWeb

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        web, parts = self.server.web, urlsplit(self.path)
        web.before_answer(parts.path)
        if parts.path in web.redirects:
            self._answer(302, {"Location": web.redirects[parts.path]})
        elif told := re.fullmatch(r"/status/(\d+)/.*", parts.path):
            self._answer(int(told[1]), {}, b"a secret that nobody should see")
        elif (path := web.root / unquote(parts.path).lstrip("/")).is_file():
            self._send(path)
        else:
            self._answer(404, {})

    def _send(self, path: Path) -> None:
        web, size = self.server.web, path.stat().st_size
        stat = path.stat()
        etag = f'"{sha256(f"{path}{stat.st_mtime_ns}{size}".encode()).hexdigest()[:16]}"'
        headers = {"ETag": etag} if web.etags else {}
        if web.etags and self.headers.get("If-None-Match") == etag:
            self._answer(304, headers)
            return
        if web.etags and self.headers.get("If-Match", etag) != etag:
            self._answer(412, {})
            return
        start, end, status = 0, size, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and web.ranges:
            start, end, status = int(asked[1]), min(int(asked[2]) + 1, size), 206
            if start >= size:
                self._answer(416, {"Content-Range": f"bytes */{size}"})
                return
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{'*' if web.unsized else size}"
        with path.open("rb") as file:
            file.seek(start)
            if web.packed:
                self._answer(status, headers | {"Content-Encoding": "gzip"}, gzip.compress(file.read(end - start)))
                return
            self._stream(status, headers, file, end - start)

    def _stream(self, status: int, headers: dict[str, str], file: Any, length: int) -> None:
        """Notes the request first, and what was sent as it goes."""
        web = self.server.web
        unsized = web.unsized and status == 200
        self._head(status, headers | ({"Connection": "close"} if unsized else {"Content-Length": str(length)}))
        number = self._note(status)
        sent = 0
        while sent < length and (web.cut_after is None or sent < web.cut_after):
            block = file.read(min(BLOCK, length - sent, (web.cut_after or length) - sent))
            self.wfile.write(block)
            sent += len(block)
            web.asked[number] = Asked(self.path, dict(self.headers), status, sent)
        self.close_connection = unsized or sent < length

    def _answer(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        length = {} if status == 304 else {"Content-Length": str(len(content))}
        self._note(status)
        self._head(status, headers | length)
        self.wfile.write(content)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _note(self, status: int) -> int:
        self.server.web.asked.append(Asked(self.path, dict(self.headers), status))
        return len(self.server.web.asked) - 1
