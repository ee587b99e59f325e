"""The memory formulae against the engine itself: what its log says that it allocated, and what its process takes.

The bundled engine runs on the CPU with the command line that a placement gives. What was reached: KV cache, weights
and output buffer to the last digit of the log (0.01 MiB); compute never below it, and at most 2 % or 8 MiB above.
"""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import httpx
import psutil
import pytest

from stoker.byte_source import FileSource
from stoker.domain.estimation.cache import cache_shape, padded
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.gguf import ModelProfile
from stoker.domain.llamacpp import main_server_arguments
from stoker.domain.placement.types import DeviceShare, Placement
from stoker.domain.units import MIB
from stoker.domain.workers import DeviceKind
from stoker.gguf_header import read_profile
from tests.builders import make_spec, write_tiny_llama

START_SECONDS = 120
_BUFFER = re.compile(r"(?P<kind>CPU\S* +(model|KV|compute|output)) buffer size =\s+(?P<size>[0-9.]+) MiB")
_LOG_STEP = 0.01  # MiB: the log's last digit
_TOO_MUCH, _TOO_MUCH_MIB = 0.02, 8  # that an estimate of compute may be above, as a part of it or in MiB


class Engine:
    """A bundled server that has loaded its model, and what its log said until then."""

    def __init__(self, process: "subprocess.Popen[str]", log: str, url: str) -> None:
        self.process, self.log, self.url = process, log, url
        self.buffers = {" ".join(match["kind"].split()): float(match["size"]) for match in _BUFFER.finditer(log)}

    def complete(self, prompt: str, slot: int) -> None:
        """Lets `slot` read `prompt` and answer a few tokens."""
        body = {"prompt": prompt, "max_tokens": 4, "id_slot": slot}
        httpx.post(f"{self.url}/v1/completions", json=body, timeout=120).raise_for_status()


@contextmanager
def running(arguments: tuple[str, ...]) -> Iterator[Engine]:
    command = [sys.executable, "-P", "-m", "worker_agent.bundled", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    lines: list[str] = []
    listening = threading.Event()

    def follow() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "listening on http" in line:
                listening.set()
        listening.set()

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        assert listening.wait(START_SECONDS), "".join(lines)
        log = "".join(lines)
        url = re.search(r"listening on (http://\S+)", log)
        assert url is not None, log
        yield Engine(process, log, url[1])
    finally:
        process.kill()
        process.wait()
        follower.join()
        assert process.stderr is not None
        process.stderr.close()


def placed(path: Path, **options: Any) -> tuple[ModelProfile, MemoryEstimate, tuple[str, ...]]:
    """The model's profile, what it needs on the CPU, and how it is started there."""
    with FileSource(path) as source:
        profile = read_profile([source])
    spec = make_spec(options={"threads": 1} | options)
    needed = estimate(profile, spec.options)
    assert isinstance(needed, MemoryEstimate), needed
    share = DeviceShare(device="cpu", kind=DeviceKind.CPU, layers=0, claim=needed.host.total)
    placement = Placement(worker="here", shares=(share,), estimate=needed)
    arguments = main_server_arguments(spec, placement, model_path=str(path), alias="model", pooling=profile.pooling)
    return profile, needed, arguments


@pytest.fixture(scope="module")
def models(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "smollm2": smollm2,
        "llama": write_tiny_llama(
            folder / "llama.gguf",
            layers=3,
            embedding=512,
            heads=8,
            heads_kv=2,
            feed_forward=1792,
            vocabulary=32_000,
            context=32_768,
        ),
        "qwen2": write_tiny_llama(
            folder / "qwen2.gguf",
            architecture="qwen2",
            embedding=448,
            heads=7,
            heads_kv=1,
            feed_forward=2432,
            vocabulary=8192,
            context=32_768,
            tied=True,
            weight_type=gguf.GGMLQuantizationType.Q8_0,
        ),
        "qwen3": write_tiny_llama(
            folder / "qwen3.gguf", architecture="qwen3", embedding=256, heads=8, head_size=128, feed_forward=768
        ),
    }


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("smollm2", {}),
        ("smollm2", {"context_length": 1000, "slots": 3, "cache_type": "q8_0"}),
        ("smollm2", {"context_length": 4096, "slots": 1, "cache_type": "q4_0", "micro_batch": 2048}),
        ("llama", {"context_length": 32_768, "slots": 2, "cache_type": "bf16"}),
        ("llama", {"context_length": 300, "slots": 7, "micro_batch": 128, "batch": 256}),
        ("llama", {"context_length": 256, "slots": 64, "micro_batch": 32}),
        ("llama", {"context_length": 2048, "slots": 1, "embeddings": True}),
        ("llama", {"context_length": 512, "slots": 3, "embeddings": True}),
        ("qwen2", {"context_length": 8192, "slots": 4, "cache_type": "q8_0"}),
        ("qwen2", {"context_length": 128, "slots": 1, "micro_batch": 1024}),
        ("qwen3", {"context_length": 1024, "slots": 5, "cache_type": "q4_0"}),
    ],
)
def test_buffers(models: dict[str, Path], model: str, options: dict[str, Any]) -> None:
    profile, needed, arguments = placed(models[model], **options)
    with running(arguments) as engine:
        pass
    shape = cache_shape(profile, make_spec(options=options).options, needed.context_length)
    assert f"n_ctx_seq             = {shape.cells}\n" in engine.log
    assert f"{shape.streams}/{shape.streams} seqs" in engine.log or shape.streams == 1
    assert f"n_seq_max             = {needed.slots}\n" in engine.log
    assert needed.host.cache / MIB == pytest.approx(engine.buffers["CPU KV"], abs=_LOG_STEP)
    assert needed.host.weights / MIB == pytest.approx(engine.buffers["CPU_Mapped model"], abs=_LOG_STEP)
    taken = engine.buffers["CPU compute"]
    assert taken - _LOG_STEP <= needed.host.compute / MIB <= taken + max(taken * _TOO_MUCH, _TOO_MUCH_MIB)


