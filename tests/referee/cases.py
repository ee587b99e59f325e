"""The cases in which our estimates are held against llama.cpp.

- tiny models of every architecture, loaded for real: on the CPU, on one device and on two;
- SmolLM2, loaded for real with every mixture of context, slots, cache type and flash attention;
- published models from 7 to 1000 billion parameters, planned by llama.cpp from their headers.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from stoker.byte_source import FileSource
from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.gguf import ModelProfile
from stoker.gguf_header import read_profile
from tests.architectures.catalogue import DECODERS, EMBEDDERS
from tests.architectures.sketch import Sketch, uniform
from tests.published import MODELS

SMOLLM2 = "SmolLM2-135M"
SMOLLM2_LAYERS = 30


class Case(NamedTuple):
    """One model with options on `split` layers a device; none: on the CPU. `loaded`: for real, not planned only."""

    model: str
    options: EngineOptions
    split: tuple[int, ...]
    loaded: bool

    def __str__(self) -> str:
        return f"{self.model} {describe(self.options)} on {describe_split(self.split)}"


class Models:
    """Makes the models' files in `folder` as they are asked for; `smollm2` is a file that exists."""

    def __init__(self, folder: Path, smollm2: Path) -> None:
        self._folder, self._smollm2 = folder, smollm2

    @cache  # noqa: B019 - as long-lived as the tests that hold it
    def path(self, model: str) -> Path:
        """The model's file."""
        if model == SMOLLM2:
            return self._smollm2
        if (published := MODELS.get(model)) is not None:
            return published.sketch().write(self._folder / f"{model}.gguf", published.type_of)
        return _tiny(model).write(self._folder / f"{model}.gguf", uniform("Q8_0"))

    @cache  # noqa: B019
    def profile(self, model: str) -> ModelProfile:
        """The model as our own reader describes it."""
        with FileSource(self.path(model)) as source:
            return read_profile([source])


def describe(options: EngineOptions) -> str:
    """The options that differ from the defaults, in short: `c8192 np4 q8_0 no-fa`."""
    words = [f"c{options.context_length}", f"np{options.slots}"]
    if options.cache_type is not CacheType.F16 or options.value_cache_type is not CacheType.F16:
        words.append("/".join(dict.fromkeys([options.cache_type, options.value_cache_type])))
    if options.micro_batch != EngineOptions().micro_batch:
        words.append(f"ub{options.micro_batch}")
    words += ["kvu"] * options.kv_unified + ["no-fa"] * (not options.flash_attention) + ["embd"] * options.embeddings
    return " ".join(words)


def describe_split(split: tuple[int, ...]) -> str:
    """`16,17`, or `cpu`."""
    return ",".join(map(str, split)) or "cpu"


def tiny_cases() -> Iterator[Case]:
    """Every architecture, loaded for real."""
    for name in DECODERS:
        plain = _options(context_length=2048, slots=1)
        for split in _splits(name):
            yield Case(name, plain, split, loaded=True)
        _, one, two = _splits(name)
        yield Case(name, _options(context_length=1024, slots=4, flash_attention=False), one, loaded=True)
        yield Case(name, _options(context_length=1024, slots=3, flash_attention=False), two, loaded=True)
        yield Case(name, _options(context_length=4096, slots=2, cache_type="q8_0", micro_batch=128), two, loaded=True)
        yield Case(name, _options(context_length=512, slots=2, kv_unified=True, micro_batch=1024), one, loaded=True)
        yield Case(name, plain, (one[0] - 2,), loaded=True)  # the first two layers stay on the CPU
    for name in EMBEDDERS:
        for split in _splits(name):
            yield Case(name, _options(context_length=512, slots=1), split, loaded=True)
        yield Case(name, _options(context_length=256, slots=4, micro_batch=256), _splits(name)[2], loaded=True)


def smollm2_cases() -> Iterator[Case]:
    """The real model on two devices and on the CPU. Quantised values need flash attention, quantised keys do not."""
    for context in (512, 2048, 8192):
        for slots in (1, 4):
            for kind in ("f16", "q8_0"):
                for flash_attention in (True, False):
                    values = kind if flash_attention else "f16"
                    options = _options(
                        context_length=context,
                        slots=slots,
                        cache_type=kind,
                        cache_type_v=values,
                        flash_attention=flash_attention,
                    )
                    for split in ((), (16, 15)):
                        yield Case(SMOLLM2, options, split, loaded=True)


def published_cases() -> Iterator[Case]:
    """Published models on one, two and more devices, with short and long contexts."""
    for name in MODELS:
        layers = _layers(MODELS[name].sketch())
        half = layers // 2
        if MODELS[name].sketch().architecture == "bert":
            yield Case(name, _options(context_length=512, slots=4), (layers,), loaded=False)
            yield Case(
                name, _options(context_length=8192, slots=1, micro_batch=2048), (half, layers - half), loaded=False
            )
            continue
        yield Case(name, _options(context_length=8192, slots=1), (layers,), loaded=False)
        # llama.cpp aborts (ggml-impl.h: a full hash set) when Phi 3 keeps a quantised cache in more than one part.
        unified = MODELS[name].sketch().architecture == "phi3"
        quantised = _options(context_length=8192, slots=4, cache_type="q8_0", kv_unified=unified)
        yield Case(name, quantised, (half, layers - half), loaded=False)
        no_flash = _options(context_length=4096, slots=2, flash_attention=False)
        yield Case(name, no_flash, _even(layers, 4), loaded=False)
        yield Case(name, _options(context_length=8192, slots=1, micro_batch=2048), _even(layers, 2), loaded=False)
        yield Case(name, _options(context_length=8192, slots=1), _even(layers, 15), loaded=False)


def _options(**options: Any) -> EngineOptions:
    return EngineOptions(threads=1, **options)


def _tiny(name: str) -> Sketch:
    return (DECODERS | EMBEDDERS)[name]()


def _layers(sketch: Sketch) -> int:
    """Layers, the output layer counted as one."""
    count = sketch.metadata[f"{sketch.architecture}.block_count"]
    assert isinstance(count, int)
    return count + 1


def _splits(name: str) -> tuple[tuple[int, ...], ...]:
    layers = _layers(_tiny(name))
    return (), (layers,), (layers // 2, layers - layers // 2)


def _even(layers: int, devices: int) -> tuple[int, ...]:
    each, more = divmod(layers, devices)
    return tuple(each + (index < more) for index in range(devices))
