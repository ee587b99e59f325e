"""One decision's question: what the model takes, who may hold it, and in which order of preference."""

from functools import cached_property, lru_cache
from typing import NamedTuple

from stoker.domain.deployments import EngineOptions, Strategy
from stoker.domain.estimation.stretches import StretchCosts
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.gguf import ModelProfile
from stoker.domain.placement.admission import Admission
from stoker.domain.placement.bounds import Bounds
from stoker.domain.placement.cover import Chain, Spans
from stoker.domain.placement.fleet import Host
from stoker.domain.placement.types import PlacementRequest, Tier


class Layout(NamedTuple):
    """A way to place the model: devices with their layers, and the worker of the main server."""

    tier: Tier
    main: Host
    chain: Chain  # of no devices: the CPU computes all

    @property
    def hosts(self) -> int:
        """How many workers take part."""
        return len({self.main.name, *(room.worker for room in self.chain.rooms)})

    @property
    def on_gpu(self) -> bool:
        """Whether any GPU takes part."""
        return any(room.on_gpu for room in self.chain.rooms)


class Model:
    """What a model takes with given options, and how far each room reaches: the same for all its instances."""

    def __init__(self, costs: StretchCosts) -> None:
        self.costs = costs
        self.layers = costs.layers
        self._bounds = {pipelined: Bounds(costs, pipelined=pipelined) for pipelined in (False, True)}
        self._spans: dict[tuple[bool, int], Spans] = {}

    @cached_property
    def least_bytes(self) -> int:
        """Bytes of weights and cache on GPUs, however the layers are shared: no set of rooms with less holds them."""
        (device,) = self.costs.estimate((self.layers,)).devices
        return device.weights + device.cache

    def spans(self, *, pipelined: bool, first: int = 0) -> Spans:
        """How far rooms reach; see Spans."""
        found = self._spans.get((pipelined, first))
        if found is None:
            found = self._spans[pipelined, first] = Spans(self._bounds[pipelined], first=first)
        return found

    def ram(self, first: int, *, on_gpu: bool, pipelined: bool = False) -> int:
        """Bytes of RAM on the main server's worker, when the layers before `first` are computed there."""
        return self.costs.host(first, any_gpu=on_gpu, pipelined=pipelined)


@lru_cache(maxsize=128)
def model_of(profile: ModelProfile, options: EngineOptions) -> Model | EstimateRefusal:
    """Worked out once for each model and its options: it depends on nothing else."""
    costs = StretchCosts.of(profile, options)
    return costs if isinstance(costs, EstimateRefusal) else Model(costs)


class Problem(NamedTuple):
    """What a tier is asked."""

    request: PlacementRequest
    model: Model
    admission: Admission

    def without_avoided(self) -> "Problem":
        """The same, without the workers that failed this instance of late."""
        avoid = frozenset(self.request.avoid)
        hosts = tuple(host for host in self.admission.hosts if host.name not in avoid)
        return self._replace(admission=self.admission._replace(hosts=hosts))

    def holds_file(self, host: Host) -> bool:
        """Whether the model's files lie there."""
        return bool(host.held_files) and self.request.files.key in host.held_files

    @property
    def is_packed(self) -> bool:
        """Whether the fullest are to be filled first, and not the emptiest."""
        return self.request.spec.strategy is Strategy.BINPACK

    @property
    def on_gpus(self) -> int | None:
        """How many layers must be on devices, where the administrator says so; None: all, or as many as fit."""
        spec = self.request.spec
        if spec.tensor_split:
            return sum(spec.tensor_split)
        return None if spec.gpu_layers is None else min(spec.gpu_layers, self.model.layers)
