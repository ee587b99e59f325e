"""A stand-in for the Hugging Face hub on this machine: serves `ROOT/ORG/REPO/…` the way the hub's library asks for it.

    python -m tests.fakes.hub --root DIR [--port 0] [--rate BYTES_PER_SECOND] …

prints its URL; give that as HF_ENDPOINT. What it keeps of the real one, because clients trip over it:
- large files (`*.gguf`) are answered with a redirect to a second server (the content network), which refuses any
  request that still carries the hub's token;
- their etag is the sha256, told in X-Linked-Etag on the redirect; small files have a git sha1;
- errors say what they are in X-Error-Code; an unknown repository without a token is a 401;
- the newest commit changes when a file does; any other revision is unknown.
"""

import argparse
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes.repositories import Repositories, StoredFile

BLOCK = 64 * 1024


@dataclass
class Faults:
    """What goes wrong with contents (and, for `unavailable`, with everything). May be changed while it serves."""

    rate: int | None = None  # bytes a second
    cut_after: int | None = None  # bytes after which the connection is dropped, …
    cuts: int = 1  # … so many times
    pause_at: int | None = None  # bytes after which an answer sets `paused` and waits for `go`
    paused: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    unavailable: int = 0  # so many of the next requests get a 503
    corrupt: bool = False  # the last byte of every file is another
    corrupt_answers: int = 0  # … of so many of the next answers only
    no_ranges: bool = False  # Range is not understood: always the whole file


@dataclass(frozen=True)
class Request:
    """One request as it was answered; `sent` counts bytes of content, and grows while they are sent."""

    method: str
    path: str
    range: str = ""
    authorized: bool = False
    status: int = 0
    sent: int = 0


