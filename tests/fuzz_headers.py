"""Feeds the GGUF reader damaged headers for as long as it is told to, and keeps what it cannot bear.

    python -m tests.fuzz_headers --minutes 10 [--seed N] [--keep FOLDER]

The seeds are the headers of all tiny models of tests/architectures, a sharded one, a projector, and files that are
wrong on purpose. They are damaged in two ways: byte by byte (bits, cuts, lengths and counts of all sizes, pieces of
other seeds), and by meaning (a key's value, a tensor's shape or type is another), which leads deeper. Whatever the
header says, only these may come of it: GGUFError, or a profile of which an estimate or its refusal can be made; within
SECONDS; and never with more than MEMORY beside its own bytes. The last line is JSON; the exit code is 1 where something
was found.
"""

import argparse
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.assessment import assess
from stoker.domain.gguf import ModelProfile, ProjectorProfile
from stoker.gguf_header import Allowance, GGUFError, profile_of, projector_of, read_header
from stoker.header_cache import CachedHeader, HeaderCache
from tests.architectures.catalogue import DECODERS, EMBEDDERS
from tests.architectures.gguf_file import Metadata, Tensor, gguf_header
from tests.architectures.sketch import Sketch, uniform

SECONDS = 5
MEMORY = 64 << 20  # bytes
ADDRESS_SPACE = 512 << 20  # bytes beyond what the process has when it starts
TRACE_EVERY = 64  # executions: watching the memory makes each some times slower

_NUMBERS = [0, 1, 2, 3, 31, 32, 63, 64, 127, 128, 255, 256, 4095, 4096, 4097, 65_535, 65_536]
_NUMBERS += [2**n + d for n in (20, 24, 31, 32, 48, 53, 62, 63, 64) for d in (-1, 0, 1)]
_TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_K", "Q8_0", "IQ4_NL", "MXFP4", "I8", "I64", "TQ1_0"]


class FindingError(Exception):
    """What must not happen."""


