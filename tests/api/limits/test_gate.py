"""The gate as the proxy sees it: who is let in, with which headers, and what the others are told."""

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from api.limits.counter_file import CounterError
from api.limits.gate import LimitGate
from api.limits.refusal_metrics import RefusalMetrics
from api.openai.admission import OPEN_ADMISSION, Admission
from api.openai.auth import Principal
from api.openai.errors import APIError
from stoker.domain.keys import KeyLimits
from stoker.domain.rate_limits import month_of
from tests.api.limits.test_counter_file import Holder

NOVEMBER = datetime(2026, 11, 21, 13, 30, tzinfo=UTC).timestamp()


class Gates:
    """A gate on a clock that the test moves."""

    def __init__(self, path: Path) -> None:
        self.path, self.up = path, 5000.25
        self.gate = LimitGate(path, monotonic=lambda: self.up, clock=lambda: NOVEMBER)

    def refused(self, principal: Principal, tokens: int = 0) -> tuple[APIError, dict[str, str]]:
        """What a request that is not let in is told: the error, and its headers."""
        with pytest.raises(APIError) as caught:
            self.gate.admit(principal, tokens)
        return caught.value, {name.decode(): value.decode() for name, value in caught.value.headers}


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Gates]:
    """A gate that has counted nothing yet."""
    made = Gates(tmp_path / "counters")
    yield made
    made.gate.close()


def owner(key_id: str = "k", /, **limits: int) -> Principal:
    """Of the key `app`."""
    return Principal(key_id=key_id, name="app", limits=KeyLimits(**limits))


def headers_of(admission: Admission) -> dict[str, str]:
    """The headers for its answer."""
    return {name.decode(): value.decode() for name, value in admission.headers}


def test_a_key_without_limits_is_not_counted(gates: Gates) -> None:
    admission = gates.gate.admit(Principal(key_id="k", name="app"), 10**9)
    assert admission is OPEN_ADMISSION
    assert headers_of(admission) == {}
    admission.settle(5)
    admission.settle(None)


def test_headers_are_openais(gates: Gates) -> None:
    principal = owner(requests_per_minute=60, tokens_per_minute=1000)
    assert headers_of(gates.gate.admit(principal, 300)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1m0.75s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "700",
        "x-ratelimit-reset-tokens": "1m0.75s",
    }
    assert set(headers_of(gates.gate.admit(owner("r", requests_per_minute=1), 0))) == {
        f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")
    }
    assert set(headers_of(gates.gate.admit(owner("t", tokens_per_minute=1), 0))) == {
        f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining", "reset")
    }
    assert headers_of(gates.gate.admit(owner("c", concurrency=1, tokens_per_month=1), 0)) == {}


def test_a_refusal_says_what_the_limit_is_and_when_there_is_room(gates: Gates) -> None:
    principal = owner(requests_per_minute=1, tokens_per_minute=1000)
    gates.gate.admit(principal, 400)
    gates.up += 10
    error, headers = gates.refused(principal, 100)
    assert (error.status, error.type, error.code, error.param) == (429, "rate_limit_error", "rate_limit_exceeded", None)
    assert error.message == "The key 'app' may make 1 requests a minute, and has made 1. Try again in 50.75s."
    assert headers == {
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "50.75s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "600",
        "x-ratelimit-reset-tokens": "50.75s",
        "retry-after": "51",
        "retry-after-ms": "50750",
        "x-should-retry": "true",
    }


@pytest.mark.parametrize(
    ("limits", "before", "tokens", "message", "retry_after"),
    [
        (
            {"tokens_per_minute": 100},
            70,
            40,
            "The key 'app' may use 100 tokens a minute and has used 70; this request may take 40 (its prompt, and all "
            "that it lets the model write). Try again in 1m0.75s.",
            "61",
        ),
        (
            {"concurrency": 1},
            0,
            0,
            "The key 'app' may have 1 requests worked on at once, and has 1. Try again in 1s.",
            "1",
        ),
        (
            {"tokens_per_month": 100},
            70,
            40,
            "The key 'app' has used 0 of its 100 tokens of this month, and its other requests may take what is left; "
            "this request may take 40 (its prompt, and all that it lets the model write). Try again in 1s.",
            "1",
        ),
    ],
)
def test_what_will_pass_may_be_tried_again(
    gates: Gates, limits: dict[str, int], before: int, tokens: int, message: str, retry_after: str
) -> None:
    principal = owner(**limits)
    gates.gate.admit(principal, before)
    error, headers = gates.refused(principal, tokens)
    assert (error.status, error.code, error.message) == (429, "rate_limit_exceeded", message)
    assert (headers["retry-after"], headers["x-should-retry"]) == (retry_after, "true")


