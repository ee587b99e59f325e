"""Server-sent events from an engine, as bytes: cut at their ends, set right where llama-server differs from OpenAI.

Chunks are searched, not parsed, but for the one that carries usage. What is searched for has an unescaped quote or a
line break in it: neither can stand inside a JSON string, so that no generated text is ever mistaken for it.
"""

import json
from typing import Any

from api.openai.endpoints import Endpoint

MAX_EVENT_BYTES = 4 * 1024 * 1024  # `response.completed` repeats the whole answer

_CHUNK = b'data: {"choices":[{'
_CHUNK_WITHOUT_USAGE = b'data: {"usage":null,"choices":[{'
_USAGE = b'"usage":{'
_DELTA = b'"delta":{'
_ROLE = b'"role":"assistant"'
_NULL_EVENT = b"data: null\n\n"
_DONE_EVENT = b"data: [DONE]\n\n"


class EventCutter:
    """Hands out whole events only, however the bytes came: what broke off in mid-event is never passed on."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def push(self, data: bytes) -> bytes:
        """All events that are whole with `data`; the rest waits. Raises ValueError when one is too long."""
        if not self._rest and data.endswith(b"\n\n"):
            return data
        start = max(len(self._rest) - 1, 0)  # a line break may be there already
        self._rest += data
        end = self._rest.rfind(b"\n\n", start) + 2
        if end == 1:
            if len(self._rest) > MAX_EVENT_BYTES:
                raise ValueError(f"an event is longer than {MAX_EVENT_BYTES} bytes")
            return b""
        events = bytes(self._rest[:end])
        del self._rest[:end]
        return events


def error_at(events: bytes, endpoint: Endpoint) -> int:
    """Where the engine's own error event begins; -1 when there is none."""
    return events.find(b"event: error\n" if endpoint.anthropic else b'data: {"error":')


def is_last(events: bytes, endpoint: Endpoint) -> bool:
    """Whether the stream is whole with these events."""
    return any(mark in events for mark in endpoint.end_marks)


class StreamShape:
    """Makes a stream what OpenAI's is, where llama-server's is not; all else passes byte for byte.

    - Usage is nowhere, or, when it was asked for, null in every chunk and whole in one before the end. llama-server
      leaves the nulls out and, with several choices or prompts, sends usage for each. On /completions usage stands in
      the finish chunk, asked for or not, and several prompts begin with the event `null`.
    - A chat's first delta names the role. llama-server's does not when the first character took several tokens.
    """

    def __init__(self, endpoint: Endpoint, *, include_usage: bool, choices: int = 1) -> None:
        """`choices`: answers to each prompt. Every one of them repeats its prompt's tokens, which count once."""
        self._in_finish = endpoint.usage_in_finish
        self._include = include_usage and endpoint.usage_on_request
        self._choices = choices
        self._role_due = endpoint.role_in_first_delta
        self._last: dict[str, Any] = {}  # the last chunk that had usage
        self._usages: list[dict[str, Any]] = []

    def __call__(self, events: bytes) -> bytes:
        """The events as they are to be sent."""
        if self._role_due:
            events = self._with_role(events)
        if self._in_finish and _NULL_EVENT in events:
            events = events.replace(_NULL_EVENT, b"")
        if (self._in_finish or self._include) and _USAGE in events:
            events = b"".join(map(self._without_usage, events.split(b"\n\n")[:-1]))
        if not self._include:
            return events
        if self._usages and events.endswith(_DONE_EVENT):
            events = events.removesuffix(_DONE_EVENT) + self._usage_event() + _DONE_EVENT
        return events.replace(_CHUNK, _CHUNK_WITHOUT_USAGE)

    def _with_role(self, events: bytes) -> bytes:
        at = events.find(_DELTA) + len(_DELTA)
        if at < len(_DELTA):  # a comment, perhaps
            return events
        self._role_due = False
        if b'"role":' in events[at : events.find(b"\n\n", at)]:
            return events
        return events[:at] + (_ROLE if events[at : at + 1] == b"}" else _ROLE + b",") + events[at:]

    def _without_usage(self, event: bytes) -> bytes:
        if _USAGE in event:
            chunk = _chunk_of(event)
            usage = chunk.pop("usage", None)
            if isinstance(usage, dict):
                self._usages.append(usage)
                self._last = chunk
                if not chunk.get("choices"):  # it was there for its usage alone
                    return b""
                event = b"data: " + _dumps(chunk)
        return event + b"\n\n"

    def _usage_event(self) -> bytes:
        usage = self._usages[0]
        if len(self._usages) > 1:
            prompt, completion = (
                sum(count for each in self._usages if isinstance(count := each.get(name), int))
                for name in ("prompt_tokens", "completion_tokens")
            )
            prompt //= self._choices
            usage = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        return b"data: " + _dumps({**self._last, "choices": [], "usage": usage}) + b"\n\n"


def _chunk_of(event: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(event.removeprefix(b"data: "))
    except ValueError:
        return {}
    return chunk if isinstance(chunk, dict) else {}


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
