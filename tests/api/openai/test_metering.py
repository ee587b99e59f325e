"""Tokens from the tails of answers, and the metrics of requests."""

import pytest
from prometheus_client import CollectorRegistry

from api.openai.metering import CLIENT_GONE, Metrics, Usage, status_class, usage_of, usage_of_events, usage_of_stream
from tests.api.openai.recordings import recorded_body


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("chat", Usage(32, 3)),
        ("completion", Usage(2, 3)),
        ("embeddings", Usage(2, 0)),
        ("responses", Usage(32, 3, 0)),
        ("messages", Usage(32, 3, 31)),
        ("chat_stream", Usage(32, 3, 31)),  # by its timings
        ("chat_stream_usage", Usage(32, 3, 31)),
        ("completion_stream", Usage(2, 3, 1)),
        ("responses_stream", Usage(32, 3, 31)),
        ("messages_stream", Usage(32, 3, 31)),  # the input is in its first event
        ("count_tokens", None),
        ("error_context", None),
    ],
)
def test_usage_of_recorded_answers(name: str, usage: Usage | None) -> None:
    body = recorded_body(name)
    assert (usage_of_stream(body[:300], body[-1500:]) if "stream" in name else usage_of(body)) == usage


def test_several_choices_are_summed() -> None:
    assert usage_of_events(recorded_body("chat_stream_usage_two_choices")) == Usage(64, 6, 62)
    assert usage_of_events(recorded_body("completion_stream_two_prompts")).output == 6
    assert usage_of_events(b"") == Usage()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b'"usage":{',
        b'"usage":{"prompt_tokens":1',
        b'{"choices":[{"message":{"content":"\\"usage\\":{\\"prompt_tokens\\":7}"}}]}',
    ],
)
def test_answers_that_do_not_speak_of_tokens(answer: bytes) -> None:
    assert usage_of(answer) is None


@pytest.mark.parametrize(
    "usage", [b'{"prompt_tokens":"7"}', b'{"prompt_tokens":null,"prompt_tokens_details":[1]}', b'{"x":1}', b"{}"]
)
def test_strange_usage_counts_nothing(usage: bytes) -> None:
    assert usage_of(b'{"usage":' + usage + b"}") == Usage()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_request_is_counted_once_under_its_model() -> None:
    registry, clock = CollectorRegistry(), Clock()
    metrics = Metrics(registry, clock)
    value = registry.get_sample_value
    meters = [metrics.begin("m", clock.now) for _ in range(2)]
    assert value("stoker_requests_running", {"model": "m"}) == 2
    clock.now += 0.2
    meters[0].first_token()
    clock.now += 1
    meters[0].usage, meters[0].outcome = Usage(30, 5, 10), status_class(200)
    meters[0].end()
    meters[1].outcome = CLIENT_GONE
    meters[1].end()
    metrics.refused(404)
    assert value("stoker_requests_running", {"model": "m"}) == 0
    assert value("stoker_requests_total", {"model": "m", "status_class": "2xx"}) == 1
    assert value("stoker_requests_total", {"model": "m", "status_class": "gone"}) == 1
    assert value("stoker_requests_total", {"model": "", "status_class": "4xx"}) == 1
    assert value("stoker_time_to_first_token_seconds_count", {"model": "m"}) == 1
    assert value("stoker_time_to_first_token_seconds_bucket", {"model": "m", "le": "0.25"}) == 1
    assert value("stoker_time_to_first_token_seconds_bucket", {"model": "m", "le": "0.1"}) == 0
    assert value("stoker_request_duration_seconds_sum", {"model": "m"}) == pytest.approx(2.4)
    assert value("stoker_tokens_total", {"model": "m", "direction": "in"}) == 30
    assert value("stoker_tokens_total", {"model": "m", "direction": "out"}) == 5


def test_a_request_that_says_nothing_of_its_end_failed() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, Clock())
    metrics.begin("m", 0).end()
    assert registry.get_sample_value("stoker_requests_total", {"model": "m", "status_class": "5xx"}) == 1


def test_models_that_are_gone_leave_no_series_once_they_are_idle() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, Clock())
    meter = metrics.begin("old", 0)
    metrics.begin("kept", 0).end()

    def models() -> set[str]:
        return {sample.labels["model"] for family in registry.collect() for sample in family.samples}

    metrics.keep_only({"kept"})
    assert models() == {"old", "kept"}
    meter.end()
    metrics.keep_only({"kept"})
    assert models() == {"kept"}
    metrics.begin("old", 0).end()
    assert registry.get_sample_value("stoker_requests_total", {"model": "old", "status_class": "5xx"}) == 1
