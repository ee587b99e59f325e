"""Where spans go, and what a collector that is away does to the process: nothing."""

from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from stoker.tracing import Tracing
from stoker.version import VERSION
from tests.fakes.collector import Collector, collecting


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Running."""
    with collecting() as running:
        yield running


@pytest.mark.parametrize("written", ["{url}", "{url}/", "{url}/v1/traces"])
def test_spans_come_to_the_collector_with_who_made_them(collector: Collector, written: str) -> None:
    tracing = Tracing(written.format(url=collector.url), "stoker-worker", instance="w1")
    with tracing.tracer.start_as_current_span("outer"), tracing.tracer.start_as_current_span("inner"):
        pass
    tracing.close()
    inner, outer = collector.spans
    assert (inner.name, inner.parent, inner.trace, inner.service) == ("inner", outer.id, outer.trace, "stoker-worker")


def test_the_standard_variables_say_where(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    tracing = Tracing("", "stoker-api")
    with tracing.tracer.start_as_current_span("one"):
        pass
    tracing.flush()
    assert [span.name for span in collector.spans] == ["one"]
    tracing.close()


def test_the_standard_sampler_is_asked_where_a_trace_begins_here(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    tracing = Tracing(collector.url, "stoker-api")
    with tracing.tracer.start_as_current_span("one"):
        pass
    tracing.close()
    assert collector.spans == []


class _Unreliable(SpanExporter):
    """An exporter whose collector is away for the first two batches."""

    def __init__(self) -> None:
        self.away = 2
        self.taken: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.away:
            self.away -= 1
            return SpanExportResult.FAILURE
        self.taken += spans
        return SpanExportResult.SUCCESS


def test_a_collector_that_is_away_is_spoken_of_once_and_once_when_it_is_back() -> None:
    exporter = _Unreliable()
    tracing = Tracing("", "stoker-api", exporter=exporter)
    with capture_logs() as lines:
        for name in ("a", "b", "c", "d"):
            with tracing.tracer.start_as_current_span(name):
                pass
            tracing.flush()
    assert [line["event"] for line in lines] == ["traces_not_exported", "traces_exported_again"]
    assert [span.name for span in exporter.taken] == ["c", "d"]
    assert exporter.taken[0].resource.attributes["service.version"] == VERSION
    tracing.close()
