"""The fields of requests and answers as JSON Schema, for the description of `/v1`. Pure.

What a request's field may be is read from the tables that requests are checked by (`fields`), and stands here only as
far as those say nothing of it. The door leaves much to the engine: what is typed here and let through by the door is
answered with 400 by the engine where it is something else.
"""

from typing import Any

from api.openai.content import MAX_PROMPTS
from api.openai.endpoints import Endpoint
from api.openai.field_values import MOST, RANGES

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_BOOLEAN: Schema = {"type": "boolean"}
_INTEGER: Schema = {"type": "integer"}
_OBJECT: Schema = {"type": "object"}
_STRINGS: Schema = {"type": "array", "items": _STRING}
_STRING_OR_STRINGS: Schema = {"anyOf": [_STRING, _STRINGS]}
_TOKENS: Schema = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}}
_PROMPTS: Schema = {
    "anyOf": [
        _STRING,
        _TOKENS,
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": {"anyOf": [_STRING, _TOKENS]}},
    ]
}
_PARTS: Schema = {
    "type": "array",
    "items": {"type": "object", "required": ["type"], "properties": {"type": _STRING}},
    "description": "Pictures and sounds are in them as data: URLs or base64: no other URL is opened.",
}
_TURN: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {"role": _STRING, "content": {"anyOf": [_STRING, _PARTS, {"type": "null"}]}},
}
_TURNS: Schema = {"type": "array", "minItems": 1, "items": _TURN}
_TOOLS: Schema = {"type": "array", "items": _OBJECT}

# Where the tables of `fields` say nothing. By the name alone, or by the route and the name.
_TYPES: dict[str, Schema] = {
    "add_generation_prompt": _BOOLEAN,
    "cache_prompt": _BOOLEAN,
    "chat_template_kwargs": _OBJECT,
    "documents": {"type": "array", "minItems": 1, "items": _STRING},
    "dry_sequence_breakers": _STRINGS,
    "encoding_format": {"type": "string", "enum": ["float", "base64"]},
    "grammar": _STRING,
    "ignore_eos": _BOOLEAN,
    "instructions": _STRING,
    "json_schema": _OBJECT,
    "messages": _TURNS,
    "metadata": _OBJECT,
    "parallel_tool_calls": _BOOLEAN,
    "parse_tool_calls": _BOOLEAN,
    "post_sampling_probs": _BOOLEAN,
    "query": _STRING,
    "response_format": {"type": "object", "required": ["type"], "properties": {"type": _STRING}},
    "stop": _STRING_OR_STRINGS,
    "stop_sequences": _STRINGS,
    "store": _BOOLEAN,
    "stream": _BOOLEAN,
    "stream_options": {
        "type": "object",
        "properties": {"include_usage": {"type": ["boolean", "null"]}},
        "description": "Only where `stream` is true.",
    },
    "text": {"type": "object", "properties": {"format": _OBJECT}},
    "tool_choice": {"anyOf": [_STRING, _OBJECT]},
    "tools": _TOOLS,
    **dict.fromkeys(
        (
            "prompt_cache_key",
            "prompt_cache_retention",
            "reasoning_budget_message",
            "reasoning_effort",
            "safety_identifier",
            "service_tier",
            "truncation",
            "user",
            "verbosity",
        ),
        _STRING,
    ),
    "context_management": {"anyOf": [_OBJECT, {"type": "array", "items": _OBJECT}]},
    "reasoning": _OBJECT,
    "reasoning_format": {"enum": ["none", "auto", "deepseek", "deepseek-legacy"]},
    "samplers": _STRING_OR_STRINGS,
    "thinking": {"type": "object", "required": ["type"], "properties": {"type": _STRING}},
}
_TYPES_OF_ROUTES: dict[tuple[str, str], Schema] = {
    ("/chat/completions", "logprobs"): _BOOLEAN,
    ("/completions", "logprobs"): {"type": "integer", "minimum": 0},
    ("/completions", "prompt"): _PROMPTS,
    ("/embeddings", "input"): _PROMPTS,
    ("/messages", "system"): {"anyOf": [_STRING, _PARTS]},
    ("/messages", "tool_choice"): _OBJECT,
    ("/messages/count_tokens", "system"): {"anyOf": [_STRING, _PARTS]},
    ("/messages/count_tokens", "tool_choice"): _OBJECT,
    ("/responses", "input"): {"anyOf": [_STRING, {"type": "array", "items": _OBJECT}]},
}

MODEL: Schema = {
    "type": "string",
    "minLength": 1,
    "description": "A deployment's name or a route's: GET /v1/models lists those that the key may ask.",
}


def request_schema(endpoint: Endpoint) -> Schema:
    """What a body for the endpoint may be."""
    fields = {name: _field(endpoint, name) for name in sorted(endpoint.fields | {"model"})}
    return {
        "type": "object",
        "required": ["model", *endpoint.required],
        "properties": {name: schema for name, schema in fields.items() if schema is not None},
        "additionalProperties": False,
    }


