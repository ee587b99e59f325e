"""`stoker chat`."""

import json

import pytest

from api.openai.availability import unavailable
from api.openai.errors import APIError, model_not_allowed
from api.openai.router import ModelRoute, ModelState
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import FakeApi, chat_answer

ROUTE = "/v1/chat/completions"
LOADING = unavailable(ModelRoute(name="llama", state=ModelState.LOADING, worker="box-1", progress=0.5, eta_seconds=0.1))
FAILED = unavailable(ModelRoute(name="llama", state=ModelState.FAILED, message="no such file"))


def test_the_answer_and_nothing_else_is_on_stdout(api: FakeApi, stoker: Stoker) -> None:
    api.answers = [chat_answer("Apple, größe\u2028and 🍒.", timings={"predicted_per_second": 45.67})]
    done = stoker("chat", "llama", "Name three fruits.")
    assert (done.exit_code, done.stdout) == (0, "Apple, größe\u2028and 🍒.\n")
    assert done.stderr.startswith("4 tokens, 45.7 tokens/s, first token after ")
    assert api.bodies("POST", ROUTE) == [
        {
            "model": "llama",
            "messages": [{"role": "user", "content": "Name three fruits."}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_what_is_asked_for_is_passed_on(api: FakeApi, stoker: Stoker) -> None:
    api.answers = [chat_answer("Yes.")]
    stoker("chat", "llama", "Really?", "--temperature", "0", "--max-tokens", "5", "--system", "Be short.")
    (body,) = api.bodies("POST", ROUTE)
    assert (body["temperature"], body["max_tokens"]) == (0, 5)
    assert body["messages"][0] == {"role": "system", "content": "Be short."}


def test_a_user_key_is_enough(api: FakeApi, stoker: Stoker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_API_KEY", api.user_key)
    api.answers = [chat_answer("Yes.")]
    assert stoker("chat", "llama", "Really?").exit_code == 0


def test_the_prompt_may_come_from_stdin(api: FakeApi, stoker: Stoker) -> None:
    api.answers = [chat_answer("Yes.")]
    assert stoker("chat", "llama", stdin="Really?\n").stdout == "Yes.\n"
    assert api.bodies("POST", ROUTE)[0]["messages"] == [{"role": "user", "content": "Really?\n"}]


@pytest.mark.parametrize("arguments", [(), (" ",)])
def test_no_prompt_and_no_terminal_is_wrong_usage(arguments: tuple[str, ...], api: FakeApi, stoker: Stoker) -> None:
    done = stoker("chat", "llama", *arguments, stdin="")
    assert (done.exit_code, done.stdout, api.requests) == (2, "", [])
    assert done.stderr.startswith("error: there is nothing to ask\nhint: stoker chat llama ")


def test_a_model_that_loads_is_waited_for(api: FakeApi, stoker: Stoker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrypoints.cli.conversation._ASK_AGAIN_WITHIN_SECONDS", 0.0)
    api.answers = [LOADING, LOADING, chat_answer("Yes.")]
    done = stoker("chat", "llama", "Really?")
    assert (done.exit_code, done.stdout) == (0, "Yes.\n")
    assert done.stderr.splitlines()[0] == "The model 'llama' is loading on box-1, 50%."
    assert done.stderr.count("is loading") == 1


def test_a_model_that_never_comes_is_exit_code_124(api: FakeApi, stoker: Stoker) -> None:
    api.answers = [LOADING] * 100
    done = stoker("chat", "llama", "Really?", "--timeout", "1")
    assert (done.exit_code, done.stdout) == (124, "")
    assert done.stderr.splitlines()[-2:] == [
        "error: llama does not answer after 1 s: The model 'llama' is loading on box-1, 50%.",
        "hint: see `stoker why llama`",
    ]


@pytest.mark.parametrize(
    ("refusal", "exit_code", "error"),
    [
        (FAILED, 1, "The model 'llama' could not be started: no such file"),
        (APIError(400, "too long", code="context_length_exceeded"), 1, "too long"),
        (APIError(400, "temperature must be a number"), 2, "temperature must be a number"),
        (None, 3, "The model 'llama' does not exist."),
    ],
)
def test_refusals(refusal: APIError | None, exit_code: int, error: str, api: FakeApi, stoker: Stoker) -> None:
    api.answers = [refusal] if refusal is not None else []
    done = stoker("chat", "llama", "Really?")
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.startswith(f"error: {error}")


def test_a_wrong_key_is_exit_code_4(api: FakeApi, stoker: Stoker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_API_KEY", "sk-stoker-x-y")
    assert stoker("chat", "llama", "Really?").exit_code == 4


def test_a_key_for_other_models_wants_no_admins_key(api: FakeApi, stoker: Stoker) -> None:
    api.answers = [model_not_allowed("llama")]
    done = stoker("chat", "llama", "Really?")
    assert done.exit_code == 4
    assert done.stderr.splitlines() == [
        "error: This API key may not use the model 'llama'. GET /v1/models lists those that it may.",
        "hint: ask an administrator: `stoker keys set` changes which models a key may use",
    ]


def test_an_error_in_the_middle(api: FakeApi, stoker: Stoker) -> None:
    error = {"error": {"message": "the engine died", "type": "server_error", "param": None, "code": "engine_failed"}}
    api.answers = [[*chat_answer("Apple, and", done=False), json.dumps(error)]]
    done = stoker("chat", "llama", "Really?")
    assert (done.exit_code, done.stdout) == (1, "Apple, and\n")
    assert done.stderr == "error: the engine died\n"


def test_an_answer_that_was_cut_off(api: FakeApi, stoker: Stoker) -> None:
    api.answers = [chat_answer("Apple, and", done=False)]
    done = stoker("chat", "llama", "Really?")
    assert (done.exit_code, done.stdout) == (1, "Apple, and\n")
    assert done.stderr.startswith("error: the answer of llama was cut off\n")
