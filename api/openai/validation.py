"""What a request says, as far as routing needs it, and what no stranger may ask of an engine. Pure.

Everything else is the engine's to check: the bytes go on untouched, but for what `adaptation` says in its words.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from api.openai.adaptation import adapted
from api.openai.content import check_content
from api.openai.endpoints import Endpoint
from api.openai.errors import APIError, invalid_request, unknown_parameter, unsupported_parameter, wrong_type
from api.openai.errors import kind_of as _kind
from api.openai.field_values import MOST, RANGES
from api.openai.fields import ENGINE_SWITCHES
from api.openai.multipart import parse_form
from api.openai.prefix import prefix_of

MAX_DEPTH = 64  # of arrays and objects in one another
MAX_VALUES = 500_000  # in a body: to build them takes time of all requests, and memory far beyond the body's
MAX_ANSWERS = 2048  # to all prompts of a request together: so many places in the engine's queue

# the engine takes them in this order; the newer name counts where both are given
_OUTPUT_LIMITS = ("n_predict", "max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(slots=True)  # not frozen: that takes a microsecond for each
class EngineRequest:
    """What routing, limits and metering need of a request, and what goes to the engine."""

    model: str
    stream: bool = False
    include_usage: bool = False
    choices: int = 1  # answers to each prompt
    max_output: int | None = None  # tokens that each answer may have; None: as many as the model writes
    prompt_size: int = 0  # bytes, about; without the images and sounds in it
    prefix: int = 0  # of the conversation; 0: none
    logprobs: bool = False  # asked for
    assembled: bool = False  # out of a stream, though the client asked for one piece
    echoed: dict[str, Any] | None = None  # what a response object repeats of its request
    body: bytes = b""  # for the engine
    content_type: bytes = b"application/json"
    answers: int = 1  # to all prompts together


def parse_request(endpoint: Endpoint, body: bytes, content_type: bytes = b"application/json") -> EngineRequest:
    """Reads and checks a request's body. Raises APIError (400) naming the field."""
    if endpoint.takes_form:
        return _form(endpoint, body, content_type)
    _check_values(body)
    try:
        data = _DECODER.decode(body.decode())
        if not isinstance(data, dict):
            raise invalid_request(f"The body must be a JSON object, not {_kind(data)}.")
        _check_depth(body, data)
        return _checked(endpoint, data, body)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise invalid_request(f"The body is not valid JSON: {error}") from error


def _checked(endpoint: Endpoint, data: dict[str, Any], body: bytes) -> EngineRequest:
    model = data.get("model")
    if model is None:
        raise _missing("model")
    if not isinstance(model, str) or not model:
        wrong_type("model", "a non-empty string", model)
    for name in endpoint.required:
        if data.get(name) is None:
            raise _missing(name)
    fields, harmless = endpoint.fields, endpoint.harmless
    if not data.keys() <= fields:
        raise _not_taken(min(data.keys() - fields), endpoint)
    for name, value in data.items():
        if name in RANGES:
            _check_range(name, value)
        elif name in MOST:
            _check_count(name, value)
        if name in harmless:
            _check_harmless(endpoint, name, value)
    stream = data.get("stream")
    if stream is not None and not isinstance(stream, bool):
        wrong_type("stream", "a boolean", stream)
    prompt_size = len(body) - check_content(endpoint, data, len(body))
    include_usage = _wants_usage(data.get("stream_options"), stream=bool(stream))
    choices = data.get("n_cmpl") or data.get("n") or 1
    prompts = _prompts(data)
    answers = _answers(int(choices), prompts) if endpoint.writes else 1
    assembled = not stream and endpoint.usage_on_request and (choices > 1 or prompts > 1)
    return EngineRequest(
        model,
        bool(stream),
        include_usage,
        int(choices),
        _max_output(data) if endpoint.writes else 0,
        prompt_size,
        prefix_of(data) if endpoint.has_prefix else 0,
        bool(data.get("logprobs") or data.get("n_probs")),
        assembled,
        {name: data.get(name) for name in endpoint.echoed} if endpoint.echoed else None,
        adapted(endpoint, data, body, streamed=assembled),  # the last: it changes the data
        answers=answers,
    )


def _prompts(data: dict[str, Any]) -> int:
    prompts = data.get("prompt")
    return len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1


