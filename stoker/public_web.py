"""GET requests to addresses that somebody else chose, made so that they cannot reach what is not public.

A server that fetches what it is told to can be made to fetch from its own network: from its own loopback, a router, a
cloud's metadata service (169.254.169.254). So each name is resolved here, each of its addresses must be a public one,
and the connection goes to exactly the address that was checked (a name that resolves otherwise the next moment changes
nothing). Redirects are followed here too, each by the same rules, and never from https to http. The environment's
proxies are not used: behind one, nobody could know where a request ends up.
"""

import functools
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx2

from stoker.deadline_transport import DeadlineTransport, network_deadline
from stoker.model_source_error import ModelSourceError

MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 10.0  # to connect, and between two pieces of an answer: the deadline may come earlier
_MAX_ADDRESSES = 4  # of one name: so many are tried

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: _Address) -> bool:
    """Whether the address is one of the public Internet's, also when it carries an IPv4 address inside."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_site_local:
            return False
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


class PublicWeb:
    """Use it in a `with`, which keeps connections; several threads may.

    `allow_private` lifts both limits: any address will do, and plain http too.
    """

    def __init__(self, *, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._clients: dict[str, httpx2.Client] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str], deadline: float) -> Iterator[httpx2.Response]:
        """The answer, not yet read, behind all redirects, whatever its status.

        `deadline`, of `time.monotonic`, holds for all of it: for each redirect, for the headers, and for the body that
        is read inside. Raises ModelSourceError: url_not_allowed where the rules forbid it, url_unavailable where nobody
        answers or not in time.
        """
        with network_deadline(deadline):
            yield from self._get(url, headers, deadline)

    def _get(self, url: str, headers: Mapping[str, str], deadline: float) -> Iterator[httpx2.Response]:
        named = url
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(url, headers, deadline)
            try:
                if not response.has_redirect_location:
                    yield response
                    return
                url = _redirected(url, response.headers["location"])
            except httpx2.HTTPError as error:
                raise _failed(url, error, deadline) from error
            except TimeoutError as error:
                raise _too_slow(url) from error
            finally:
                response.close()
        raise ModelSourceError("url_unavailable", f"{named} is redirected more than {MAX_REDIRECTS} times")

    def _send(self, url: str, headers: Mapping[str, str], deadline: float) -> httpx2.Response:
        parts = urlsplit(url)
        if parts.scheme != "https" and not self._allow_private:
            raise _not_allowed(f"{_shown(url)} is not encrypted: only https is taken")
        failure: httpx2.HTTPError | None = None
        for address in self._addresses(parts):
            if time.monotonic() >= deadline:
                raise _too_slow(url)
            host = f"[{address}]" if address.version == 6 else str(address)
            pinned = parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}").geturl()
            client = self._client(parts)
            try:
                request = client.build_request(
                    "GET",
                    pinned,
                    headers={**headers, "Host": parts.netloc.rpartition("@")[2]},
                    timeout=TIMEOUT_SECONDS,
                    extensions={"sni_hostname": parts.hostname},  # whose certificate it must be
                )
                return client.send(request, stream=True)
            except httpx2.InvalidURL as error:
                raise ModelSourceError("url_unavailable", f"{_shown(url)[:200]} is no web address: {error}") from error
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
            except httpx2.HTTPError as error:
                raise _failed(url, error, deadline) from error
        raise _failed(url, failure, deadline)

    def _addresses(self, parts: SplitResult) -> list[_Address]:
        """What the host's name resolves to; all of it must be allowed."""
        host = parts.hostname or ""
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, ValueError) as error:
            reason = f"the name {host!r} cannot be resolved: {getattr(error, 'strerror', None) or error}"
            retryable = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            raise ModelSourceError("url_unavailable", reason, retryable=retryable) from error
        addresses = list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))
        if not self._allow_private and not all(map(is_public, addresses)):
            raise _not_allowed(
                f"{_shown(parts.geturl())} is not on the public Internet: its host is in a private network"
            )
        return addresses[:_MAX_ADDRESSES]

    def _client(self, parts: SplitResult) -> httpx2.Client:
        """One a host: connections are kept by address, and another host at that address has another certificate."""
        with self._lock:
            if (client := self._clients.get(parts.netloc)) is None:
                client = self._clients[parts.netloc] = httpx2.Client(
                    transport=DeadlineTransport(_tls()), trust_env=False
                )
            return client


@functools.cache
def _tls() -> ssl.SSLContext:
    """Slow to make; heeds SSL_CERT_FILE."""
    return httpx2.create_ssl_context()


def _redirected(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not target.isascii() or not target.isprintable():
        raise ModelSourceError("url_unavailable", f"{_shown(url)} redirects to what is no web address")
    if urlsplit(url).scheme == "https" and parts.scheme != "https":
        raise _not_allowed(f"{_shown(url)} redirects to {_shown(target)}, which is not encrypted")
    return target


def _shown(url: str) -> str:
    """Without the query: where redirects lead, it often holds a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _not_allowed(problem: str) -> ModelSourceError:
    return ModelSourceError("url_not_allowed", f"{problem}. Where that is wanted, set STOKER_URLS__ALLOW_PRIVATE=true")


def _too_slow(url: str) -> ModelSourceError:
    return ModelSourceError("url_unavailable", f"{_shown(url)} is too slow: it was not read in time", retryable=True)


def _failed(url: str, error: httpx2.HTTPError | None, deadline: float) -> ModelSourceError:
    if isinstance(error, httpx2.TimeoutException) and time.monotonic() >= deadline:
        return _too_slow(url)
    reason = str(error) or type(error).__name__
    retryable = isinstance(error, httpx2.TransportError)
    return ModelSourceError("url_unavailable", f"{_shown(url)}: {reason}", retryable=retryable)
