"""Builders of fleets and requests for the tests of placement, and hypothesis' strategies for small ones.

What fits by a byte, or does not, is what finds faults: rooms are mostly what some stretch of the layers takes, a byte
more or less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

from hypothesis import strategies as st

from stoker.domain.claims import Claim, Snapshot
from stoker.domain.deployments import CacheType, EngineOptions, Strategy
from stoker.domain.estimation.estimate import DRIVER_OVERHEAD
from stoker.domain.gguf import LayerShape, ModelProfile
from stoker.domain.models import ModelSource
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.lending import RPC_SERVER_RAM
from stoker.domain.placement.types import PlacementRequest
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import Device, DeviceKind, Engine, EngineKind, Worker, WorkerState
from tests.builders import make_device, make_files, make_layer, make_profile, make_request, make_spec, make_worker
from tests.stoker.domain.placement.costs import Costs

NATIVE = Engine(kind=EngineKind.NATIVE, version="b11434", rpc_protocol="7.0.0")
OTHER = Engine(kind=EngineKind.NATIVE, version="b11500", rpc_protocol="7.0.0")

# --- builders ---------------------------------------------------------------------------------------------------------


def gpu(total: int, number: int = 0, **overrides: Any) -> Device:
    """`gpuN` with `total` bytes, all of them free."""
    return make_device(id=f"gpu{number}", engine_name=f"CUDA{number}", total=total, **overrides)


def cpu(total: int, **overrides: Any) -> Device:
    """A CPU that offers `total` bytes of RAM."""
    return make_device(kind=DeviceKind.CPU, total=total, **overrides)


def host(name: str, *totals: int, ram: int | None = 512 * GIB, **overrides: Any) -> Worker:
    """A worker that can be in a group, with GPUs of `totals` bytes; `ram` None: it offers none, and none is counted."""
    gpus = tuple(gpu(total, number) for number, total in enumerate(totals))
    devices = gpus if ram is None else (*gpus, cpu(ram))
    return make_worker(**({"name": name, "devices": devices, "serves_rpc": True, "engine": NATIVE} | overrides))


def fleet_of(*workers: Worker, claims: Sequence[Claim] = ()) -> Fleet:
    """A fleet of `workers` of which `claims` are taken."""
    return Fleet.of(Snapshot.of(workers, claims))


def sized_profile(sizes: Sequence[int], output: int = 0, **overrides: Any) -> ModelProfile:
    """A model whose layers have so many bytes of weights, that keeps no cache and computes next to nothing."""
    layers = tuple(
        make_layer(weights=size, key_width=0, value_width=0, feed_forward=64, attention=64) for size in sizes
    )
    values: dict[str, Any] = {"embedding_length": 64, "vocabulary": 64, "input_weights": 0, "output_weights": output}
    return make_profile(layers=layers, **(values | overrides))


def ask(profile: ModelProfile, instance_id: str = "asked", **spec: Any) -> PlacementRequest:
    """A request for `profile`, with one slot, and other fields of its spec as given."""
    options = spec.pop("options", EngineOptions(context_length=512, slots=1))
    return make_request(instance_id=instance_id, profile=profile, spec=make_spec(options=options, **spec))


# --- strategies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A fleet, and a request."""

    workers: tuple[Worker, ...]
    claims: tuple[Claim, ...]
    request: PlacementRequest

    @property
    def snapshot(self) -> Snapshot:
        """The fleet at that moment."""
        return Snapshot.of(self.workers, self.claims)

    @property
    def costs(self) -> Costs:
        """Of the request's model and options."""
        return costs_of(self.request.profile, self.request.spec.options)


@lru_cache(maxsize=64)
def costs_of(profile: ModelProfile, options: EngineOptions) -> Costs:
    """What stretches of its layers take; kept, since the strategies ask for it too."""
    return Costs(profile, options)


_SIZES = st.one_of(st.integers(0, 64).map(lambda size: size * 32 * MIB), st.integers(0, 3 * GIB))
_WIDTHS = st.sampled_from([0, 64, 1024])


@st.composite
def layer_shapes(draw: st.DrawFn) -> LayerShape:
    """Any of a transformer's, some with a window, some recurrent."""
    kind = draw(st.sampled_from(["whole", "windowed", "recurrent", "bare"]))
    attends = kind in ("whole", "windowed")
    width = draw(_WIDTHS) if attends else 0
    return LayerShape(
        weights=draw(_SIZES),
        padding=draw(st.sampled_from([0, 0, 4096])),
        key_width=width,
        value_width=width,
        windowed=kind == "windowed",
        state=4 * MIB if kind == "recurrent" else 0,
        mixing=8192 if kind == "recurrent" else 0,
        heads=8 if attends else 0,
        query_width=1024 if attends else 0,
        experts_used=draw(st.sampled_from([0, 0, 8])),
        feed_forward=draw(st.sampled_from([64, 16_384, 98_304])),
        attention=draw(st.sampled_from([64, 4096])),
        handed_on=512 if kind == "recurrent" else 0,
        taken_in=512 if kind == "recurrent" else 0,
    )


