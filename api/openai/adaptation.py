"""Requests in llama-server's words, where it does not understand OpenAI's or Anthropic's. Pure.

Most requests need none of it, and go on byte for byte. What llama.cpp b9 of the 0.3.36 sdist does with the rest
(tools/server/server-common.cpp, server-chat.cpp):

- A tool that is named in `tool_choice` is not forced: anything but a string counts as "auto". So the other tools are
  left out, and "required" says the same.
- `/completions` refuses `best_of` and `suffix`, whatever they say. Here they say nothing any more.
- `/chat/completions` with `logprobs` but without `top_logprobs` gives 20 of them, and with 0 none at all.
- `/responses` does not know `text.format`, nor messages of the assistant that are not typed, as OpenAI's short form has
  them, nor reasoning that is empty or encrypted.
- `/messages` does not know that `tool_choice` may be `none`.
"""

import json
from typing import Any

from api.openai.endpoints import Endpoint
from api.openai.errors import invalid_request, wrong_type


def adapted(endpoint: Endpoint, data: dict[str, Any], body: bytes, *, streamed: bool = False) -> bytes:
    """The body for the engine: `body` itself, or the changed `data`. `streamed`: it must stream, whatever the client
    asked for. Raises APIError (400)."""
    change = _CHANGES.get(endpoint.path)
    changed = change is not None and change(data)
    if streamed:
        data |= {"stream": True, "stream_options": {"include_usage": True}}
    elif not changed:
        return body
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _chat(data: dict[str, Any]) -> bool:
    changed = _choose_tool(data)
    if data.get("logprobs") is True and not data.get("top_logprobs"):
        data["top_logprobs"] = 1
        changed = True
    return changed


def _completions(data: dict[str, Any]) -> bool:
    present = [name for name in ("best_of", "suffix") if name in data]
    for name in present:
        del data[name]
    return bool(present)


def _responses(data: dict[str, Any]) -> bool:
    changed = _choose_tool(data)
    if "instructions" in data and data["instructions"] is None:
        del data["instructions"]
        changed = True
    text = data.get("text")
    if text is not None and not isinstance(text, dict):
        wrong_type("text", "an object", text)
    shape = text.get("format") if text else None
    if isinstance(shape, dict) and shape.get("type") in ("json_schema", "json_object"):
        data["response_format"] = (
            {"type": "json_object"}
            if shape["type"] == "json_object"
            else {"type": "json_schema", "json_schema": {"name": shape.get("name"), "schema": shape.get("schema", {})}}
        )
        changed = True
    items = data["input"]
    return (_read_items(data, items) if isinstance(items, list) else False) or changed


def _read_items(data: dict[str, Any], items: list[Any]) -> bool:
    """Sets right what stands in `input`. Whether it had to."""
    changed = False
    kept = []
    for item in items:
        if isinstance(item, dict):
            kind = item.get("type")
            if kind is None and item.get("role") == "assistant":
                item["type"] = "message"
                changed = True
            elif kind == "reasoning" and not item.get("content"):
                changed = True
                continue
        kept.append(item)
    if changed:
        data["input"] = kept
    return changed


def _messages(data: dict[str, Any]) -> bool:
    choice = data.get("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") not in ("none", "tool"):
        return False
    if choice["type"] == "none":
        data.pop("tools", None)
    else:
        data["tools"] = _only(data, {_name_of(choice)})
    return True


def _choose_tool(data: dict[str, Any]) -> bool:
    choice = data.get("tool_choice")
    if not isinstance(choice, dict):
        return False
    allowed = choice.get("allowed_tools", choice) if choice.get("type") == "allowed_tools" else None
    if allowed is None:
        data["tools"] = _only(data, {_name_of(choice)})
        data["tool_choice"] = "required"
    else:
        if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list):
            wrong_type("tool_choice.tools", "an array", allowed.get("tools") if isinstance(allowed, dict) else allowed)
        data["tools"] = _only(data, {_name_of(tool) for tool in allowed["tools"]})
        data["tool_choice"] = "required" if allowed.get("mode") == "required" else "auto"
    return True


def _only(data: dict[str, Any], names: set[Any]) -> list[Any]:
    tools = data.get("tools")
    listed = tools if isinstance(tools, list) else []
    chosen = [tool for tool in listed if (name := _name_of(tool)) is not None and name in names]
    if not chosen:
        told = ", ".join(sorted(map(str, names)))
        raise invalid_request(f"'tool_choice' names {told!r}, which is not among 'tools'.", "tool_choice")
    return chosen


def _name_of(tool: Any) -> Any:
    """The name of a tool, in the words of any of the three APIs."""
    if not isinstance(tool, dict):
        return None
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else tool.get("name")
    return name if isinstance(name, str) else None


_CHANGES = {
    "/chat/completions": _chat,
    "/completions": _completions,
    "/responses": _responses,
    "/messages": _messages,
    "/messages/count_tokens": _messages,
}
