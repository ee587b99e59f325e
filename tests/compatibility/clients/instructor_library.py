"""instructor: answers of a given shape, by a tool and by a schema."""

import instructor
from checks import API_KEY, BASE_URL, MODEL, TOOL_MODEL, check
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    """Who is meant."""

    name: str
    age: int


client = OpenAI(base_url=f"{BASE_URL}/v1", api_key=API_KEY, timeout=120, max_retries=0)
ASK = {
    "messages": [{"role": "user", "content": "Extract: Jason is 25 years old."}],
    "response_model": Person,
    "max_tokens": 120,
    "temperature": 0,
    "max_retries": 2,
}

with check("tool"):
    person = instructor.from_openai(client, mode=instructor.Mode.TOOLS).create(
        model=TOOL_MODEL, parallel_tool_calls=False, **ASK
    )
    assert isinstance(person, Person)

with check("schema"):
    person = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA).create(model=MODEL, **ASK)
    assert isinstance(person, Person)

with check("schema, streamed in parts"):
    parts = list(instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA).create_partial(model=MODEL, **ASK))
    assert len(parts) > 1
    assert isinstance(parts[-1].age, int)
