"""openai-python. Every answer must be of the package's own types, strictly: no field missing, none of another type."""

import asyncio
from functools import partial

import openai
from checks import (
    API_KEY,
    BASE_URL,
    EMBEDDING_MODEL,
    MODEL,
    SAY_HELLO,
    TOOL_MODEL,
    WEATHER,
    WEATHER_SCHEMA,
    check,
    raised,
)
from openai import AsyncOpenAI, OpenAI
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import BaseModel

client = OpenAI(base_url=f"{BASE_URL}/v1", api_key=API_KEY, timeout=120, max_retries=0)
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a city.", "parameters": WEATHER_SCHEMA},
}


class Age(BaseModel):
    """What a structured answer holds."""

    age: int


def strictly(value: BaseModel) -> None:
    """Raises where the value is not what its class says; the client itself would let anything through."""
    type(value).model_validate_json(value.model_dump_json(warnings="error"), strict=True)


with check("models"):
    models = list(client.models.list())
    assert {MODEL, TOOL_MODEL, EMBEDDING_MODEL} <= {model.id for model in models}
    for model in [*models, client.models.retrieve(MODEL)]:
        assert isinstance(model, Model)
        strictly(model)

with check("chat"):
    answer = client.chat.completions.create(model=MODEL, messages=SAY_HELLO, max_tokens=8, n=2, user="u", store=False)
    assert isinstance(answer, ChatCompletion)
    strictly(answer)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {"logprobs", "finish_reason"} <= answer.choices[0].model_fields_set
    assert "refusal" in answer.choices[0].message.model_fields_set

for include in (False, True):
    with check(f"chat, streamed, usage {'asked for' if include else 'not asked for'}"):
        options = {"stream_options": {"include_usage": True}} if include else {}
        chunks = list(
            client.chat.completions.create(model=MODEL, messages=SAY_HELLO, max_tokens=8, stream=True, **options)
        )
        for chunk in chunks:
            assert isinstance(chunk, ChatCompletionChunk)
            strictly(chunk)
        assert chunks[0].choices[0].delta.role == "assistant"
        with_choices = chunks[:-1] if include else chunks
        assert [chunk.choices[0].finish_reason for chunk in with_choices[:-1]] == [None] * (len(with_choices) - 1)
        assert with_choices[-1].choices[0].finish_reason in ("stop", "length")
        assert all(("usage" in chunk.model_fields_set) == include for chunk in chunks)
        assert all(chunk.usage is None for chunk in with_choices)
        assert not include or (chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0)

with check("chat, log probabilities"):
    answer = client.chat.completions.create(
        model=MODEL, messages=SAY_HELLO, max_tokens=4, logprobs=True, top_logprobs=3
    )
    strictly(answer)
    tokens = answer.choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in tokens] == [3] * len(tokens)

with check("chat, stop sequence"):
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Count: one, two, three"}], max_tokens=40, stop=[","]
    )
    assert "," not in (answer.choices[0].message.content or "")

with check("chat, structured output"):
    parsed = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "Jason is 25."}], response_format=Age, max_tokens=100,
        temperature=0,
    )  # fmt: skip
    assert isinstance(parsed.choices[0].message.parsed, Age)

with check("chat, tool by name, and its result"):
    answer = client.chat.completions.create(
        model=TOOL_MODEL, messages=WEATHER, tools=[TOOL], max_tokens=120, temperature=0, parallel_tool_calls=False,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )  # fmt: skip
    strictly(answer)
    message = answer.choices[0].message
    assert message.tool_calls[0].function.name == "get_weather"
    told = [*WEATHER, message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}]
    answer = client.chat.completions.create(model=TOOL_MODEL, messages=told, tools=[TOOL], max_tokens=8, temperature=0)
    strictly(answer)

with check("chat, tool, streamed with the package's helper"):
    with client.chat.completions.stream(
        model=TOOL_MODEL, messages=WEATHER, tools=[TOOL], max_tokens=120, temperature=0, parallel_tool_calls=False,
        tool_choice="required",
    ) as stream:  # fmt: skip
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert final.choices[0].message.tool_calls[0].function.name == "get_weather"

with check("completions"):
    answer = client.completions.create(model=MODEL, prompt=["One, two,", "Red, green,"], max_tokens=4, logprobs=2)
    assert isinstance(answer, Completion)
    strictly(answer)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 4
    assert max(map(len, logprobs.top_logprobs)) == 2
    pieces = list(
        client.completions.create(
            model=MODEL, prompt="One, two,", max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
    )
    strictly(pieces[-1])
    assert [choice.finish_reason for piece in pieces[:-2] for choice in piece.choices] == [None] * (len(pieces) - 2)
    assert pieces[-1].usage.completion_tokens == 4

with check("embeddings"):
    vectors = client.embeddings.create(model=EMBEDDING_MODEL, input=["a", "b"])
    assert isinstance(vectors, CreateEmbeddingResponse)
    strictly(vectors)
    assert len(vectors.data[0].embedding) == len(vectors.data[1].embedding) > 0

with check("responses"):
    response = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=200, instructions="Be brief.")
    assert isinstance(response, Response)
    strictly(response)
    assert response.output_text
    cut = client.responses.create(model=MODEL, input="Tell a long story.", max_output_tokens=5)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")

with check("responses, streamed"):
    events = list(client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=8, stream=True))
    for event in events:
        strictly(event)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")

with check("responses, tool, streamed with the package's helper"):
    function = {"type": "function", "name": "get_weather", "parameters": WEATHER_SCHEMA, "strict": True}
    with client.responses.stream(
        model=TOOL_MODEL, input="What is the weather in Rome?", tools=[function], max_output_tokens=120,
        temperature=0, parallel_tool_calls=False, tool_choice={"type": "function", "name": "get_weather"},
    ) as stream:  # fmt: skip
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert final.output[0].name == "get_weather"

with check("responses, structured output"):
    parsed = client.responses.parse(
        model=MODEL, input="Jason is 25.", text_format=Age, max_output_tokens=100, temperature=0
    )
    assert isinstance(parsed.output_parsed, Age)

with check("errors are the package's own classes"):
    for wanted, ask in (
        (openai.NotFoundError, {"model": "nobody"}),
        (openai.BadRequestError, {"temperature": 9}),
        (openai.BadRequestError, {"extra_body": {"temprature": 1}}),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "word " * 20000}]}),
    ):
        fields = {"model": MODEL, "messages": SAY_HELLO} | ask
        error = raised(wanted, partial(client.chat.completions.create, **fields))
        assert {"message", "type", "param", "code"} == set(error.body), error.body
    stranger = OpenAI(base_url=f"{BASE_URL}/v1", api_key="sk-wrong", max_retries=0)
    assert raised(openai.AuthenticationError, stranger.models.list).code == "invalid_api_key"

with check("headers"):
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=SAY_HELLO, max_tokens=1, extra_headers={"X-Client-Request-Id": "abc"}
    )
    assert raw.headers["x-request-id"] == "abc"
    assert raw.headers["openai-processing-ms"].isdigit()


async def at_once() -> None:
    """Some requests at the same time."""
    async with AsyncOpenAI(base_url=f"{BASE_URL}/v1", api_key=API_KEY) as together:
        answers = await asyncio.gather(
            *(together.chat.completions.create(model=MODEL, messages=SAY_HELLO, max_tokens=4) for _ in range(6))
        )
    assert all(answer.choices[0].message.content for answer in answers)


with check("asynchronous, six at once"):
    asyncio.run(at_once())
