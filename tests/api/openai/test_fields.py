"""What a body may have: all that is published, nothing that reaches beyond the request."""

import json
import typing
from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.audio import transcription_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from api.openai.endpoints import ENDPOINTS
from api.openai.errors import APIError
from api.openai.field_values import HARMLESS, MOST, RANGES
from api.openai.fields import ENGINE_SWITCHES, FIELDS
from api.openai.validation import parse_request

BODY: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/completions": {"prompt": "p"},
    "/embeddings": {"input": "i"},
    "/rerank": {"query": "q", "documents": ["d"]},
    "/responses": {"input": "i"},
    "/messages": {"messages": [{"role": "user", "content": "hi"}]},
    "/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
}
PUBLISHED: dict[str, Any] = {
    "/chat/completions": chat_create_params.CompletionCreateParamsBase,
    "/completions": completion_create_params.CompletionCreateParamsBase,
    "/embeddings": embedding_create_params.EmbeddingCreateParams,
    "/responses": response_create_params.ResponseCreateParamsBase,
    "/audio/transcriptions": transcription_create_params.TranscriptionCreateParamsBase,
}
SENT_BY_CLIENTS: dict[str, dict[str, Any]] = {
    "/chat/completions": {
        "store": True,
        "metadata": {"a": "b"},
        "user": "u",
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "verbosity": "low",
        "prediction": {"type": "content", "content": "x"},
        "modalities": ["text"],
        "function_call": "none",
        "functions": None,
        "stop": None,
        "logit_bias": {"15": -100},
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "/completions": {"best_of": 1, "echo": False, "suffix": None, "logprobs": 3, "user": "u"},
    "/embeddings": {"encoding_format": "base64", "user": "u", "dimensions": None},
    "/rerank": {"top_n": 1, "return_documents": False},
    "/responses": {
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "truncation": "auto",
        "background": False,
        "previous_response_id": None,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "prompt_cache_key": "k",
        "text": {"verbosity": "low"},
        "client_metadata": None,
    },
    "/messages": {
        "max_tokens": 5,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "cache_control": {"type": "ephemeral"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "betas": ["x"],
        "metadata": {"user_id": "u"},
        "context_management": {"edits": []},
        "output_config": {"effort": "high"},
        "service_tier": "auto",
        "stop_sequences": ["x"],
        "top_k": 5,
    },
    "/messages/count_tokens": {"thinking": {"type": "disabled"}, "tools": []},
}


def refusal(path: str, **fields: Any) -> APIError:
    with pytest.raises(APIError) as caught:
        parse_request(ENDPOINTS[path], json.dumps({"model": "m"} | BODY[path] | fields).encode())
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("path", PUBLISHED)
def test_all_that_openai_publishes_is_known(path: str) -> None:
    published = set(typing.get_type_hints(PUBLISHED[path]))
    assert published - FIELDS[path] == set()


@pytest.mark.parametrize("path", SENT_BY_CLIENTS)
def test_what_clients_send_and_means_nothing_here_is_taken(path: str) -> None:
    parse_request(ENDPOINTS[path], json.dumps({"model": "m"} | BODY[path] | SENT_BY_CLIENTS[path]).encode())


@pytest.mark.parametrize("path", BODY)
@pytest.mark.parametrize("name", ["temprature", "", "speculative.n_max", "models", "x" * 500])
def test_a_field_that_does_not_exist_is_named(path: str, name: str) -> None:
    error = refusal(path, **{name: None})
    assert error.code == "unknown_parameter"
    assert error.param is not None
    assert error.param == name or name.startswith(error.param[:-1])
    assert f"/v1{path}" in error.message


@pytest.mark.parametrize("path", BODY)
@pytest.mark.parametrize("name", sorted(ENGINE_SWITCHES))
def test_a_switch_of_the_engine_is_out_of_reach(path: str, name: str) -> None:
    error = refusal(path, **{name: 1})
    assert (error.param, error.code) == (name, "unsupported_parameter")
    assert "beyond this request" in error.message


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, fields in HARMLESS.items() if path in BODY for name in fields]
)
def test_what_cannot_be_done_is_refused_and_says_why(path: str, name: str) -> None:
    values, reason = HARMLESS[path][name]
    for value in (*values, None):
        parse_request(ENDPOINTS[path], json.dumps({"model": "m"} | BODY[path] | {name: value}).encode())
    error = refusal(path, **{name: 2 if name == "best_of" else {"type": "x"} if name not in RANGES else 5})
    assert (error.param, error.code in ("unsupported_parameter", "invalid_type")) == (name, True)
    if error.code == "unsupported_parameter":
        assert reason in error.message


def test_every_rule_is_about_a_field_that_exists() -> None:
    everywhere = frozenset().union(*FIELDS.values())
    assert set(FIELDS) == set(ENDPOINTS)
    assert set(RANGES) <= everywhere
    assert set(MOST) <= everywhere
    assert not everywhere & ENGINE_SWITCHES
    for path, fields in HARMLESS.items():
        assert {name.removesuffix("[]") for name in fields} <= FIELDS[path]


@pytest.mark.parametrize("name", sorted(RANGES))
def test_every_number_has_its_ends(name: str) -> None:
    path = next(path for path in BODY if name in FIELDS[path])
    low, high, whole = RANGES[name]
    for value in (low, high):
        if name not in HARMLESS.get(path, {}):
            parse_request(ENDPOINTS[path], json.dumps({"model": "m"} | BODY[path] | {name: value}).encode())
    wrong: tuple[Any, ...] = (low - 1, high * 2 + 1, 1e300, "1", [1], {}, True)
    for value in wrong:
        assert refusal(path, **{name: value}).param == name
    if whole:
        assert refusal(path, **{name: 1.5}).code == "invalid_type"
