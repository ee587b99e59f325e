"""How many requests the limits of their keys kept out."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from api.limits.gate import LimitGate


class RefusalMetrics(Collector):
    """`stoker_limit_refusals_total` by reason, of this process: read when it is asked for."""

    def __init__(self, gate: LimitGate) -> None:
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        """As the registry asks."""
        family = CounterMetricFamily(
            "stoker_limit_refusals", "Requests refused because of their key's limits.", labels=["reason"]
        )
        for reason, count in self._gate.refusals.items():
            family.add_metric([reason.value], count)
        yield family
