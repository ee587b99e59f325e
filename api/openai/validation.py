"""What a request says, as far as routing needs it, and what no stranger may ask of an engine. Pure.

Everything else is the engine's to check: the bytes go on untouched.
"""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from api.openai.endpoints import Endpoint
from api.openai.errors import invalid_request, shorten, unsupported_parameter

_INT32_MAX = 2**31 - 1

# field: (lowest, highest, whole numbers only); OpenAI's documented ranges, and -1 where llama.cpp means "no limit"
RANGES: dict[str, tuple[float, float, bool]] = {
    "n": (1, 128, True),
    "n_cmpl": (1, 128, True),
    "best_of": (1, 128, True),
    "max_tokens": (-1, _INT32_MAX, True),
    "max_completion_tokens": (-1, _INT32_MAX, True),
    "max_output_tokens": (-1, _INT32_MAX, True),
    "n_predict": (-1, _INT32_MAX, True),
    "temperature": (0, 2, False),
    "top_p": (0, 1, False),
    "min_p": (0, 1, False),
    "top_k": (-1, _INT32_MAX, True),
    "presence_penalty": (-2, 2, False),
    "frequency_penalty": (-2, 2, False),
    "repeat_penalty": (0, 100, False),
    "top_logprobs": (0, 20, True),
    "top_n": (1, _INT32_MAX, True),
    "dimensions": (1, _INT32_MAX, True),
    "seed": (-(2**63), 2**63 - 1, True),
}

# the engine's own switches, which reach beyond the request that sets them
REFUSED = frozenset({"id_slot", "lora", "n_discard", "n_cache_reuse"})

_MEDIA = ("image_url", "input_audio", "input_video", "video_url", "source")


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What routing and metering need of a request."""

    model: str
    stream: bool = False
    include_usage: bool = False
    choices: int = 1  # answers to each prompt


def parse_request(endpoint: Endpoint, body: bytes) -> EngineRequest:
    """Reads and checks a request's body. Raises APIError (400) naming the field."""
    try:
        data = _DECODER.decode(body.decode())
        if not isinstance(data, dict):
            raise invalid_request(f"The body must be a JSON object, not {_kind(data)}.")
        return _checked(endpoint, data)
    except RecursionError as error:
        raise invalid_request("The body is nested too deeply.") from error
    except ValueError as error:
        raise invalid_request(f"The body is not valid JSON: {error}") from error


def _checked(endpoint: Endpoint, data: dict[str, Any]) -> EngineRequest:
    model = data.get("model")
    if model is None:
        raise invalid_request("Missing required parameter: 'model'.", "model", "missing_required_parameter")
    if not isinstance(model, str) or not model:
        _wrong_type("model", "a non-empty string", model)
    for name in endpoint.required:
        if data.get(name) is None:
            raise invalid_request(f"Missing required parameter: {name!r}.", name, "missing_required_parameter")
    for name, value in data.items():
        if name in RANGES:
            _check_range(name, value)
        elif name in REFUSED:
            raise unsupported_parameter(f"{name!r} is not taken here: it reaches beyond this request.", name)
    stream = data.get("stream")
    if stream is not None and not isinstance(stream, bool):
        _wrong_type("stream", "a boolean", stream)
    _check_media(endpoint, data)
    include_usage = _wants_usage(data.get("stream_options"), stream=bool(stream))
    choices = data.get("n") or data.get("n_cmpl") or 1
    return EngineRequest(model, bool(stream), include_usage, int(choices))


def _wants_usage(options: Any, *, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        _wrong_type("stream_options", "an object", options)
    if not stream:
        raise invalid_request("'stream_options' is only allowed when 'stream' is true.", "stream_options")
    wanted = options.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        _wrong_type("stream_options.include_usage", "a boolean", wanted)
    return bool(wanted)


def _check_range(name: str, value: Any) -> None:
    if value is None:
        return
    low, high, whole = RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong_type(name, "an integer" if whole else "a number", value)
    if whole and value != value // 1:
        _wrong_type(name, "an integer", value)
    if not low <= value <= high:
        message = f"Invalid {name!r}: {_kind(value)} is not between {low:g} and {high:g}."
        raise invalid_request(message, name, "integer_out_of_range" if whole else "decimal_out_of_range")


def _check_media(endpoint: Endpoint, data: dict[str, Any]) -> None:
    """The engine opens whatever URL a message names, on the inside of the network: only data may come in."""
    for name in ("messages", "input"):
        messages = data.get(name)
        if name == "messages" and name in endpoint.required and (not isinstance(messages, list) or not messages):
            _wrong_type(name, "a non-empty array", messages)
        if isinstance(messages, list):
            for index, message in enumerate(messages):
                if isinstance(message, dict):
                    _check_parts(message, f"{name}[{index}]")


def _check_parts(holder: dict[str, Any], where: str) -> None:
    for name in _MEDIA:
        if name in holder:
            _check_inline(holder[name], f"{where}.{name}")
    for name in ("content", "output"):
        parts = holder.get(name)
        if isinstance(parts, list):
            for index, part in enumerate(parts):
                if isinstance(part, dict):
                    _check_parts(part, f"{where}.{name}[{index}]")


def _check_inline(media: Any, where: str) -> None:
    if isinstance(media, dict):
        for key in ("url", "data"):
            _check_inline(media.get(key), f"{where}.{key}")
    elif isinstance(media, str) and not media.startswith("data:") and _may_be_url(media):
        message = f"Only data: URLs are taken, with the content itself in them; {shorten(media, 60)!r} is none."
        raise invalid_request(message, where, "unsupported_url")


def _may_be_url(text: str) -> bool:
    """Whether the engine could take it for an address: plain base64 has no colon and does not begin with http."""
    return ":" in text or text[:4].lower() == "http"


def _wrong_type(name: str, wanted: str, value: Any) -> NoReturn:
    raise invalid_request(f"Invalid {name!r}: it must be {wanted}, not {_kind(value)}.", name, "invalid_type")


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f"the string {shorten(value, 40)!r}" if value else "an empty string"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    if isinstance(value, dict):
        return "an object"
    return shorten(json.dumps(value), 40)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
