"""The command line of a main server."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.estimate import PROMPT_CACHE
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.llamacpp import engine_devices, main_server_arguments, rpc_peers, rpc_server_arguments
from stoker.domain.placement.types import DeviceShare, Placement, Tier
from stoker.domain.units import GIB, MIB
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
        *("-ngl", "33", "--device", "CUDA0", "--no-op-offload"),
        *("--cache-ram", "256", "-ctxcp", "0"),
        *("--metrics", "--no-ui", "-lv", "4"),
    )


def test_the_cpu_alone_uses_no_gpu_at_all() -> None:
    given = arguments(HOST)
    assert (value(given, "-ngl"), value(given, "--device")) == ("0", "none")
    assert "--no-op-offload" not in given, "there is no device to copy weights to"


def test_several_gpus_get_their_layers_in_order() -> None:
    given = arguments(gpu(1, 20), gpu(0, 13), HOST)
    assert value(given, "--device") == "CUDA1,CUDA0"
    assert value(given, "--tensor-split") == "20,13"
    assert value(given, "-ngl") == "33"
    assert "--tensor-split" not in arguments(gpu(0, 33))


@pytest.mark.parametrize(
    ("shares", "device", "split"),
    [((gpu(1, 20),), "CUDA1", ""), ((gpu(1, 20), gpu(0, 13)), "CUDA1,CUDA0", "20,13")],
)
def test_part_on_the_cpu(shares: tuple[DeviceShare, ...], device: str, split: str) -> None:
    """The layers that are offloaded are the model's last; of the others no weight may be copied to a GPU."""
    given = arguments(*shares, HOST.model_copy(update={"claim": 2 * GIB}))
    assert value(given, "-ngl") == str(sum(share.layers for share in shares))
    assert value(given, "--device") == device
    assert ("--tensor-split" in given) == bool(split)
    assert not split or value(given, "--tensor-split") == split
    assert given.count("--no-op-offload") == 1


def test_a_device_that_only_books_memory_is_not_named() -> None:
    given = arguments(gpu(0, 33), gpu(1, 0), HOST)
    assert value(given, "--device") == "CUDA0"
    assert "--tensor-split" not in given


def test_a_gpu_that_the_engine_has_no_name_for() -> None:
    nameless = gpu(0, 33).model_copy(update={"engine_name": ""})
    with pytest.raises(ValueError, match="device gpu0 of w has no engine_name"):
        arguments(nameless, HOST)


@pytest.mark.parametrize(
    ("tier", "options", "batch"),
    [
        (Tier.ONE_DEVICE, {}, "2048"),
        (Tier.ONE_WORKER, {}, "2048"),
        (Tier.SEVERAL_WORKERS, {}, "2048"),
        (Tier.PART_ON_CPU, {}, "512"),
        (Tier.PART_ON_CPU_SEVERAL_WORKERS, {}, "512"),
        (Tier.CPU_SEVERAL_WORKERS, {}, "512"),
        (Tier.CPU, {"batch": 4096, "micro_batch": 256}, "256"),
        (Tier.CPU, {"micro_batch": 32, "slots": 64}, "64"),  # llama.cpp aborts with fewer tokens than slots
    ],
)
def test_where_the_cpu_computes_a_batch_is_one_micro_batch(tier: Tier, options: dict[str, Any], batch: str) -> None:
    """Else the stall watch sees no progress for minutes, while a long prompt is being read."""
    placement = Placement(worker="w", shares=(HOST,), tier=tier, estimate=MemoryEstimate(context_length=8192, slots=4))
    spec = make_spec(options=EngineOptions(**options))
    given = main_server_arguments(spec, placement, model_path="/m.gguf", alias="llama", pooling=False)
    assert value(given, "-b") == batch


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


# --- groups over several workers ------------------------------------------------------------------------------


def lent(worker: str, device: str, layers: int, name: str = "") -> DeviceShare:
    """A GPU by its engine's name, or the CPU."""
    kind = DeviceKind.CUDA if name else DeviceKind.CPU
    return DeviceShare(worker=worker, device=device, kind=kind, engine_name=name, layers=layers, claim=1)


MIXED = (
    lent("w3", "gpu0", 9, "CUDA0"),
    gpu(1, 4),
    lent("w2", "gpu1", 8, "CUDA1"),
    lent("w3", "cpu", 2),
    lent("w2", "gpu0", 7, "CUDA0"),
    HOST,
    lent("w2", "cpu", 0),  # books RAM only
)


