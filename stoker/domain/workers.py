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
    compute_capability: str = ""  # NVIDIA's, like "8.9"; empty: not NVIDIA, or its driver did not say
    unified: bool = False  # its memory is the host's RAM: what is taken of one is taken of both
    temperature_c: int | None = None  # at the last report, in degrees Celsius; None: it does not tell
    load_ratio: float | None = None  # of its time that it computed, of late, 0 to 1; None: it does not tell


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
    """READY takes new instances; CORDONED keeps what it has; DRAINING gives it away, one by one.

    UNREACHABLE has not reported for too long.
    """

    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    UNREACHABLE = "unreachable"


class Worker(Value):
    """A GPU host: what its agent reported, and the state derived from when it last did."""

    name: WorkerName
    address: str = "127.0.0.1"  # where the cluster reaches this host
    labels: dict[str, str] = Field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    engine: Engine | None = None
    state: WorkerState = WorkerState.READY
    os: str = ""
    agent_port: int = 0  # where the agent answers for logs, on its own loopback
    mesh_port: int = 0  # of its gateway, at `address`: the only door for other hosts; 0: it has none
    serves_rpc: bool = False  # whether its agent can lend its devices to another worker's main server
    holds: tuple[str, ...] = ()  # keys of the models from a hub whose files lie there whole (`ModelFiles.key`)
    agent_version: str = ""

    def device(self, device_id: DeviceId) -> Device | None:
        """The device of that id, or None."""
        return next((device for device in self.devices if device.id == device_id), None)

    def matches(self, selector: dict[str, str]) -> bool:
        """Whether every label that `selector` asks for is there with that value. An empty selector matches all."""
        return all(self.labels.get(key) == value for key, value in selector.items())
