"""Workers (GPU hosts) and their devices, as their agents report them."""

from enum import StrEnum

from pydantic import Field

from stoker.domain.base import Bytes, DeviceId, Value, WorkerName


class DeviceKind(StrEnum):
    """What drives a device. A CPU is a device too: its memory is the RAM that its host offers."""

    CUDA = "cuda"
    ROCM = "rocm"
    METAL = "metal"
    VULKAN = "vulkan"
    CPU = "cpu"


class Device(Value):
    """One device of a worker. All sizes in bytes.

    `total` is what Stoker may use at most (an offer may make it less than what is built in), `reserve` is kept free
    for the system, `used` is what was really in use, by anyone, at the last report.
    """

    id: DeviceId  # "gpu0", "cpu": unique on its worker
    kind: DeviceKind
    name: str = ""
    total: Bytes
    reserve: Bytes = 0
    used: Bytes = 0
    uuid: str = ""
    engine_name: str = ""  # what llama.cpp calls it (`CUDA0`); empty for the CPU, which has no --device name


class EngineKind(StrEnum):
    """Where llama.cpp comes from: the wheel's library (no RPC), or native binaries."""

    BUNDLED = "bundled"
    NATIVE = "native"


class Engine(Value):
    """A worker's llama.cpp."""

    kind: EngineKind
    version: str
    rpc_protocol: str | None = None  # None: this engine cannot take part in an RPC group


class WorkerState(StrEnum):
    """READY takes new instances; CORDONED keeps what it has; UNREACHABLE has not reported for too long."""

    READY = "ready"
    CORDONED = "cordoned"
    UNREACHABLE = "unreachable"


class Worker(Value):
    """A GPU host: what its agent reported, and the state derived from when it last did."""

    name: WorkerName
    address: str = "127.0.0.1"  # where the API reaches this worker's engines
    labels: dict[str, str] = Field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    engine: Engine | None = None
    state: WorkerState = WorkerState.READY
    os: str = ""
    agent_port: int = 0  # where the agent answers for logs, at `address`
    agent_version: str = ""

    def device(self, device_id: DeviceId) -> Device | None:
        """The device of that id, or None."""
        return next((device for device in self.devices if device.id == device_id), None)

    def matches(self, selector: dict[str, str]) -> bool:
        """Whether every label that `selector` asks for is there with that value. An empty selector matches all."""
        return all(self.labels.get(key) == value for key, value in selector.items())
