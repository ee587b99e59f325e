"""How far an answer came, as the client of the long runs sees it; and what it takes for a right one."""

import json
from typing import Any

import pytest

from tests.fakes.engine import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Close,
    FakeEngine,
    Hang,
    Script,
    Send,
    answer,
    chunk,
    delta,
)
from tests.live.client import Reply, ask
from tests.live.questions import BrokenOffError, Tokens, WrongAnswerError, questions, refused_question

pytestmark = pytest.mark.anyio

ASK = questions("m", tokens=4, prompt="a")


async def asked(script: Script, seconds: float = 10.0) -> Reply:
    async with FakeEngine(script) as engine:
        return await ask(
            engine.address, "POST", "/v1/x", headers={"authorization": "Bearer k"}, body={}, seconds=seconds
        )


@pytest.mark.parametrize(
    ("script", "status", "body", "failure"),
    [
        ([Send(answer(b"{}"))], 200, b"{}", ""),
        ([Send(STREAM_HEAD + chunk(b"a") + chunk(b"bc") + STREAM_END, every=1)], 200, b"abc", ""),
        ([Send(answer(b"{}", "503 Service Unavailable"))], 503, b"{}", ""),
        ([Send(STREAM_HEAD + chunk(b"a")), Close()], 200, b"a", "the connection ended"),
        ([Send(answer(b"{}").replace(b"Length: 2", b"Length: 9")), Close()], 200, b"{}", "the connection ended"),
        ([Close()], 0, b"", "the connection ended"),
    ],
)
async def test_how_far_an_answer_came(script: Script, status: int, body: bytes, failure: str) -> None:
    reply = await asked(script)
    assert (reply.status, reply.body, reply.failure) == (status, body, failure)
    assert (reply.first_byte is not None) == (body != b"" and "Length: 9" not in str(script))


async def test_an_answer_that_never_comes_has_a_deadline() -> None:
    reply = await asked([Send(STREAM_HEAD + chunk(b"a")), Hang()], seconds=0.2)
    assert (reply.body, reply.failure) == (b"a", "not whole after 0.2 s")


async def test_nobody_listens() -> None:
    reply = await ask(("127.0.0.1", 1), "GET", "/", headers={}, seconds=10)
    assert (reply.status, reply.failure.partition(":")[0]) == (0, "ConnectionRefusedError")


def whole(content: Any, status: int = 200) -> Reply:
    return Reply(0.0, 1.0, 0.5, status, {"x-request-id": "r"}, json.dumps(content).encode())


def stream(*events: bytes) -> Reply:
    return Reply(0.0, 1.0, 0.5, 200, {"x-request-id": "r"}, b"".join(events))


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CHAT = {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}], "usage": USAGE}
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
TOLD = b'data: {"choices":[],"usage":%s}\n\n' % json.dumps(USAGE).encode()


def test_right_answers() -> None:
    assert ASK["chat"].judged(whole(CHAT)) == ("hi", Tokens(5, 2))
    assert ASK["chat streamed"].judged(stream(delta("h"), delta("i"), LAST, TOLD, DONE)) == ("hi", Tokens(5, 2))
    assert ASK["chat streamed without usage"].judged(stream(delta("hi"), LAST, DONE)) == ("hi", None)
    cached = {"input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 2}
    message = {"content": [{"type": "text", "text": "hi"}], "usage": cached}
    assert ASK["message"].judged(whole(message)) == ("hi", Tokens(5, 2))
    refusal = {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}}
    refused = refused_question("none", ASK["chat"], 401, "invalid_api_key")
    assert refused.judged(whole(refusal, 401)) == ("", None)


@pytest.mark.parametrize(
    ("name", "reply", "what"),
    [
        ("chat", whole(CHAT, 503), "status 503"),
        ("chat", whole(CHAT | {"usage": USAGE | {"total_tokens": 8}}), "the sum is wrong"),
        ("chat", whole({"choices": []}), "ValueError"),
        ("chat", Reply(0.0, status=200, body=b"{}", failure="the connection ended"), "the connection ended"),
        ("chat", Reply(0.0, status=200, body=json.dumps(CHAT).encode()), "no x-request-id"),
        ("chat streamed", stream(delta("hi"), LAST, DONE), "no usage"),
        ("chat streamed", stream(delta("hi"), LAST, TOLD), "does not end with"),
        ("chat streamed", stream(delta("hi"), TOLD, DONE), "0 chunks with a finish_reason"),
        ("chat streamed without usage", stream(delta("hi"), LAST, TOLD, DONE), "shows the usage"),
        ("chat streamed", stream(b'data: {"error":{}}\n\n', DONE), "an error in it"),
    ],
)
def test_wrong_answers(name: str, reply: Reply, what: str) -> None:
    with pytest.raises(WrongAnswerError, match=what):
        ASK[name].judged(reply)


def test_a_stream_that_ends_with_an_error_broke_off() -> None:
    with pytest.raises(BrokenOffError, match="engine_failed"):
        ASK["chat streamed"].judged(stream(delta("h"), b'data: {"error": {"code": "engine_failed"}}\n\n'))


def test_who_must_be_refused_and_is_not() -> None:
    with pytest.raises(WrongAnswerError):
        refused_question("none", ASK["chat"], 401, "invalid_api_key").judged(whole(CHAT))
