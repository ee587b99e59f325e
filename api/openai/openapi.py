"""The OpenAPI document of `/v1`: made of the tables that requests are checked by and of the errors that are sent."""

import functools
import json
from typing import Any

from api.openai.availability import queue_full, unavailable
from api.openai.endpoints import ENDPOINTS, Endpoint
from api.openai.errors import (
    APIError,
    body_too_large,
    engine_failed,
    engine_timed_out,
    engine_unreachable,
    internal_error,
    invalid_api_key,
    invalid_request,
    method_not_allowed,
    model_not_allowed,
    model_not_found,
    request_timed_out,
    unknown_parameter,
    unsupported_encoding,
    unsupported_parameter,
)
from api.openai.router import ModelRoute, ModelState
from api.openai.shapes import ANSWERS, ERROR, MODEL_LIST, MODEL_OBJECT, Schema, request_schema
from stoker.version import VERSION

DOCUMENT_PATH = "/openapi.json"  # under /v1; needs no key

_ABOUT = """OpenAI's API, Anthropic's messages and `rerank`, answered by llama.cpp on the machines of this cluster.

A field that a route does not name is refused with 400 by its name, and so is a number out of its range. What is not
checked here goes to the engine as it is, which answers 400 in the same shape. `null` counts as not given.
Other methods than those named are answered 405 with `Allow`, other paths 404.
"""

# route: operation, summary, what it does
_ROUTES: dict[str, tuple[str, str]] = {
    "/chat/completions": ("createChatCompletion", "The next message of a conversation."),
    "/completions": ("createCompletion", "How a text goes on."),
    "/embeddings": ("createEmbedding", "Texts as vectors, by a model that is for it."),
    "/rerank": ("createRerank", "Documents by how well they answer a query, by a model that is for it."),
    "/responses": ("createResponse", "OpenAI's responses; nothing is kept from one to the next."),
    "/messages": ("createMessage", "Anthropic's messages."),
    "/messages/count_tokens": ("countMessageTokens", "The tokens of Anthropic's messages, without an answer."),
    "/audio/transcriptions": ("createTranscription", "What is said in a sound file, by a model that hears."),
}
_STATUSES: dict[int, str] = {
    400: "The request is wrong; `param` names the field.",
    401: "No key, or one that is not known, not valid any more, or revoked.",
    403: "The key may not ask this model.",
    404: "There is no such model, or no such path.",
    405: "The path answers other methods.",
    408: "The body did not come in time.",
    413: "The body, or what it asks for, is too large.",
    415: "The body is compressed.",
    429: "A limit of the key is reached, or the model's queue is full; `retry-after` says when it is not.",
    431: "The request's head is too large. It has no `x-request-id`.",
    500: "A fault of the proxy.",
    502: "The engine gave no usable answer.",
    503: "The model is loading, waits for room, is stopped, or cannot be reached just now.",
    504: "The engine took longer than it may.",
}
_OF_EVERY_ROUTE = (400, 401, 403, 404, 405, 431, 500)  # and 400: what is no HTTP at all
_OF_ENGINES = (408, 413, 415, 429, 502, 503, 504)

_HEADERS: dict[str, Schema] = {
    "x-request-id": {"description": "The client's own (`x-client-request-id`, `x-request-id`), or a new one."},
    "openai-processing-ms": {"description": "From the request's arrival to the beginning of the answer."},
    "retry-after": {"description": "Seconds until it is worth another try; 120 at most."},
    "retry-after-ms": {"description": "The same, finer, where a limit of the key is reached."},
    "x-should-retry": {"description": "`true` or `false`: whether another try can help; SDKs obey it."},
    "allow": {"description": "The methods that the path answers."},
    "www-authenticate": {"description": "`Bearer`."},
    **{
        f"x-ratelimit-{what}-{of}": {"description": f"Of the key's {of} a minute: {meaning}."}
        for of in ("requests", "tokens")
        for what, meaning in (("limit", "the limit"), ("remaining", "left"), ("reset", "until none is used"))
    },
}