class Bytes:
    """A file in memory; `size` is what it claims."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self.size = data, size

    def read(self, offset: int, length: int) -> bytes:
        """As a file."""
        return self._data[offset : offset + length]


class Fuzzer:
    """One run; `count` says how often which outcome was seen."""

    def __init__(self, seed: int, keep: Path) -> None:
        self._random = random.Random(seed)  # noqa: S311  the same seed does the same
        self._keep = keep
        self._sketches = [_small(make()) for make in (DECODERS | EMBEDDERS).values()] + [_projector()] * 3
        self._seeds = [gguf_header(sketch.metadata, sketch.tensors(uniform("Q8_0")))[0] for sketch in self._sketches]
        self._seeds += [b"GGUF" + struct.pack("<IQQ", 3, 0, 0), b""]
        self._model = profile_of([read_header(Bytes(self._seeds[0], 2**40))])
        self._cache = HeaderCache(None)
        self.executions = 0
        self.count: Counter[str] = Counter()
        self.slowest = 0.0
        self.most_memory = 0
        self.findings: list[str] = []

    def run(self, seconds: float = 0, executions: int = 0) -> None:
        """Goes on for so long, or so often."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.executions < executions:
            files = self._damaged_by_meaning() if self._random.random() < 0.6 else self._damaged_by_bytes()
            self.executions += 1
            try:
                self.count[self._execute(files)] += 1
            except (Exception, MemoryError) as error:  # noqa: BLE001  all of them are what is looked for
                self._found(files, error)

    def _execute(self, files: Sequence[Bytes]) -> str:
        traced = self.executions % TRACE_EVERY == 0
        if traced:
            tracemalloc.start()
        began = time.monotonic()
        try:
            with _deadline():
                return self._read(files)
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)
            if traced:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                self.most_memory = max(self.most_memory, peak)
                if peak > MEMORY:
                    raise FindingError(f"{peak} bytes of memory")

    def _read(self, files: Sequence[Bytes]) -> str:
        allowance = Allowance()
        try:
            headers = [read_header(file, allowance) for file in files]
            kept = CachedHeader(headers[0], files[0].size)
            self._cache.put("header", kept)
            if headers[0].metadata.get("general.architecture") == "clip":
                projector = projector_of(headers)
                self._assess(self._model, projector, None)
                return "projector"
            profile = profile_of(headers)
        except GGUFError as error:
            if len(str(error)) > 2000:
                raise FindingError(f"a message of {len(str(error))} letters") from error
            return error.code
        profile = ModelProfile.model_validate_json(profile.model_dump_json())
        self._assess(profile, None, None)
        if self._random.random() < 0.1:
            self._assess(self._model, None, profile)
        return "profile"

    def _assess(self, profile: ModelProfile, projector: ProjectorProfile | None, draft: ModelProfile | None) -> None:
        options = EngineOptions(
            context_length=self._random.choice([None, 128, 4096, 16_777_216]),
            slots=self._random.choice([1, 4, 256]),
            cache_type=self._random.choice(list(CacheType)),
            flash_attention=self._random.random() < 0.8,
            kv_unified=self._random.random() < 0.2,
        )
        devices = self._random.choice([0, 1, 1, 2])
        assess(profile, options, devices=devices, projector=projector, draft=draft)

    # --- damage -------------------------------------------------------------------------------------------------------

    def _damaged_by_meaning(self) -> list[Bytes]:
        sketch = self._random.choice(self._sketches)
        metadata, tensors = dict(sketch.metadata), sketch.tensors(uniform("Q8_0"))
        for _ in range(self._random.choice([1, 1, 1, 2, 3, 8])):
            if self._random.random() < 0.65:
                self._change_key(metadata)
            elif tensors:
                self._change_tensor(tensors)
        try:
            data, _ = gguf_header(metadata, tensors)
        except (ValueError, struct.error):  # a shape that its type cannot have, a number that its field cannot hold
            data = self._random.choice(self._seeds)
        return self._files(data)

    def _change_key(self, metadata: dict[str, Metadata]) -> None:
        key = self._random.choice(list(metadata))
        match self._random.randrange(7):
            case 0:
                del metadata[key]
            case 1 | 2:
                metadata[key] = self._random.choice([n for n in _NUMBERS if n < 2**32])
            case 3:
                metadata[key] = self._random.choice(["", "x", "llama", "clip", "gemma3", "\U0001f600" * 100])
            case 4:
                metadata[key] = self._random.choice([float("nan"), float("inf"), -1.0, 0.5, True, False])
            case 5:
                numbers = [n for n in _NUMBERS if n < 2**31]
                length = self._random.choice([1, 2, 31, 4096, 5000])
                metadata[key] = [self._random.choice(numbers) for _ in range(length)]
            case 6:
                other = self._random.choice(self._sketches)
                if theirs := [name for name in other.metadata if name.count(".")]:
                    taken = self._random.choice(theirs)
                    architecture = str(metadata.get("general.architecture", ""))
                    metadata[f"{architecture}.{taken.partition('.')[2]}"] = other.metadata[taken]

    def _change_tensor(self, tensors: list[Tensor]) -> None:
        index = self._random.randrange(len(tensors))
        tensor = tensors[index]
        match self._random.randrange(6):
            case 0:
                del tensors[index]
            case 1:
                shape = list(tensor.shape)
                shape[self._random.randrange(len(shape))] = self._random.choice([1, 32, 256, 4096, 2**20, 2**31, 2**40])
                tensors[index] = tensor._replace(shape=tuple(shape))
            case 2:
                tensors[index] = tensor._replace(type=self._random.choice(_TYPES))
            case 3:
                layer = self._random.choice([0, 1, 7, 511, 512, 9999])
                name = f"blk.{layer}.{tensor.name.rpartition('.')[0].rpartition('.')[2] or 'x'}.weight"
                tensors[index] = tensor._replace(name=name[:63])
            case 4:
                tensors[index] = tensor._replace(shape=tensor.shape[:1])
            case 5:
                tensors[index] = tensor._replace(shape=(*tensor.shape, self._random.choice([1, 2, 2**20]))[:4])

    def _damaged_by_bytes(self) -> list[Bytes]:
        data = bytearray(self._random.choice(self._seeds))
        for _ in range(self._random.choice([1, 1, 2, 4, 16])):
            at = self._random.randrange(len(data) + 1)
            length = self._random.choice([1, 4, 8, 40, 400])
            match self._random.randrange(7):
                case 0 if at < len(data):
                    data[at] ^= 1 << self._random.randrange(8)
                case 1:
                    del data[at : at + length]
                case 2:
                    data[at:at] = data[at : at + length]
                case 3:
                    data[at : at + 8] = struct.pack("<Q", self._random.choice(_NUMBERS) % 2**64)
                case 4:
                    data[at : at + 4] = struct.pack("<I", self._random.choice(_NUMBERS) % 2**32)
                case 5:
                    other = self._random.choice(self._seeds)
                    start = self._random.randrange(len(other) + 1)
                    data[at:at] = other[start : start + length]
                case _:
                    data[at:at] = self._random.randbytes(length)
        if self._random.random() < 0.1:
            del data[self._random.randrange(len(data) + 1) :]
        return self._files(bytes(data))

    def _files(self, data: bytes) -> list[Bytes]:
        """Mostly of a size that is large enough, so that the end of the file is not what refuses them."""
        size = self._random.choice([len(data), 2**40, 2**40, 2**62])
        return [Bytes(data, size)] * self._random.choice([1, 1, 1, 1, 1, 1, 1, 2])

    # --- findings -----------------------------------------------------------------------------------------------------

    def _found(self, files: Sequence[Bytes], error: BaseException) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno} {where.name}"
        self.count[f"FOUND {what}"] += 1
        if self.count[f"FOUND {what}"] > 1:
            return
        self.findings.append(f"{what}: {str(error)[:300]}")
        path = self._keep / f"finding-{len(self.findings)}.gguf"
        path.write_bytes(files[0].read(0, 1 << 30))
        path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))
        print(f"{path}: {self.findings[-1]}", file=sys.stderr, flush=True)


