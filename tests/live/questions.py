"""What is asked of `/v1`, and whether an answer is right: by what the issue and the APIs' documents say. Pure."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.live.client import Reply


class Tokens(NamedTuple):
    """What an answer says of itself that it used."""

    input: int
    output: int


class Said(NamedTuple):
    """What a right answer says: its text, and its usage where it speaks of that."""

    text: str
    tokens: Tokens | None


class WrongAnswerError(Exception):
    """The answer is not what it must be; the message says in what."""


class BrokenOffError(WrongAnswerError):
    """A stream ended with an error, as it must when there is no more of it to come."""


@dataclass(frozen=True)
class Question:
    """One request, asked again and again in the same words: the answer must be the same each time."""

    name: str
    path: str
    read: Callable[[Reply], Said]  # raises WrongAnswerError, or what reading of nonsense raises
    body: Any = None
    engine: bool = True  # an engine answers it

    @property
    def method(self) -> str:
        """POST where it has a body."""
        return "GET" if self.body is None else "POST"

    def judged(self, reply: Reply) -> Said:
        """What the reply says. Raises WrongAnswerError."""
        if reply.failure:
            raise WrongAnswerError(f"{reply.failure} (status {reply.status}, {len(reply.body)} bytes)")
        if not reply.headers.get("x-request-id"):
            raise WrongAnswerError("no x-request-id")
        try:
            return self.read(reply)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise WrongAnswerError(f"{type(error).__name__}: {error}; {reply.status}: {reply.body[:300]!r}") from error


def _ok(reply: Reply) -> Reply:
    if reply.status != 200:
        raise WrongAnswerError(f"status {reply.status}: {reply.body[:300]!r}")
    return reply


def _must(condition: bool, what: str) -> None:
    if not condition:
        raise WrongAnswerError(what)


def _openai_tokens(usage: dict[str, int]) -> Tokens:
    _must(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], f"the sum is wrong: {usage}")
    return Tokens(usage["prompt_tokens"], usage["completion_tokens"])


def _anthropic_input(usage: dict[str, int]) -> int:
    """All that was read: Anthropic counts what the cache had beside `input_tokens`."""
    return usage["input_tokens"] + usage.get("cache_read_input_tokens", 0) + usage.get("cache_creation_input_tokens", 0)


def _chat(reply: Reply) -> Said:
    answer = _ok(reply).json()
    [choice] = answer["choices"]
    _must(choice["finish_reason"] in ("stop", "length"), f"finish_reason {choice['finish_reason']!r}")
    return Said(choice["message"]["content"], _openai_tokens(answer["usage"]))


def _text(reply: Reply) -> Said:
    answer = _ok(reply).json()
    [choice] = answer["choices"]
    _must(choice["finish_reason"] in ("stop", "length"), f"finish_reason {choice['finish_reason']!r}")
    return Said(choice["text"], _openai_tokens(answer["usage"]))


def _streamed(reply: Reply, *, usage: bool, text_of: Callable[[dict[str, Any]], str | None]) -> Said:
    events = _ok(reply).events()
    if events[-1].startswith('{"error"'):
        raise BrokenOffError(events[-1])
    _must(events[-1] == "[DONE]", f"it does not end with [DONE]: {events[-1]!r}")
    chunks = [json.loads(event) for event in events[:-1]]
    said, finishes, tokens = "", 0, None
    for chunk in chunks:
        _must("error" not in chunk, f"an error in it: {chunk}")
        for choice in chunk["choices"]:
            said += text_of(choice) or ""
            finishes += bool(choice.get("finish_reason"))
        if chunk.get("usage"):
            _must(usage, "it shows the usage, which was not asked for")
            _must(chunk is chunks[-1] and chunk["choices"] == [], "usage elsewhere than in the last chunk")
            tokens = _openai_tokens(chunk["usage"])
    _must(finishes == 1, f"{finishes} chunks with a finish_reason")
    _must(usage == (tokens is not None), "no usage, which was asked for")
    return Said(said, tokens)


def _message(reply: Reply) -> Said:
    answer = _ok(reply).json()
    usage = answer["usage"]
    text = "".join(block["text"] for block in answer["content"])
    return Said(text, Tokens(_anthropic_input(usage), usage["output_tokens"]))


def _message_stream(reply: Reply) -> Said:
    events = [json.loads(event) for event in _ok(reply).events()]
    kinds = [event["type"] for event in events]
    _must((kinds[0], kinds[-1]) == ("message_start", "message_stop"), f"the events are {kinds}")
    text = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    read = _anthropic_input(events[0]["message"]["usage"])
    [written] = [event["usage"]["output_tokens"] for event in events if event["type"] == "message_delta"]
    return Said(text, Tokens(read, written))


def _response(reply: Reply) -> Said:
    answer = _ok(reply).json()
    text = "".join(part["text"] for item in answer["output"] for part in item.get("content", []))
    return Said(text, Tokens(answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]))


def questions(model: str, *, tokens: int, prompt: str) -> dict[str, Question]:
    """A question for each way to ask an engine, with answers of at most `tokens`."""
    turns = [{"role": "user", "content": prompt}]
    fixed = {"model": model, "temperature": 0, "seed": 1}
    chat = fixed | {"messages": turns, "max_tokens": tokens}
    text = fixed | {"prompt": prompt, "max_tokens": tokens}
    message = {"model": model, "temperature": 0, "messages": turns, "max_tokens": tokens}
    with_usage = {"stream": True, "stream_options": {"include_usage": True}}

    def chat_stream(usage: bool) -> Callable[[Reply], Said]:
        return lambda reply: _streamed(reply, usage=usage, text_of=lambda choice: choice["delta"].get("content"))

    def text_stream(reply: Reply) -> Said:
        return _streamed(reply, usage=True, text_of=lambda choice: choice["text"])

    found = (
        Question("chat", "/v1/chat/completions", _chat, chat),
        Question("chat streamed", "/v1/chat/completions", chat_stream(True), chat | with_usage),
        Question("chat streamed without usage", "/v1/chat/completions", chat_stream(False), chat | {"stream": True}),
        Question("text", "/v1/completions", _text, text),
        Question("text streamed", "/v1/completions", text_stream, text | with_usage),
        Question("message", "/v1/messages", _message, message),
        Question("message streamed", "/v1/messages", _message_stream, message | {"stream": True}),
        Question("response", "/v1/responses", _response, fixed | {"input": prompt, "max_output_tokens": tokens}),
    )
    return {question.name: question for question in found}


def models_question(model: str) -> Question:
    """The list of models, with this one in it."""

    def read(reply: Reply) -> Said:
        names = [item["id"] for item in _ok(reply).json()["data"]]
        _must(model in names, f"{model} is not among {names}")
        return Said("", None)

    return Question("models", "/v1/models", read, engine=False)


def refused_question(name: str, asked: Question, status: int, code: str, *, model: str | None = None) -> Question:
    """A question that must be refused so."""

    def read(reply: Reply) -> Said:
        error = reply.json()["error"]
        _must((reply.status, error["code"]) == (status, code), f"{reply.status} {error}, not {status} {code}")
        _must(set(error) == {"message", "type", "param", "code"}, f"the error has {sorted(error)}")
        return Said("", None)

    body = asked.body if model is None else asked.body | {"model": model}
    return Question(name, asked.path, read, body, engine=False)