def _field(endpoint: Endpoint, name: str) -> Schema | None:
    """None: no value of it is taken."""
    if name == "model":
        return MODEL
    if endpoint.takes_form:
        return _form_field(endpoint, name)
    if name in endpoint.harmless:
        values, reason = endpoint.harmless[name]
        return {"enum": [*values, None], "description": f"No other value is taken: {reason}."}
    schema = _TYPES_OF_ROUTES.get((endpoint.path, name)) or _TYPES.get(name, {})
    if name in RANGES:
        low, high, whole = RANGES[name]
        schema = {"type": "integer" if whole else "number", "minimum": low, "maximum": high}
    if name in MOST:
        schema = schema | {"maxItems": MOST[name], "maxProperties": MOST[name]}
    return schema if name in endpoint.required else _or_null(schema)


def _form_field(endpoint: Endpoint, name: str) -> Schema | None:
    if name == "file":
        return {"type": "string", "format": "binary", "description": "The sound."}
    if name == "stream":
        return {"enum": ["true", "false"]}
    if name == "temperature":
        low, high, _ = RANGES[name]
        return {"type": "number", "minimum": low, "maximum": high}
    for written in (name, f"{name}[]"):
        if written in endpoint.harmless:
            values, reason = endpoint.harmless[written]
            return {"enum": list(values), "description": f"No other value is taken: {reason}."} if values else None
    return _STRING


def _or_null(schema: Schema) -> Schema:
    """The door takes null for a field that is not there."""
    if not schema:
        return schema
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


# --- answers ----------------------------------------------------------------------------------------------------------


def _answer(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": required | optional}


def _const(value: str) -> Schema:
    return {"const": value}


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_NULL_OR_STRING: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_USAGE = _answer({"prompt_tokens": _COUNT, "total_tokens": _COUNT}, completion_tokens=_COUNT)
_ITEM_USAGE = _answer({"input_tokens": _COUNT, "output_tokens": _COUNT}, total_tokens=_COUNT)
_CHAT_CHOICE = _answer(
    {
        "index": _COUNT,
        "message": _answer({"role": _const("assistant"), "content": _NULL_OR_STRING}),
        "finish_reason": _STRING,
    }
)
_TEXT_CHOICE = _answer({"index": _COUNT, "text": _STRING, "finish_reason": _STRING})
_COMPLETION: dict[str, Schema] = {"id": _STRING, "created": _INTEGER, "model": _STRING, "usage": _USAGE}
MODEL_OBJECT = _answer({"id": _STRING, "object": _const("model"), "created": _INTEGER, "owned_by": _STRING})

ANSWERS: dict[str, Schema] = {
    "/chat/completions": _answer(
        _COMPLETION | {"object": _const("chat.completion"), "choices": _list_of(_CHAT_CHOICE)}
    ),
    "/completions": _answer(_COMPLETION | {"object": _const("text_completion"), "choices": _list_of(_TEXT_CHOICE)}),
    "/embeddings": _answer(
        {
            "object": _const("list"),
            "data": _list_of(
                _answer(
                    {
                        "object": _const("embedding"),
                        "index": _COUNT,
                        "embedding": {"anyOf": [_list_of({"type": "number"}), _STRING]},
                    }
                )
            ),
            "model": _STRING,
            "usage": _USAGE,
        }
    ),
    "/rerank": _answer(
        {"results": _list_of(_answer({"index": _COUNT, "relevance_score": {"type": "number"}}))}, usage=_USAGE
    ),
    "/responses": _answer(
        {"id": _STRING, "object": _const("response"), "status": _STRING, "output": _list_of(_OBJECT)},
        usage={"anyOf": [_ITEM_USAGE, {"type": "null"}]},
    ),
    "/messages": _answer(
        {
            "id": _STRING,
            "type": _const("message"),
            "role": _const("assistant"),
            "content": _list_of(_OBJECT),
            "usage": _ITEM_USAGE,
        },
        stop_reason=_NULL_OR_STRING,
    ),
    "/messages/count_tokens": _answer({"input_tokens": _COUNT}),
    "/audio/transcriptions": _answer({"text": _STRING}),
}
MODEL_LIST = _answer({"object": _const("list"), "data": _list_of(MODEL_OBJECT)})
ERROR = _answer(
    {
        "error": _answer(
            {"message": _STRING, "type": _STRING, "param": _NULL_OR_STRING, "code": _NULL_OR_STRING},
        )
    },
    type={"const": "error", "description": "On the routes of Anthropic's API."},
    loading={
        "type": "object",
        "required": ["state", "worker", "progress", "eta_seconds"],
        "description": "With 503 `model_loading`: how far it is.",
    },
)