def _answers(choices: int, prompts: int) -> int:
    if choices * prompts > MAX_ANSWERS:
        message = f"Invalid 'n': {choices} answers to each of {prompts} prompts are more than {MAX_ANSWERS} in all."
        raise invalid_request(message, "n", "integer_out_of_range")
    return choices * prompts


def _form(endpoint: Endpoint, body: bytes, content_type: bytes) -> EngineRequest:
    found: dict[str, str] = {}
    media = 0
    for part in parse_form(content_type, body):
        name = part.name
        if name.removesuffix("[]") not in endpoint.fields:
            raise _not_taken(name, endpoint)
        if part.is_file != (name == "file"):
            wrong_type(name, "a file" if name == "file" else "text", None)
        if part.is_file:
            media += len(part.value)
        value = "" if part.is_file else part.value.decode("utf-8", "replace")
        if name in found and not name.endswith("[]"):
            raise invalid_request(f"{name!r} is given more than once.", name)
        if name in endpoint.harmless:
            _check_harmless(endpoint, name, value)
        found[name] = value
    for name in ("model", *endpoint.required):
        if name not in found or (name == "model" and not found[name]):
            raise _missing(name)
    if "temperature" in found:
        _check_range("temperature", _number(found["temperature"]))
    stream = found.get("stream", "false").lower()
    if stream not in ("true", "false"):
        wrong_type("stream", "'true' or 'false'", stream)
    return EngineRequest(
        found["model"], stream == "true", prompt_size=len(body) - media, body=body, content_type=content_type
    )


def _max_output(data: dict[str, Any]) -> int | None:
    for name in _OUTPUT_LIMITS:
        limit = data.get(name)
        if limit is not None:
            return int(limit) if limit >= 0 else None
    return None


def _wants_usage(options: Any, *, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        wrong_type("stream_options", "an object", options)
    if not stream:
        raise invalid_request("'stream_options' is only allowed when 'stream' is true.", "stream_options")
    wanted = options.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        wrong_type("stream_options.include_usage", "a boolean", wanted)
    return bool(wanted)


def _check_values(body: bytes) -> None:
    """Refuses a body of very many values, before they are made: counted by their marks, first also those in strings."""
    if _marks(body) > MAX_VALUES and _marks(_STRING.sub(b"", body)) > MAX_VALUES:
        raise invalid_request(f"The body holds more than {MAX_VALUES} values.")


def _marks(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _check_depth(body: bytes, data: dict[str, Any]) -> None:
    """The engine walks schemas and templates by recursion: what is nested deeper than any real one is not passed on."""
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        level = [
            value
            for holder in level
            for value in (holder.values() if type(holder) is dict else holder)
            if type(value) is dict or type(value) is list
        ]
        if not level:
            return
    raise _too_deep()


def _check_range(name: str, value: Any) -> None:
    if value is None:
        return
    low, high, whole = RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong_type(name, "an integer" if whole else "a number", value)
    if whole and value != value // 1:
        wrong_type(name, "an integer", value)
    if not low <= value <= high:
        message = f"Invalid {name!r}: {_kind(value)} is not between {low:g} and {high:g}."
        raise invalid_request(message, name, "integer_out_of_range" if whole else "decimal_out_of_range")


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, list | dict) and len(value) > MOST[name]:
        raise invalid_request(
            f"Invalid {name!r}: it has {len(value)} entries, and may have {MOST[name]}.", name, "array_above_max_length"
        )


def _check_harmless(endpoint: Endpoint, name: str, value: Any) -> None:
    values, reason = endpoint.harmless[name]
    if value is not None and value not in values:
        raise unsupported_parameter(f"{name!r} is not taken here: {reason}.", name)


def _not_taken(name: str, endpoint: Endpoint) -> APIError:
    if name in ENGINE_SWITCHES:
        return unsupported_parameter(f"{name!r} is not taken here: it reaches beyond this request.", name)
    return unknown_parameter(name, f"/v1{endpoint.path}")


def _missing(name: str) -> APIError:
    return invalid_request(f"Missing required parameter: {name!r}.", name, "missing_required_parameter")


def _too_deep() -> APIError:
    return invalid_request(f"The body is nested too deeply: more than {MAX_DEPTH} arrays and objects in one another.")


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


# a string that does not end is one to the body's end: to look for its end from each quote in it would take for ever
_STRING = re.compile(rb'"[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_DECODER = json.JSONDecoder(parse_constant=_no_constant)
