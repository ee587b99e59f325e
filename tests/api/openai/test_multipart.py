"""Forms, and what is read of one."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.endpoints import ENDPOINTS
from api.openai.errors import APIError
from api.openai.multipart import Part, parse_form
from api.openai.validation import EngineRequest, parse_request

TYPE = b"multipart/form-data; boundary=XX"
AUDIO = ENDPOINTS["/audio/transcriptions"]


def part(name: str, value: str, extra: str = "") -> str:
    return f'--XX\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n{value}\r\n'


def form(*parts: str) -> bytes:
    return ("".join(parts) + "--XX--\r\n").encode()


FILE = part("file", "RIFF", '; filename="a.wav"\r\nContent-Type: audio/wav')


def read(*parts: str) -> EngineRequest:
    return parse_request(AUDIO, form(*parts), TYPE)


VALUES = st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace"))


@given(st.dictionaries(st.text("abcdefgh_", min_size=1, max_size=9), VALUES, max_size=4), st.binary(max_size=300))
def test_what_a_client_wrote_is_read(fields: dict[str, bytes], content: bytes) -> None:
    request = httpx.Request("POST", "http://x", data=dict(fields), files={"file": ("a.wav", content)})
    parts = parse_form(request.headers["content-type"].encode(), request.read())
    assert parts == [*(Part(name, value, False) for name, value in fields.items()), Part("file", content, True)]


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        (b"", b"", "must be multipart/form-data"),
        (b"application/json", b"{}", "must be multipart/form-data"),
        (b"multipart/form-data", form(FILE), "must name the boundary"),
        (b"multipart/mixed; boundary=XX", form(FILE), "must be multipart/form-data"),
        (TYPE, b"", "does not begin with its boundary"),
        (TYPE, b"x" + form(FILE), "does not begin with its boundary"),
        (TYPE, form(FILE)[:-6], "its last boundary is missing"),
        (TYPE, b"--XX\r\nno head\r\n--XX--", "a field has no head"),
        (TYPE, b"--XX\r\nx: y\r\n\r\nvalue\r\n--XX--", "a field has no name"),
        (TYPE, b"--XX\r\nx: " + b"y" * 5000 + b"\r\n\r\nvalue\r\n--XX--", "a field has no head"),
        (TYPE, form(FILE).replace(b"--XX--", b"--XX??"), "neither a line break nor its end"),
        (TYPE, form(*[part("a", "b")] * 65), "more than 64 fields"),
    ],
)
def test_what_is_no_form(content_type: bytes, body: bytes, reason: str) -> None:
    with pytest.raises(APIError, match=reason) as caught:
        parse_form(content_type, body)
    assert caught.value.status == 400


def test_what_routing_needs_of_a_form() -> None:
    found = read(part("model", "org/whisper"), FILE, part("stream", "true"), part("response_format", "json"))
    assert (found.model, found.stream, found.choices) == ("org/whisper", True, 1)
    assert found.content_type == TYPE
    assert found.body.endswith(b"--XX--\r\n")
    assert found.prompt_size == len(found.body) - len("RIFF")
    assert read(FILE, part("model", "m"), part("language", "en"), part("temperature", "0.2")).stream is False


@pytest.mark.parametrize(
    ("parts", "param", "code"),
    [
        ((FILE,), "model", "missing_required_parameter"),
        ((FILE, part("model", "")), "model", "missing_required_parameter"),
        ((part("model", "m"),), "file", "missing_required_parameter"),
        ((part("model", "m"), part("file", "RIFF")), "file", "invalid_type"),
        ((part("model", "m", '; filename="x"'), FILE), "model", "invalid_type"),
        ((part("model", "m"), part("model", "n"), FILE), "model", None),
        ((part("model", "m"), FILE, part("colour", "red")), "colour", "unknown_parameter"),
        ((part("model", "m"), FILE, part("id_slot", "0")), "id_slot", "unsupported_parameter"),
        ((part("model", "m"), FILE, part("response_format", "srt")), "response_format", "unsupported_parameter"),
        ((part("model", "m"), FILE, part("timestamp_granularities[]", "word")), "timestamp_granularities[]", None),
        ((part("model", "m"), FILE, part("temperature", "hot")), "temperature", "invalid_type"),
        ((part("model", "m"), FILE, part("temperature", "3")), "temperature", "decimal_out_of_range"),
        ((part("model", "m"), FILE, part("stream", "maybe")), "stream", "invalid_type"),
    ],
)
def test_fields_of_a_form_that_are_refused(parts: tuple[str, ...], param: str, code: str | None) -> None:
    with pytest.raises(APIError) as caught:
        read(*parts)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert code is None or caught.value.code == code


@given(st.binary(max_size=300), st.sampled_from([TYPE, b"", b'multipart/form-data; boundary="X X"']))
def test_whatever_is_sent_it_is_understood_or_refused(body: bytes, content_type: bytes) -> None:
    try:
        outcome: EngineRequest | APIError = parse_request(AUDIO, b"--XX\r\n" + body, content_type)
    except APIError as error:
        outcome = error
    assert outcome.status == 400 if isinstance(outcome, APIError) else outcome.model
