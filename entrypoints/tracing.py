"""Whether a process traces, by its settings. OpenTelemetry is an extra: it is imported here, and only then."""

import asyncio
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stoker.settings import Settings

if TYPE_CHECKING:
    from temporalio.client import Interceptor

    from api.request_spans import RequestSpans
    from stoker.tracing import Tracing

CLOSED_WITHIN_SECONDS = 2.0

_STANDARD = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""What OpenTelemetry itself reads where our setting is empty; the first that is set wins."""

_OFF = "OTEL_SDK_DISABLED"


class TracingMissingError(Exception):
    """Traces are wanted, and OpenTelemetry is not installed; the message names the extra and the setting."""


def check_installed(settings: Settings) -> None:
    """Raises TracingMissingError where traces are wanted and cannot be made."""
    asked = _asked_by(settings)
    if asked:
        try:
            import stoker.tracing  # noqa: F401
        except ImportError as error:
            raise TracingMissingError(
                f"{asked} asks for traces, and OpenTelemetry is not installed ({error}): "
                f"install Stoker with its extra, `pip install 'stoker[tracing]'`, or unset {asked}"
            ) from error


def tracing_of(settings: Settings, process: str, *, instance: str = "") -> "Tracing | None":
    """This process's tracing; None: it is off, as it is by default. `process` like "api".

    `instance`: its name among others of its kind. Raises TracingMissingError.
    """
    if not _asked_by(settings):
        return None
    check_installed(settings)
    from stoker.tracing import Tracing

    service = os.environ.get("OTEL_SERVICE_NAME") or f"stoker-{process}"
    return Tracing(settings.tracing.endpoint, service, instance=instance)


def _asked_by(settings: Settings) -> str:
    """The setting or variable that asks for traces; empty: none does."""
    if os.environ.get(_OFF, "").strip().lower() == "true":
        return ""
    if settings.tracing.endpoint:
        return "tracing.endpoint (STOKER_TRACING__ENDPOINT)"
    return next((name for name in _STANDARD if os.environ.get(name)), "")


def request_spans(tracing: "Tracing | None") -> "RequestSpans | None":
    """The spans of an API process's requests."""
    if tracing is None:
        return None
    from api.request_spans import RequestSpans

    return RequestSpans(tracing.tracer)


def interceptors(tracing: "Tracing | None") -> "Sequence[Interceptor]":
    """For a client of Temporal."""
    return (tracing.interceptor,) if tracing is not None else ()


async def close(tracing: "Tracing | None") -> None:
    """Sends the last spans, for a moment: a collector that does not answer holds up no end."""
    if tracing is not None:
        closing = threading.Thread(target=tracing.close, name="tracing-close", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSED_WITHIN_SECONDS)
