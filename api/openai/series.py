"""The counts of one model's requests: plain numbers on the hot path, made into Prometheus' families when it looks.

`prometheus_client`'s own counters take a lock for every number: 12 microseconds a request where these take 2.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from stoker.domain.usage import status_class

FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
PER_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

_MODEL = ("model",)


class Observed:
    """Seconds, counted by buckets."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: the buckets' upper ends, which belong to them."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus counts them: each with all that are below."""
        found, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            found.append((bound, float(so_far)))
        return found


class Series:
    """The counts of one model."""

    __slots__ = ("by_status", "cached", "duration", "first_token", "input", "output", "per_token", "running")

    def __init__(self) -> None:
        self.running = 0
        self.by_status: dict[int, int] = {}
        self.first_token = Observed(FIRST_TOKEN_BUCKETS)
        self.per_token = Observed(PER_TOKEN_BUCKETS)
        self.duration = Observed(DURATION_BUCKETS)
        self.input = self.output = self.cached = 0  # tokens


def families(
    series: Iterable[tuple[str, Series]], refused: Mapping[int, int], queued: Mapping[str, int]
) -> list[Metric]:
    """The metrics of all models by name; `refused` counts by status what belongs to none, `queued` what waits."""
    requests = CounterMetricFamily("stoker_requests", "Requests answered.", labels=("model", "status_class"))
    running = GaugeMetricFamily("stoker_requests_running", "Requests now worked on.", labels=_MODEL)
    waiting = GaugeMetricFamily("stoker_requests_queued", "Requests that wait for a free slot.", labels=_MODEL)
    tokens = CounterMetricFamily("stoker_tokens", "Tokens read (in) and written (out).", labels=("model", "direction"))
    cached = CounterMetricFamily(
        "stoker_cached_tokens", "Tokens read that were in the engine's prompt cache.", labels=_MODEL
    )
    first_token = HistogramMetricFamily(
        "stoker_time_to_first_token_seconds",
        "From a request's arrival to the first bytes of its streamed answer.",
        labels=_MODEL,
    )
    per_token = HistogramMetricFamily(
        "stoker_time_per_output_token_seconds",
        "Between one token of a streamed answer and the next, on average over the answer.",
        labels=_MODEL,
    )
    duration = HistogramMetricFamily(
        "stoker_request_duration_seconds", "From a request's arrival to the end of its answer.", labels=_MODEL
    )
    for name, one in (*series, ("", None)):
        by_status = refused if one is None else one.by_status
        for of_class, count in _by_class(by_status):
            requests.add_metric((name, of_class), count)
        if one is None:
            continue
        labels = (name,)
        running.add_metric(labels, one.running)
        tokens.add_metric((name, "in"), one.input)
        tokens.add_metric((name, "out"), one.output)
        cached.add_metric(labels, one.cached)
        for family, observed in (
            (first_token, one.first_token),
            (per_token, one.per_token),
            (duration, one.duration),
        ):
            family.add_metric(labels, observed.buckets(), observed.total)
    for name, count in queued.items():
        waiting.add_metric((name,), count)
    return [requests, running, waiting, tokens, cached, first_token, per_token, duration]


def _by_class(by_status: Mapping[int, int]) -> Iterator[tuple[str, int]]:
    classes: dict[str, int] = {}
    for status, count in list(by_status.items()):
        of_class = status_class(status)
        classes[of_class] = classes.get(of_class, 0) + count
    yield from classes.items()
