"""What a request used: counted for the metrics, and recorded."""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from api.openai.series import Series, families
from stoker.domain.usage import UsageRecord

_MARKS = (b'"usage":{', b'"timings":{')
_DECODER = json.JSONDecoder()
_CLOCKS_COMPARED_SECONDS = 1.0


class Usage(NamedTuple):
    """Tokens of one request. `cached` of the `input` were taken from the engine's prompt cache."""

    input: int = 0
    output: int = 0
    cached: int = 0

    def plus(self, other: "Usage") -> "Usage":
        """Both together."""
        return Usage(self.input + other.input, self.output + other.output, self.cached + other.cached)


_NOTHING = Usage()
_MOST_TOKENS = 2**40  # of one request: an engine that says more, or less than none, is not believed


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
        at = max(0, first.find(_MARKS[0]))  # a short stream may have come at once: then its end stands there, too
        begun = usage_of(first[at:].partition(b"\n\n")[0])
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
    get = found.get
    if "predicted_n" in found:
        cached = _count(get("cache_n"))
        return Usage(cached + _count(get("prompt_n")), _count(get("predicted_n")), cached)
    if "cache_read_input_tokens" in found:  # Anthropic counts them beside the input
        cached = _count(get("cache_read_input_tokens"))
        return Usage(cached + _count(get("input_tokens")), _count(get("output_tokens")), cached)
    details = get("prompt_tokens_details") or get("input_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    read, written = get("prompt_tokens", get("input_tokens")), get("completion_tokens", get("output_tokens"))
    return Usage(_count(read), _count(written), cached)


def _count(given: Any) -> int:
    return given if isinstance(given, int) and 0 <= given <= _MOST_TOKENS else 0


class Recorder(Protocol):
    """Keeps records of requests."""

    def record(self, record: UsageRecord) -> None:
        """Keeps one more. Takes it at once, and never raises."""
        ...


class _Unrecorded:
    """Keeps none."""

    def record(self, record: UsageRecord) -> None:
        pass


class Metrics(Collector):
    """The door's metrics. The label `model` only ever holds names of deployments; "" stands for all else."""

    def __init__(
        self,
        registry: CollectorRegistry,
        clock: Callable[[], float],
        recorder: Recorder | None = None,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` returns seconds that only grow; `wall_clock` Unix seconds, for what is recorded."""
        self.clock, self._wall_clock = clock, wall_clock
        self.record = (recorder or _Unrecorded()).record
        self._series: dict[str, Series] = {}
        self._refused: dict[int, int] = {}
        self._queued: Callable[[], Mapping[str, int]] = dict
        self._compared = clock()  # when it was read by how much the wall clock is ahead of the other
        self._ahead = wall_clock() - self._compared
        registry.register(self)

    def begin(self, model: str, arrived: float, *, asked: str, key_id: str, path: str, streamed: bool) -> "Meter":
        """A request that goes to the deployment `model` begins to be worked on. `Meter.end` must follow.

        `arrived` by the clock; `asked`: the model as the client named it; `path` under /v1.
        """
        return Meter(self, self.series(model), model, arrived, asked, key_id, path, streamed)

    def refused(self, status: int) -> None:
        """A request that reached no known model was answered with `status`."""
        self._refused[status] = self._refused.get(status, 0) + 1

    def watch_queue(self, queued: Callable[[], Mapping[str, int]]) -> None:
        """`queued` will be asked, whenever the metrics are read, how many requests wait for each deployment."""
        self._queued = queued

    def keep_only(self, models: Collection[str]) -> None:
        """Drops the series of models that are gone, once nothing of theirs runs any more."""
        for model in [name for name, series in self._series.items() if name not in models and not series.running]:
            del self._series[model]

    def describe(self) -> list[Metric]:
        """The metrics without their series."""
        return families((), {}, {})

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        yield from families(list(self._series.items()), self._refused, self._queued())

    def series(self, model: str) -> Series:
        """The counts of one deployment. For meters."""
        series = self._series.get(model)
        if series is None:
            series = self._series[model] = Series()
        return series

    def wall_time(self, moment: float) -> float:
        """Unix seconds of a moment of the clock, at which this is asked. For meters."""
        if moment - self._compared > _CLOCKS_COMPARED_SECONDS:
            self._compared, self._ahead = moment, self._wall_clock() - moment
        return self._ahead + moment


class Meter:
    """One request as it is counted. `status` (HTTP's; GONE), `usage` and `instance_id` may be set until `end`."""

    __slots__ = (
        "_arrived",
        "_asked",
        "_first_token_seconds",
        "_key_id",
        "_metrics",
        "_model",
        "_path",
        "_series",
        "_streamed",
        "instance_id",
        "status",
        "usage",
    )

    def __init__(
        self,
        metrics: Metrics,
        series: Series,
        model: str,
        arrived: float,
        asked: str,
        key_id: str,
        path: str,
        streamed: bool,
    ) -> None:
        self._metrics, self._series, self._model, self._arrived = metrics, series, model, arrived
        self._asked, self._key_id, self._path, self._streamed = asked, key_id, path, streamed
        self._first_token_seconds = 0.0
        self.status = 500  # unless something better becomes known
        self.usage: Usage | None = None
        self.instance_id = ""  # the replica that answers
        series.running += 1

    def goes_to(self, model: str) -> None:
        """Another deployment than that of `begin` is asked now: what follows counts as its."""
        self._series.running -= 1
        self._model, self._series = model, self._metrics.series(model)
        self._series.running += 1

    def first_token(self) -> None:
        """The first bytes of a streamed answer are there."""
        self._first_token_seconds = seconds = self._metrics.clock() - self._arrived
        self._series.first_token.observe(seconds)

    def end(self) -> None:
        """The request is over. Once."""
        metrics, series, status = self._metrics, self._series, self.status
        now = metrics.clock()
        read, written, cached = self.usage or _NOTHING
        record = UsageRecord(
            metrics.wall_time(now),
            self._key_id,
            self._model,
            self._asked,
            self.instance_id,
            self._path,
            status,
            self._streamed,
            read,
            written,
            cached,
            self._first_token_seconds,
            now - self._arrived,
        )
        series.running -= 1
        series.by_status[status] = series.by_status.get(status, 0) + 1
        series.duration.observe(record.seconds)
        if read or written:
            series.input += read
            series.output += written
            series.cached += cached
        if self._first_token_seconds and written > 1:
            series.per_token.observe(record.seconds_per_token)
        metrics.record(record)
