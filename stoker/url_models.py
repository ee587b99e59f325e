"""Models on plain web servers: the headers of `https://host/path/model.gguf`, by range requests."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TypeVar

import httpx2

from stoker.domain.gguf import Header, ModelProfile, ProjectorProfile
from stoker.domain.models import ModelFile, ModelFiles, ModelSource, SourceKind, shard_names
from stoker.gguf_header import Allowance, GGUFError, charged, profile_of, projector_of, read_header
from stoker.header_cache import CachedHeader, HeaderCache
from stoker.model_source_error import ModelSourceError
from stoker.public_web import PublicWeb
from stoker.range_source import FIRST_BLOCK, SHARD_BLOCK, RangeSource, ranged, read_range
from stoker.shard_reading import side_by_side

T = TypeVar("T")

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19})")


class UrlModels:
    """Reads what `PublicWeb` lets it reach. `timeout_seconds` bounds one `inspect` as a whole.

    What `headers` holds under the same address is asked for by its ETag: unchanged, nothing is transferred.
    """

    def __init__(
        self, *, allow_private: bool = False, headers: HeaderCache | None = None, timeout_seconds: float = 60
    ) -> None:
        self._allow_private = allow_private
        self._headers = headers or HeaderCache()
        self._timeout_seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="urls")

    async def inspect(self, source: ModelSource) -> tuple[ModelFiles, ModelProfile]:
        """The file, or all shards given the first, and what their headers say. Raises ModelSourceError."""
        return await self._in_thread(source, profile_of)

    async def inspect_projector(self, source: ModelSource) -> ProjectorProfile:
        """The multimodal projector that `source` names, by its header. Raises ModelSourceError."""
        return (await self._in_thread(source, projector_of))[1]

    async def _in_thread(self, source: ModelSource, described: Callable[[Sequence[Header]], T]) -> tuple[ModelFiles, T]:
        if source.kind is not SourceKind.URL:
            raise ValueError(f"{source} is no web address")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._inspect, source, described)

    def _inspect(self, source: ModelSource, described: Callable[[Sequence[Header]], T]) -> tuple[ModelFiles, T]:
        deadline = time.monotonic() + self._timeout_seconds
        allowance = Allowance()
        try:
            urls = shard_names(source.url)
        except ValueError as error:
            raise ModelSourceError("file_not_found", str(error)) from error
        try:
            with PublicWeb(allow_private=self._allow_private) as web:
                read = side_by_side(lambda index: self._header(web, urls[index], index, allowance, deadline), len(urls))
            found = described([entry.header for entry in read])
        except GGUFError as error:
            raise ModelSourceError(error.code, f"{source}: {error}") from error
        files = tuple(ModelFile(path=url, size=entry.size) for url, entry in zip(urls, read, strict=True))
        return ModelFiles(source=source, files=files), found

    def _header(self, web: PublicWeb, url: str, index: int, allowance: Allowance, deadline: float) -> CachedHeader:
        block = SHARD_BLOCK if index else FIRST_BLOCK
        known = self._headers.get(url)
        unless = {"If-None-Match": known.etag} if known is not None else {}
        with web.get(url, {**ranged(0, block), **unless}, deadline) as response:
            if known is not None and response.status_code == HTTPStatus.NOT_MODIFIED:
                return CachedHeader(charged(known.header, allowance), known.size, known.etag)
            _check_status(response, url)
            size, etag = _size(response, url, 0), response.headers.get("etag", "")
            start = read_range(response, 0, min(block, size), deadline)

        def fetch(first: int, end: int) -> bytes:
            # The same content, or 412: a header must not be made of two files.
            same = {"If-Match": etag} if etag and not etag.startswith("W/") else {}
            with web.get(url, {**ranged(first, end), **same}, deadline) as response:
                _check_status(response, url)
                if response.headers.get("etag", "") != etag or _size(response, url, first) != size:
                    raise ModelSourceError("url_unavailable", f"{url} was changed while it was read", retryable=True)
                received = read_range(response, first, end, deadline)
            if len(received) < end - first:
                raise ModelSourceError("url_unavailable", f"{url} broke off in the middle", retryable=True)
            return received

        header: Header = read_header(RangeSource(fetch, size, start=start, block=block), allowance)
        entry = CachedHeader(header, size, etag)
        if etag:
            self._headers.put(url, entry)
        return entry


def _check_status(response: httpx2.Response, url: str) -> None:
    """Raises ModelSourceError for an answer that holds no content. What it does hold is not repeated."""
    status = response.status_code
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    answered = f"{url}: the server answered {status} {_phrase(response)}"
    match status:
        case HTTPStatus.NOT_FOUND | HTTPStatus.GONE:
            raise ModelSourceError("file_not_found", f"there is no file {url} ({status})")
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            raise ModelSourceError("access_denied", f"{url} is not open to everybody ({status})")
        case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise ModelSourceError("truncated_gguf", f"{url} is empty")
        case HTTPStatus.PRECONDITION_FAILED:
            raise ModelSourceError("url_unavailable", f"{url} was changed while it was read", retryable=True)
        case _:
            passing = status >= 500 or status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
            raise ModelSourceError("url_unavailable", answered, retryable=passing)


def _phrase(response: httpx2.Response) -> str:
    try:
        return HTTPStatus(response.status_code).phrase
    except ValueError:
        return ""


def _size(response: httpx2.Response, url: str, start: int) -> int:
    """Bytes of the whole file, as the answer tells them, which must begin at `start` if it is a part."""
    headers: Mapping[str, str] = response.headers
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        told = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if told and int(told[1]) == start:
            return int(told[2])
    elif (length := headers.get("content-length", "")).isdecimal() and len(length) < 20:
        return int(length)
    raise ModelSourceError("url_unavailable", f"{url}: the server does not say which part of how large a file it sends")
