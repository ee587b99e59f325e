"""What a client's program found out: one line of JSON a check, on stdout."""

import json
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

E = TypeVar("E", bound=Exception)

BASE_URL = os.environ["STOKER_BASE_URL"]  # without /v1
API_KEY = os.environ["STOKER_API_KEY"]
MODEL = os.environ["STOKER_MODEL"]
TOOL_MODEL = os.environ["STOKER_TOOL_MODEL"]
EMBEDDING_MODEL = os.environ["STOKER_EMBEDDING_MODEL"]

SAY_HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def report(name: str, result: str, note: str = "") -> None:
    """`result`: passed, failed, or limited: the protocol is right, and the model too small for the rest."""
    print(json.dumps({"check": name, "result": result, "note": note[:500]}), flush=True)


@contextmanager
def check(name: str) -> Iterator[None]:
    """Reports whether what is within ran through."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the client would have seen
        traceback.print_exc()
        report(name, "failed", f"{type(error).__name__}: {error}")
    else:
        report(name, "passed")


def raised(wanted: type[E], ask: Callable[[], object]) -> E:
    """The error that asking ends with. Raises AssertionError where it ends well."""
    try:
        ask()
    except wanted as error:
        return error
    raise AssertionError(f"it was taken, and should have been a {wanted.__name__}")
