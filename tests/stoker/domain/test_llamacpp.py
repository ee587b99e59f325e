"""The command line of a main server."""

from typing import Any

import pytest

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.estimate import PROMPT_CACHE
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.llamacpp import main_server_arguments
from stoker.domain.placement.types import DeviceShare, Placement
from stoker.domain.units import MIB
from stoker.domain.workers import DeviceKind
from tests.builders import make_spec

HOST = DeviceShare(device="cpu", kind=DeviceKind.CPU, layers=0, claim=1)


def gpu(number: int, layers: int) -> DeviceShare:
    return DeviceShare(device=f"gpu{number}", kind=DeviceKind.CUDA, engine_name=f"CUDA{number}", layers=layers, claim=1)


def arguments(*shares: DeviceShare, pooling: bool = False, slots: int = 4, **options: Any) -> tuple[str, ...]:
    placement = Placement(worker="w", shares=shares, estimate=MemoryEstimate(context_length=8192, slots=slots))
    spec = make_spec(options=EngineOptions(**options))
    return main_server_arguments(spec, placement, model_path="/models/a b.gguf", alias="llama", pooling=pooling)


def value(given: tuple[str, ...], option: str) -> str:
    """What follows `option`, which must be there exactly once."""
    assert given.count(option) == 1
    return given[given.index(option) + 1]


def test_the_whole_line_on_one_gpu() -> None:
    assert arguments(gpu(0, 33), HOST) == (
        *("--host", "127.0.0.1", "--port", "0"),
        *("-m", "/models/a b.gguf", "-a", "llama"),
        *("-c", "32768", "-np", "4", "--no-kv-unified"),
        *("-b", "2048", "-ub", "512"),
        *("-ctk", "f16", "-ctv", "f16", "-fa", "on", "-fit", "off"),
        *("-ngl", "33", "--device", "CUDA0"),
        *("--cache-ram", "256", "-ctxcp", "0"),
        *("--metrics", "--no-ui", "-lv", "4"),
    )


def test_the_cpu_alone_uses_no_gpu_at_all() -> None:
    given = arguments(HOST)
    assert (value(given, "-ngl"), value(given, "--device")) == ("0", "none")


def test_several_gpus_get_their_layers_in_order() -> None:
    given = arguments(gpu(1, 20), gpu(0, 13), HOST)
    assert value(given, "--device") == "CUDA1,CUDA0"
    assert value(given, "--tensor-split") == "20,13"
    assert value(given, "-ngl") == "33"
    assert "--tensor-split" not in arguments(gpu(0, 33))


def test_a_gpu_that_the_engine_has_no_name_for() -> None:
    nameless = gpu(0, 33).model_copy(update={"engine_name": ""})
    with pytest.raises(ValueError, match="device gpu0 of w has no engine_name"):
        arguments(nameless, HOST)


def test_options_reach_the_engine() -> None:
    given = arguments(HOST, slots=2, cache_type=CacheType.Q8_0, batch=1024, micro_batch=256, threads=6)
    picked = {option: value(given, option) for option in ("-c", "-np", "-b", "-ub", "-ctk", "-ctv", "-t")}
    assert picked == {"-c": "16384", "-np": "2", "-b": "1024", "-ub": "256", "-ctk": "q8_0", "-ctv": "q8_0", "-t": "6"}


def test_the_prompt_cache_is_the_one_that_was_estimated() -> None:
    assert int(value(arguments(HOST), "--cache-ram")) * MIB == PROMPT_CACHE


@pytest.mark.parametrize(
    ("embeddings", "pooling", "expected"),
    [
        (False, False, ()),
        (True, False, ("--embeddings", "--pooling", "mean")),
        (True, True, ("--embeddings",)),
        (False, True, ("--embeddings",)),
    ],
)
def test_embeddings(embeddings: bool, pooling: bool, expected: tuple[str, ...]) -> None:
    given = arguments(HOST, pooling=pooling, embeddings=embeddings)
    assert given[given.index("4", given.index("-lv")) + 1 :] == expected
    assert value(given, "-b") == ("512" if expected else "2048")


def test_another_listening_host() -> None:
    placement = Placement(worker="w", shares=(HOST,), estimate=MemoryEstimate(context_length=512, slots=1))
    given = main_server_arguments(make_spec(), placement, model_path="/m", alias="a", pooling=False, host="10.0.0.7")
    assert value(given, "--host") == "10.0.0.7"
