"""What the official client does with each of our refusals: tries again where that can help, and not elsewhere."""

import httpx2
import pytest
from openai import OpenAI
from openai._models import FinalRequestOptions

from api.openai import errors
from api.openai.availability import queue_full, unavailable
from api.openai.errors import APIError
from api.openai.router import ModelRoute, ModelState


def of_state(state: ModelState, eta: float | None = None) -> APIError:
    return unavailable(ModelRoute(name="m", state=state, eta_seconds=eta))


AGAIN: dict[str, tuple[APIError, float | None]] = {
    "slow body": (errors.request_timed_out(60), None),
    "full queue": (queue_full("m", 128, 3.2), 4),
    "full queue, for long": (queue_full("m", 100_000, 9000.0), 120),
    "bug": (errors.internal_error(), None),
    "engine broke off": (errors.engine_failed("No answer", should_retry=True), None),
    "engine unreachable": (errors.engine_unreachable("m"), 2),
    "loading": (of_state(ModelState.LOADING), 5),
    "loading, with an end": (of_state(ModelState.LOADING, 17.5), 18),
    "loading, for hours": (of_state(ModelState.LOADING, 7200), 120),
    "waits for room": (of_state(ModelState.PENDING), 30),
    "between two looks": (of_state(ModelState.READY), 2),
}

NOT_AGAIN: dict[str, APIError] = {
    "wrong": errors.invalid_request("no"),
    "unknown field": errors.unsupported_parameter("no", "lora"),
    "no key": errors.invalid_api_key(given=False),
    "wrong key": errors.invalid_api_key(given=True),
    "not allowed": errors.model_not_allowed("m"),
    "no model": errors.model_not_found("m"),
    "no route": errors.unknown_url("GET", "/v1/x"),
    "wrong method": errors.method_not_allowed("GET", "/v1/x", "POST"),
    "too large": errors.body_too_large(1),
    "compressed": errors.unsupported_encoding("br"),
    "two engines failed": errors.engine_failed("boom", should_retry=False),
    "too late": errors.engine_timed_out("late"),
    "failed": of_state(ModelState.FAILED),
    "stopped": of_state(ModelState.STOPPED),
}


@pytest.fixture(scope="module")
def client() -> OpenAI:
    with httpx2.Client(trust_env=False) as http:
        return OpenAI(api_key="k", base_url="http://x", http_client=http)


def response_of(error: APIError) -> httpx2.Response:
    return httpx2.Response(error.status, headers=error.headers, content=error.body())


@pytest.mark.parametrize(("error", "seconds"), AGAIN.values(), ids=AGAIN)
def test_it_tries_again_when_we_say_so(client: OpenAI, error: APIError, seconds: float | None) -> None:
    response = response_of(error)
    assert client._should_retry(response)
    said = response.headers.get("retry-after")
    assert (None if said is None else float(said)) == seconds
    options = FinalRequestOptions.construct(method="post", url="/")
    waits = client._calculate_retry_timeout(2, options, response.headers)
    assert waits == seconds if seconds is not None else 0 < waits < 1, "no more than it takes, which is two minutes"


@pytest.mark.parametrize("error", NOT_AGAIN.values(), ids=NOT_AGAIN)
def test_it_gives_up_where_nothing_can_heal(client: OpenAI, error: APIError) -> None:
    assert not client._should_retry(response_of(error))
    assert b"retry-after" not in dict(error.headers)
