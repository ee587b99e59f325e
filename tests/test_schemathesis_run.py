"""What the run of schemathesis makes of its report; `python -m tests.schemathesis_run` lets it ask."""

import os
from typing import Any

import pytest

from tests.schemathesis_run import crashes, key_id_of, summary

os.environ |= {"RUN_MODEL": "tiny", "RUN_KEY_ID": "0123456789ab"}  # of the hooks' process, which is another one

from tests.live.schemathesis_hooks import bounded

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@pytest.mark.parametrize(
    ("path", "body", "sent"),
    [
        (CHAT, {"model": "x"}, {"model": "tiny", "max_tokens": 8}),
        (CHAT, {"model": "four"}, {"model": "four", "max_tokens": 8}),
        (CHAT, {"model": "x", "max_tokens": 5}, {"model": "tiny", "max_tokens": 5}),
        (CHAT, {"model": "x", "max_tokens": -1}, {"model": "tiny", "max_tokens": 8}),
        (CHAT, {"model": "x", "n_predict": 10**6}, {"model": "tiny", "n_predict": 8}),
        (CHAT, {"model": "x", "max_tokens": 2**40}, {"model": "tiny", "max_tokens": 2**40}),
        (CHAT, {"model": "x", "max_tokens": "7"}, {"model": "tiny", "max_tokens": "7"}),
        (RESPONSES, {"model": "x"}, {"model": "tiny", "max_output_tokens": 8}),
        (CHAT, {"model": 7}, {"model": 7}),
        (CHAT, [], []),
    ],
)
def test_answers_are_short_and_of_a_model_that_is_there(path: str, body: Any, sent: Any) -> None:
    assert bounded(path, body) == sent


def test_crashes_are_read_from_the_log() -> None:
    log = "\n".join(
        [
            '{"event": "request_crashed", "level": "error", "exception": "Traceback …\\nTypeError: bad"}',
            '{"event": "request_crashed", "level": "error", "exception": "Traceback …\\nTypeError: bad"}',
            '{"event": "api_listening", "level": "info"}',
            "Traceback (most recent call last):",
        ]
    )
    assert crashes(log) == {"request_crashed TypeError: bad": 2, "Traceback (most recent call last):": 1}


def test_a_report_in_short() -> None:
    failure = {"title": "Server error", "count": 2, "operations": ["POST /v1/messages"], "type": "ServerError"}
    report = {
        "operations": {"tested": 3, "total": 4},
        "test_cases": {"generated": 100},
        "phases": {"fuzzing": {"status": "failure", "skip_reason": None}},
        "failures": [failure],
    }
    assert summary(report) == {
        "operations": 3,
        "of_operations": 4,
        "requests": 100,
        "phases": {"fuzzing": "failure"},
        "failures": [{"title": "Server error", "count": 2, "operations": ["POST /v1/messages"]}],
        "errors": [],
    }


def test_the_id_of_a_key() -> None:
    assert key_id_of("sk-stoker-0123456789ab-secret-with-dashes") == "0123456789ab"
