"""Whether a placement may be: every rule and every byte of it, added up again from the fleet and the estimate."""

from stoker.domain.claims import Snapshot
from stoker.domain.estimation.estimate import DRIVER_OVERHEAD, MAX_DEVICES, estimate, without_prompt_cache
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.placement.lending import RPC_SERVER_RAM
from stoker.domain.placement.place import claims_of
from stoker.domain.placement.types import Placement, PlacementRequest, Tier
from stoker.domain.workers import Device, DeviceKind, Worker, WorkerState
from tests.stoker.domain.placement.reference import Best

WHOLE = (Tier.ONE_DEVICE, Tier.ONE_WORKER, Tier.SEVERAL_WORKERS)


def rank(placement: Placement) -> Best:
    """What makes it better or worse than others."""
    layers = sum(share.layers for share in placement.offloaded)
    return Best(placement.tier, layers, len(placement.workers), len(placement.offloaded))


def audit(snapshot: Snapshot, request: PlacementRequest, placement: Placement) -> None:
    """Raises AssertionError where the placement breaks a rule; not about whether there is a better one."""
    _check_layers(request, placement)
    _check_claims(snapshot, request, placement)
    _check_workers(snapshot, request, placement)
    _check_room(snapshot, placement)


def _check_layers(request: PlacementRequest, placement: Placement) -> None:
    used = placement.offloaded
    places = [(placement.worker_of(share), share.device) for share in placement.shares]
    assert len(set(places)) == len(places), "a device has one share"
    assert placement.shares[: len(used)] == used, "shares with layers come first"
    assert len(used) <= MAX_DEVICES
    most = request.profile.block_count + 1
    count = sum(share.layers for share in used)
    assert count == most if placement.tier in WHOLE else count < most
    asked = request.spec.gpu_layers
    assert asked is None or count == min(asked, most)
    split = request.spec.tensor_split
    assert not split or tuple(share.layers for share in used) == split
    mains = [share for share in used if placement.worker_of(share) == placement.worker]
    assert mains or count < most, "the main server holds a layer"
    on_gpu = [share.kind is not DeviceKind.CPU for share in used]
    assert all(on_gpu) or placement.tier is Tier.CPU_SEVERAL_WORKERS
    assert (len(placement.workers) > 1) == placement.tier.value.endswith("several_workers")
    assert (placement.tier is Tier.ONE_DEVICE) <= (len(used) == 1)
    assert (placement.tier in (Tier.ONE_WORKER, Tier.SEVERAL_WORKERS)) <= (len(used) > 1)
    found = estimate(
        request.profile, request.spec.options, [share.layers for share in used], [share.kind for share in used]
    )
    assert isinstance(found, MemoryEstimate)
    assert placement.estimate == (without_prompt_cache(found) if len(placement.workers) > 1 else found)


def _check_claims(snapshot: Snapshot, request: PlacementRequest, placement: Placement) -> None:
    """Each share's claim is the estimate's, and each CPU's what its worker's part takes of RAM."""
    found = placement.estimate
    expected: dict[tuple[str, str], int] = {}
    for share, device in zip(placement.offloaded, found.devices, strict=True):
        assert share.layers == device.layers
        expected[placement.worker_of(share), share.device] = device.total
    workers = {worker.name: worker for worker in snapshot.workers}
    for name in placement.workers:
        on_gpu = any(one.kind is not DeviceKind.CPU for one in placement.offloaded if placement.worker_of(one) == name)
        lent = RPC_SERVER_RAM + (DRIVER_OVERHEAD if on_gpu else 0)
        if (cpu := cpu_of(workers[name])) is not None:
            key = (name, cpu.id)
            expected[key] = expected.get(key, 0) + (found.host.total if name == placement.worker else lent)
    assert {(placement.worker_of(share), share.device): share.claim for share in placement.shares} == expected
    claims = claims_of(placement, request.instance_id, request.incarnation)
    assert {(claim.worker, claim.device): claim.size for claim in claims} == expected
    for share in placement.shares:
        reported = workers[placement.worker_of(share)].device(share.device)
        assert reported is not None
        assert (share.kind, share.engine_name) == (reported.kind, reported.engine_name)


def _check_workers(snapshot: Snapshot, request: PlacementRequest, placement: Placement) -> None:
    spec, files = request.spec, request.files
    members = [worker for worker in snapshot.workers if worker.name in placement.workers]
    assert len(members) == len(placement.workers)
    for worker in members:
        assert worker.state is WorkerState.READY
        assert worker.engine is not None
        assert worker.matches(spec.worker_selector)
    if len(members) > 1:
        assert spec.distributed
        assert all(worker.serves_rpc for worker in members)
        assert len({worker.engine for worker in members}) == 1
    for share in placement.offloaded:
        assert (
            share.kind is DeviceKind.CPU
            or not spec.devices
            or (placement.worker_of(share), share.device) in spec.devices
        )
    if files.source.path:
        assert placement.worker in files.found_on


def _check_room(snapshot: Snapshot, placement: Placement) -> None:
    after = snapshot.plus(claims_of(placement, "new", 1))
    for worker in snapshot.workers:
        for device in worker.devices:
            added = after.claimed_on(worker, device) - snapshot.claimed_on(worker, device)
            in_use = max(snapshot.claimed_on(worker, device), device.used)
            assert not added or in_use + device.reserve + added <= device.total, (worker.name, device.id)
        cpu = cpu_of(worker)
        unified = [device for device in worker.devices if device.unified]
        if cpu is not None and unified:
            before = sum(snapshot.claimed_on(worker, device) for device in (cpu, *unified))
            added = sum(after.claimed_on(worker, device) for device in (cpu, *unified)) - before
            assert not added or max(before, cpu.used) + cpu.reserve + added <= cpu.total, worker.name


def cpu_of(worker: Worker) -> Device | None:
    """Its CPU, where it offers RAM."""
    return next((device for device in worker.devices if device.kind is DeviceKind.CPU), None)
