"""Tracing is off unless it is asked for, and then it needs an extra."""

import sys
import time
from pathlib import Path

import pytest

from entrypoints.tracing import (
    CLOSED_WITHIN_SECONDS,
    TracingMissingError,
    check_installed,
    close,
    interceptors,
    request_spans,
    tracing_of,
)
from stoker.settings import Settings, TracingSettings
from tests.entrypoints.cli.test_processes import PROCESSES
from tests.fakes.collector import collecting

ON = Settings(tracing=TracingSettings(endpoint="http://127.0.0.1:9"))
STANDARD = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@pytest.fixture(autouse=True)
def _no_standard_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*STANDARD, "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
