"""What the prompt of a request may hold: text, and pictures and sounds that are in it, not somewhere else. Pure."""

from typing import Any

from api.openai.endpoints import Endpoint
from api.openai.errors import invalid_request, kind_of, shorten, wrong_type

MAX_TEXT_BYTES = 10 * 1024 * 1024  # the engine reads all of it before it knows that it is too long; OpenAI's limit too
MAX_PROMPTS = 2048  # in one request, OpenAI's limit for embeddings

_MEDIA = ("image_url", "input_audio", "input_video", "video_url", "source")
_NO_MEDIA = frozenset(_MEDIA)

# What the engine would pass over in silence, though the question may be about it.
_ANTHROPIC_UNREAD = ("document", "search_result", "container_upload")


def check_content(endpoint: Endpoint, data: dict[str, Any], size: int) -> int:
    """Bytes of inline media in a request of `size` bytes.

    The engine opens whatever URL a message names, on the inside of the network: only data may come in. Raises APIError
    (400) naming the place.
    """
    media = 0
    for name in endpoint.required:
        value = data[name]
        if name == "messages":
            media += _turns(endpoint, name, value, must=True)
        elif name == "input" and endpoint.has_prefix:
            media += _turns(endpoint, name, value, must=False)
        elif name in ("input", "prompt"):
            _check_prompts(name, value)
    if endpoint.anthropic and (tools := data.get("tools")):
        _check_anthropic_tools(tools)
    if size - media > MAX_TEXT_BYTES:
        raise invalid_request(
            f"The request has {size - media} bytes of text; no more than {MAX_TEXT_BYTES} are taken.",
            endpoint.required[0],
            "string_above_max_length",
        )
    return media


def _turns(endpoint: Endpoint, name: str, turns: Any, *, must: bool) -> int:
    if not isinstance(turns, list):
        if must:
            wrong_type(name, "a non-empty array", turns)
        if not isinstance(turns, str):
            wrong_type(name, "a string or an array", turns)
        return 0
    if must and not turns:
        wrong_type(name, "a non-empty array", turns)
    media = 0
    for index, turn in enumerate(turns):
        if isinstance(turn, dict):
            media += _part(endpoint, turn, name, index)
    return media


def _part(endpoint: Endpoint, holder: dict[str, Any], where: str, index: int) -> int:
    media = 0
    if not _NO_MEDIA.isdisjoint(holder):
        for name in _MEDIA:
            if name in holder:
                media += _inline(holder[name], f"{where}[{index}].{name}")
    for name in ("content", "output"):
        parts = holder.get(name)
        if isinstance(parts, list):
            inside = f"{where}[{index}].{name}"
            for number, part in enumerate(parts):
                if isinstance(part, dict):
                    if endpoint.anthropic and part.get("type") in _ANTHROPIC_UNREAD:
                        message = f"The engine reads no blocks of the type {part['type']!r}: send their text."
                        raise invalid_request(message, f"{inside}[{number}].type", "unsupported_content")
                    media += _part(endpoint, part, inside, number)
    return media


def _inline(media: Any, where: str) -> int:
    if isinstance(media, dict):
        return _inline(media.get("url"), f"{where}.url") + _inline(media.get("data"), f"{where}.data")
    if not isinstance(media, str):
        return 0
    if not media.startswith("data:") and (":" in media or media[:4].lower() == "http"):
        # plain base64 has no colon, and does not begin with http
        message = f"Only data: URLs are taken, with the content itself in them; {shorten(media, 60)!r} is none."
        raise invalid_request(message, where, "unsupported_url")
    return len(media)


def _check_prompts(name: str, prompts: Any) -> None:
    """A prompt is a string or tokens; several are an array of those. An object would be the engine's own format."""
    if isinstance(prompts, str):
        return
    if not isinstance(prompts, list) or not prompts:
        wrong_type(name, "a string or a non-empty array", prompts)
    if isinstance(prompts[0], int):
        _check_tokens(name, prompts)
        return
    if len(prompts) > MAX_PROMPTS:
        message = f"Invalid {name!r}: it has {len(prompts)} entries, and may have {MAX_PROMPTS}."
        raise invalid_request(message, name, "array_above_max_length")
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, list) and prompt:
            _check_tokens(f"{name}[{index}]", prompt)
        elif not isinstance(prompt, str):
            wrong_type(f"{name}[{index}]", "a string or an array of tokens", prompt)


def _check_tokens(name: str, tokens: list[Any]) -> None:
    for token in tokens:
        if type(token) is not int or not 0 <= token < 2**31:
            wrong_type(name, "an array of tokens, whole numbers from 0", token if type(token) is not list else tokens)


def _check_anthropic_tools(tools: Any) -> None:
    if not isinstance(tools, list):
        wrong_type("tools", "an array", tools)
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            wrong_type(f"tools[{index}]", "an object", tool)
        if "input_schema" not in tool:
            message = f"Only tools with an 'input_schema' are taken; {kind_of(tool.get('type'))} runs at Anthropic."
            raise invalid_request(message, f"tools[{index}].type", "unsupported_tool")
