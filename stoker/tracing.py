"""Traces by OpenTelemetry: where spans go, and how a trace goes on through Temporal.

OpenTelemetry is an extra: only what is told to trace imports this module (`entrypoints.tracing`).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import structlog
from opentelemetry.context import attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from temporalio.api.common.v1 import Payload
from temporalio.contrib.opentelemetry import TracingInterceptor, TracingWorkflowInboundInterceptor
from temporalio.worker import HandleUpdateInput, WorkflowInboundInterceptor, WorkflowInterceptorClassInput

from stoker.version import VERSION

log = structlog.get_logger()

TRACE_CONTEXT = TraceContextTextMapPropagator()
"""W3C `traceparent` and `tracestate`. No baggage: what strangers write there goes nowhere."""

_PATH = "/v1/traces"


class Tracing:
    """One process's. Spans go to the collector in the background; one that is away costs nothing but its spans.

    Whether a trace is recorded is for its beginning to say, or where it begins here for OTEL_TRACES_SAMPLER (all are).
    """

    def __init__(
        self, endpoint: str, service: str, *, instance: str = "", exporter: SpanExporter | None = None
    ) -> None:
        """`endpoint`: a collector's base URL for OTLP over HTTP; empty: OTEL_EXPORTER_OTLP_* say it.

        `service` names the process, `instance` one of many alike. Tests hand in an `exporter`.
        """
        named = {"service.name": service, "service.version": VERSION}
        if instance:
            named["service.instance.id"] = instance
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        url = f"{endpoint.removesuffix('/').removesuffix(_PATH)}{_PATH}" if endpoint else None
        self._processor = BatchSpanProcessor(_Told(exporter or OTLPSpanExporter(endpoint=url)))
        self._provider.add_span_processor(self._processor)
        self.tracer: Tracer = self._provider.get_tracer("stoker", VERSION)
        self.interceptor = WorkflowTracing(self.tracer)

    def flush(self) -> None:
        """Sends what has ended. Blocks."""
        self._provider.force_flush()

    def close(self) -> None:
        """Sends what is left, for as long as the exporter's time-out allows. Blocks."""
        self._provider.shutdown()


class _Told(SpanExporter):
    """Says once that the collector is away, and once that it is back: its own exporter would with each batch."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter, self._away = exporter, False
        logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """As the exporter's."""
        result = self._exporter.export(spans)
        away = result is not SpanExportResult.SUCCESS
        if away is not self._away:
            self._away = away
            if away:
                log.warning("traces_not_exported", remedy="see that the collector of tracing.endpoint answers")
            else:
                log.info("traces_exported_again")
        return result

    def shutdown(self) -> None:
        """As the exporter's."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """As the exporter's."""
        return self._exporter.force_flush(timeout_millis)


class WorkflowTracing(TracingInterceptor):
    """A trace through Temporal: for a client, and all workers that it is given to.

    Only headers are added, to commands that are there anyway: a workflow replays alike with and without it. Unlike the
    SDK's own it lets a workflow that lives for ever go on in the trace of the update that it took last: what follows
    from a changed deployment is of that change's trace, not of the one in which the deployment was made.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__(tracer)
        self.text_map_propagator = TRACE_CONTEXT

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[TracingWorkflowInboundInterceptor]:
        """As the SDK's."""
        super().workflow_interceptor_class(input)
        return _InLastUpdatesTrace


class _InLastUpdatesTrace(TracingWorkflowInboundInterceptor):
    """Within a workflow, and as deterministic: all that it knows it has from headers in the history."""

    def __init__(self, next: WorkflowInboundInterceptor) -> None:
        super().__init__(next)
        self.text_map_propagator = TRACE_CONTEXT

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        """As the SDK's; from here on the workflow is in the update's trace."""
        header = input.headers.get(self.header_key)
        if header is not None:
            self._workflow_context_carrier = self.payload_converter.from_payloads([header])[0]
        return await super().handle_update_handler(input)

    def _completed_span(self, span_name: str, *, add_to_outbound: Any = None, **rest: Any) -> None:
        # The workflow's own function runs in the context of its beginning for as long as it lives.
        with self._in_trace() if add_to_outbound is not None else nullcontext():
            super()._completed_span(span_name, add_to_outbound=add_to_outbound, **rest)

    def _context_to_headers(self, headers: Mapping[str, Payload]) -> Mapping[str, Payload]:
        with self._in_trace():  # of what continues as new
            return super()._context_to_headers(headers)

    @contextmanager
    def _in_trace(self) -> Iterator[None]:
        carrier = self._load_workflow_context_carrier()
        token = attach(self.text_map_propagator.extract(carrier or {}))
        try:
            yield
        finally:
            detach(token)
