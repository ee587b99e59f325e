"""The official client, unchanged, through the door to the real engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from api.openai.router import ModelRoute
from stoker.domain.model_routes import RouteSpec, RouteTarget
from tests.api.openai import real_engine
from tests.api.openai.real_engine import RealEngine, running_engine
from tests.api.openai.serving import KEY, Door, Routes, model, open_door, until

pytestmark = pytest.mark.anyio

HELLO: Any = [{"role": "user", "content": "Say hello."}]
FOR_EVER: Any = {"model": "m", "messages": HELLO, "max_tokens": 900, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Once is enough with the real engine: on what the product runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[RealEngine]:
    # small batches: between two of them it looks for requests that were given up
    with running_engine(smollm2, "-a", "m", "-np", "2", "-b", "64", "-ub", "64") as engine:
        yield engine


@pytest.fixture(scope="module")
def embedder(smollm2: Path) -> Iterator[RealEngine]:
    with running_engine(smollm2, "-a", "e", "--embeddings", "--pooling", "mean") as engine:
        yield engine


def route(engine: RealEngine, name: str = "m", *before: tuple[str, int]) -> ModelRoute:
    """A model that `engine` answers for, after the replicas at `before`."""
    found = model(*before, engine.address, name=name)
    replicas = [replace(replica, api_key=real_engine.KEY) for replica in found.replicas]
    return found.model_copy(update={"replicas": tuple(replicas)})


@asynccontextmanager
async def client_of(
    *routes: ModelRoute, key: str = KEY, names: Iterable[RouteSpec] = ()
) -> AsyncIterator[tuple[AsyncOpenAI, Door]]:
    async with (
        open_door(Routes(*routes, names=names)) as door,
        AsyncOpenAI(base_url=f"{door.url}/v1", api_key=key, max_retries=0, timeout=120) as client,
    ):
        yield client, door


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Asks again until it holds; what it waits for is far from happening by itself in that time."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(1.2)  # see RealEngine: asking more often would keep it from happening


# --- conformance ---


async def test_models(engine: RealEngine) -> None:
    async with client_of(route(engine), model(name="org/name:q4")) as (client, _):
        assert [item.id async for item in client.models.list()] == ["m", "org/name:q4"]
        found = await client.models.retrieve("org/name:q4")
        assert (found.id, found.object, found.owned_by) == ("org/name:q4", "model", "stoker")
        assert found.created == 1_700_000_000


async def test_a_chat(engine: RealEngine) -> None:
    async with client_of(route(engine)) as (client, door):
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=HELLO, max_tokens=5)
        answer = raw.parse()
        assert answer.model == "m"
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5
        assert raw.request_id
        assert raw.headers["openai-processing-ms"].isdigit()
        await door.until_idle()
        assert door.metric("stoker_tokens_total", model="m", direction="out") == 5
        assert door.metric("stoker_tokens_total", model="m", direction="in") == answer.usage.prompt_tokens


async def test_a_model_by_another_name_is_answered_under_that_name(engine: RealEngine) -> None:
    spec = RouteSpec(name="org/name:q4", targets=(RouteTarget(deployment="m"),))
    async with client_of(route(engine), names=[spec]) as (client, _):
        asked: Any = {"model": spec.name, "messages": HELLO, "max_tokens": 3}
        answer = await client.chat.completions.create(**asked)
        assert answer.model == spec.name
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
        assert {chunk.model for chunk in chunks} == {spec.name}
        response = await client.responses.create(model=spec.name, input="Say hello.", max_output_tokens=3)
        assert response.model == spec.name


async def test_a_streamed_chat_without_usage(engine: RealEngine) -> None:
    async with client_of(route(engine)) as (client, door):
        stream = await client.chat.completions.create(model="m", messages=HELLO, max_tokens=5, stream=True)
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        await door.until_idle()
        assert door.metric("stoker_tokens_total", model="m", direction="out") == 5
        assert door.metric("stoker_time_to_first_token_seconds_count", model="m") == 1


async def test_a_streamed_chat_with_usage(engine: RealEngine) -> None:
    async with client_of(route(engine)) as (client, _):
        stream = await client.chat.completions.create(
            model="m", messages=HELLO, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
        *chunks, last = [chunk async for chunk in stream]
        assert all(chunk.choices and chunk.model_fields_set >= {"usage"} and chunk.usage is None for chunk in chunks)
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.completion_tokens == 5
        assert last.usage.total_tokens == last.usage.prompt_tokens + 5


async def test_completions(engine: RealEngine) -> None:
    async with client_of(route(engine)) as (client, _):
        answer = await client.completions.create(model="m", prompt="Once upon a time", max_tokens=5)
        assert answer.choices[0].text
        assert answer.usage is not None
        plain = [c async for c in await client.completions.create(model="m", prompt="Once", max_tokens=4, stream=True)]
        assert all(chunk.usage is None for chunk in plain)
        assert plain[-1].choices[0].finish_reason == "length"
        *chunks, last = [
            chunk
            async for chunk in await client.completions.create(
                model="m", prompt=["Once", "Twice"], max_tokens=4, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        assert (last.choices, last.usage and last.usage.completion_tokens) == ([], 8)


async def test_responses(engine: RealEngine) -> None:
    async with client_of(route(engine)) as (client, door):
        answer = await client.responses.create(model="m", input="Say hello.", max_output_tokens=5)
        assert answer.output_text
        stream = await client.responses.create(model="m", input="Say hello.", max_output_tokens=5, stream=True)
        kinds = [event.type async for event in stream]
        assert (kinds[0], kinds[-1]) == ("response.created", "response.incomplete"), "its five tokens are used up"
        await door.until_idle()
        assert door.metric("stoker_tokens_total", model="m", direction="out") == 10


async def test_embeddings(engine: RealEngine, embedder: RealEngine) -> None:
    async with client_of(route(engine), route(embedder, "e")) as (client, door):
        binary = await client.embeddings.create(model="e", input=["hello", "world"])
        plain = await client.embeddings.create(model="e", input=["hello", "world"], encoding_format="float")
        assert [len(item.embedding) for item in binary.data] == [576, 576]
        assert binary.data[1].embedding == pytest.approx(plain.data[1].embedding, abs=1e-5)
        await door.until_idle()
        assert door.metric("stoker_tokens_total", model="e", direction="in") == 2 * binary.usage.prompt_tokens
        with pytest.raises(openai.BadRequestError, match="does not support embeddings") as caught:
            await client.embeddings.create(model="m", input="hello")
        assert caught.value.code == "model_not_supported"


# --- errors ---


async def test_errors_have_the_classes_that_applications_catch(engine: RealEngine) -> None:
    loading = model(name="l", state="loading", progress=0.5, eta_seconds=3)
    async with client_of(route(engine), loading) as (client, _):
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="nope", messages=HELLO)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "word " * 2000}])
        assert (refused.value.code, refused.value.type) == ("context_length_exceeded", "invalid_request_error")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="m", messages=HELLO, temperature=9)
        assert refused.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="m", messages=HELLO, seed="x")  # type: ignore[call-overload]
        assert refused.value.param == "seed"
        with pytest.raises(openai.InternalServerError) as unavailable:
            await client.chat.completions.create(model="l", messages=HELLO)
        assert unavailable.value.status_code == 503
        assert unavailable.value.response.json()["loading"]["progress"] == 0.5
        with pytest.raises(openai.AuthenticationError) as unknown:
            await client.with_options(api_key="wrong").models.list()
        assert unknown.value.code == "invalid_api_key"


async def test_the_sdk_waits_and_tries_again_while_a_model_loads(engine: RealEngine) -> None:
    async with client_of(model(state="loading", eta_seconds=0.1)) as (client, door):
        door.routes.later(route(engine))
        door.routes.next, ready = None, door.routes.next
        asking = asyncio.create_task(
            client.with_options(max_retries=2).chat.completions.create(model="m", messages=HELLO, max_tokens=1)
        )
        await until(lambda: door.metric("stoker_requests_total", model="m", status_class="5xx") == 1)
        door.routes.next = ready
        assert (await asking).choices


async def test_an_engine_that_dies_in_mid_stream_is_an_api_error(smollm2: Path) -> None:
    with running_engine(smollm2, "-a", "m") as engine:
        async with client_of(route(engine)) as (client, door):
            stream = await client.chat.completions.create(**FOR_EVER, stream=True)
            pieces = stream.__aiter__()
            for _ in range(3):
                assert (await anext(pieces)).choices
            engine.process.kill()
            with pytest.raises(openai.APIError, match="broke off"):
                async for _ in pieces:
                    pass
            await door.until_idle()
            assert door.metric("stoker_requests_total", model="m", status_class="5xx") == 1
            with pytest.raises(openai.InternalServerError) as gone:
                await client.chat.completions.create(model="m", messages=HELLO)
            assert gone.value.code == "engine_unreachable"


async def test_a_replica_that_is_not_there_costs_nobody_a_request(engine: RealEngine) -> None:
    async with client_of(route(engine, "m", ("127.0.0.1", 1))) as (client, _):
        for _ in range(3):
            answer = await client.chat.completions.create(model="m", messages=HELLO, max_tokens=2)
            assert answer.choices[0].message.content


# --- the client goes ---


async def goes(door: Door, asking: asyncio.Task[Any], engine: RealEngine, left: int = 0) -> None:
    """The client goes; the engine's slots are free long before the answer would have been whole."""
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    async def free() -> bool:
        return await engine.waiting() == 0 and await engine.slots_in_use() == left

    await eventually(free)
    await until(lambda: door.metric("stoker_requests_total", model="m", status_class="gone") == 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_while_its_request_waits_for_a_slot(engine: RealEngine, stream: bool) -> None:
    async with client_of(route(engine)) as (client, door):
        others = [asyncio.create_task(client.chat.completions.create(**FOR_EVER)) for _ in range(2)]
        await eventually(lambda: _is(engine.slots_in_use(), 2))
        asking = asyncio.create_task(client.chat.completions.create(**FOR_EVER, stream=stream))
        await eventually(lambda: _is(engine.waiting(), 1))
        await goes(door, asking, engine, left=2)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await eventually(lambda: _is(engine.slots_in_use(), 0))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_while_its_prompt_is_read(engine: RealEngine, stream: bool) -> None:
    async with client_of(route(engine)) as (client, door):
        long: Any = FOR_EVER | {"messages": [{"role": "user", "content": f"{stream} " + "word " * 900}]}
        asking = asyncio.create_task(client.chat.completions.create(**long, stream=stream))
        await eventually(lambda: _is(engine.slots_in_use(), 1))
        assert not asking.done()
        await goes(door, asking, engine)


async def test_a_client_that_goes_in_mid_stream(engine: RealEngine) -> None:
    async with client_of(route(engine)) as (client, door):
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in await client.chat.completions.create(**FOR_EVER, stream=True):
                begun.set()

        asking = asyncio.create_task(read())
        await begun.wait()
        await goes(door, asking, engine)


async def test_a_client_that_goes_while_its_answer_in_one_piece_is_made(engine: RealEngine) -> None:
    async with client_of(route(engine)) as (client, door):
        asking = asyncio.create_task(client.chat.completions.create(**FOR_EVER))
        await asyncio.sleep(1)  # its prompt is short
        assert await engine.slots_in_use() == 1
        await goes(door, asking, engine)


async def _is(count: Awaitable[int], wanted: int) -> bool:
    return await count == wanted
