"""Requests to addresses that others chose: what they can reach, and what they must not."""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.model_source_error import ModelSourceError
from stoker.public_web import MAX_REDIRECTS, PublicWeb, is_public
from tests.fakes.dripping import DrippingServer
from tests.fakes.web import CERTIFICATE, FakeWeb

PUBLIC = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"]
PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),  # noqa: S104
    *("224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "203.0.113.9"),
    *("::1", "::", "fe80::1", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FakeWeb]:
    (tmp_path / "one.gguf").write_bytes(b"content")
    with FakeWeb(tmp_path) as running:
        yield running


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names that resolve as the test says; nothing else does."""
    known: dict[str, list[str]] = {}

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        try:
            addresses = known.get(host) or [str(ipaddress.ip_address(host))]
        except ValueError:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr("stoker.public_web.socket.getaddrinfo", resolve)
    return known


def fetched(url: str, *, allow_private: bool, seconds: float = 30.0) -> bytes:
    with (
        PublicWeb(allow_private=allow_private) as public,
        public.get(url, {"X-Asked": "yes"}, time.monotonic() + seconds) as response,
    ):
        return response.read()


def refusal(url: str, *, allow_private: bool = False, seconds: float = 30.0) -> ModelSourceError:
    with pytest.raises(ModelSourceError) as raised:
        fetched(url, allow_private=allow_private, seconds=seconds)
    return raised.value


def test_what_is_allowed_is_read(web: FakeWeb) -> None:
    assert fetched(f"{web.url}/one.gguf", allow_private=True) == b"content"


def test_the_name_is_sent_though_the_address_is_called(web: FakeWeb, names: dict[str, list[str]]) -> None:
    names["models.test"] = ["127.0.0.1"]
    port = web.url.rpartition(":")[2]
    assert fetched(f"http://models.test:{port}/one.gguf", allow_private=True) == b"content"
    assert web.asked[-1].headers["Host"] == f"models.test:{port}"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "169.254.169.254", "10.0.0.1", "[::ffff:7f00:1]"])
def test_a_private_address_is_refused_before_anything_is_sent(host: str) -> None:
    error = refusal(f"https://{host}/one.gguf")
    assert error.code == "url_not_allowed"
    assert not error.retryable
    assert "STOKER_URLS__ALLOW_PRIVATE" in str(error)


def test_one_private_address_among_a_names_is_enough(names: dict[str, list[str]]) -> None:
    names["mixed.test"] = ["93.184.215.14", "192.168.0.7"]
    assert refusal("https://mixed.test/one.gguf").code == "url_not_allowed"


def test_http_is_refused() -> None:
    error = refusal("http://93.184.215.14/one.gguf")
    assert (error.code, "only https" in str(error)) == ("url_not_allowed", True)


def test_an_unknown_name(names: dict[str, list[str]]) -> None:
    error = refusal("https://nobody.test/one.gguf")
    assert (error.code, error.retryable) == ("url_unavailable", False)
    assert "nobody.test" in str(error)


def test_the_next_address_is_tried(web: FakeWeb, names: dict[str, list[str]]) -> None:
    names["two.test"] = ["127.0.0.9", "127.0.0.1"]
    port = web.url.rpartition(":")[2]
    assert fetched(f"http://two.test:{port}/one.gguf", allow_private=True) == b"content"


def test_nobody_listens() -> None:
    error = refusal("http://127.0.0.1:9/one.gguf", allow_private=True)
    assert (error.code, error.retryable) == ("url_unavailable", True)


def test_redirects_are_followed_with_the_headers(web: FakeWeb) -> None:
    web.redirects = {"/a": "b?signature=1", "/b": f"{web.url}/one.gguf"}
    assert fetched(f"{web.url}/a", allow_private=True) == b"content"
    assert [(asked.path, asked.headers["X-Asked"]) for asked in web.asked] == [
        ("/a", "yes"),
        ("/b?signature=1", "yes"),
        ("/one.gguf", "yes"),
    ]


def test_a_redirect_that_leads_nowhere_is_an_answer(web: FakeWeb) -> None:
    assert fetched(f"{web.url}/status/301/x", allow_private=True)


def test_redirects_end(web: FakeWeb) -> None:
    web.redirects = {"/a": "/b", "/b": "/a"}
    error = refusal(f"{web.url}/a", allow_private=True)
    assert (error.code, "more than 5 times" in str(error)) == ("url_unavailable", True)
    assert len(web.asked) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://example.org/x", "http://[/x", "//b\u00e4d.test/x"])
def test_a_redirect_to_no_web_address(web: FakeWeb, to: str) -> None:
    web.redirects = {"/a": to}
    error = refusal(f"{web.url}/a", allow_private=True)
    assert (error.code, "no web address" in str(error)) == ("url_unavailable", True)


# --- over TLS, where the loopback passes for public: all but 127.0.0.66 ----------------------------------------------


@pytest.fixture
def public_web(tmp_path: Path, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWeb]:
    names |= {"models.test": ["127.0.0.1"], "cdn.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}
    names["inside.test"] = ["127.0.0.66"]
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    monkeypatch.setattr("stoker.public_web._tls", lambda: trusting)
    monkeypatch.setattr("stoker.public_web.is_public", lambda address: str(address) == "127.0.0.1")
    (tmp_path / "one.gguf").write_bytes(b"content")
    with FakeWeb(tmp_path, tls=True) as running:
        yield running


def test_a_redirect_to_another_public_host(public_web: FakeWeb) -> None:
    public_web.redirects = {"/a": f"https://cdn.test:{public_web.port}/one.gguf?signature=1"}
    assert fetched(f"{public_web.url}/a", allow_private=False) == b"content"
    assert [asked.headers["Host"].partition(":")[0] for asked in public_web.asked] == ["models.test", "cdn.test"]


def test_the_certificate_must_be_the_names(public_web: FakeWeb) -> None:
    error = refusal(f"https://other.test:{public_web.port}/one.gguf")
    assert (error.code, "certificate" in str(error)) == ("url_unavailable", True)
    public_web.redirects = {"/a": f"https://other.test:{public_web.port}/one.gguf"}
    assert "certificate" in str(refusal(f"{public_web.url}/a")), "not even at an address that is connected already"
    assert [asked.path for asked in public_web.asked] == ["/a"]


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("https://inside.test/one.gguf?token=secret", "https://inside.test/one.gguf is not on the public Internet"),
        ("https://127.0.0.66/one.gguf", "https://127.0.0.66/one.gguf is not on the public Internet"),
        ("https://user:secret@169.254.169.254/latest", "https://169.254.169.254/latest is not on the public Internet"),
        ("http://models.test/one.gguf", "redirects to http://models.test/one.gguf, which is not encrypted"),
    ],
)
def test_a_redirect_into_the_private_network_is_refused(public_web: FakeWeb, to: str, words: str) -> None:
    public_web.redirects = {"/a": to}
    error = refusal(f"{public_web.url}/a")
    assert (error.code, error.retryable) == ("url_not_allowed", False)
    assert words in str(error)
    assert "secret" not in str(error)
    assert [asked.path for asked in public_web.asked] == ["/a"]


def test_a_name_that_resolves_otherwise_the_next_moment(public_web: FakeWeb, names: dict[str, list[str]]) -> None:
    with PublicWeb() as public:
        with public.get(f"{public_web.url}/one.gguf", {}, time.monotonic() + 30) as response:
            assert response.read() == b"content"
        names["models.test"] = ["127.0.0.66"]
        with (
            pytest.raises(ModelSourceError, match="not on the public Internet"),
            public.get(f"{public_web.url}/one.gguf", {}, time.monotonic() + 30),
        ):
            raise AssertionError("it was let through")


def test_the_deadline_is_kept_between_addresses() -> None:
    error = refusal("https://127.0.0.1/one.gguf", allow_private=True, seconds=0)
    assert (error.code, error.retryable, "too slow" in str(error)) == ("url_unavailable", True, True)


REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nConnection: close\r\n"
ENDED = b"Content-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("scheme", "answers"),
    [
        pytest.param("http", [b"HTTP/1.1 200 "], id="the status line"),
        pytest.param("http", [b"HTTP/1.1 200 OK\r\nX-Endless: "], id="the headers"),
        pytest.param("http", [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"], id="the body"),
        pytest.param("http", [REDIRECT + b"X-Endless: "], id="the headers of a redirect"),
        pytest.param("http", [REDIRECT + ENDED, b"HTTP/1.1 200 OK\r\nX-Endless: "], id="behind a redirect"),
        pytest.param("https", [b"\x16\x03\x03\x40\x00\x02"], id="the TLS handshake"),
    ],
)
def test_a_server_that_sends_a_byte_at_a_time_does_not_outlive_the_deadline(scheme: str, answers: list[bytes]) -> None:
    with DrippingServer(*answers) as server:
        error = refusal(f"{scheme}://127.0.0.1:{server.port}/one.gguf", allow_private=True, seconds=1)
        assert server.dripping.is_set()
        assert not server.patient.is_set(), "it was still at it"
    assert (error.code, error.retryable, "too slow" in str(error)) == ("url_unavailable", True, True)


def test_a_connection_that_is_kept_has_the_deadline_of_each_request(web: FakeWeb) -> None:
    with PublicWeb(allow_private=True) as public:
        for seconds in (30.0, 0.0, 30.0):
            try:
                with public.get(f"{web.url}/one.gguf", {}, time.monotonic() + seconds) as response:
                    assert response.read() == b"content"
            except ModelSourceError as error:
                assert (seconds, "too slow" in str(error)) == (0.0, True)  # noqa: PT017
    assert len(web.asked) == 2
