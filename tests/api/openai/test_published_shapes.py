"""What the real engine answers, through the door, against the shapes that OpenAI publishes, strictly."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api.openai.router import ModelRoute
from tests.api.openai import real_engine
from tests.api.openai.real_engine import RealEngine, running_engine
from tests.api.openai.serving import Door, model, open_door
from tests.builders import write_tiny_llama

pytestmark = pytest.mark.anyio

HELLO: Any = [{"role": "user", "content": "Say hello."}]
ASK: dict[str, Any] = {"model": "m", "messages": HELLO, "max_tokens": 5, "temperature": 0}
WRITE: dict[str, Any] = {"model": "m", "prompt": "One, two,", "max_tokens": 4}
RESPOND: dict[str, Any] = {"model": "m", "input": "Say hello.", "max_output_tokens": 5}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

# what llama-server says besides
MORE = {"timings", "prompt_progress", "reasoning_content", "id"}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Once is enough with the real engine: on what the product runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[RealEngine]:
    with running_engine(smollm2, "-a", "m", "-np", "2") as engine:
        yield engine


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    tiny = write_tiny_llama(tmp_path_factory.mktemp("reranker") / "tiny.gguf")
    with running_engine(tiny, "-a", "r", "--reranking") as engine:
        yield engine


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    tiny = write_tiny_llama(tmp_path_factory.mktemp("embedder") / "tiny.gguf")
    with running_engine(tiny, "-a", "e", "--embeddings", "--pooling", "mean") as engine:
        yield engine


def route(engine: RealEngine, name: str = "m") -> ModelRoute:
    found = model(engine.address, name=name)
    return found.model_copy(update={"replicas": tuple(replace(r, api_key=real_engine.KEY) for r in found.replicas)})


async def whole(door: Door, path: str, body: dict[str, Any]) -> bytes:
    response = await door.client.post(f"/v1{path}", json=body, timeout=120)
    assert response.status_code == 200, response.text
    return response.content


async def streamed(door: Door, path: str, body: dict[str, Any]) -> list[bytes]:
    """The data of each event."""
    async with door.client.stream("POST", f"/v1{path}", json=body | {"stream": True}, timeout=120) as response:
        said = await response.aread()
    assert response.status_code == 200, said
    events = said.removesuffix(b"\n\n").split(b"\n\n")
    return [event.partition(b"data: ")[2] for event in events if not event.startswith(b":")]


def unpublished(value: Any, published: Any) -> set[str]:
    """Names of fields that the published type does not have, at any depth."""
    if isinstance(published, list):
        return set().union(*(unpublished(value[index], each) for index, each in enumerate(published)))
    extra = getattr(published, "model_extra", None)
    if extra is None:
        return set()
    return set(extra).union(
        *(unpublished(value[name], getattr(published, name)) for name in published.model_fields_set if name in value)
    )


CHATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two choices": {"n": 2},
    "log probabilities": {"logprobs": True, "top_logprobs": 2},
    "log probabilities alone": {"logprobs": True},
    "stop": {"stop": ["!"], "max_tokens": 30},
    "one token": {"max_tokens": 1},
    "any JSON": {"response_format": {"type": "json_object"}},
    "JSON of a schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}},
        "max_tokens": 40,
    },
    "tools that are not called": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
        "tool_choice": "none",
        "parallel_tool_calls": True,
    },
    "what OpenAI alone knows": {"store": True, "user": "u", "metadata": {}, "service_tier": "auto", "seed": 1},
}


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS)
async def test_chats(engine: RealEngine, fields: dict[str, Any]) -> None:
    async with open_door([route(engine)]) as door:
        body = await whole(door, "/chat/completions", ASK | fields)
        answer = ChatCompletion.model_validate_json(body, strict=True)
        assert [choice.index for choice in answer.choices] == list(range(fields.get("n", 1)))
        assert unpublished(json.loads(body), answer) <= MORE
        for choice in json.loads(body)["choices"]:
            assert choice.keys() == {"finish_reason", "index", "logprobs", "message"}
            assert (choice["logprobs"] is None) == ("logprobs" not in fields)
            assert choice["message"].keys() >= {"role", "content", "refusal"}


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS)
async def test_streamed_chats(engine: RealEngine, fields: dict[str, Any], include: bool) -> None:
    async with open_door([route(engine)]) as door:
        options = {"stream_options": {"include_usage": True}} if include else {}
        *chunks, done = await streamed(door, "/chat/completions", ASK | fields | options)
    assert done == b"[DONE]"
    found = [ChatCompletionChunk.model_validate_json(chunk, strict=True) for chunk in chunks]
    last = found.pop() if include else None
    roles: dict[int, str | None] = {}
    reasons: dict[int, list[str | None]] = {}
    for chunk in found:
        [choice] = chunk.choices
        roles.setdefault(choice.index, choice.delta.role)
        reasons.setdefault(choice.index, []).append(choice.finish_reason)
        assert ("usage" in chunk.model_fields_set) == include
        assert chunk.usage is None
    assert set(roles.values()) == {"assistant"}
    for said in reasons.values():
        assert said[:-1] == [None] * (len(said) - 1)
        assert said[-1] in ("stop", "length")
    assert len(reasons) == fields.get("n", 1)
    if last is not None:
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens > 0
    if "logprobs" in fields:
        tokens = [choice.logprobs.content for chunk in found for choice in chunk.choices if choice.logprobs]
        written = sum(len(each or []) for each in tokens)
        assert written == 5 or (0 < written < 5 and reasons[0][-1] == "stop")


TEXTS: dict[str, dict[str, Any]] = {
    "plain": {"best_of": 1, "suffix": None, "echo": False},
    "two prompts, two choices": {"prompt": ["One, two,", "Red, green,"], "n": 2},
    "log probabilities": {"logprobs": 2, "temperature": 0},
    "tokens": {"prompt": [504, 28, 690]},
    "stop": {"stop": ","},
}


@pytest.mark.parametrize("fields", TEXTS.values(), ids=TEXTS)
async def test_completions(engine: RealEngine, fields: dict[str, Any]) -> None:
    async with open_door([route(engine)]) as door:
        body = await whole(door, "/completions", WRITE | fields)
        answer = Completion.model_validate_json(body, strict=True)
        prompts = 2 if fields.get("n") else 1
        assert len(answer.choices) == prompts * fields.get("n", 1)
        assert unpublished(json.loads(body), answer) <= MORE
        *chunks, done = await streamed(door, "/completions", WRITE | fields)
    assert done == b"[DONE]"
    # the package's type knows no null here, which OpenAI sends in every chunk but the last
    ended = [chunk.replace(b'"finish_reason":null', b'"finish_reason":"stop"') for chunk in chunks]
    pieces = [Completion.model_validate_json(chunk, strict=True) for chunk in ended]
    assert all("usage" not in piece.model_fields_set for piece in pieces)
    assert [json.loads(chunk)["choices"][0]["finish_reason"] for chunk in chunks].count(None) == len(pieces) - len(
        answer.choices
    )
    if "logprobs" in fields:
        for logprobs in (answer.choices[0].logprobs, *(piece.choices[0].logprobs for piece in pieces[:-1])):
            assert logprobs is not None
            assert len(logprobs.tokens or []) == len(logprobs.text_offset or []) > 0
        offsets = [
            offset for p in pieces if p.choices[0].logprobs for offset in p.choices[0].logprobs.text_offset or []
        ]
        assert offsets == (answer.choices[0].logprobs.text_offset if answer.choices[0].logprobs else None)


RESPONSES: dict[str, dict[str, Any]] = {
    "cut": {},
    "whole": {"max_output_tokens": 300, "input": "Say: hi.", "temperature": 0},
    "a conversation": {
        "input": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
        ],
        "instructions": "Be brief.",
    },
    "JSON of a schema": {
        "text": {"format": {"type": "json_schema", "name": "a", "strict": True, "schema": SCHEMA}},
        "max_output_tokens": 60,
    },
    "tools that are not called": {
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}],
        "tool_choice": "none",
    },
    "what OpenAI alone knows": {"store": True, "include": ["reasoning.encrypted_content"], "truncation": "auto"},
}


@pytest.mark.parametrize("fields", RESPONSES.values(), ids=RESPONSES)
async def test_responses(engine: RealEngine, fields: dict[str, Any]) -> None:
    async with open_door([route(engine)]) as door:
        body = await whole(door, "/responses", RESPOND | fields)
        events = await streamed(door, "/responses", RESPOND | fields)
    answer = Response.model_validate_json(body, strict=True)
    if "text" in fields:
        assert isinstance(json.loads(answer.output_text)["age"], int)
    found = [EVENTS.validate_json(event, strict=True) for event in events]
    assert [event.sequence_number for event in found] == list(range(len(found)))
    assert (found[0].type, found[1].type) == ("response.created", "response.in_progress")
    assert found[-1].type in ("response.completed", "response.incomplete")
    said = "".join(event.delta for event in found if event.type == "response.output_text.delta")
    assert found[-1].response.output_text == said != ""


async def test_embeddings(embedder: RealEngine) -> None:
    async with open_door([route(embedder, "e")]) as door:
        for fields in ({}, {"encoding_format": "float"}, {"input": [[300, 301], [302]]}):
            body = {"model": "e", "input": ["a", "b"]} | fields
            answer = CreateEmbeddingResponse.model_validate_json(await whole(door, "/embeddings", body), strict=True)
            assert [each.index for each in answer.data] == [0, 1]
            assert len(answer.data[0].embedding) == 64
        coded = await whole(door, "/embeddings", {"model": "e", "input": "a", "encoding_format": "base64"})
        assert isinstance(json.loads(coded)["data"][0]["embedding"], str)


async def test_reranking(reranker: RealEngine) -> None:
    """Jina's and Cohere's shape: OpenAI has none."""
    async with open_door([route(reranker, "r")]) as door:
        body = {"model": "r", "query": "q", "documents": ["a", "b c", "d"], "top_n": 2, "return_documents": False}
        answer = json.loads(await whole(door, "/rerank", body))
        assert answer["object"] == "list"
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
        results = answer["results"]
        assert len(results) == 2
        assert all(set(each) == {"index", "relevance_score"} for each in results)
        assert results[0]["relevance_score"] >= results[1]["relevance_score"]
        assert {each["index"] for each in results} < {0, 1, 2}


async def test_models(engine: RealEngine) -> None:
    async with open_door([route(engine), model(name="org/name:q4")]) as door:
        listed = (await door.client.get("/v1/models")).json()
        assert listed["object"] == "list"
        one = (await door.client.get("/v1/models/org/name:q4")).json()
        for each in (*listed["data"], one):
            assert Model.model_validate(each, strict=True).model_extra == {}


async def test_a_model_that_does_not_hear_says_so(engine: RealEngine) -> None:
    async with open_door([route(engine)]) as door:
        answer = await door.client.post(
            "/v1/audio/transcriptions", data={"model": "m"}, files={"file": ("a.wav", b"RIFF", "audio/wav")}
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "model_not_supported", "model")
        assert "does not support audio input" in error["message"]


async def test_more_choices_than_slots_are_refused_by_name(engine: RealEngine) -> None:
    async with open_door([route(engine)]) as door:
        answer = await door.client.post("/v1/chat/completions", json=ASK | {"n": 3})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
