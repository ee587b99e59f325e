"""Conversations are known again by how they begin."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.prefix import prefix_of


def said(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


FIRST = said(("system", "Be brief."), ("user", "Who are you?"))


def test_it_is_the_same_in_every_process() -> None:
    assert prefix_of(said(("user", "hi"))) == 3936700462
    assert prefix_of({"prompt": "hi"}) == 3936700462


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (FIRST, said(("system", "Be brief."), ("user", "Who are you?"), ("assistant", "I"), ("user", "And now?"))),
        (
            {"system": "Be brief."} | said(("user", "hi")),
            {"system": "Be brief."} | said(("user", "hi"), ("assistant", "ho"), ("user", "hm")),
        ),
        (
            {
                "instructions": "Be brief.",
                "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
            },
            {
                "instructions": "Be brief.",
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                    {"type": "function_call", "name": "f"},
                    {"role": "user", "content": "b"},
                ],
            },
        ),
        (said(("user", "hi")), said(("user", [{"type": "text", "text": "hi"}]), ("assistant", None))),
        (FIRST, FIRST | {"temperature": 1, "model": "another"}),
        (FIRST | {"prompt_cache_key": "k"}, FIRST | {"prompt_cache_key": "k", "stream": True}),
    ],
)
def test_a_later_turn_has_the_same_prefix(first: dict[str, Any], later: dict[str, Any]) -> None:
    assert prefix_of(first) == prefix_of(later) != 0


@pytest.mark.parametrize(
    "other",
    [
        said(("system", "Be brief."), ("user", "Who am I?")),
        said(("system", "Be long."), ("user", "Who are you?")),
        FIRST | {"prompt_cache_key": "k"},
        said(("system", "Be brief." + "x" * 5000), ("user", "Who are you?")),
    ],
)
def test_another_conversation_has_another_prefix(other: dict[str, Any]) -> None:
    assert prefix_of(other) != prefix_of(FIRST)


def test_long_texts_that_begin_alike_differ_by_their_length() -> None:
    assert prefix_of({"prompt": "x" * 5000}) != prefix_of({"prompt": "x" * 5001})


@pytest.mark.parametrize(
    "data", [{}, {"messages": []}, {"prompt": []}, {"prompt_cache_key": "k"}, said(("user", None)), {"prompt": 5}]
)
def test_where_nothing_is_said_there_is_no_prefix(data: dict[str, Any]) -> None:
    assert prefix_of(data) == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "text"]), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["messages", "input", "prompt", "system", "prompt_cache_key"]), JSON))
def test_whatever_is_said_it_is_a_number_of_32_bits(data: dict[str, Any]) -> None:
    assert 0 <= prefix_of(data) < 2**32
