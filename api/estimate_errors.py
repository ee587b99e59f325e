"""How far the memory estimates of what runs are off, as a Prometheus metric."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stoker.domain.measured_memory import compare_memory
from stoker.domain.statuses import InstanceStatus

_HELP = (
    "(measured - estimated) / estimated bytes of weights + cache + compute + output, for each device of a running "
    "instance and for its host. Above 0 the engine took more than was estimated, above 0.02 please report it."
)


class EstimateErrors(Collector):
    """Worked out at each look from the instances that there are: what is gone has no series any more."""

    def __init__(self, instances: Callable[[], Iterable[InstanceStatus]]) -> None:
        """`instances`: those that are known now; it must not block."""
        self._instances = instances

    def describe(self) -> list[GaugeMetricFamily]:
        """The metric without its series."""
        return [
            GaugeMetricFamily(
                "stoker_estimate_error_ratio", _HELP, labels=("deployment", "instance", "worker", "device")
            )
        ]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metric now."""
        (family,) = self.describe()
        for instance in self._instances():
            if instance.placement is None:
                continue
            for one in compare_memory(instance.placement, instance.memory):
                if one.error_ratio is not None:
                    labels = (instance.deployment, instance.instance_id, instance.placement.worker, one.device)
                    family.add_metric(labels, one.error_ratio)
        yield family