def grouped(*shares: DeviceShare) -> Placement:
    return Placement(worker="w1", shares=shares, estimate=MemoryEstimate(context_length=512, slots=1))


@pytest.mark.parametrize(
    ("shares", "peers", "names"),
    [
        ((gpu(0, 5), HOST), (), ("CUDA0",)),
        ((lent("w2", "cpu", 5), HOST), ("w2",), ("RPC0",)),
        ((gpu(0, 5), lent("w2", "gpu0", 5, "CUDA0")), ("w2",), ("CUDA0", "RPC0")),
        (MIXED, ("w3", "w2"), ("RPC0", "CUDA1", "RPC2", "RPC1", "RPC3")),
        ((lent("w1", "gpu0", 5, "CUDA0"),), (), ("CUDA0",)),  # named though it is the main server's
    ],
)
def test_what_the_main_server_calls_each_device(
    shares: tuple[DeviceShare, ...], peers: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert rpc_peers(grouped(*shares)) == peers
    assert engine_devices(grouped(*shares)) == names


def test_the_whole_line_of_a_group() -> None:
    given = main_server_arguments(
        make_spec(), grouped(*MIXED), model_path="/m", alias="a", pooling=False, rpc=["127.0.0.1:3", "127.0.0.1:2"]
    )
    start = given.index("--rpc")
    assert given[start : start + 9] == (
        *("--rpc", "127.0.0.1:3,127.0.0.1:2"),
        *("-ngl", "30", "--device", "RPC0,CUDA1,RPC2,RPC1,RPC3", "--tensor-split", "9,4,8,2,7"),
        "--no-op-offload",
    )
    assert value(given, "--cache-ram") == "0"


@pytest.mark.parametrize("rpc", [(), ("127.0.0.1:1",), ("127.0.0.1:1",) * 3])
def test_as_many_rpc_servers_as_peers(rpc: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{len(rpc)} RPC servers for a placement whose peers are w3, w2"):
        main_server_arguments(make_spec(), grouped(*MIXED), model_path="/m", alias="a", pooling=False, rpc=rpc)


@pytest.mark.parametrize(
    ("worker", "threads", "expected"),
    [
        ("w3", None, ("--host", "127.0.0.1", "--port", "5", "--device", "CUDA0,CPU")),
        ("w2", 3, ("--host", "127.0.0.1", "--port", "5", "--device", "CUDA1,CUDA0", "--threads", "3")),
    ],
)
def test_the_line_of_an_rpc_server(worker: str, threads: int | None, expected: tuple[str, ...]) -> None:
    assert rpc_server_arguments(grouped(*MIXED), worker, port=5, threads=threads) == expected


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((gpu(0, 5),), "w2 lends no device to the main server on w1"),
        ((lent("w2", "gpu0", 5, "CUDA0").model_copy(update={"engine_name": ""}),), "gpu0 of w2 has no engine_name"),
    ],
)
def test_an_rpc_server_that_cannot_be(shares: tuple[DeviceShare, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rpc_server_arguments(grouped(*shares), "w2", port=5)


@given(st.lists(st.tuples(st.sampled_from(["w1", "w2", "w3", "w4"]), st.integers(0, 3)), max_size=15))
def test_each_device_has_one_name_and_each_server_its_own_in_a_row(devices: list[tuple[str, int]]) -> None:
    shares = tuple(lent(worker, f"gpu{n}", layers, f"CUDA{n}") for n, (worker, layers) in enumerate(devices))
    placement = grouped(*shares)
    names = dict(zip((share.device for share in placement.offloaded), engine_devices(placement), strict=True))
    counted = [
        names[share.device]
        for peer in rpc_peers(placement)
        for share in placement.offloaded
        if placement.worker_of(share) == peer
    ]
    assert counted == [f"RPC{number}" for number in range(len(counted))]


def test_another_listening_host() -> None:
    placement = Placement(worker="w", shares=(HOST,), estimate=MemoryEstimate(context_length=512, slots=1))
    given = main_server_arguments(make_spec(), placement, model_path="/m", alias="a", pooling=False, host="10.0.0.7")
    assert value(given, "--host") == "10.0.0.7"
