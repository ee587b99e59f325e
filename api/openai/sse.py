"""Server-sent events from an engine, as bytes: cut at their ends, set right where llama-server differs from OpenAI.

Chunks are searched, not parsed, but for the one that carries usage. What is searched for has an unescaped quote or a
line break in it: neither can stand inside a JSON string, so that no generated text is ever mistaken for it.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from api.openai.answers import STOPPED, STOPPED_COMPLETE, dumps, set_text_logprobs
from api.openai.assembly import Assembly, summed_usage
from api.openai.endpoints import Endpoint
from api.openai.responses import ResponseFacts
from api.openai.responses_stream import ResponsesStream
from api.openai.validation import EngineRequest

MAX_EVENT_BYTES = 4 * 1024 * 1024  # `response.completed` repeats the whole answer

_CHUNK = b'data: {"choices":[{'
_CHUNK_WITHOUT_USAGE = b'data: {"usage":null,"choices":[{'
_USAGE = b'"usage":{'
_DELTA = b'"delta":{'
_INDEX = b'"index":'
_ROLE = b'"role":"assistant"'
_NULL_EVENT = b"data: null\n\n"
_DONE_EVENT = b"data: [DONE]\n\n"
_LOGPROBS = b'"logprobs":{"content":['
_LOGPROBS_COMPLETE = b'"logprobs":{"refusal":null,"content":['
_TOOL_BEGINS = b'"content_block":{"type":"tool_use",'
_TOOL_BEGINS_COMPLETE = b'"content_block":{"type":"tool_use","input":{},'
_THOUGHT_BEGINS = b'"content_block":{"type":"thinking",'
_THOUGHT_BEGINS_COMPLETE = b'"content_block":{"type":"thinking","signature":"",'


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
    for mark in endpoint.end_marks:  # noqa: SIM110 - a generator costs more than all of the search
        if mark in events:
            return True
    return False


def stream_shape(endpoint: Endpoint, request: EngineRequest) -> Callable[[bytes], bytes]:
    """What to put a stream's events through before they go to the client. For one stream."""
    if request.assembled:
        return Assembly(request.choices)
    if endpoint.echoed:
        return ResponsesStream(ResponseFacts.of(request), int(time.time()))
    if endpoint.anthropic:
        return _anthropic
    logprobs = request.logprobs and endpoint.usage_in_finish
    return StreamShape(endpoint, include_usage=request.include_usage, choices=request.choices, logprobs=logprobs)


def _anthropic(events: bytes) -> bytes:
    """Blocks begin with all their fields, and a stop sequence is told as one."""
    if b'"content_block":{' in events:
        events = events.replace(_TOOL_BEGINS, _TOOL_BEGINS_COMPLETE).replace(_THOUGHT_BEGINS, _THOUGHT_BEGINS_COMPLETE)
    return events.replace(STOPPED, STOPPED_COMPLETE)


class StreamShape:
    """Makes a stream what OpenAI's is, where llama-server's is not; all else passes byte for byte.

    - Usage is nowhere, or, when it was asked for, null in every chunk and whole in one before the end. llama-server
      leaves the nulls out and, with several choices or prompts, sends usage for each. On /completions usage stands in
      the finish chunk, asked for or not, and several prompts begin with the event `null`.
    - The first delta of each choice names the role. llama-server's does not when the first character took several
      tokens, nor in any choice but the first.
    - Log probabilities on /completions come in the chat's shape.
    """

    def __init__(self, endpoint: Endpoint, *, include_usage: bool, choices: int = 1, logprobs: bool = False) -> None:
        """`choices`: answers to each prompt. Every one of them repeats its prompt's tokens, which count once.

        `logprobs`: they were asked for, of text.
        """
        self._offsets: dict[int, int] | None = {} if logprobs else None  # characters of each choice that went before
        self._in_finish = endpoint.usage_in_finish
        self._include = include_usage and endpoint.usage_on_request
        self._choices = choices
        self._roles_due = choices if endpoint.role_in_first_delta else 0
        self._with_roles: set[bytes] = set()  # choices, by their index
        self._last: dict[str, Any] = {}  # the last chunk that had usage
        self._usages: list[dict[str, Any]] = []

    def __call__(self, events: bytes) -> bytes:
        """The events as they are to be sent."""
        if self._roles_due:
            events = self._with_roles_of(events)
        if self._in_finish and _NULL_EVENT in events:
            events = events.replace(_NULL_EVENT, b"")
        if (self._in_finish or self._include) and _USAGE in events:
            events = b"".join(map(self._without_usage, events.split(b"\n\n")[:-1]))
        if _LOGPROBS in events:
            if self._offsets is None:
                events = events.replace(_LOGPROBS, _LOGPROBS_COMPLETE)
            else:
                events = b"".join(map(self._with_text_logprobs, events.split(b"\n\n")[:-1]))
        if not self._include:
            return events
        if self._usages and events.endswith(_DONE_EVENT):
            events = events.removesuffix(_DONE_EVENT) + self._usage_event() + _DONE_EVENT
        return events.replace(_CHUNK, _CHUNK_WITHOUT_USAGE)

    def _with_roles_of(self, events: bytes) -> bytes:
        """Only as far as a role is due: a block may hold hundreds of events."""
        done = []
        while self._roles_due and events:
            event, _, events = events.partition(b"\n\n")
            done.append(self._with_role(event))
        return b"".join((*done, events))

    def _with_role(self, event: bytes) -> bytes:
        at = event.find(_DELTA) + len(_DELTA)
        index = event[event.find(_INDEX) : at]
        if at >= len(_DELTA) and index not in self._with_roles:  # no comment, and its choice's first delta
            self._with_roles.add(index)
            self._roles_due -= 1
            if b'"role":' not in event[at:]:
                event = event[:at] + (_ROLE if event[at : at + 1] == b"}" else _ROLE + b",") + event[at:]
        return event + b"\n\n"

    def _without_usage(self, event: bytes) -> bytes:
        if _USAGE in event:
            chunk = _chunk_of(event)
            usage = chunk.pop("usage", None)
            if isinstance(usage, dict):
                self._usages.append(usage)
                self._last = chunk
                if not chunk.get("choices"):  # it was there for its usage alone
                    return b""
                event = b"data: " + dumps(chunk)
        return event + b"\n\n"

    def _with_text_logprobs(self, event: bytes) -> bytes:
        if _LOGPROBS in event and self._offsets is not None:
            chunk = _chunk_of(event)
            for choice in chunk.get("choices", []):
                index = choice.get("index", 0)
                self._offsets[index] = set_text_logprobs(choice, self._offsets.get(index, 0))
            event = b"data: " + dumps(chunk)
        return event + b"\n\n"

    def _usage_event(self) -> bytes:
        usage = summed_usage(self._usages, self._choices)
        return b"data: " + dumps({**self._last, "choices": [], "usage": usage}) + b"\n\n"


def _chunk_of(event: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(event.removeprefix(b"data: "))
    except ValueError:
        return {}
    return chunk if isinstance(chunk, dict) else {}
