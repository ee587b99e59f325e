"""What a request used, and the metrics of it."""

import json
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_MARKS = (b'"usage":{', b'"timings":{')
_DECODER = json.JSONDecoder()

CLIENT_GONE = "gone"  # the status class of a request whose client left before its answer was whole


class Usage(NamedTuple):
    """Tokens of one request. `cached` of the `input` were taken from the engine's prompt cache."""

    input: int = 0
    output: int = 0
    cached: int = 0

    def plus(self, other: "Usage") -> "Usage":
        """Both together."""
        return Usage(self.input + other.input, self.output + other.output, self.cached + other.cached)


def usage_of(answer: bytes) -> Usage | None:
    """The tokens that an answer, or the tail of a streamed one, speaks of; None when it does not.

    Reads `usage` in the form of any of the APIs, else llama-server's `timings`, which end every stream.
    """
    for mark in _MARKS:
        at = answer.rfind(mark)
        if at >= 0:
            try:
                found, _ = _DECODER.raw_decode(answer[at + len(mark) - 1 : at + 4096].decode(errors="replace"))
            except ValueError:
                continue
            return _usage(found)
    return None


def usage_of_stream(first: bytes, tail: bytes) -> Usage | None:
    """As `usage_of`; Anthropic's streams say the input in their first event and the output in one of their last."""
    usage = usage_of(tail)
    if usage is not None and not usage.input:
        begun = usage_of(first)
        if begun is not None:
            return begun._replace(output=usage.output)
    return usage


def usage_of_events(events: bytes) -> Usage:
    """The sum of the tokens that whole events speak of: one of them for each choice of each prompt."""
    total = Usage()
    for event in events.split(b"\n\n"):
        total = total.plus(usage_of(event) or Usage())
    return total


def _usage(found: dict[str, Any]) -> Usage:
    def count(*names: str, of: dict[str, Any] = found) -> int:
        return next((value for name in names if isinstance(value := of.get(name), int)), 0)

    if "predicted_n" in found:
        cached = count("cache_n")
        return Usage(cached + count("prompt_n"), count("predicted_n"), cached)
    if "cache_read_input_tokens" in found:  # Anthropic counts them beside the input
        cached = count("cache_read_input_tokens")
        return Usage(cached + count("input_tokens"), count("output_tokens"), cached)
    details = found.get("prompt_tokens_details") or found.get("input_tokens_details") or {}
    cached = count("cached_tokens", of=details) if isinstance(details, dict) else 0
    return Usage(count("prompt_tokens", "input_tokens"), count("completion_tokens", "output_tokens"), cached)


class Metrics:
    """The door's metrics. The label `model` only ever holds names from the route table; "" stands for all others."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        """`clock` returns seconds that only grow."""
        self._clock = clock
        self.requests = Counter("stoker_requests", "Requests answered.", ["model", "status_class"], registry=registry)
        self.running = Gauge("stoker_requests_running", "Requests now worked on.", ["model"], registry=registry)
        self.first_token = Histogram(
            "stoker_time_to_first_token_seconds",
            "From a request's arrival to the first bytes of its streamed answer.",
            ["model"],
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.duration = Histogram(
            "stoker_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            ["model"],
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.tokens = Counter(
            "stoker_tokens", "Tokens read (in) and written (out).", ["model", "direction"], registry=registry
        )
        self._series: dict[str, _Series] = {}

    def begin(self, model: str, arrived: float) -> "Meter":
        """A request for a known model begins to be worked on; `arrived` by the clock. `Meter.end` must follow."""
        series = self._series.get(model)
        if series is None:
            series = self._series[model] = _Series(self, model)
        series.begin()
        return Meter(series, self._clock, arrived)

    def refused(self, status: int) -> None:
        """A request that reached no known model was answered with `status`."""
        self.requests.labels("", status_class(status)).inc()

    def keep_only(self, models: Collection[str]) -> None:
        """Drops the series of models that are gone, once nothing of theirs runs any more."""
        for model in [name for name, series in self._series.items() if name not in models and not series.count]:
            del self._series[model]
            for metric in (self.requests, self.running, self.first_token, self.duration, self.tokens):
                metric.remove_by_labels({"model": model})


class _Series:
    """The metrics of one model, looked up once: finding them by label costs more than counting."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.count = 0
        self.first_token = metrics.first_token.labels(model)
        self._running = metrics.running.labels(model)
        self._duration = metrics.duration.labels(model)
        self._tokens_in, self._tokens_out = metrics.tokens.labels(model, "in"), metrics.tokens.labels(model, "out")
        self._requests, self._model = metrics.requests, model
        self._outcomes: dict[str, Counter] = {}

    def begin(self) -> None:
        self.count += 1
        self._running.set(self.count)

    def end(self, seconds: float, outcome: str, usage: Usage | None) -> None:
        self.count -= 1
        self._running.set(self.count)
        self._duration.observe(seconds)
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self._requests.labels(self._model, outcome)
        counter.inc()
        if usage is not None:
            self._tokens_in.inc(usage.input)
            self._tokens_out.inc(usage.output)


class Meter:
    """The metrics of one request. `outcome` and `usage` may be set until `end`."""

    __slots__ = ("_arrived", "_clock", "_series", "outcome", "usage")

    def __init__(self, series: _Series, clock: Callable[[], float], arrived: float) -> None:
        self._series, self._clock, self._arrived = series, clock, arrived
        self.outcome = status_class(500)  # unless something better becomes known
        self.usage: Usage | None = None

    def first_token(self) -> None:
        """The first bytes of a streamed answer are there."""
        self._series.first_token.observe(self._clock() - self._arrived)

    def end(self) -> None:
        """The request is over. Once."""
        self._series.end(self._clock() - self._arrived, self.outcome, self.usage)


def status_class(status: int) -> str:
    """`4xx` for 404."""
    return f"{status // 100}xx"