def _small(sketch: Sketch) -> Sketch:
    """With what `Sketch.write` adds, and a short vocabulary."""
    sketch.metadata = {
        "general.architecture": sketch.architecture,
        "general.name": "synthetic",
        **sketch.metadata,
        "tokenizer.ggml.tokens": [f"t{index}" for index in range(16)],
        "tokenizer.ggml.scores": [0.5] * 16,
        "tokenizer.chat_template": "{{ messages }}",
    }
    return sketch


def _projector() -> Sketch:
    """A multimodal projector of pictures and sounds."""
    sketch = Sketch("clip", 64, 0)
    sketch.metadata = {"general.architecture": "clip", "general.type": "mmproj", "clip.projector_type": "mlp"}
    for part in ("vision", "audio"):
        sketch.metadata[f"clip.has_{part}_encoder"] = True
        for name, value in {"block_count": 2, "embedding_length": 64, "feed_forward_length": 128}.items():
            sketch.metadata[f"clip.{part}.{name}"] = value
        sketch.metadata[f"clip.{part}.attention.head_count"] = 4
    sketch.metadata |= {"clip.vision.image_size": 224, "clip.vision.patch_size": 14, "clip.audio.num_mel_bins": 128}
    sketch.block = "v.blk.0."
    sketch.attention(4, 4, 16)
    sketch.block = ""
    sketch.add("mm.0", 64, 64)
    return sketch


@contextmanager
def _deadline() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise FindingError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    """Runs, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="where findings are kept")
    args = parser.parse_args()
    keep = args.keep or Path(tempfile.mkdtemp(prefix="fuzz-headers-"))
    keep.mkdir(parents=True, exist_ok=True)
    fuzzer = Fuzzer(args.seed, keep)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, used + ADDRESS_SPACE))
    fuzzer.run(seconds=args.minutes * 60)
    result = {
        "fuzz": "headers",
        "seed": args.seed,
        "minutes": args.minutes,
        "executions": fuzzer.executions,
        "outcomes": dict(fuzzer.count.most_common()),
        "slowest_seconds": round(fuzzer.slowest, 3),
        "most_memory_bytes": fuzzer.most_memory,
        "findings": fuzzer.findings,
        "kept_in": str(keep),
    }
    print(json.dumps(result))
    return 1 if fuzzer.findings else 0


if __name__ == "__main__":
    sys.exit(main())
