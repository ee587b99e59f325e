"""What the control plane counts, and its page: how the ledger answered who asked for a place.

Each control plane counts its own, from its start: `sum(rate(…))` over all of them is the cluster's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from activities.ports import Ledger
from stoker.domain.base import InstanceId, WorkerName
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.settings import ControlPlaneSettings
from stoker.version import VERSION

PLACED, PENDING, FAILED = "placed", "pending", "failed"


class MetricsPortError(Exception):
    """The page's port cannot be listened on."""


class CountedLedger:
    """A ledger of which each decision is counted: `placed`, `pending` (nothing fits), `failed` (no answer)."""

    def __init__(self, ledger: Ledger, registry: CollectorRegistry) -> None:
        self._ledger = ledger
        self._decisions = Counter(
            "stoker_placement_decisions",
            "Answers to instances that asked for a place. One that asks again is counted again.",
            ["outcome"],
            registry=registry,
        )
        for outcome in (PLACED, PENDING, FAILED):
            self._decisions.labels(outcome)  # a rate needs the zero before the first one

    def place(self, request: PlacementRequest) -> Placement | Unplaceable:
        """The ledger's answer, counted; what it raises is counted too."""
        outcome = FAILED
        try:
            answer = self._ledger.place(request)
            outcome = PLACED if isinstance(answer, Placement) else PENDING
            return answer
        finally:
            self._decisions.labels(outcome).inc()

    def release(
        self, instance_id: InstanceId, incarnation: int | None = None, unconfirmed: Sequence[WorkerName] = ()
    ) -> tuple[InstanceId, ...]:
        """As the ledger's."""
        return self._ledger.release(instance_id, incarnation, unconfirmed)

    def abandon(self, instance_id: InstanceId) -> None:
        """As the ledger's."""
        self._ledger.abandon(instance_id)

    def ready_workers(self, spec: DeploymentSpec) -> tuple[WorkerName, ...]:
        """As the ledger's."""
        return self._ledger.ready_workers(spec)


def control_registry() -> CollectorRegistry:
    """An empty registry, but for which Stoker this is."""
    registry = CollectorRegistry()
    Gauge("stoker_build_info", "Which Stoker this is", ["version"], registry=registry).labels(VERSION).set(1)
    return registry


@contextmanager
def metrics_page(settings: ControlPlaneSettings, registry: CollectorRegistry) -> Iterator[int]:
    """Shows `registry` at /metrics while the block lasts, on the port that it says; with `metrics_port` 0 nowhere (0).

    Raises MetricsPortError.
    """
    if not settings.metrics_port:
        yield 0
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        raise MetricsPortError(
            f"cannot listen on {settings.metrics_host}:{settings.metrics_port}: {error.strerror or error}. "
            "Choose another: STOKER_CONTROL_PLANE__METRICS_PORT, or 0 for none"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
