"""A projector and a draft model beside a model, against what the engine allocates for them on one device."""

import re
from pathlib import Path
from typing import Any

import pytest

from stoker.byte_source import FileSource
from stoker.domain.architectures.projector import describe_projector
from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.estimate import estimate, whole
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.gguf import ModelProfile
from stoker.domain.units import MIB
from stoker.domain.workers import DeviceKind
from stoker.gguf_header import read_header, read_profile
from tests.architectures.projectors import write_projector
from tests.architectures.sketch import uniform
from tests.architectures.transformers import llama
from tests.referee.processes import log_until, rpc_server
from worker_agent.engine_store import InstalledEngine

_COMPUTE = re.compile(r"reserve_compute_meta:\s+(\S+) compute buffer size =\s+([\d.]+) MiB")
_BUFFER = re.compile(r"RPC0\S+ (model|KV|compute) buffer size =\s+([\d.]+) MiB")
ON_A_CPU = (DeviceKind.CPU,)  # behind an RPC server


def profile_of(path: Path) -> ModelProfile:
    with FileSource(path) as source:
        return read_profile([source])


def started(engine: InstalledEngine, model: Path, *arguments: str) -> list[str]:
    """The log of a server with the model on one device, until it listens."""
    with rpc_server(engine.folder / "bin", 1) as endpoint:
        command = [
            str(engine.program("llama-server")),
            *("--rpc", endpoint, "--device", "RPC0", "-ngl", "99", "-m", str(model), "-c", "2048", "-np", "1"),
            *("-fit", "off", "-lv", "4", "--no-ui", "--port", "0", *arguments),
        ]
        return list(log_until(command, lambda line: "listening on http" in line))


def beside(model: Path, options: EngineOptions, **companion: Any) -> tuple[MemoryEstimate, MemoryEstimate]:
    """The estimates of the model alone, and with its companion."""
    profile = profile_of(model)
    alone, both = (estimate(profile, options, whole(profile), ON_A_CPU, **more) for more in ({}, companion))
    assert isinstance(alone, MemoryEstimate)
    assert isinstance(both, MemoryEstimate)
    return alone, both


@pytest.mark.parametrize("flash_attention", [True, False])
@pytest.mark.parametrize(
    "shape", [{}, {"feed_forward": 2048}, {"embedding": 512, "heads": 8}, {"image": 672}, {"heads": 8}]
)
def test_a_projector(
    native_engine: InstalledEngine, tmp_path: Path, shape: dict[str, int], flash_attention: bool
) -> None:
    model = llama().write(tmp_path / "model.gguf", uniform("Q8_0"))
    path = write_projector(tmp_path / "projector.gguf", **shape)
    with FileSource(path) as source:
        header = read_header(source)
    projector = describe_projector(header.metadata, header.tensors)
    options = EngineOptions(context_length=2048, slots=1, flash_attention=flash_attention)
    alone, both = beside(model, options, projector=projector)
    log = started(native_engine, model, "--mmproj", str(path), "-fa", "on" if flash_attention else "off")
    engine = {match[1].partition("[")[0]: float(match[2]) for match in map(_COMPUTE.search, log) if match}
    on_device = (both.devices[0].compute - alone.devices[0].compute) / MIB
    on_host = (both.host.compute - alone.host.compute) / MIB
    assert 0.98 * engine["RPC0"] <= on_device <= engine["RPC0"] + 8
    assert 0.98 * engine["CPU"] <= on_host <= engine["CPU"] + 8


def test_a_draft_model(native_engine: InstalledEngine, tmp_path: Path) -> None:
    model = llama(layers=6).write(tmp_path / "model.gguf", uniform("Q8_0"))
    draft = llama(layers=2, embedding=192, heads=3, heads_kv=1, feed_forward=512).write(
        tmp_path / "draft.gguf", uniform("Q8_0")
    )
    options = EngineOptions(context_length=2048, slots=1)
    alone, both = beside(model, options, draft=profile_of(draft))
    log = started(
        native_engine, model, "-md", str(draft), "--spec-type", "draft-simple", "-ngld", "99", "--device-draft", "RPC0"
    )
    found = [(match[1], float(match[2]) * MIB) for match in map(_BUFFER.search, log) if match]
    assert len(found) == 6, "weights, cache and compute of each"
    for (kind, size), name in zip(found[3:], ("weights", "cache", "compute"), strict=True):
        more = getattr(both.devices[0], name) - getattr(alone.devices[0], name)
        assert more == pytest.approx(size, abs=0.01 * MIB, rel=0.02), kind
