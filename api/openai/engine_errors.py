"""llama-server's errors, in the words of the OpenAI API. Pure.

Its shape is `{"error": {"code": <status>, "message", "type"}}`, with `n_prompt_tokens` and `n_ctx` beside them when a
prompt is too long (llama.cpp, tools/server/server-common.cpp, format_error_response).
"""

import json
import re
from typing import Any

from api.openai.errors import APIError, engine_failed, invalid_request

# llama-server answers 500 to some requests that are wrong themselves; these say so
_CLIENT_MISTAKES = (
    "input is not supported",  # image, audio or video, at a model without an mmproj
    "Failed to parse tools",
    "Failed to parse messages",
    "is required",
    "Invalid base64 value",
    "Cannot use both",
    "Unknown reasoning format",
    "[json.exception.type_error.",  # a field of another type than the engine reads
    "[json.exception.out_of_range.",  # one that it needs is not there
)

_FIELD = re.compile(r"Field '([^']{1,64})': ")


def translate(status: int, body: bytes, *, model: str, prompt_field: str = "messages") -> APIError:
    """The error to answer with for an engine's answer of `status`, 400 to 599. `prompt_field`: where the prompt stood.

    502 says that the engine may be at fault; whether it is, a second engine's answer would show.
    """
    error = _error_of(body)
    message = str(error.get("message") or "").strip()
    kind = str(error.get("type") or "")
    if kind == "exceed_context_size_error":
        return invalid_request(_too_long(error, message), prompt_field, "context_length_exceeded")
    if status in (404, 501):
        return invalid_request(
            f"The model {model!r} does not offer this route: {message}", "model", "model_not_supported"
        )
    if status == 413:
        return APIError(413, message or "The engine takes no request of this size.", code="request_too_large")
    if status in (401, 403):
        return engine_failed("The engine refused the proxy's key.")
    if status < 500:
        field = _FIELD.match(message)
        reason = message or f"The engine refused the request with status {status}."
        return invalid_request(reason, None if field is None else field[1])
    if any(mistake in message for mistake in _CLIENT_MISTAKES):
        return invalid_request(message)
    return engine_failed(f"The engine failed: {message or f'status {status}'}", should_retry=False)


def translate_event(event: bytes, *, model: str) -> APIError:
    """The error to end a stream with for the engine's error event (`data: {…}`, perhaps after an `event:` line)."""
    data = event.partition(b"data: ")[2].partition(b"\n")[0]
    error = _error_of(data)
    status = error.get("code")
    return translate(status if isinstance(status, int) and 400 <= status <= 599 else 500, data, model=model)


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(data, dict):
        error = data.get("error", data)
        return error if isinstance(error, dict) else {"message": error}
    return {}


def _too_long(error: dict[str, Any], message: str) -> str:
    asked, room = error.get("n_prompt_tokens"), error.get("n_ctx")
    if isinstance(asked, int) and isinstance(room, int):
        return (
            f"This model's maximum context length is {room} tokens. However, your messages resulted in {asked} tokens."
        )
    return message or "The prompt is longer than the model's context."
