"""Holds an estimate against what llama.cpp allocates with the command line that Stoker gives it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from stoker.domain.estimation.cache import embeds
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import DeviceMemory, MemoryEstimate
from stoker.domain.llamacpp import main_server_arguments
from stoker.domain.measurements import Buffers
from stoker.domain.placement.types import DeviceShare, Placement
from stoker.domain.workers import DeviceKind
from tests.builders import make_spec
from tests.referee.cases import Case, Models
from tests.referee.dry_run import plan
from tests.referee.loading import load
from tests.referee.processes import rpc_server
from tests.referee.rpc_stand_in import rpc_stand_in

MOST_LOADED = 2  # devices of a case that is loaded for real


class Row(NamedTuple):
    """One device (`0`, `1`, ...) or the host of a case: bytes estimated and bytes that the engine says.

    Totals are without the output buffer: an engine that `embeds` reserves most of it with the first request only.
    """

    case: Case
    device: str
    estimated: Buffers
    engine: Buffers
    embeds: bool

    @property
    def totals(self) -> tuple[int, int]:
        """Bytes estimated and bytes of the engine."""
        return self.estimated.total - self.estimated.output, self.engine.total - self.engine.output

    @property
    def over(self) -> float:
        """How much the estimate is above the engine's total, as a part of it."""
        estimated, engine = self.totals
        return estimated / engine - 1


class Judge:
    """Compares case after case. `devices` serves those that are loaded for real, `stand_in` the others."""

    def __init__(self, binaries: Path, models: Models, devices: str, stand_in: str) -> None:
        self._binaries, self._models = binaries, models
        self._devices, self._stand_in = devices, stand_in

    def compare(self, case: Case) -> list[Row]:
        """A row a device that holds layers, and the host's.

        Raises RefereeError when llama.cpp refuses, AssertionError when we refuse.
        """
        profile = self._models.profile(case.model)
        needed = estimate(profile, case.options, case.split, [DeviceKind.CPU] * len(case.split))
        assert isinstance(needed, MemoryEstimate), needed
        arguments = self._arguments(case, needed)
        if case.split:
            arguments = ("--rpc", self._devices if case.loaded else self._stand_in, *arguments)
        measured = load(self._binaries, arguments) if case.loaded else plan(self._binaries, arguments)
        used = [index for index, layers in enumerate(case.split) if layers]
        engine = [buffers for _, buffers in measured.devices]
        answers_vectors = embeds(profile, case.options)
        rows = [
            Row(case, str(index), _of(needed.devices[index]), found, answers_vectors)
            for index, found in zip(used, engine, strict=True)
        ]
        if 0 < sum(case.split) <= profile.block_count:
            return rows  # layers on the CPU are mapped from the file, and the log counts what lies between them too
        host = needed.host
        estimated = Buffers(weights=host.weights, cache=host.cache, compute=host.compute, output=host.output)
        return [*rows, Row(case, "host", estimated, measured.host, answers_vectors)]

    def _arguments(self, case: Case, needed: MemoryEstimate) -> tuple[str, ...]:
        shares = [
            DeviceShare(device=f"gpu{index}", kind=DeviceKind.CUDA, engine_name=f"RPC{index}", layers=layers, claim=0)
            for index, layers in enumerate(case.split)
        ]
        cpu = DeviceShare(device="cpu", kind=DeviceKind.CPU, layers=0, claim=needed.host.total)
        placement = Placement(worker="here", shares=(*shares, cpu), estimate=needed)
        return main_server_arguments(
            make_spec(options=case.options),
            placement,
            model_path=str(self._models.path(case.model)),
            alias="model",
            pooling=self._models.profile(case.model).pooling,
        )


@contextmanager
def judge(binaries: Path, models: Models) -> Iterator[Judge]:
    """A judge with the servers that it needs; one ggml-rpc-server serves all loads, one after another."""
    with rpc_server(binaries, MOST_LOADED) as devices, rpc_stand_in(15) as stand_in:
        yield Judge(binaries, models, devices, stand_in)


def _of(device: DeviceMemory) -> Buffers:
    return Buffers(weights=device.weights, cache=device.cache, compute=device.compute)
