"""The metric of how far estimates are off."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from api.estimate_errors import EstimateErrors
from entrypoints.clock import utc_now
from stoker.domain.deployments import InstanceState
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.measurements import Buffers
from stoker.domain.statuses import InstanceStatus
from stoker.domain.units import GIB, MIB
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from tests.api.serving import Api, away
from tests.api.test_instances import put
from tests.builders import make_worker
from tests.fakes.api import make_instance, make_measured, make_placement

NAME = "stoker_estimate_error_ratio"


def values(registry: CollectorRegistry) -> dict[tuple[str, str, str, str], float]:
    """The metric by deployment, instance, worker and device."""
    (family,) = (family for family in registry.collect() if family.name == NAME)
    return {
        (one.labels["deployment"], one.labels["instance"], one.labels["worker"], one.labels["device"]): one.value
        for one in family.samples
    }


def test_each_device_and_the_host_of_what_is_measured_and_nothing_else() -> None:
    instances: list[InstanceStatus] = []
    registry = CollectorRegistry()
    registry.register(EstimateErrors(lambda: instances))
    assert values(registry) == {}
    took = Buffers(weights=4 * GIB, cache=GIB, compute=300 * MIB + 271 * MIB)
    host = ("CPU", Buffers(weights=282 * MIB, compute=40 * MIB, output=2 * MIB))
    without = make_placement().model_copy(update={"estimate": MemoryEstimate(context_length=1, slots=1)})
    instances += [
        make_instance(memory=make_measured(buffers=(("CUDA0", took), host))),
        make_instance(instance_id="llama-new", memory=None),
        make_instance(instance_id="llama-old", placement=without),  # of a version that estimated otherwise
        make_instance(InstanceState.PENDING, instance_id="llama-waits"),
    ]
    assert values(registry) == {
        ("llama", "llama-a1b2c", "box-1", "gpu0"): pytest.approx(0.05),
        ("llama", "llama-a1b2c", "box-1", "host"): 0.0,
    }
    instances.clear()
    assert values(registry) == {}


def test_its_help_says_the_formula() -> None:
    registry = CollectorRegistry()
    registry.register(EstimateErrors(lambda: ()))
    text = generate_latest(registry).decode()
    assert f"# HELP {NAME} (measured - estimated) / estimated bytes of weights + cache + compute + output" in text
    assert f"# TYPE {NAME} gauge" in text


@pytest.mark.anyio
async def test_it_comes_and_goes_with_the_instance_and_outlives_the_database(lone_api: Api, database: Database) -> None:
    async def lines() -> list[str]:
        await lone_api.context.routes.refresh()
        text = (await lone_api.anyone.get("/metrics")).text
        return [line for line in text.splitlines() if line.startswith(NAME)]

    assert await lines() == []
    put(database, "llama-metric", make_worker(name="box-1"), memory=make_measured())
    shown = await lines()
    assert [line.rpartition(" ")[0] for line in shown] == [
        f'{NAME}{{deployment="llama",device="{device}",instance="llama-metric",worker="box-1"}}'
        for device in ("gpu0", "host")
    ]
    with away(database):
        assert await lines() == shown
    with database.write() as session:
        Instances(session, utc_now()).remove("llama-metric")
    assert await lines() == []
