"""Why a model cannot answer now, as its callers are told."""

import json
from typing import Any

import pytest

from api.openai.availability import unavailable
from api.openai.router import ModelRoute


@pytest.mark.parametrize(
    ("route", "code", "retry", "message"),
    [
        ({"state": "loading"}, "model_loading", (b"5", b"true"), "The model 'm' is loading."),
        (
            {"state": "loading", "worker": "w1", "progress": 0.425, "eta_seconds": 7.2},
            "model_loading",
            (b"8", b"true"),
            "The model 'm' is loading on w1, 42%.",
        ),
        ({"state": "loading", "eta_seconds": 4000}, "model_loading", (b"120", b"true"), "loading"),
        (
            {"state": "pending", "message": "no GPU with 24 GiB"},
            "model_loading",
            (b"30", b"true"),
            "The model 'm' waits for room: no GPU with 24 GiB",
        ),
        (
            {"state": "failed", "message": "bad file"},
            "model_failed",
            (None, b"false"),
            "not be started: bad file",
        ),
        ({"state": "stopped"}, "model_stopped", (None, b"false"), "is stopped"),
        (
            {"state": "stopped", "autoscaled": True},
            "model_loading",
            (b"5", b"true"),
            "sleeps, and starts when it is asked.",
        ),
        ({"state": "ready"}, "engine_unreachable", (b"2", b"true"), "No engine of the model 'm'"),
    ],
)
def test_each_state(route: dict[str, Any], code: str, retry: tuple[bytes | None, bytes | None], message: str) -> None:
    error = unavailable(ModelRoute(name="m", **route))
    headers = dict(error.headers)
    assert (error.status, error.type, error.code) == (503, "server_error", code)
    assert (headers.get(b"retry-after"), headers.get(b"x-should-retry")) == retry
    assert message in error.message


def test_loading_is_told_beside_the_error() -> None:
    route = ModelRoute(name="m", state="loading", worker="w1", progress=0.5, eta_seconds=9.0)
    assert json.loads(unavailable(route).body())["loading"] == {
        "state": "loading",
        "worker": "w1",
        "progress": 0.5,
        "eta_seconds": 9.0,
    }
    assert "loading" not in json.loads(unavailable(route.model_copy(update={"state": "failed"})).body())