class FakeHub:
    """The stand-in, in threads of this process; use it in a `with`. `url` is its endpoint.

    `gated` and `private` repositories ("ORG/REPO") open only to `token`.
    """

    def __init__(
        self, root: Path, *, port: int = 0, token: str = "", gated: tuple[str, ...] = (), private: tuple[str, ...] = ()
    ) -> None:
        self.root, self.token, self.gated, self.private = root, token, gated, private
        self.repositories = Repositories(root)
        self.files, self.commit = self.repositories.files, self.repositories.commit
        self.faults = Faults()
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._servers = [_Server(self, port, HubHandler), _Server(self, 0, ContentHandler)]
        self.url, self.content_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.faults.go.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def content_sent(self) -> int:
        """Bytes of file contents that were sent in all."""
        with self._lock:
            return sum(request.sent for request in self.requests)

    def content_requests(self) -> list[Request]:
        """The requests for large files' contents."""
        with self._lock:
            return [request for request in self.requests if request.path.startswith("/content/")]

    def forget(self) -> None:
        """Starts counting anew."""
        with self._lock:
            self.requests.clear()

    def log(self, request: Request) -> int:
        """Keeps `request`; returns its number."""
        with self._lock:
            self.requests.append(request)
            return len(self.requests) - 1

    def count_sent(self, number: int, sent: int) -> None:
        """Notes that so much content was sent in answer to that request."""
        with self._lock:
            if number < len(self.requests):
                self.requests[number] = replace(self.requests[number], sent=sent)

    def take_unavailable(self) -> bool:
        """Whether this request is one of those that get a 503."""
        with self._lock:
            self.faults.unavailable -= 1
            return self.faults.unavailable >= 0

    def take_corrupt(self) -> bool:
        """Whether the last byte of this answer is another than it should be."""
        with self._lock:
            self.faults.corrupt_answers -= 1
            return self.faults.corrupt or self.faults.corrupt_answers >= 0

    def take_cut(self) -> bool:
        """Whether this answer is one of those that are cut."""
        with self._lock:
            self.faults.cuts -= 1
            return self.faults.cuts >= 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    @property
    def hub(self) -> FakeHub:
        return self.server.hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.take_unavailable():
            self.reply(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "try again"})
        else:
            self.route(unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query))

    def route(self, path: str, query: dict[str, list[str]]) -> None:
        """Answers one request."""
        raise NotImplementedError

    @property
    def is_authorized(self) -> bool:
        return bool(self.hub.token) and self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def reply(self, status: HTTPStatus, body: Any = None, headers: dict[str, str] | None = None) -> int:
        """Sends JSON (or nothing); returns the request's number in the log."""
        content = b"" if body is None else json.dumps(body).encode()
        return self.start(status, len(content), {"Content-Type": "application/json", **(headers or {})}, content)

    def fail(self, status: HTTPStatus, code: str, message: str) -> None:
        """Sends an error the way the hub does."""
        self.reply(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def start(self, status: HTTPStatus, length: int, headers: dict[str, str], content: bytes = b"") -> int:
        """Sends the head of an answer of `length` bytes, and its content if that is given."""
        number = self.hub.log(
            Request(
                self.command,
                self.path,
                self.headers.get("Range", ""),
                "Authorization" in self.headers,
                status.value,
            )
        )
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        return number

    def send_file(self, file: StoredFile, headers: dict[str, str]) -> None:
        """Sends the file or the range that was asked for, with whatever is meant to go wrong."""
        start, end = 0, file.size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and not self.hub.faults.no_ranges:
            start, end = int(asked[1]), min(int(asked[2]) + 1, file.size) if asked[2] else file.size
            if start >= file.size:
                self.reply(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, None, {"Content-Range": f"bytes */{file.size}"})
                return
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{file.size}"}
        status = HTTPStatus.PARTIAL_CONTENT if "Content-Range" in headers else HTTPStatus.OK
        number = self.start(status, end - start, {"Accept-Ranges": "bytes", **headers})
        if self.command == "HEAD":
            return
        sent = 0
        for block in self._blocks(file, start, end):
            if self.hub.faults.cut_after is not None and sent >= self.hub.faults.cut_after and self.hub.take_cut():
                break
            if self.hub.faults.pause_at is not None and sent >= self.hub.faults.pause_at:
                self.hub.faults.paused.set()
                self.hub.faults.go.wait()
            if self.hub.faults.rate:
                time.sleep(len(block) / self.hub.faults.rate)
            self.wfile.write(block)
            sent += len(block)
            self.hub.count_sent(number, sent)
        self.close_connection = sent < end - start

    def _blocks(self, file: StoredFile, start: int, end: int) -> Iterator[bytes]:
        corrupt = self.hub.take_corrupt()
        with file.path.open("rb") as stream:
            stream.seek(start)
            while start < end and (block := stream.read(min(BLOCK, end - start))):
                start += len(block)
                yield block[:-1] + bytes([block[-1] ^ 1]) if corrupt and start == file.size else block


class HubHandler(_Handler):
    """The hub itself: listings, and where the contents are."""

    def route(self, path: str, query: dict[str, list[str]]) -> None:
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if (files := self.open(match[1], match[2])) is not None:
                self.reply(HTTPStatus.OK, self._model_info(match[1], files, blobs="blobs" in query))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", path):
            if (files := self.open(match[1], match[2])) is not None:
                inside = [file for file in files.values() if file.name.startswith(f"{match[3]}/" if match[3] else "")]
                self.reply(HTTPStatus.OK, [self._entry(file) for file in inside])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/paths-info/([^/]+)", path):
            if (files := self.open(match[1], match[2])) is not None:
                asked = json.loads(self.body) if self.body.startswith(b"{") else parse_qs(self.body.decode())
                self.reply(HTTPStatus.OK, [self._entry(files[name]) for name in asked["paths"] if name in files])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (files := self.open(match[1], match[2])) is not None:
                self._resolve(match[1], files, match[3])
        else:
            self.fail(HTTPStatus.NOT_FOUND, "", f"no route {path}")

    def open(self, repo: str, revision: str | None) -> dict[str, StoredFile] | None:
        """The repository's files, or None when an error was sent instead."""
        files = self.hub.files(repo)
        if files is None or (repo in self.hub.private and not self.is_authorized):
            hidden = HTTPStatus.NOT_FOUND if "Authorization" in self.headers else HTTPStatus.UNAUTHORIZED
            self.fail(hidden, "RepoNotFound", "Repository not found")
        elif revision not in (None, "main", self.hub.commit(repo)):
            self.fail(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return files
        return None

    def _model_info(self, repo: str, files: dict[str, StoredFile], *, blobs: bool) -> dict[str, Any]:
        siblings = [
            {"rfilename": file.name, **({"size": file.size, "blobId": file.sha1, **self._lfs(file)} if blobs else {})}
            for file in files.values()
        ]
        gated = "auto" if repo in self.hub.gated else False
        return {"id": repo, "sha": self.hub.commit(repo), "private": False, "gated": gated, "siblings": siblings}

    def _entry(self, file: StoredFile) -> dict[str, Any]:
        lfs = self._lfs(file)
        if lfs:
            lfs["lfs"]["oid"] = lfs["lfs"].pop("sha256")
        return {"type": "file", "path": file.name, "size": file.size, "oid": file.sha1, **lfs}

    def _lfs(self, file: StoredFile) -> dict[str, Any]:
        return {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}} if file.is_large else {}

    def _resolve(self, repo: str, files: dict[str, StoredFile], name: str) -> None:
        headers = {"X-Repo-Commit": self.hub.commit(repo)}
        if repo in self.hub.gated and not self.is_authorized:
            status = HTTPStatus.FORBIDDEN if "Authorization" in self.headers else HTTPStatus.UNAUTHORIZED
            self.fail(status, "GatedRepo", f"Access to model {repo} is restricted")
        elif name not in files:
            self.fail(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        elif not files[name].is_large:
            self.send_file(files[name], {**headers, "ETag": f'"{files[name].sha1}"'})
        else:
            file = files[name]
            location = f"{self.hub.content_url}/content/{file.sha256}?Signature=for-this-file-only"
            linked = {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"', "Location": location}
            self.reply(HTTPStatus.FOUND, None, {**headers, **linked})


class ContentHandler(_Handler):
    """The content network: another origin, opened by the signature in the URL alone."""

    def route(self, path: str, query: dict[str, list[str]]) -> None:
        file = self.hub.repositories.by_sha256(path.rpartition("/")[2])
        if "Authorization" in self.headers or "Signature" not in query:
            self.reply(HTTPStatus.BAD_REQUEST, {"error": "one way of authentication, the signature, is allowed"})
        elif file is None:
            self.reply(HTTPStatus.NOT_FOUND)
        else:
            self.send_file(file, {"ETag": f'"{file.sha256}"'})


def main() -> None:
    """Serves until it is told to end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder that holds ORG/REPO/*.gguf")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--gated", action="append", default=[], metavar="ORG/REPO", help="opens to FAKE_HUB_TOKEN only")
    parser.add_argument("--rate", type=int, help="bytes a second, each answer")
    parser.add_argument("--cut-after", type=int, help="drops the first connection after so many bytes")
    parser.add_argument("--unavailable", type=int, default=0, help="503 to so many requests")
    parser.add_argument("--corrupt", action="store_true", help="sends other bytes than it announces")
    args = parser.parse_args()
    with FakeHub(args.root, port=args.port, token=os.environ.get("FAKE_HUB_TOKEN", ""), gated=tuple(args.gated)) as hub:
        hub.faults = Faults(
            rate=args.rate, cut_after=args.cut_after, unavailable=args.unavailable, corrupt=args.corrupt
        )
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        print(hub.url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
