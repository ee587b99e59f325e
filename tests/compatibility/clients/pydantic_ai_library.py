"""pydantic-ai, by all three of the APIs that it knows."""

import asyncio

from checks import API_KEY, BASE_URL, MODEL, TOOL_MODEL, check
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    """Who is meant."""

    name: str
    age: int


openai = OpenAIProvider(base_url=f"{BASE_URL}/v1", api_key=API_KEY)
anthropic = AnthropicProvider(base_url=BASE_URL, api_key=API_KEY)
SETTINGS = {"max_tokens": 120, "temperature": 0.0, "parallel_tool_calls": False}
SHORT = {"max_tokens": 8}
APIS = {
    "chat": lambda name: OpenAIChatModel(name, provider=openai),
    "responses": lambda name: OpenAIResponsesModel(name, provider=openai),
    "messages": lambda name: AnthropicModel(name, provider=anthropic),
}


async def streamed(agent: Agent) -> str:
    """All of a streamed answer."""
    async with agent.run_stream("Say hello.", model_settings=SHORT) as result:
        return "".join([piece async for piece in result.stream_text(delta=True)])


for api, model in APIS.items():
    with check(f"{api}: answer"):
        result = Agent(model(MODEL), instructions="Be brief.").run_sync("Say hello.", model_settings=SHORT)
        assert result.output
        assert result.usage().output_tokens > 0
    with check(f"{api}: streamed"):
        assert asyncio.run(streamed(Agent(model(MODEL))))
    with check(f"{api}: output by a tool"):
        agent = Agent(model(TOOL_MODEL), output_type=ToolOutput(Person), retries=2)
        assert isinstance(agent.run_sync("Extract: Jason is 25 years old.", model_settings=SETTINGS).output, Person)

for api in ("chat", "responses"):
    with check(f"{api}: output by a schema"):
        agent = Agent(APIS[api](MODEL), output_type=NativeOutput(Person), retries=2)
        assert isinstance(agent.run_sync("Extract: Jason is 25 years old.", model_settings=SETTINGS).output, Person)
