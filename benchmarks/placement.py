"""How long a placement decision takes, on fleets of 8 to 10,000 devices, and how many a second fill 1,000 devices.

    python -m benchmarks.placement [--devices 1000,10000]

One core, nothing but the pure decision: `place(fleet, request)`, with the explanation where nothing fits. Not in it:
reading the fleet (`Fleet.of`, once a fleet: build_ms), the first decision on a fleet, which also works out the room of
every device (first_ms), and parsing the request, which is done anew for each.

p50_ms and p99_ms are those of a model that was asked before, as replicas, restarts and whoever waits are: what its
layers take is remembered for the last 128 models. new_p50_ms and new_p99_ms are those of a model that was never asked:
every request's layers differ in their bytes. Mixed: every device has some KiB to some hundred MiB less than the
largest, no two alike. `placed` says whether it was: on 8 devices the large model cannot be.

per_second: 1,000 replicas of one deployment, one a device, until 1,000 devices are full; each is placed and its claims
are added (`Fleet.plus`); the slower of equal and mixed devices. Ends with one JSON line.
"""

import argparse
import gc
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from stoker.domain.claims import Snapshot
from stoker.domain.deployments import DeploymentSpec, EngineOptions
from stoker.domain.gguf import LayerShape, ModelProfile
from stoker.domain.models import ModelFile, ModelFiles, ModelSource
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import claims_of, place
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.units import GIB, KIB, MIB
from stoker.domain.workers import Device, DeviceKind, Engine, EngineKind, Worker

T = TypeVar("T")

DEVICES = (8, 64, 256, 1000, 10_000)
DECISIONS = 200  # of a case on a fleet, and fewer where they take long, but not below FEWEST
FEWEST = 60
SECONDS = 4.0  # of a case on a fleet
FILLED = 1000  # devices, and decisions

ENGINE = Engine(kind=EngineKind.NATIVE, version="b11434", rpc_protocol="7.0.0")
SOURCE = ModelSource.parse("hf:org/model-GGUF:Q4_K_M")


@dataclass(frozen=True)
class Case:
    """A model, and the devices that it is asked of."""

    name: str
    layers: int
    layer_bytes: int
    device_bytes: int
    a_worker: int  # devices of each
    cpu_offload: bool = False