def test_an_output_buffer_for_each_slot(models: dict[str, Path]) -> None:
    one, many = (placed(models["llama"], context_length=256, slots=slots) for slots in (1, 33))
    with running(many[2]) as engine:
        assert engine.buffers["CPU output"] == pytest.approx(4 * 33 * 32_000 / MIB, abs=_LOG_STEP)
    assert many[1].host.output - one[1].host.output == 4 * 32 * 32_000


@pytest.mark.parametrize(
    ("model", "options", "prompt"),
    [
        ("smollm2", {"slots": 2, "micro_batch": 256, "threads": 2}, "the quick brown fox " * 70),
        ("llama", {"context_length": 2048, "slots": 2, "micro_batch": 2048}, "kapa bo " * 230),
    ],
)
def test_the_claim_covers_the_process(
    models: dict[str, Path], model: str, options: dict[str, Any], prompt: str
) -> None:
    """RSS, the model's mapped file included, of a server that has filled micro-batches and its prompt cache."""
    _, needed, arguments = placed(models[model], **options)
    with running(arguments) as engine:
        for turn in range(2):  # the second time another prompt, so that the first goes to the prompt cache
            for slot in range(needed.slots):
                engine.complete(f"{turn} {slot} {prompt}", slot)
        taken = psutil.Process(engine.process.pid).memory_info().rss
    assert needed.host.cache < taken <= needed.host.total


def test_weights_that_the_engine_reorders_are_claimed_once(tmp_path: Path) -> None:
    """Its own copy is no larger than the file's, whose pages are then only cache."""
    path = write_tiny_llama(
        tmp_path / "q4_0.gguf",
        embedding=512,
        heads=8,
        feed_forward=4096,
        vocabulary=8192,
        layers=4,
        weight_type=gguf.GGMLQuantizationType.Q4_0,
    )
    _, needed, arguments = placed(path, slots=1)
    with running(arguments) as engine:
        engine.complete("kapa bo " * 100, 0)
        memory = psutil.Process(engine.process.pid).memory_info()
    copied = engine.buffers.get("CPU_REPACK model", 0.0)  # none on processors without such kernels
    assert copied <= needed.host.weights / MIB + _LOG_STEP
    assert memory.rss - memory.shared <= needed.host.total


def test_the_engine_gives_each_slot_the_context_that_was_asked_for(models: dict[str, Path]) -> None:
    _, needed, arguments = placed(models["qwen3"], context_length=700, slots=3)
    with running(arguments) as engine:
        properties = httpx.get(f"{engine.url}/props", timeout=30).json()
        slots = httpx.get(f"{engine.url}/slots", timeout=30).json()
    assert properties["total_slots"] == needed.slots == 3
    assert [slot["n_ctx"] for slot in slots] == [padded(700)] * 3
