"""Streams of /v1/responses as OpenAI publishes them. Pure.

llama-server's events lack what clients find their way by: numbers, indices, whole response objects at both ends, the
event that ends a tool call's arguments. And what its parser understands only at the end comes as a `done` that nothing
went before. So the stream is told anew, event by event; only the many deltas of text are not parsed.
"""

import json
from collections.abc import Iterator
from typing import Any

from api.openai.responses import ResponseFacts, complete_response

Event = dict[str, Any]

_TEXT_DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
_DELTA = b'"delta":"'


class ResponsesStream:
    """Sets one stream right. Call it with whole events, as they come."""

    def __init__(self, facts: ResponseFacts, created_at: int) -> None:
        """`created_at`: Unix seconds, which llama-server tells at the end only."""
        self._facts, self._created_at = facts, created_at
        self._number = 0
        self._items: list[str] = []  # their ids; an item's place is its index
        self._said: dict[str, list[bytes]] = {}  # of each item, its deltas as they stand in JSON
        self._parts: set[str] = set()

    def __call__(self, events: bytes) -> bytes:
        """The events as they are to be sent. Raises ValueError where one is no event of a response."""
        try:
            return b"".join(map(self._told, events.split(b"\n\n")[:-1]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"an event of the response lacks something: {error!r}") from error

    def _told(self, event: bytes) -> bytes:
        if event.startswith(_TEXT_DELTA) and (delta := self._text_delta(event)):
            return delta
        data = _data_of(event)
        if data is None:  # a comment
            return event + b"\n\n"
        return b"".join(map(self._numbered, self._events(data)))

    def _text_delta(self, event: bytes) -> bytes:
        """A delta of an item that is known, with its numbers put in; empty if it needs more than that."""
        rest = event[len(_TEXT_DELTA) :]
        at = rest.find(_DELTA)
        item = rest[len(b'"item_id":"') : at - 2].decode()
        if at < 0 or item not in self._parts or not rest.endswith(b'"}'):
            return b""
        self._said[item].append(rest[at + len(_DELTA) : -2])
        numbers = b'"sequence_number":%d,"output_index":%d,"content_index":0,"logprobs":[],' % (
            self._next_number(),
            self._items.index(item),
        )
        return _TEXT_DELTA + numbers + rest + b"\n\n"

    def _next_number(self) -> int:
        self._number += 1
        return self._number - 1

    def _numbered(self, event: Event) -> bytes:
        data = json.dumps(event | {"sequence_number": self._next_number()}, ensure_ascii=False, separators=(",", ":"))
        return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), data.encode("utf-8", "surrogatepass"))

    def _events(self, data: Event) -> Iterator[Event]:
        kind = data.get("type")
        if kind in ("response.created", "response.in_progress"):
            yield {"type": kind, "response": self._response(data["response"])}
        elif kind == "response.output_item.added":
            yield self._added(data["item"])
        elif kind == "response.output_item.done":
            yield from self._item_done(data["item"])
        elif kind == "response.completed":
            yield from self._ended(data["response"])
        elif "item_id" in data:
            yield from self._of_item(data)

    def _response(self, found: Event) -> Event:
        return complete_response(found | {"created_at": self._created_at}, self._facts)

    def _added(self, item: Event) -> Event:
        self._items.append(item["id"])
        self._said[item["id"]] = []
        return {"type": "response.output_item.added", "output_index": len(self._items) - 1, "item": item}

    def _of_item(self, data: Event) -> Iterator[Event]:
        """What concerns one part of one item."""
        item, kind = data["item_id"], data["type"]
        if item not in self._said:
            if not kind.startswith(("response.output_text", "response.content_part")):
                return
            yield self._added(
                {"id": item, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
            )
        place: Event = {"item_id": item, "output_index": self._items.index(item)}
        if kind == "response.function_call_arguments.delta":
            self._said[item].append(_escaped(data["delta"]))
            yield {"type": kind, **place, "delta": data["delta"]}
            return
        place["content_index"] = 0
        if kind.startswith("response.reasoning_text"):
            self._said[item].append(_escaped(data.get("delta", "")))
            yield {"type": kind, **place, "delta": data.get("delta", "")}
            return
        if item not in self._parts and kind != "response.content_part.done":
            self._parts.add(item)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield {"type": "response.content_part.added", **place, "part": part}
        if kind == "response.output_text.delta":
            self._said[item].append(_escaped(data["delta"]))
            yield {"type": kind, **place, "delta": data["delta"], "logprobs": []}
        elif kind == "response.output_text.done":
            if rest := self._unsaid(item, data["text"]):
                yield {"type": "response.output_text.delta", **place, "delta": rest, "logprobs": []}
            yield {"type": kind, **place, "text": data["text"], "logprobs": []}
        elif kind == "response.content_part.done":
            yield {"type": kind, **place, "part": data["part"]}

    def _item_done(self, item: Event) -> Iterator[Event]:
        key = item["id"]
        if key not in self._said:
            empty: Event = {"function_call": {"arguments": ""}}.get(item["type"], {"content": []})
            yield self._added(item | {"status": "in_progress"} | empty)
        place: Event = {"item_id": key, "output_index": self._items.index(key)}
        if item["type"] == "function_call":
            kind, text = "response.function_call_arguments", item["arguments"]
            if rest := self._unsaid(key, text):
                yield {"type": f"{kind}.delta", **place, "delta": rest}
            yield {"type": f"{kind}.done", **place, "name": item["name"], "arguments": text}
        elif item["type"] == "reasoning":
            kind, text = "response.reasoning_text", "".join(part.get("text", "") for part in item["content"])
            place["content_index"] = 0
            if rest := self._unsaid(key, text):
                yield {"type": f"{kind}.delta", **place, "delta": rest}
            yield {"type": f"{kind}.done", **place, "text": text}
        yield {"type": "response.output_item.done", "output_index": place["output_index"], "item": item}

    def _unsaid(self, item: str, text: str) -> str:
        """What no delta has said of a text that is whole now."""
        said: str = json.loads(b'"' + b"".join(self._said[item]) + b'"')
        return text[len(said) :] if text.startswith(said) else ""

    def _ended(self, found: Event) -> Iterator[Event]:
        order = {key: index for index, key in enumerate(self._items)}
        output = sorted(found.get("output", []), key=lambda item: order.get(item.get("id"), len(order)))
        response = self._response(found | {"output": output})
        yield {"type": f"response.{response['status']}", "response": response}


def _data_of(event: bytes) -> Event | None:
    """The JSON of an event; None where it has none that an answer could be made of."""
    line = event.partition(b"data: ")[2]
    try:
        data = json.loads(line) if line else None
    except ValueError:
        return None
    return data if isinstance(data, dict) and isinstance(data.get("type"), str) else None


def _escaped(text: str) -> bytes:
    return json.dumps(text + "", ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")
