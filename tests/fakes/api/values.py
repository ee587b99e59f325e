"""What the stand-in shows unless a test says otherwise: placements, instances, and how a deployment comes to run."""

from datetime import UTC, datetime, timedelta
from typing import Any

from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.estimation.types import DeviceMemory, HostMemory, MemoryEstimate
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.measurements import Buffers
from stoker.domain.placement.types import DeviceShare, Placement, Rejection, Rule, Suggestion, Tier, Unplaceable
from stoker.domain.statuses import InstanceStatus, Progress
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import DeviceKind

Steps = list[tuple[InstanceStatus, ...] | None]
"""None: the deployment is gone."""

CREATED_AT = datetime.now(UTC) - timedelta(days=3, hours=1)


def make_placement(worker: str = "box-1", layers: int = 33, claim: int = 6 * GIB) -> Placement:
    """All layers of a model on the worker's first GPU."""
    share = DeviceShare(device="gpu0", kind=DeviceKind.CUDA, engine_name="CUDA0", layers=layers, claim=claim)
    estimate = MemoryEstimate(
        context_length=8192,
        slots=4,
        devices=(DeviceMemory(layers=layers, weights=4 * GIB, cache=1 * GIB, compute=300 * MIB, overhead=724 * MIB),),
        host=HostMemory(weights=282 * MIB, compute=40 * MIB, output=2 * MIB, overhead=700 * MIB),
    )
    return Placement(worker=worker, shares=(share,), estimate=estimate, reason="the emptiest GPU that holds it whole")


def make_group() -> Placement:
    """The same over two workers: the GPUs of both, and the RAM of the first."""
    shares = tuple(
        DeviceShare(worker=worker, device="gpu0", kind=DeviceKind.CUDA, engine_name="CUDA0", layers=layers, claim=claim)
        for worker, layers, claim in (("box-1", 17, 3 * GIB), ("box-2", 16, 2 * GIB))
    )
    ram = DeviceShare(worker="box-1", device="cpu", kind=DeviceKind.CPU, layers=0, claim=GIB)
    half = DeviceMemory(layers=16, weights=2 * GIB)
    return make_placement().model_copy(
        update={
            "shares": (*shares, ram),
            "tier": Tier.SEVERAL_WORKERS,
            "estimate": make_placement().estimate.model_copy(update={"devices": (half, half)}),
            "warning": "box-2 may be too slow",
        }
    )


def make_measured(**overrides: Any) -> MeasuredMemory:
    """What an instance of make_placement took: 3 MiB less to compute, and a driver's context of 500 MiB."""
    values: dict[str, Any] = {
        "buffers": (
            ("CPU_Mapped", Buffers(weights=282 * MIB)),
            ("CUDA0", Buffers(weights=4 * GIB, cache=1 * GIB, compute=297 * MIB)),
            ("CUDA_Host", Buffers(compute=40 * MIB, output=2 * MIB)),
        ),
        "process_resident": 900 * MIB,
        "devices_used": {"gpu0": 5 * GIB + 797 * MIB},
    }
    return MeasuredMemory(**(values | overrides))


def make_unplaceable() -> Unplaceable:
    """6 GiB are needed where 2 GiB are free."""
    short = Rejection(
        rule=Rule.MEMORY,
        worker="box-1",
        device="gpu0",
        message="not enough memory for the whole model",
        needed=6 * GIB,
        available=2 * GIB,
    )
    return Unplaceable(
        rejections=(short, Rejection(rule=Rule.CORDONED, worker="box-2", message="takes no new instances")),
        summary="Needs 6 GiB; the nearest device, box-1/gpu0, has 2 GiB allocatable: 4 GiB short.",
        suggestions=(
            Suggestion(text="slots 4 → 1 fits on box-1", changes={"options.slots": 1}),
            Suggestion(text="q4_0 KV cache fits on box-1", changes={"options.cache_type": "q4_0"}),
        ),
    )


def make_instance(state: InstanceState = InstanceState.RUNNING, **overrides: Any) -> InstanceStatus:
    """The first instance of `llama`, as it is in `state`."""
    placed = state not in (InstanceState.PLACING, InstanceState.PENDING)
    values: dict[str, Any] = {
        "instance_id": "llama-a1b2c",
        "deployment": "llama",
        "generation": 1,
        "incarnation": 1,
        "state": state,
        "message": {InstanceState.RUNNING: "answers on box-1", InstanceState.PENDING: make_unplaceable().summary}.get(
            state, ""
        ),
        "port": 4711 if state is InstanceState.RUNNING else 0,
        "pid": 1234 if state is InstanceState.RUNNING else 0,
        "memory": make_measured() if state is InstanceState.RUNNING else None,
        "placement": make_placement() if placed else None,
        "unplaceable": make_unplaceable() if state is InstanceState.PENDING else None,
        "progress": None,
        "created_at": CREATED_AT,
        "updated_at": CREATED_AT,
        "state_since": CREATED_AT,
    }
    return InstanceStatus(**(values | overrides))


def usual_life(spec: DeploymentSpec, generation: int) -> Steps:
    """Placed, downloaded, loaded, running: all replicas at once."""
    moments: list[dict[str, Any]] = [
        {"state": InstanceState.PLACING},
        {"state": InstanceState.DOWNLOADING, "progress": Progress(done=GIB, total=4 * GIB, rate=35.0 * MIB)},
        {"state": InstanceState.STARTING, "progress": Progress(done=500, total=1000)},
        {"state": InstanceState.RUNNING},
    ]
    steps: Steps = []
    for moment in moments:
        names = [f"{spec.name}-{number}" for number in range(spec.replicas)]
        given = moment | {"deployment": spec.name, "generation": generation}
        steps.append(tuple(make_instance(instance_id=name, **given) for name in names))
    return steps
