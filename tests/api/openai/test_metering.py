"""Tokens from the tails of answers, and what is counted and recorded of requests."""

import pytest
from prometheus_client import CollectorRegistry

from api.openai.metering import Meter, Metrics, Usage, usage_of, usage_of_events, usage_of_stream
from stoker.domain.usage import GONE, UsageRecord
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
    if "stream" in name:
        assert usage_of_stream(body, body) == usage, "all of it may come at once"


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
    "usage",
    [
        b'{"prompt_tokens":"7"}',
        b'{"prompt_tokens":null,"prompt_tokens_details":[1]}',
        b'{"x":1}',
        b"{}",
        b'{"prompt_tokens":-1,"completion_tokens":1e9,"x":2}',
        b'{"prompt_tokens":9223372036854775808}',
    ],
)
def test_strange_usage_counts_nothing(usage: bytes) -> None:
    assert usage_of(b'{"usage":' + usage + b"}") == Usage()


class Clock:
    """Seconds that a test moves."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Kept:
    """A recorder that keeps what it gets."""

    def __init__(self) -> None:
        self.records: list[UsageRecord] = []

    def record(self, record: UsageRecord) -> None:
        self.records.append(record)


class Bench:
    """Metrics with clocks that a test moves."""

    def __init__(self) -> None:
        self.registry, self.clock, self.wall, self.kept = CollectorRegistry(), Clock(1000.0), Clock(1.7e9), Kept()
        self.metrics = Metrics(self.registry, self.clock, self.kept, wall_clock=self.wall)

    def begin(self, model: str = "m") -> Meter:
        return self.metrics.begin(
            model, self.clock.now, asked="alias", key_id="k", path="/chat/completions", streamed=True
        )

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.wall.now += seconds

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_request_is_counted_once_under_its_model(bench: Bench) -> None:
    meters = [bench.begin() for _ in range(2)]
    assert bench.value("stoker_requests_running", model="m") == 2
    bench.pass_time(0.2)
    meters[0].first_token()
    bench.pass_time(1)
    meters[0].usage, meters[0].status = Usage(30, 5, 10), 200
    meters[0].end()
    meters[1].status = GONE
    meters[1].end()
    bench.metrics.refused(404)
    assert bench.value("stoker_requests_running", model="m") == 0
    assert bench.value("stoker_requests_total", model="m", status_class="2xx") == 1
    assert bench.value("stoker_requests_total", model="m", status_class="gone") == 1
    assert bench.value("stoker_requests_total", model="", status_class="4xx") == 1
    assert bench.value("stoker_time_to_first_token_seconds_count", model="m") == 1
    assert bench.value("stoker_time_to_first_token_seconds_bucket", model="m", le="0.25") == 1
    assert bench.value("stoker_time_to_first_token_seconds_bucket", model="m", le="0.1") == 0
    assert bench.value("stoker_time_per_output_token_seconds_bucket", model="m", le="0.3") == 1
    assert bench.value("stoker_time_per_output_token_seconds_bucket", model="m", le="0.2") == 0
    assert bench.value("stoker_time_per_output_token_seconds_sum", model="m") == pytest.approx(0.25)
    assert bench.value("stoker_request_duration_seconds_sum", model="m") == pytest.approx(2.4)
    assert bench.value("stoker_request_duration_seconds_bucket", model="m", le="+Inf") == 2
    assert bench.value("stoker_tokens_total", model="m", direction="in") == 30
    assert bench.value("stoker_tokens_total", model="m", direction="out") == 5
    assert bench.value("stoker_cached_tokens_total", model="m") == 10


def test_a_request_is_recorded_when_it_is_over(bench: Bench) -> None:
    meter = bench.begin()
    bench.pass_time(0.25)
    meter.first_token()
    bench.pass_time(1)
    meter.usage, meter.status, meter.instance_id = Usage(30, 5, 10), 200, "m-1"
    assert not bench.kept.records
    meter.end()
    assert bench.kept.records == [
        UsageRecord(1.7e9 + 1.25, "k", "m", "alias", "m-1", "/chat/completions", 200, True, 30, 5, 10, 0.25, 1.25)
    ]


def test_a_wall_clock_that_is_set_right_is_followed(bench: Bench) -> None:
    bench.wall.now += 3600
    bench.pass_time(2)
    bench.begin().end()
    assert bench.kept.records[0].ended_at == pytest.approx(1.7e9 + 3602)


def test_a_request_that_says_nothing_of_its_end_failed(bench: Bench) -> None:
    bench.begin().end()
    assert bench.value("stoker_requests_total", model="m", status_class="5xx") == 1
    assert bench.kept.records[0].status == 500


def test_a_request_that_another_deployment_answers_counts_there(bench: Bench) -> None:
    meter = bench.begin("first")
    meter.goes_to("second")
    assert bench.value("stoker_requests_running", model="first") == 0
    assert bench.value("stoker_requests_running", model="second") == 1
    meter.status = 200
    meter.end()
    assert bench.value("stoker_requests_total", model="first", status_class="2xx") is None
    assert bench.value("stoker_requests_total", model="second", status_class="2xx") == 1
    assert (bench.kept.records[0].model, bench.kept.records[0].asked) == ("second", "alias")


def test_what_waits_is_asked_for_when_the_metrics_are_read(bench: Bench) -> None:
    waiting: dict[str, int] = {}
    bench.metrics.watch_queue(lambda: waiting)
    waiting["m"] = 7
    assert bench.value("stoker_requests_queued", model="m") == 7


def test_models_that_are_gone_leave_no_series_once_they_are_idle(bench: Bench) -> None:
    meter = bench.begin("old")
    bench.begin("kept").end()

    def models() -> set[str]:
        return {sample.labels["model"] for family in bench.registry.collect() for sample in family.samples}

    bench.metrics.keep_only({"kept"})
    assert models() == {"old", "kept"}
    meter.end()
    bench.metrics.keep_only({"kept"})
    assert models() == {"kept"}
    bench.begin("old").end()
    assert bench.value("stoker_requests_total", model="old", status_class="5xx") == 1
