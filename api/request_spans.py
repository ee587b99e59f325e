"""Spans of requests: one for each call of the API, and one for what a model was asked, by OpenTelemetry's GenAI names.

OpenTelemetry is an extra: only what is told to trace imports this module (`entrypoints.tracing`). Nothing that was said
to a model or by it, and nobody's key, is in a span.
"""

import re
from collections.abc import Callable
from typing import Any

import structlog
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation import set_span_in_context
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.openai.metering import Metrics, Recorder
from stoker.domain.usage import GONE, UsageRecord
from stoker.secret_shapes import redacted
from stoker.tracing import TRACE_CONTEXT

PREFIX = "/api/v1"

_ROUTINE = re.compile(r"/(livez|readyz|metrics|version|static/.*)|/api/v1/workers/[^/]*/(report|certificate)")
"""What asks again and again by itself."""

_OPERATIONS = {
    "/chat/completions": "chat",
    "/messages": "chat",
    "/responses": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
}
"""GenAI's names, by our paths under /v1. Others go by the path's last part, as in `rerank`."""

_NANOSECONDS = 1_000_000_000


class RequestSpans:
    """Makes the spans of one API process."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def of_management(self, app: ASGIApp) -> ASGIApp:
        """A span around each request that a client of the management API makes; logs within name its trace."""

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or _ROUTINE.fullmatch(scope["path"]):
                await app(scope, receive, send)
                return
            with self._span(scope) as span:

                async def noting(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        _set_status(span, message["status"])
                    await send(message)

                trace_id = f"{span.get_span_context().trace_id:032x}"
                with structlog.contextvars.bound_contextvars(trace_id=trace_id):
                    await app(scope, receive, noting)
                if "route" in scope:
                    begin = PREFIX if scope["path"].startswith(f"{PREFIX}/") else ""
                    _set_route(span, scope["method"], begin + scope["route"].path)

        return wrapped

    def of_models(self, app: ASGIApp) -> ASGIApp:
        """A span around each request to `/v1`. `metrics` tells it what it was about."""

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            with self._span(scope):
                await app(scope, receive, send)

        return wrapped

    def metrics(
        self, registry: CollectorRegistry, clock: Callable[[], float], recorder: Recorder | None = None
    ) -> Metrics:
        """Metrics that make a span of each request to a model when it is over, within that of its call."""
        return _SpanMetrics(self._tracer, registry, clock, recorder)

    def _span(self, scope: Scope) -> Any:
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        attributes = {"http.request.method": scope["method"], "url.path": redacted(scope["path"])}
        return self._tracer.start_as_current_span(
            scope["method"], context=TRACE_CONTEXT.extract(carrier), kind=SpanKind.SERVER, attributes=attributes
        )


class _SpanMetrics(Metrics):
    """Metrics as always; what they are told becomes spans, too. Called within the request's own span."""

    def __init__(
        self, tracer: Tracer, registry: CollectorRegistry, clock: Callable[[], float], recorder: Recorder | None
    ) -> None:
        super().__init__(registry, clock, recorder)
        self._tracer, self._keep = tracer, self.record
        self.record = self._record

    def refused(self, status: int) -> None:
        """As in Metrics."""
        super().refused(status)
        _set_status(get_current_span(), status)

    def _record(self, record: UsageRecord) -> None:
        self._keep(record)
        call = get_current_span()
        if not call.is_recording():
            return
        _set_route(call, "POST", f"/v1{record.path}")
        if record.status != GONE:  # then none was sent
            _set_status(call, record.status)
        operation = _OPERATIONS.get(record.path, record.path.rpartition("/")[2])
        ended_at = int(record.ended_at * _NANOSECONDS)
        span = self._tracer.start_span(
            f"{operation} {record.asked}",
            context=set_span_in_context(call),
            kind=SpanKind.CLIENT,
            attributes=_attributes(operation, record),
            start_time=ended_at - int(record.seconds * _NANOSECONDS),
        )
        if record.status >= 400:
            span.set_attribute("error.type", "client_gone" if record.status == GONE else str(record.status))
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_at)


def _attributes(operation: str, record: UsageRecord) -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "stoker",
        "gen_ai.request.model": record.asked,
        "gen_ai.request.stream": record.streamed,
        "gen_ai.response.model": record.model,
        "stoker.instance": record.instance_id,
    }
    if record.input_tokens or record.output_tokens:
        found |= {
            "gen_ai.usage.input_tokens": record.input_tokens,
            "gen_ai.usage.output_tokens": record.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        }
    if record.first_token_seconds:
        found["gen_ai.response.time_to_first_chunk"] = record.first_token_seconds
    return found


def _set_status(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def _set_route(span: Span, method: str, route: str) -> None:
    span.update_name(f"{method} {route}")
    span.set_attribute("http.route", route)
