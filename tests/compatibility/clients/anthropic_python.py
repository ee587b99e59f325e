"""The Anthropic SDK. Every answer must be of the package's own types, strictly."""

from functools import partial

import anthropic
from anthropic import Anthropic
from anthropic.types import Message
from checks import API_KEY, BASE_URL, MODEL, SAY_HELLO, TOOL_MODEL, WEATHER, WEATHER_SCHEMA, check, raised
from pydantic import BaseModel

client = Anthropic(base_url=BASE_URL, api_key=API_KEY, timeout=120, max_retries=0)
GREEDY = {"temperature": 0}  # the package no longer knows the word; the API does
STOPS = ["e", "a", "o", "i", "n", "t"]  # one of them comes, whatever it answers
TOOL = {"name": "get_weather", "description": "The weather of a city.", "input_schema": WEATHER_SCHEMA}


def strictly(value: BaseModel) -> None:
    """Raises where the value is not what its class says; the client itself would let anything through."""
    type(value).model_validate_json(value.model_dump_json(warnings="error"), strict=True)


with check("messages"):
    answer = client.messages.create(
        model=MODEL, messages=SAY_HELLO, max_tokens=8, extra_body=GREEDY, metadata={"user_id": "u"},
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    )  # fmt: skip
    assert isinstance(answer, Message)
    strictly(answer)
    assert answer.content[0].text
    assert answer.usage.output_tokens > 0

with check("messages, stop sequence"):
    answer = client.messages.create(
        model=MODEL, messages=SAY_HELLO, max_tokens=60, extra_body=GREEDY, stop_sequences=STOPS
    )
    assert answer.stop_reason == "stop_sequence"
    assert answer.stop_sequence in STOPS

with check("messages, streamed"):
    with client.messages.create(
        model=MODEL, messages=SAY_HELLO, max_tokens=8, extra_body=GREEDY, stream=True
    ) as stream:
        events = list(stream)
    for event in events:
        strictly(event)
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")

with check("messages, streamed with the package's helper"):
    with client.messages.stream(model=MODEL, messages=SAY_HELLO, max_tokens=8, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    strictly(final)
    assert final.content[0].text == text
    assert final.stop_reason in ("end_turn", "max_tokens")

with check("messages, tool by name, and its result"):
    answer = client.messages.create(
        model=TOOL_MODEL, messages=WEATHER, max_tokens=200, extra_body=GREEDY, tools=[TOOL],
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    )  # fmt: skip
    strictly(answer)
    call = next(block for block in answer.content if block.type == "tool_use")
    assert call.name == "get_weather"
    told = [
        *WEATHER,
        {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]
    strictly(client.messages.create(model=TOOL_MODEL, messages=told, max_tokens=8, extra_body=GREEDY, tools=[TOOL]))

with check("messages, tool, streamed"):
    with client.messages.stream(
        model=TOOL_MODEL, messages=WEATHER, max_tokens=200, tools=[TOOL], tool_choice={"type": "any"},
        extra_body=GREEDY,
    ) as stream:  # fmt: skip
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    strictly(final)
    assert {"content_block_start", "content_block_stop", "message_stop"} <= kinds
    assert any(block.type == "tool_use" for block in final.content)

with check("messages, count_tokens"):
    counted = client.messages.count_tokens(model=MODEL, messages=SAY_HELLO, system="Be brief.")
    strictly(counted)
    assert counted.input_tokens > 3

with check("errors are the package's own classes"):
    for wanted, ask in (
        (anthropic.NotFoundError, {"model": "nobody"}),
        (anthropic.BadRequestError, {"extra_body": {"temperature": 9}}),
        (anthropic.BadRequestError, {"messages": [{"role": "user", "content": "word " * 20000}]}),
    ):
        fields = {"model": MODEL, "messages": SAY_HELLO, "max_tokens": 1} | ask
        assert raised(wanted, partial(client.messages.create, **fields)).body["type"] == "error"
    stranger = Anthropic(base_url=BASE_URL, api_key="sk-wrong", max_retries=0)
    raised(anthropic.AuthenticationError, partial(stranger.messages.create, **fields))
