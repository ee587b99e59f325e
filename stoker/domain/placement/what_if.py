"""What would be, if: machines that are not there yet, or are gone; a worker that is emptied. Nothing is claimed."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Self

from pydantic import Field

from stoker.domain.base import Bytes, DeploymentName, InstanceId, Value, WorkerName
from stoker.domain.claims import Claim
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import claims_of, place
from stoker.domain.placement.reservations import PENDING_HOLD_SECONDS, Waiting, holders
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.units import parse_bytes
from stoker.domain.workers import Device, DeviceKind, Engine, EngineKind, Worker

MAX_GPUS = 64
"""GPUs of one machine that may be thought up: more than any machine has."""

MAX_DEVICE_BYTES = 1 << 50
"""A PiB: whoever asks for more has mistyped it."""

_TERM = re.compile(r"^(?:(?P<count>[0-9]{1,3})\s*[x\N{MULTIPLICATION SIGN}])?(?P<size>[^x]{1,24})$")
_RIGHT = "write it like 4x24GiB, or 2x80GiB+256GiB with so much RAM"


class Machine(Value):
    """A machine that is thought up: its GPUs in bytes each, and its RAM."""

    gpus: tuple[Bytes, ...] = Field(min_length=1, max_length=MAX_GPUS)
    ram: Bytes | None = None  # None: not counted

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `4x24GiB`, `1x80GiB+2x24GiB`, or `2x80GiB+256GiB` with so much RAM.

        Raises ValueError saying what would be right.
        """
        gpus: list[int] = []
        ram: int | None = None
        for term in text.split("+"):
            found = _TERM.fullmatch(term.strip())
            if found is None or ram is not None:
                raise ValueError(f"{text!r} is no machine: {_RIGHT}")
            try:
                size = parse_bytes(found["size"])
            except ValueError as error:
                raise ValueError(f"{text!r} is no machine: {error}, and {_RIGHT}") from error
            if not 0 < size <= MAX_DEVICE_BYTES:
                raise ValueError(f"{text!r}: no device has {found['size'].strip()}: {_RIGHT}")
            if found["count"] is None:
                ram = size
            else:
                gpus += [size] * int(found["count"])
        if not 0 < len(gpus) <= MAX_GPUS:
            raise ValueError(f"{text!r} has {len(gpus)} GPUs, and a machine has 1 to {MAX_GPUS}: {_RIGHT}")
        return cls(gpus=tuple(gpus), ram=ram)

    def worker(
        self,
        name: WorkerName,
        engine: Engine,
        *,
        serves_rpc: bool,
        labels: Mapping[str, str] | None = None,
        compute_capability: str = "",
    ) -> Worker:
        """The machine as a ready worker with CUDA devices that nobody uses."""
        devices = [
            Device(
                id=f"gpu{index}",
                kind=DeviceKind.CUDA,
                total=size,
                engine_name=f"CUDA{index}",
                compute_capability=compute_capability,
            )
            for index, size in enumerate(self.gpus)
        ]
        if self.ram is not None:
            devices.append(Device(id="cpu", kind=DeviceKind.CPU, total=self.ram))
        return Worker(
            name=name, labels=dict(labels or {}), devices=tuple(devices), engine=engine, serves_rpc=serves_rpc
        )


def added(
    fleet: Fleet,
    machines: Sequence[Machine],
    *,
    labels: Mapping[str, str] | None = None,
    compute_capability: str = "",
) -> tuple[Fleet, tuple[WorkerName, ...]]:
    """`fleet` with a worker for each of `machines`, and their names: plus-1, plus-2 …

    Each has the engine that most ready workers have; of no fleet, a native one that lends no devices. They have the
    `labels` and the `compute_capability` that are asked for: whoever adds a machine adds one that suits.
    """
    engines = Counter(
        (host.worker.engine, host.worker.serves_rpc) for host in fleet.ready if host.worker.engine is not None
    )
    usual: tuple[Engine, bool] = (Engine(kind=EngineKind.NATIVE, version="unknown"), False)
    if engines:
        usual = max(engines, key=lambda kind: (engines[kind], kind[1], kind[0].model_dump_json()))
    engine, serves_rpc = usual
    free = (name for number in count(1) if (name := f"plus-{number}") not in fleet.hosts)
    names = []
    for machine, name in zip(machines, free, strict=False):
        worker = machine.worker(
            name, engine, serves_rpc=serves_rpc, labels=labels, compute_capability=compute_capability
        )
        fleet = fleet.with_worker(worker, {})
        names.append(name)
    return fleet, tuple(names)


def file_on(request: PlacementRequest, workers: Sequence[WorkerName]) -> PlacementRequest:
    """The request, as if the files of its model lay on `workers` too, where they are to lie on disks."""
    files = request.files.model_copy(update={"found_on": (*request.files.found_on, *workers)})
    return request.model_copy(update={"files": files})


class Simulation(Value):
    """Where each replica would go, one after the other; and why the next one would not, if it would not."""

    placements: tuple[Placement, ...]
    unplaceable: Unplaceable | None = None

    @property
    def fits(self) -> bool:
        """Whether all have a place."""
        return self.unplaceable is None


def simulate(
    fleet: Fleet, request: PlacementRequest, replicas: int, holders: Sequence[PlacementRequest] = ()
) -> Simulation:
    """Places `replicas` of `request`, each beside those before it, until one has no place.

    `holders`: those that reserve devices against it (`reservations.holders`).
    """
    placements: list[Placement] = []
    while len(placements) < replicas:
        outcome = place(fleet, request, holders)
        if isinstance(outcome, Unplaceable):
            return Simulation(placements=tuple(placements), unplaceable=outcome)
        placements.append(outcome)
        fleet = fleet.plus(claims_of(outcome, request.instance_id, request.incarnation))
    return Simulation(placements=tuple(placements))


class Occupant(Value):
    """An instance that holds something of a worker: what its successor will ask for, and all that it holds itself."""

    request: PlacementRequest
    claims: tuple[Claim, ...]
    priority: int = 0  # its deployment's of today
    age_seconds: float = 0.0


class Move(Value):
    """Where one instance would go, or why nowhere: then it would stop, and wait."""

    instance_id: InstanceId
    deployment: DeploymentName
    outcome: Placement | Unplaceable


class Drained(Value):
    """What emptying a worker would move."""

    moves: tuple[Move, ...]

    @property
    def fits(self) -> bool:
        """Whether everything has another place."""
        return all(isinstance(move.outcome, Placement) for move in self.moves)


def drained(
    fleet: Fleet,
    name: WorkerName,
    occupants: Sequence[Occupant],
    waiting: Sequence[Waiting] = (),
    *,
    hold_seconds: float = PENDING_HOLD_SECONDS,
) -> Drained:
    """Where each of `occupants` of the worker `name` would go, by priority, then age, were the worker not there.

    Each gives back what it holds elsewhere before it is placed; all others' claims stay. One that fits nowhere keeps
    what it holds. `waiting`: those that may have waited so long that they reserve devices against them.
    """
    fleet = fleet.without([name])
    moves = []
    for one in sorted(occupants, key=lambda one: (-one.priority, -one.age_seconds, one.request.instance_id)):
        request = one.request
        left = fleet.minus(one.claims)
        outcome = place(left, request, holders(waiting, one.priority, 0.0, hold_seconds=hold_seconds))
        if isinstance(outcome, Placement):
            fleet = left.plus(claims_of(outcome, request.instance_id, request.incarnation))
        moves.append(Move(instance_id=request.instance_id, deployment=request.spec.name, outcome=outcome))
    return Drained(moves=tuple(moves))
