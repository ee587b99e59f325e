"""What the engine is told, where it does not understand what was asked."""

import json
from typing import Any

import pytest

from api.openai.endpoints import ENDPOINTS
from api.openai.errors import APIError
from api.openai.validation import parse_request

NEEDED: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/completions": {"prompt": "p"},
    "/responses": {"input": "i"},
    "/messages": {"messages": [{"role": "user", "content": "hi"}]},
    "/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("f", "g", "h")]
FLAT: list[dict[str, Any]] = [{"type": "function", "name": name, "parameters": {}} for name in ("f", "g", "h")]
ANTHROPIC: list[dict[str, Any]] = [{"name": name, "input_schema": {}} for name in ("f", "g")]


def sent(path: str, **fields: Any) -> dict[str, Any]:
    body = json.dumps({"model": "m"} | NEEDED[path] | fields).encode()
    found: dict[str, Any] = json.loads(parse_request(ENDPOINTS[path], body).body)
    return found


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/chat/completions", {"tools": TOOLS, "tool_choice": "auto", "logprobs": True, "top_logprobs": 2}),
        ("/completions", {"logprobs": 1}),
        ("/responses", {"input": [{"role": "user", "content": "hi"}], "text": {"format": {"type": "text"}}}),
        ("/messages", {"tools": ANTHROPIC, "tool_choice": {"type": "auto"}}),
    ],
)
def test_what_it_understands_goes_on_byte_for_byte(path: str, fields: dict[str, Any]) -> None:
    body = json.dumps({"model": "m"} | NEEDED[path] | fields).encode()
    assert parse_request(ENDPOINTS[path], body).body is body


@pytest.mark.parametrize(
    ("path", "tools", "choice", "names", "said"),
    [
        ("/chat/completions", TOOLS, {"type": "function", "function": {"name": "g"}}, ["g"], "required"),
        ("/responses", FLAT, {"type": "function", "name": "g"}, ["g"], "required"),
        (
            "/chat/completions",
            TOOLS,
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TOOLS[:2]}},
            ["f", "g"],
            "auto",
        ),
        ("/responses", FLAT, {"type": "allowed_tools", "mode": "required", "tools": FLAT[1:]}, ["g", "h"], "required"),
    ],
)
def test_a_tool_that_is_named_is_the_only_one(path: str, tools: Any, choice: Any, names: list[str], said: str) -> None:
    found = sent(path, tools=tools, tool_choice=choice)
    assert [tool.get("name") or tool["function"]["name"] for tool in found["tools"]] == names
    assert found["tool_choice"] == said


def test_anthropics_choices_of_tools() -> None:
    named = sent("/messages", tools=ANTHROPIC, tool_choice={"type": "tool", "name": "g"})
    assert named["tools"] == ANTHROPIC[1:]
    assert "tools" not in sent("/messages", tools=ANTHROPIC, tool_choice={"type": "none"})
    assert "tools" not in sent("/messages/count_tokens", tools=ANTHROPIC, tool_choice={"type": "none"})


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/chat/completions", {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, None),
        ("/chat/completions", {"tool_choice": {"type": "function", "function": {"name": "f"}}}, None),
        ("/chat/completions", {"tools": TOOLS, "tool_choice": {}}, None),
        ("/chat/completions", {"tools": "x", "tool_choice": {"type": "function", "function": 5}}, None),
        ("/responses", {"tools": FLAT, "tool_choice": {"type": "allowed_tools", "tools": 5}}, "tool_choice.tools"),
        ("/responses", {"tools": FLAT, "tool_choice": {"type": "allowed_tools", "allowed_tools": 5}}, None),
        ("/messages", {"tools": ANTHROPIC, "tool_choice": {"type": "tool", "name": "x"}}, None),
        ("/messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ("/messages", {"tools": 5}, "tools"),
        ("/messages", {"tools": [5]}, "tools[0]"),
    ],
)
def test_a_choice_that_is_none(path: str, fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(APIError) as caught:
        sent(path, **fields)
    assert caught.value.status == 400
    assert (caught.value.param or "").startswith(param or "tool_choice")


def test_text_completions_leave_out_what_says_nothing() -> None:
    assert sent("/completions", best_of=1, suffix=None, echo=False).keys() == {"model", "prompt", "echo"}


@pytest.mark.parametrize(("top", "said"), [({}, 1), ({"top_logprobs": 0}, 1), ({"top_logprobs": None}, 1)])
def test_log_probabilities_of_the_tokens_alone(top: dict[str, Any], said: int) -> None:
    assert sent("/chat/completions", logprobs=True, **top)["top_logprobs"] == said
    assert "top_logprobs" not in sent("/chat/completions", logprobs=False)


SCHEMA = {"type": "object", "properties": {"é": {"type": "integer"}}}


def test_a_shape_that_a_response_must_have() -> None:
    text = {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": SCHEMA}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    assert sent("/responses", text=text)["response_format"] == wanted
    assert sent("/responses", text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}


def test_what_stands_in_a_responses_input() -> None:
    empty = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"}
    full = empty | {"content": [{"type": "reasoning_text", "text": "hm"}]}
    user, assistant = ({"role": role, "content": "a"} for role in ("user", "assistant"))
    found = sent("/responses", input=[user, assistant, empty, full, "x"], instructions=None)
    assert found["input"] == [user, assistant | {"type": "message"}, full, "x"]
    assert "instructions" not in found
