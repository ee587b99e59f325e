"""Whatever a body holds, the door reads it or refuses it: nothing in it is an accident."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.endpoints import ENDPOINTS, Endpoint
from api.openai.errors import APIError
from api.openai.validation import parse_request

JSON_ENDPOINTS = [endpoint for endpoint in ENDPOINTS.values() if not endpoint.takes_form]

# names and words that the checks look for, so that made-up bodies get past the first of them
WORDS = (
    *("type", "role", "content", "output", "name", "text"),
    *("url", "data", "function", "format", "mode", "effort"),
    *("tools", "allowed_tools", "image_url", "source", "input_schema", "include_usage"),
    *("user", "assistant", "tool", "none", "reasoning", "message"),
    *("document", "json_schema", "json_object"),
)
WORD = st.sampled_from(WORDS)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORD | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def bodies(endpoint: Endpoint) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with the fields of the endpoint, and anything in them."""
    needed = {"model": st.just("m"), **dict.fromkeys(endpoint.required, VALUE)}
    more = st.dictionaries(st.sampled_from(sorted(endpoint.fields - needed.keys())), VALUE, max_size=4)
    return st.builds(lambda own, others: others | own, st.fixed_dictionaries(needed), more)


@pytest.mark.parametrize("endpoint", JSON_ENDPOINTS, ids=lambda endpoint: endpoint.path)
@given(data=st.data())
def test_any_body(endpoint: Endpoint, data: st.DataObject) -> None:
    body = data.draw(bodies(endpoint))
    with suppress(APIError):
        assert parse_request(endpoint, json.dumps(body).encode()).model == "m"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/messages", {"messages": [{"role": "user", "content": [{"type": {}}]}]}),
        ("/messages", {"messages": [{"role": "user", "content": [{"type": ["document"]}]}]}),
        ("/messages", {"messages": [{}], "tools": [{"input_schema": {}}], "tool_choice": {"type": "tool", "name": {}}}),
        ("/chat/completions", {"messages": [{}], "tools": [{}], "tool_choice": {}}),
    ],
)
def test_what_was_found(path: str, fields: dict[str, Any]) -> None:
    with suppress(APIError):
        parse_request(ENDPOINTS[path], json.dumps({"model": "m", **fields}).encode())
