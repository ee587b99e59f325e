"""What it costs to know a model by its header: time, memory and bytes over the network.

- A header with a vocabulary of 151,936 words, read by our reader and by the package gguf's GGUFReader, each in a
  process of its own: seconds, and how far its memory rose above what it was before.
- A model of 142 GB in 8 shards on a hub on this machine: bytes fetched, their share of the model, requests; then the
  same model once more, as another process would ask for it.
- An estimate from a profile: 62 layers on 15 devices.

Ends with one JSON line. Sizes are bytes, times seconds if they do not say otherwise.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from stoker.byte_source import FileSource
from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.estimate import estimate
from stoker.domain.models import ModelSource
from stoker.gguf_header import read_header, read_profile
from stoker.header_cache import HeaderCache
from stoker.hub import HuggingFaceHub
from tests.architectures.gguf_file import Metadata, Tensor, write_gguf
from tests.fakes.hub import FakeHub
from tests.published import MODELS

VOCABULARY = 151_936
MODEL = "Qwen3-235B-A22B-Q4_K_M"
SHARDS = 8
LONG_MODEL = "gemma-3-27b-Q4_K_M"  # 62 layers
DEVICES = 15
REPEATS = 5

_MEASURE = """
import json, re, sys, time
from pathlib import Path
{imports}
def memory(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is counted anew from here
before = memory("VmRSS")
began = time.perf_counter()
{read}
seconds = time.perf_counter() - began
print(json.dumps([seconds, memory("VmHWM") - before]))
"""
_OURS = _MEASURE.format(
    imports="from stoker.byte_source import FileSource\nfrom stoker.gguf_header import read_profile",
    read="with FileSource(Path(sys.argv[1])) as source:\n    read_profile([source])",
)
_REFERENCE = _MEASURE.format(imports="import gguf", read="gguf.GGUFReader(sys.argv[1])")


def main() -> None:
    """Measures, and prints one JSON line at the end."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "hub/acme/large"
        folder.mkdir(parents=True)
        whole = write_model(Path(scratch) / "whole.gguf")
        write_shards(folder)
        result = {
            "benchmark": "headers",
            "vocabulary": VOCABULARY,
            "header_bytes": header_size(whole),
            "reader": fastest(_OURS, whole),
            "gguf_reader": fastest(_REFERENCE, whole),
            **remote(Path(scratch)),
            "estimate_milliseconds": round(estimate_seconds(Path(scratch)) * 1000, 3),
        }
    print(json.dumps(result))


def words() -> list[str]:
    """Made-up words as long as a byte-pair vocabulary's: 6.5 letters on average."""
    return list(islice(_words(), VOCABULARY))


def _words() -> Iterator[str]:
    for number in count():
        text, rest = "", number * 2_654_435_761 % 2**32
        for _ in range(3 + rest % 8):
            rest, letter = divmod(rest * 31 + number, 26)
            text += chr(97 + letter % 26)
        yield f"{text}{number % 10}"


def metadata() -> dict[str, Metadata]:
    """The model's, with a vocabulary as Qwen's: words, their kinds and their merges."""
    vocabulary = words()
    return {
        "general.architecture": "qwen3moe",
        "general.name": "synthetic",
        **MODELS[MODEL].sketch().metadata,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [1] * len(vocabulary),
        "tokenizer.ggml.merges": [f"{word[:3]} {word[3:]}" for word in vocabulary],
        "tokenizer.chat_template": "{{ messages }}" * 300,
    }


def tensors() -> list[Tensor]:
    """The model's, of their true shapes."""
    return MODELS[MODEL].sketch().tensors(MODELS[MODEL].type_of)


def write_model(path: Path) -> Path:
    """The model in one file, its weights a hole."""
    return write_gguf(path, metadata(), tensors())


def write_shards(folder: Path) -> None:
    """The model in SHARDS files, as llama-gguf-split makes them: the first has the metadata."""
    whole = tensors()
    at = [len(whole) * number // SHARDS for number in range(SHARDS + 1)]
    for number in range(SHARDS):
        split: dict[str, Metadata] = {
            "split.no": number,
            "split.count": SHARDS,
            "split.tensors.count": len(whole),
        }
        name = f"large-Q4_K_M-{number + 1:05d}-of-{SHARDS:05d}.gguf"
        write_gguf(folder / name, {**(metadata() if number == 0 else {}), **split}, whole[at[number] : at[number + 1]])


def header_size(path: Path) -> int:
    """Bytes before the tensors."""
    with FileSource(path) as source:
        return read_header(source).data_offset


def fastest(code: str, path: Path) -> dict[str, float]:
    """The fastest of some runs, and the memory of the largest."""
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True).stdout)
        for _ in range(REPEATS)
    ]
    return {"seconds": round(min(run[0] for run in runs), 3), "memory_bytes": max(run[1] for run in runs)}


def remote(scratch: Path) -> dict[str, object]:
    """The sharded model on a hub, first and second time."""
    source = ModelSource.parse("hf:acme/large")
    with FakeHub(scratch / "hub") as fake:
        fake.commit("acme/large")  # its checksums are worked out before anybody asks
        seconds: list[float] = []
        for _ in range(2):
            fake.forget()
            hub = HuggingFaceHub(endpoint=fake.url, headers=HeaderCache(scratch / "cache"))
            began = time.perf_counter()
            files, _ = asyncio.run(hub.inspect(source))
            seconds.append(round(time.perf_counter() - began, 3))
            if len(seconds) == 1:
                fetched, ranges = fake.content_sent, len(fake.content_requests())
        return {
            "model_bytes": files.size,
            "shards": len(files.files),
            "fetched_bytes": fetched,
            "fetched_share": round(fetched / files.size, 7),
            "range_requests": ranges,
            "remote_seconds": seconds[0],
            "again_bytes": fake.content_sent,
            "again_requests": len(fake.requests),
            "again_seconds": seconds[1],
        }


def estimate_seconds(scratch: Path) -> float:
    """The median of many estimates, each of a whole model on DEVICES devices."""
    path = MODELS[LONG_MODEL].sketch().write(scratch / "long.gguf", MODELS[LONG_MODEL].type_of)
    with FileSource(path) as source:
        profile = read_profile([source])
    layers = profile.block_count + 1
    split = [layers * (n + 1) // DEVICES - layers * n // DEVICES for n in range(DEVICES)]
    options = EngineOptions(context_length=8192)
    measured = []
    for _ in range(200):
        began = time.perf_counter()
        estimate(profile, options, split)
        measured.append(time.perf_counter() - began)
    return statistics.median(measured)


if __name__ == "__main__":
    main()
