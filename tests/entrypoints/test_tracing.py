"""Tracing is off unless it is asked for, and then it needs an extra."""

import sys
import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from entrypoints import tracing as tracing_module
from entrypoints.tracing import TracingMissingError, check_installed, close, interceptors, request_spans, tracing_of
from stoker.settings import Settings, TracingSettings
from stoker.tracing import Tracing
from tests.fakes.collector import Collector, collecting

pytestmark = pytest.mark.anyio

STANDARD = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@pytest.fixture(autouse=True)
def _nothing_of_the_developers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*STANDARD, "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Running."""
    with collecting() as running:
        yield running


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's SDK is not there."""
    monkeypatch.delitem(sys.modules, "stoker.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)


def asked(endpoint: str) -> Settings:
    """Settings with a collector."""
    return Settings(tracing=TracingSettings(endpoint=endpoint))


async def test_it_is_off_by_default() -> None:
    assert tracing_of(Settings(), "api") is None
    assert request_spans(None) is None
    assert interceptors(None) == ()
    check_installed(Settings())
    await close(None)


async def test_the_setting_turns_it_on(collector: Collector) -> None:
    tracing = tracing_of(asked(collector.url), "api")
    assert tracing is not None
    assert request_spans(tracing) is not None
    assert interceptors(tracing) == (tracing.interceptor,)
    tracing.tracer.start_span("one").end()
    await close(tracing)
    assert [(span.name, span.service) for span in collector.spans] == [("one", "stoker-api")]


@pytest.mark.parametrize("name", STANDARD)
async def test_so_do_the_standard_variables(collector: Collector, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, collector.url if name == STANDARD[0] else f"{collector.url}/v1/traces")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    tracing = tracing_of(Settings(), "api")
    assert tracing is not None
    tracing.tracer.start_span("one").end()
    await close(tracing)
    assert [span.service for span in collector.spans] == ["ours"]
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing_of(Settings(), "api") is None


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://"])
def test_what_is_no_collectors_address(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"is no address of a collector: write it like http://127.0.0.1:4318"):
        asked(endpoint)


@pytest.mark.usefixtures("uninstalled")
def test_without_the_extra_it_is_an_error_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracing_of(Settings(), "api") is None
    expected = r"STOKER_TRACING__ENDPOINT.* asks for traces.*pip install 'stoker\[tracing\]'"
    with pytest.raises(TracingMissingError, match=expected):
        tracing_of(asked("http://127.0.0.1:4318"), "api")
    monkeypatch.setenv(STANDARD[0], "http://127.0.0.1:4318")
    with pytest.raises(TracingMissingError, match=rf"^{STANDARD[0]} asks for traces.*or unset {STANDARD[0]}"):
        check_installed(Settings())


class _Stuck(SpanExporter):
    """Its collector takes the connection and never answers."""

    def __init__(self) -> None:
        self.answered = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.answered.wait(60)
        return SpanExportResult.SUCCESS


async def test_a_collector_that_never_answers_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_module, "CLOSED_WITHIN_SECONDS", 0.05)
    exporter = _Stuck()
    tracing = Tracing("", "stoker-api", exporter=exporter)
    tracing.tracer.start_span("one").end()
    await close(tracing)
    assert not exporter.answered.is_set()
    exporter.answered.set()