def test_a_request_that_never_fits_is_not_tried_again(gates: Gates) -> None:
    error, headers = gates.refused(owner(tokens_per_minute=100), 101)
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert "Lower 'max_tokens', or shorten the prompt." in error.message
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers


def test_a_month_that_is_spent_is_insufficient_quota(gates: Gates) -> None:
    principal = owner(tokens_per_month=100)
    gates.gate.admit(principal, 90).settle(95)
    error, headers = gates.refused(principal, 6)
    assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
    assert error.message.startswith(
        "The key 'app' has used 95 of its 100 tokens of this month; this request may take 6"
    )
    assert error.message.endswith("The next month begins on 2026-12-01 (UTC).")
    assert headers == {"x-should-retry": "false"}


def test_an_admission_is_settled_once(gates: Gates) -> None:
    principal = owner(tokens_per_minute=100, concurrency=1)
    admission = gates.gate.admit(principal, 50)
    admission.settle(20)
    admission.settle(100)
    admission.settle(None)
    assert headers_of(gates.gate.admit(principal, 0))["x-ratelimit-remaining-tokens"] == "80"
    assert gates.refused(principal)[0].message.startswith("The key 'app' may have 1 requests worked on at once")


def test_changed_limits_hold_for_what_was_counted_before(gates: Gates) -> None:
    gates.gate.admit(owner(requests_per_minute=5), 0)
    gates.gate.admit(owner(requests_per_minute=5), 0)
    assert headers_of(gates.gate.admit(owner(requests_per_minute=3), 0))["x-ratelimit-remaining-requests"] == "0"
    gates.refused(owner(requests_per_minute=2))


def test_what_cannot_be_counted_is_refused_and_settled_later(gates: Gates) -> None:
    principal = owner(concurrency=1, tokens_per_minute=1000)
    admission = gates.gate.admit(principal, 100)
    holder = Holder(gates.path, 1)
    try:
        holder.process.send_signal(signal.SIGSTOP)
        error, headers = gates.refused(principal)
        assert (error.status, error.code) == (503, "limits_unavailable")
        assert (headers["retry-after"], headers["x-should-retry"]) == ("1", "true")
        admission.settle(10)
    finally:
        holder.kill()
    gates.refused(principal)
    gates.gate.settle_rest()
    assert headers_of(gates.gate.admit(principal, 0))["x-ratelimit-remaining-tokens"] == "990"


def test_a_file_that_is_taken_away_is_made_anew(gates: Gates) -> None:
    principal = owner(requests_per_minute=1, concurrency=1)
    old = gates.gate.admit(principal, 0)
    assert not gates.gate.reopen_if_moved()
    gates.path.unlink()
    assert gates.gate.reopen_if_moved()
    new = gates.gate.admit(principal, 0)
    old.settle(None)
    assert gates.refused(principal)[0].code == "rate_limit_exceeded"
    new.settle(None)
    assert not gates.gate.reopen_if_moved()


def test_the_month_as_others_know_it(gates: Gates) -> None:
    principal = owner(tokens_per_month=100)
    gates.gate.count_month({"k": 60}, month_of(NOVEMBER))
    gates.gate.admit(principal, 40).settle(40)
    assert "has used 100 of its 100" in gates.refused(principal, 1)[0].message


def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CounterError, match=r"Not a directory|File exists"):
        LimitGate(tmp_path / "file" / "counters")


def test_keys_that_are_no_more_are_forgotten(gates: Gates) -> None:
    limits: dict[str, Any] = {"requests_per_minute": 1}
    gates.gate.admit(owner("gone", **limits), 0).settle(None)
    gates.up += 1000
    gates.gate.keep_only({"kept"}, idle_seconds=600)
    gates.gate.admit(owner("gone", **limits), 0)
    gates.refused(owner("gone", **limits))


def test_refusals_are_counted_by_reason(gates: Gates) -> None:
    registry = CollectorRegistry()
    registry.register(RefusalMetrics(gates.gate))
    principal = owner(requests_per_minute=1)
    gates.gate.admit(principal, 0)
    for _ in range(2):
        gates.refused(principal)
    counts = {
        reason: registry.get_sample_value("stoker_limit_refusals_total", {"reason": reason})
        for reason in ("requests", "tokens", "too_large", "concurrency", "month_held", "month")
    }
    assert counts == dict.fromkeys(counts, 0) | {"requests": 2}
