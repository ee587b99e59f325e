"""A cluster as its rows have it: workers that joined, and deployments that were placed on them by the real ledger."""

from datetime import timedelta
from typing import Any

from entrypoints.clock import utc_now
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.gguf import ModelProfile
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.measurements import Buffers
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.domain.statuses import DeploymentProjection, InstanceProjection
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import DeviceKind, Worker
from stoker.storage.deployments import Deployments
from stoker.storage.instances import Instances
from tests.api.serving import Api
from tests.builders import make_device, make_files, make_profile, make_request, make_worker


def gpu_host(name: str, *sizes: int, ram: int = 64 * GIB) -> Worker:
    """A worker that lends its GPUs of so many bytes, too."""
    gpus = [make_device(id=f"gpu{i}", total=size, engine_name=f"CUDA{i}") for i, size in enumerate(sizes)]
    cpu = make_device(kind=DeviceKind.CPU, total=ram)
    return make_worker(name=name, devices=(*gpus, cpu), serves_rpc=True)


async def join(api: Api, *workers: Worker) -> None:
    """They join, and report once."""
    for worker in workers:
        assert (await api.join(worker)).status_code == 200
        assert (await api.report(worker)).status_code == 200


def deploy(
    api: Api,
    spec: DeploymentSpec,
    state: InstanceState = InstanceState.RUNNING,
    *,
    profile: ModelProfile | None = None,
    **projected: Any,
) -> list[Placement | Unplaceable]:
    """As the deployment's workflow would: the row, and each replica placed; those with a place are in `state`."""
    profile, files = profile or make_profile(), make_files(spec.model)
    with api.context.database.write() as session:
        projection = DeploymentProjection(spec=spec, generation=1, profile=profile, files=files, instances_generation=1)
        Deployments(session, utc_now()).put(projection)
    outcomes = []
    for number in range(spec.replicas):
        request = make_request(instance_id=f"{spec.name}-{number}abcd", spec=spec, profile=profile, files=files)
        outcome = api.context.ledger.place(request)
        outcomes.append(outcome)
        if isinstance(outcome, Placement):
            values: dict[str, Any] = {}
            if state is InstanceState.RUNNING:
                values = {"port": 4711, "pid": 812, "load_seconds": 3.4, "memory": measured(outcome)}
                values["message"] = f"answers on {outcome.worker}"
            values |= projected
            shown = InstanceProjection(
                instance_id=request.instance_id,
                deployment=spec.name,
                generation=1,
                incarnation=1,
                state=state,
                **values,
            )
            with api.context.database.write() as session:
                Instances(session, utc_now() - timedelta(minutes=7)).put(shown)
    return outcomes


def measured(placement: Placement) -> MeasuredMemory:
    """What an engine would say that takes a little less than was estimated."""
    seen: dict[str, int] = {}
    buffers = []
    for share, needs in zip(placement.offloaded, placement.estimate.devices, strict=False):
        worker = placement.worker_of(share)
        seen[worker] = seen.get(worker, -1) + 1
        name = share.engine_name if worker == placement.worker else f"RPC{seen[worker]}[{worker}]"
        held = Buffers(weights=needs.weights, cache=needs.cache, compute=max(0, needs.compute - 3 * MIB))
        buffers.append((name, held))
    host = placement.estimate.host
    buffers.append(("CPU", Buffers(weights=host.weights, cache=host.cache, compute=host.compute, output=host.output)))
    return MeasuredMemory(buffers=tuple(buffers), process_resident=900 * MIB)