def _examples() -> list[APIError]:
    route = ModelRoute(name="smol", created=0, state=ModelState.LOADING, worker="gpu-1", progress=0.4, eta_seconds=12)
    return [
        invalid_request("Missing required parameter: 'model'.", "model", "missing_required_parameter"),
        unknown_parameter("temprature", "/v1/chat/completions"),
        unsupported_parameter("'lora' is not taken here: it reaches beyond this request.", "lora"),
        invalid_api_key(given=True),
        model_not_allowed("llama"),
        model_not_found("lama"),
        method_not_allowed("PUT", "/v1/models", "GET, HEAD, OPTIONS"),
        request_timed_out(60),
        body_too_large(32 * 1024 * 1024),
        unsupported_encoding("gzip"),
        queue_full("smol", 128, 7),
        internal_error(),
        engine_failed("The engine failed: status 500.", should_retry=False),
        unavailable(route),
        engine_unreachable("smol"),
        engine_timed_out("The engine gave no answer in time."),
    ]


def _error_responses() -> dict[str, Schema]:
    examples: dict[int, dict[str, Schema]] = {}
    for error in _examples():
        examples.setdefault(error.status, {})[str(error.code)] = {"value": json.loads(error.body())}
    responses = {}
    for status, description in _STATUSES.items():
        content: Schema = {"schema": {"$ref": "#/components/schemas/Error"}}
        if status in examples:
            content["examples"] = examples[status]
        responses[f"Error{status}"] = {
            "description": description,
            "content": {"application/json": content},
            "headers": _headers_of(status),
        }
    return responses


def _headers_of(status: int) -> Schema:
    names = ["x-request-id", "openai-processing-ms"] if status != 431 else []
    if status == 401:
        names.append("www-authenticate")
    if status == 405:
        names.append("allow")
    if status in (429, 502, 503, 504):
        names += ["retry-after", "x-should-retry"]
    if status == 429:
        names.append("retry-after-ms")
    if status in (200, 429):
        names += [name for name in _HEADERS if name.startswith("x-ratelimit-")]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _refusals(*statuses: int) -> dict[str, Schema]:
    return {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in sorted(statuses)}


def _operation(endpoint: Endpoint) -> Schema:
    name, summary = _ROUTES[endpoint.path]
    content: dict[str, Schema] = {"application/json": {"schema": ANSWERS[endpoint.path]}}
    if "stream" in endpoint.fields:
        content["text/event-stream"] = {}
        summary = f"{summary} With `stream`, as server-sent events."
    media_type = "multipart/form-data" if endpoint.takes_form else "application/json"
    return {
        "operationId": name,
        "description": summary,
        "tags": ["anthropic" if endpoint.anthropic else "openai"],
        "requestBody": {"required": True, "content": {media_type: {"schema": request_schema(endpoint)}}},
        "responses": {
            "200": {"description": "The answer.", "content": content, "headers": _headers_of(200)},
            **_refusals(*_OF_EVERY_ROUTE, *_OF_ENGINES),
        },
    }


def _reading(name: str, description: str, schema: Schema, **more: Any) -> Schema:
    answer = {"description": "Found.", "content": {"application/json": {"schema": schema}}}
    found = {"operationId": name, "description": description, "tags": ["openai"], **more}
    return found | {"responses": {"200": answer, **_refusals(*_OF_EVERY_ROUTE)}}


def document() -> Schema:
    """The document."""
    name = {
        "name": "model",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "description": "Slashes in it may stand as they are.",
    }
    paths: dict[str, Schema] = {f"/v1{path}": {"post": _operation(endpoint)} for path, endpoint in ENDPOINTS.items()}
    paths["/v1/models"] = {"get": _reading("listModels", "The models that the key may ask.", MODEL_LIST)}
    paths["/v1/models/{model}"] = {
        "get": _reading("retrieveModel", "One of the models.", MODEL_OBJECT, parameters=[name])
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stoker's OpenAI endpoint",
            "version": VERSION,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR},
            "responses": _error_responses(),
            "headers": {name: about | {"schema": {"type": "string"}} for name, about in _HEADERS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


@functools.cache
def document_bytes() -> bytes:
    """The document as it is sent."""
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()