CASES = (
    Case("one_device", 32, 140 * MIB, 24 * GIB, 8),
    Case("one_worker", 80, 900 * MIB, 24 * GIB, 8),
    Case("several_workers_large", 62, 23 * GIB // 2, 80 * GIB, 4),
    Case("several_workers_small", 81, GIB // 2, 16 * GIB, 1),
    Case("impossible", 126, 23 * GIB // 2, 80 * GIB, 4),
    Case("partial_offload", 62, 23 * GIB // 2, 24 * GIB, 8, cpu_offload=True),
)


def main() -> None:
    """Measures, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", default=",".join(map(str, DEVICES)), help="sizes of fleets, like 1000,10000")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    for devices in map(int, args.devices.split(",")):
        for mix in ("equal", "mixed"):
            for case in CASES:
                results.append(measure(case, devices, mix))
                gc.collect()  # of one fleet before the next is built: the peak is that of one
    rates = {mix: fill(mix) for mix in ("equal", "mixed")}
    print(f"{FILLED} decisions until full, a second: {rates}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    print(json.dumps({"results": results, "per_second": min(rates.values()), "rss_mib": round(peak / MIB, 1)}))


def measure(case: Case, devices: int, mix: str) -> dict[str, Any]:
    """Milliseconds a decision."""
    snapshot = Snapshot.of(workers(case, devices, mixed=mix == "mixed"), ())
    fleet, build = timed(partial(Fleet.of, snapshot))
    known, new = requests(case, step=0), requests(case, step=4 * KIB)
    _, first_seconds = timed(partial(place, fleet, next(known)))
    outcome, (p50, p99), count = measured(fleet, known)
    _, (new_p50, new_p99), _ = measured(fleet, new)
    print(
        f"{case.name:<22} {devices:>6} {mix:<5} p50 {p50:8.2f} ms  p99 {p99:8.2f} ms  of {count:>3}  "
        f"new {new_p50:8.2f} {new_p99:8.2f} ms  first_ms {1000 * first_seconds:8.2f}  build_ms {1000 * build:8.2f}  "
        f"{told(outcome)}",
        flush=True,
    )
    return {
        "case": case.name,
        "devices": devices,
        "mix": mix,
        "p50_ms": round(p50, 3),
        "p99_ms": round(p99, 3),
        "new_p50_ms": round(new_p50, 3),
        "new_p99_ms": round(new_p99, 3),
        "placed": isinstance(outcome, Placement),
    }


def measured(
    fleet: Fleet, asked: Iterator[PlacementRequest]
) -> tuple[Placement | Unplaceable, tuple[float, float], int]:
    """The last outcome, p50 and p99 in milliseconds, and of how many decisions."""
    times: list[float] = []
    outcome = place(fleet, next(asked))
    while len(times) < FEWEST or (len(times) < DECISIONS and sum(times) < SECONDS):
        outcome, seconds = timed(partial(place, fleet, next(asked)))
        times.append(seconds)
    cuts = [1000 * cut for cut in statistics.quantiles(times, n=100, method="inclusive")]
    return outcome, (cuts[49], cuts[98]), len(times)


def fill(mix: str) -> float:
    """Decisions a second, until each device has one."""
    case = CASES[0]
    of_most = Case("fill", 32, 670 * MIB, case.device_bytes, case.a_worker)  # what is left of a device holds no layer
    fleet = Fleet.of(Snapshot.of(workers(of_most, FILLED, mixed=mix == "mixed"), ()))
    text = request_of(of_most, of_most.layer_bytes).model_dump(mode="json")
    asked = [
        PlacementRequest.model_validate_json(json.dumps(text | {"instance_id": f"fill-{number}"}))
        for number in range(FILLED)
    ]
    began = time.perf_counter()
    for request in asked:
        outcome = place(fleet, request)
        if not isinstance(outcome, Placement):
            raise RuntimeError(f"{request.instance_id} found no place: {outcome.summary}")
        fleet = fleet.plus(claims_of(outcome, request.instance_id, request.incarnation))
    seconds = time.perf_counter() - began
    if isinstance(place(fleet, asked[0]), Placement):
        raise RuntimeError("the fleet is not full")
    return round(FILLED / seconds, 1)


def workers(case: Case, devices: int, *, mixed: bool) -> Iterator[Worker]:
    """`devices` GPUs, so many a worker, each worker with RAM of its own."""
    for number in range(-(-devices // case.a_worker)):
        first = number * case.a_worker
        gpus = [
            Device(
                id=f"gpu{index - first}",
                kind=DeviceKind.CUDA,
                name="GPU",
                total=case.device_bytes - mixed * (index * 7919 % 10_007) * 64 * KIB,
                engine_name=f"CUDA{index - first}",
                compute_capability="9.0",
            )
            for index in range(first, min(devices, first + case.a_worker))
        ]
        cpu = Device(id="cpu", kind=DeviceKind.CPU, name="CPU", total=1024 * GIB)
        yield Worker(name=f"worker-{number:05}", devices=(*gpus, cpu), engine=ENGINE, serves_rpc=True)


def requests(case: Case, *, step: int) -> Iterator[PlacementRequest]:
    """One after another, each read from JSON of its own, for a model whose layers have `step` bytes less each time."""
    size = case.layer_bytes
    while True:
        yield PlacementRequest.model_validate_json(request_of(case, size).model_dump_json())
        size -= step


def request_of(case: Case, size: int) -> PlacementRequest:
    """For a model whose layers have `size` bytes of weights, and the shape of Llama 3.1 8B's otherwise."""
    layer = LayerShape(
        weights=size,
        key_width=1024,
        value_width=1024,
        heads=32,
        query_width=4096,
        feed_forward=3 * 14_336 + 3 * 4096,
        attention=2 * 4096 + 1024 + 4096,
    )
    profile = ModelProfile(
        architecture="llama",
        name="Benchmark",
        context_length=131_072,
        embedding_length=4096,
        head_count=32,
        key_length=128,
        value_length=128,
        vocabulary=128_256,
        layers=(layer,) * case.layers,
        input_weights=282 * MIB,
        output_weights=411 * MIB,
    )
    spec = DeploymentSpec(
        name="bench",
        model=SOURCE,
        options=EngineOptions(context_length=4096, slots=1),
        cpu_offload=case.cpu_offload,
    )
    files = ModelFiles(source=SOURCE, revision="0" * 40, files=(ModelFile(path="m.gguf", size=case.layers * size),))
    return PlacementRequest(instance_id="bench-0", incarnation=1, spec=spec, profile=profile, files=files)


def told(outcome: Placement | Unplaceable) -> str:
    """The outcome in a few words."""
    if isinstance(outcome, Placement):
        return f"{outcome.tier}: {len(outcome.offloaded)} devices of {len(outcome.workers)} workers"
    return f"nothing fits: {len(outcome.suggestions)} suggestions, {len(outcome.model_dump_json())} bytes"


def timed(act: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and seconds."""
    began = time.perf_counter()
    found = act()
    return found, time.perf_counter() - began


if __name__ == "__main__":
    main()
