"""The cluster in Prometheus' metrics: deployments, instances, workers, memory, claims.

Made at each scrape from what the process has in memory anyway, so that it costs no question and nothing that is gone
has a series any more. Every API process sees the same: these are no sums over processes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.cluster_view import Seen
from api.schemas.deployments import summary
from stoker.domain.claims import allocatable
from stoker.domain.deployments import InstanceState
from stoker.domain.placement.types import Tier
from stoker.domain.statuses import DeploymentStatus, InstanceStatus
from stoker.domain.workers import WorkerState

DEPLOYMENT_STATES = ("running", "progressing", "pending", "failed", "stopped", "deleting")
"""What `summary` says."""

_SIZES = {
    "size": "What Stoker may use of a device at most; a CPU is a device, and this its RAM.",
    "reserved": "What is kept free of it for the system.",
    "claimed": "What instances have claimed.",
    "used": "What is really in use, by anyone, at the last report.",
    "free": "What can still be claimed: size - reserved - the larger of claimed and used.",
}


class ClusterMetrics(Collector):
    """Worked out at each look from what is known then."""

    def __init__(
        self,
        deployments: Callable[[], Sequence[DeploymentStatus]],
        instances: Callable[[], Sequence[InstanceStatus]],
        seen: Callable[[], Seen],
        clock: Callable[[], datetime],
    ) -> None:
        """All are asked at each scrape and must not block; `clock` gives the moment in UTC."""
        self._deployments, self._instances, self._seen, self._clock = deployments, instances, seen, clock

    def describe(self) -> list[Metric]:
        """The metrics without their series."""
        return list(self._families((), (), Seen(), self._clock()))

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        yield from self._families(self._deployments(), self._instances(), self._seen(), self._clock())

    def _families(
        self,
        deployments: Sequence[DeploymentStatus],
        instances: Sequence[InstanceStatus],
        seen: Seen,
        now: datetime,
    ) -> Iterator[Metric]:
        yield _gauge(
            "stoker_part_up",
            "Whether a part answers (1) or not (0): database, temporal, and control_plane, which takes work from it.",
            ("part",),
            (((part,), up) for part, up in seen.parts.items()),
        )
        yield from _of_deployments(deployments, instances)
        yield from _of_instances(instances)
        yield _gauge(
            "stoker_pending_seconds",
            "For how long the oldest instance of a deployment has waited for room.",
            ("deployment",),
            (((name,), _age(since, now)) for name, since in seen.figures.pending_since.items()),
        )
        yield from _of_workers(seen, now)


def _of_deployments(
    deployments: Sequence[DeploymentStatus], instances: Iterable[InstanceStatus]
) -> Iterator[GaugeMetricFamily]:
    by_deployment: dict[str, list[InstanceStatus]] = {}
    for instance in instances:
        by_deployment.setdefault(instance.deployment, []).append(instance)
    states, wanted, running = [], [], []
    for one in deployments:
        name, its = one.spec.name, tuple(by_deployment.get(one.spec.name, ()))
        states.append((name, summary(one, its)[0]))
        wanted.append(((name,), one.wanted_replicas))
        running.append(((name,), sum(instance.state is InstanceState.RUNNING for instance in its)))
    by_state = (state for _, state in states)
    yield _counted("stoker_deployments", "Deployments, by state.", "state", DEPLOYMENT_STATES, by_state)
    yield _gauge(
        "stoker_deployment_state",
        "1 for the state that the deployment is in.",
        ("deployment", "state"),
        ((both, 1) for both in states),
    )
    yield _gauge("stoker_deployment_replicas_wanted", "Instances that are wanted.", ("deployment",), wanted)
    yield _gauge("stoker_deployment_replicas_running", "Instances that run.", ("deployment",), running)


def _of_instances(instances: Sequence[InstanceStatus]) -> Iterator[Metric]:
    states = (one.state.value for one in instances)
    yield _counted("stoker_instances", "Instances, by state.", "state", InstanceState, states)
    tiers = (one.placement.tier.value for one in instances if one.placement is not None)
    yield _counted("stoker_instances_placed", "Instances that have a place, by how they got it.", "tier", Tier, tiers)
    restarts = CounterMetricFamily(
        "stoker_instance_restarts",
        "How often an instance was started again because its engine, a member of its group or its host went away.",
        labels=("deployment", "instance"),
    )
    for one in instances:
        restarts.add_metric((one.deployment, one.instance_id), max(0, one.incarnation - 1))
    yield restarts


def _of_workers(seen: Seen, now: datetime) -> Iterator[GaugeMetricFamily]:
    hosts, figures = seen.fleet.hosts, seen.figures
    states = (host.worker.state.value for host in hosts.values())
    yield _counted("stoker_workers", "Workers, by state.", "state", WorkerState, states)
    yield _gauge(
        "stoker_worker_report_age_seconds",
        "Time since the worker's last report; one comes every 5 s.",
        ("worker",),
        (((name,), _age(at, now)) for name, at in figures.reported_at.items()),
    )
    sizes: dict[str, dict[tuple[str, str], int]] = {name: {} for name in _SIZES}
    for name, host in hosts.items():
        claimed = host.claimed
        for device in host.worker.devices:
            free = allocatable(host.worker, device, lambda one, claimed=claimed: claimed.get(one.id, 0))  # type: ignore[misc]
            values = (device.total, device.reserve, claimed.get(device.id, 0), device.used, free)
            for size, value in zip(_SIZES, values, strict=True):
                sizes[size][name, device.id] = value
    for size, text in _SIZES.items():
        yield _gauge(f"stoker_device_memory_{size}_bytes", text, ("worker", "device"), sizes[size].items())
    yield _gauge(
        "stoker_claims",
        "Claims on a worker's devices: held, or ending until its agent says that the process is gone.",
        ("worker", "state"),
        (
            ((name, state), counts.get(name, 0))
            for state, counts in (("held", figures.held), ("ending", figures.ending))
            for name in sorted(hosts.keys() | counts.keys())
        ),
    )


def _gauge(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def _counted(name: str, text: str, label: str, kinds: Iterable[str], found: Iterable[str]) -> GaugeMetricFamily:
    """How many there are of each kind, 0 included: an alert on a series that is not there never fires."""
    counts = Counter(found)
    return _gauge(name, text, (label,), (((str(kind),), counts[str(kind)]) for kind in kinds))


def _age(moment: datetime, now: datetime) -> float:
    return max(0.0, (now - moment).total_seconds())