@st.composite
def profiles(draw: st.DrawFn, most: int = 11) -> ModelProfile:
    """Models of up to `most` layers and the output: equal, dense first, of two sorts by turns, or all different."""
    count = draw(st.integers(1, most))
    one, other = draw(layer_shapes()), draw(layer_shapes())
    match draw(st.sampled_from(["equal", "dense first", "turns", "different"])):
        case "equal":
            layers = [one] * count
        case "dense first":
            layers = [other] * min(2, count) + [one] * max(0, count - 2)
        case "turns":
            layers = [(one, other)[index % 2] for index in range(count)]
        case _:
            layers = [draw(layer_shapes()) for _ in range(count)]
    return make_profile(
        layers=tuple(layers),
        embedding_length=draw(st.sampled_from([64, 4096, 16_384])),
        vocabulary=draw(st.sampled_from([64, 128_256])),
        sliding_window=1024,
        input_weights=draw(st.sampled_from([0, 282 * MIB])),
        output_weights=draw(_SIZES),
        shared_weights=draw(st.sampled_from([0, 1 * MIB])),
        tied_weights=draw(st.sampled_from([0, 0, 300 * MIB])),
    )


asked_options = st.builds(
    EngineOptions,
    context_length=st.sampled_from([512, 8192, 65_536]),
    slots=st.sampled_from([1, 4]),
    cache_type=st.sampled_from([CacheType.F16, CacheType.Q8_0]),
    micro_batch=st.sampled_from([64, 512]),
)

_NUDGES = st.sampled_from([0, -1, 1, 12 * MIB, -12 * MIB])


class _Draw:
    """Draws the parts of one case."""

    def __init__(self, draw: st.DrawFn, costs: Costs) -> None:
        self._draw, self._costs, self._most = draw, costs, costs.layers

    def often(self, percent: int) -> bool:
        """True in so many cases."""
        return self._draw(st.integers(0, 99)) >= 100 - percent

    def planted(self, *, whole: int) -> list[int]:
        """Rooms for all layers on several GPUs (in `whole` per cent), or for those that a CPU leaves; or about."""
        if not self.often(75):
            return []
        pipelined = not self.often(100 - whole)
        start = 0 if pipelined else self._draw(st.integers(1, self._most))
        longest = self._draw(st.integers(-(-self._most // 5), self._most - 1))
        rooms = []
        while start < self._most:
            end = min(self._most, start + self._draw(st.integers(1, longest)))
            rooms.append(self._costs.device(start, end, on_gpu=True, pipelined=pipelined))
            start = end
        exact = not self.often(30)
        return [room if exact else max(0, room + self._draw(_NUDGES)) for room in self._draw(st.permutations(rooms))]

    def planted_ram(self) -> list[int]:
        """RAM for the first layers on a main server's CPU and for the others on CPUs that are lent, or about."""
        if not self.often(60):
            return []
        any_gpu = self._draw(st.booleans())
        first = self._draw(st.integers(1, self._most - 1))
        sizes = [self._costs.host(first, any_gpu=any_gpu)]
        while first < self._most:
            end = self._draw(st.integers(first + 1, self._most))
            lent = RPC_SERVER_RAM + DRIVER_OVERHEAD * (any_gpu and self._draw(st.booleans()))
            sizes.append(lent + self._costs.device(first, end, on_gpu=False, pipelined=False))
            first = end
        exact = not self.often(30)
        return [size if exact else max(0, size + self._draw(_NUDGES)) for size in self._draw(st.permutations(sizes))]

    def gpu_room(self) -> int:
        """What some stretch takes on a GPU, or about."""
        match self._draw(st.integers(0, 19)):
            case 0:
                return self._draw(st.integers(0, 2 * self._costs.whole()))
            case 1:
                return max(0, self._costs.whole() + self._draw(_NUDGES))
        pipelined = self._draw(st.booleans())
        start = self._draw(st.integers(0 if pipelined else 1, self._most - 1))
        end = min(self._most, start + self._draw(st.integers(1, 4)))
        if (start, end) == (0, self._most):
            return self._costs.whole()
        return max(0, self._costs.device(start, end, on_gpu=True, pipelined=pipelined) + self._draw(_NUDGES))

    def ram(self, *, roomy: int) -> int:
        """Plenty in so many per cent, else what some part in a group takes, or about."""
        if self.often(roomy):
            return 512 * GIB
        first = self._draw(st.integers(0, self._most))
        any_gpu = first < self._most and self._draw(st.booleans())
        match self._draw(st.integers(0, 5)):
            case 0:
                size = RPC_SERVER_RAM
            case 1:
                size = RPC_SERVER_RAM + DRIVER_OVERHEAD
            case 2:
                size = self._costs.host(0, any_gpu=True, pipelined=self._draw(st.booleans()))
            case 3 if 0 < first < self._most:
                end = self._draw(st.integers(first + 1, self._most))
                size = RPC_SERVER_RAM + DRIVER_OVERHEAD * any_gpu
                size += self._costs.device(first, end, on_gpu=False, pipelined=False)
            case _:
                size = self._costs.host(first, any_gpu=any_gpu)
        return max(0, size + self._draw(_NUDGES))

    def device(self, room: int, **overrides: Any) -> Device:
        """A device with that room, part of it in use or kept free in some cases."""
        used, reserve = (self._draw(st.sampled_from([0, 1, 3 * GIB])) for _ in range(2)) if self.often(15) else (0, 0)
        return Device(total=room + used + reserve, used=used, reserve=reserve, **overrides)


@st.composite
def cases(draw: st.DrawFn, *, most_devices: int = 8, most_workers: int = 4, most_layers: int = 11) -> Case:
    """Fleets of some GPUs and CPUs, and a request that some of them may or may not hold."""
    profile, options = draw(profiles(most_layers)), draw(asked_options)
    costs = costs_of(profile, options)
    some = _Draw(draw, costs)
    layers = costs.layers
    computing = some.often(40)
    cpu_only = some.often(7)
    roomy = draw(st.sampled_from([10, 60] if computing or cpu_only else [100, 100, 60, 10]))
    equal = some.gpu_room() if some.often(15) else None
    planted = some.planted(whole=20 if computing else 95)
    planted_ram = some.planted_ram() if computing or cpu_only else []
    left = most_devices
    workers, claims = [], []
    count_workers = draw(st.integers(1, most_workers))
    for number in range(count_workers):
        name = f"w{number}"
        devices = []
        with_cpu = not some.often(15)
        if with_cpu:
            ram = planted_ram.pop() if planted_ram and some.often(96) else some.ram(roomy=roomy)
            devices.append(some.device(ram, id="cpu", kind=DeviceKind.CPU))
            left -= computing or cpu_only
        count = 0 if cpu_only else draw(st.sampled_from([0, 1, 1, 2, 2, 3, 4]))
        if number == count_workers - 1 and not cpu_only:
            count = max(count, len(planted))
        count = max(0, min(count, left))
        left -= count
        unified = count == 1 and some.often(25)
        for index in range(count):
            if equal is None or planted:
                room = planted.pop() if planted and some.often(96) else some.gpu_room()
            else:
                room = equal
            if unified and with_cpu and some.often(70):
                devices[0] = devices[0].model_copy(update={"total": devices[0].total + room})
                room += draw(st.sampled_from([0, 0, GIB]))
            identity: dict[str, Any] = {"id": f"gpu{index}", "engine_name": f"GPU{index}", "unified": unified}
            identity["kind"] = DeviceKind.METAL if unified else DeviceKind.CUDA
            if not unified and some.often(15):
                identity["compute_capability"] = draw(st.sampled_from(["5.2", "6.0", "8.9"]))
            devices.append(some.device(room, **identity))
        for device in devices:
            if some.often(8):
                size = draw(st.sampled_from([1, 1 * GIB, 4 * GIB]))
                claims.append(Claim(instance_id="old", incarnation=1, worker=name, device=device.id, size=size))
        usual = not some.often(15)
        workers.append(
            make_worker(
                name=name,
                devices=tuple(devices),
                serves_rpc=usual or draw(st.booleans()),
                engine=NATIVE if usual else draw(st.sampled_from([NATIVE, OTHER])),
                state=WorkerState.READY if usual or not some.often(30) else draw(st.sampled_from(WorkerState)),
                labels={"rack": "1"} if usual or draw(st.booleans()) else {},
            )
        )
    spec: dict[str, Any] = {
        "options": options,
        "cpu_offload": computing and not some.often(15),
        "strategy": draw(st.sampled_from(Strategy)),
        "distributed": not some.often(10),
    }
    if some.often(12):
        spec["gpu_layers"] = draw(st.integers(0, layers + 1))
    elif some.often(8):
        counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
        bounds = [0, *(min(end, layers) for end in accumulate(counts))]
        spec["tensor_split"] = tuple(end - start for start, end in pairwise(bounds) if end > start)
        if some.often(60):  # of all layers
            *others, _ = spec["tensor_split"]
            spec["tensor_split"] = (*others, layers - sum(others))
    if some.often(8):
        spec["worker_selector"] = {"rack": "1"}
    if some.often(5):
        spec["min_compute_capability"] = "8.0"
    if some.often(12):
        everything = [(worker.name, device.id) for worker in workers for device in worker.devices]
        chosen = draw(st.permutations([name for name in everything if some.often(70)]))
        if len(chosen) >= len(spec.get("tensor_split", ())):
            spec["devices"] = tuple(chosen)
    asked: dict[str, Any] = {"avoid": ("w0",)} if some.often(10) else {}
    if some.often(8):
        spec["model"] = ModelSource.parse("file:/models/m.gguf")
        found_on = tuple(worker.name for worker in workers if some.often(60))
        asked["files"] = make_files(spec["model"], found_on=found_on)
    request = make_request(profile=profile, spec=make_spec(**spec), **asked)
    return Case(tuple(workers), tuple(claims), request)
