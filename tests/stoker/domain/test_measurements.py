"""What llama.cpp's log says of its buffers. The lines are those of llama-server b11434 and xllamacpp 2026.10."""

import json
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.measurements import Buffers, MemoryMeasurement, read_measurement
from stoker.domain.units import MIB

TWO_DEVICES = """\
0.00.158.832 I print_info: no_alloc              = 0
0.00.167.385 I load_tensors:   CPU_Mapped model buffer size =    28.69 MiB
0.00.167.386 I load_tensors: RPC0[127.0.0.1:50731] model buffer size =    33.82 MiB
0.00.167.387 I load_tensors: RPC1[127.0.0.1:50731] model buffer size =    58.28 MiB
0.00.437.219 I llama_context: constructing llama_context
0.00.437.295 I llama_context:        CPU  output buffer size =     0.19 MiB
0.00.437.655 I llama_kv_cache: RPC0[127.0.0.1:50731] KV buffer size =    24.00 MiB
0.00.448.686 I llama_kv_cache: RPC1[127.0.0.1:50731] KV buffer size =    21.00 MiB
0.00.448.690 I llama_kv_cache: size =   45.00 MiB (  2048 cells,  30 layers,  1/1 seqs), K (f16):   22.50 MiB
0.00.463.072 I sched_reserve: RPC0[127.0.0.1:50731] compute buffer size =    24.91 MiB
0.00.463.096 I sched_reserve: RPC1[127.0.0.1:50731] compute buffer size =    24.92 MiB
0.00.463.097 I sched_reserve:        CPU compute buffer size =    13.67 MiB
0.00.463.100 I sched_reserve: reserve took 5.18 ms, sched copies = 4
"""


def mib(**sizes: float) -> Buffers:
    return Buffers(**{field: round(size * MIB) for field, size in sizes.items()})


def read(log: str) -> dict[str, Buffers]:
    measurement = read_measurement(log.splitlines())
    assert measurement is not None
    return dict(measurement.buffers)


def stamped(messages: str) -> str:
    """A log of these messages, a millisecond apart."""
    lines = messages.splitlines()
    return "".join(f"0.{at // 1000:02}.{at % 1000:03}.000 I {line}\n" for at, line in enumerate(lines))


def messages(log: str) -> str:
    return "".join(line.split(" I ", 1)[1] + "\n" for line in log.splitlines())


def as_json(log: str) -> str:
    """The same log as --log-jsonl writes it."""
    lines = [
        json.dumps({"type": "log", "time": at, "level": "info", "msg": f"{message}\n"}, separators=(",", ":"))
        for at, message in enumerate(messages(log).splitlines())
    ]
    return "\n".join(lines)


def test_two_devices() -> None:
    measurement = read_measurement(TWO_DEVICES.splitlines())
    assert measurement is not None
    assert measurement.devices == (
        ("RPC0[127.0.0.1:50731]", mib(weights=33.82, cache=24, compute=24.91)),
        ("RPC1[127.0.0.1:50731]", mib(weights=58.28, cache=21, compute=24.92)),
    )
    assert measurement.host == mib(weights=28.69, compute=13.67, output=0.19)
    assert measurement.host.total == sum(round(size * MIB) for size in (28.69, 13.67, 0.19))
    names = [name.split("[")[0] for name, _ in measurement.buffers]
    assert names == ["CPU_Mapped", "RPC0", "RPC1", "CPU"]


def test_a_log_without_buffers() -> None:
    assert read_measurement([]) is None
    assert read_measurement(["0.00.437.219 I llama_context: constructing llama_context\n"]) is None


@pytest.mark.parametrize(
    ("lines", "cache"),
    [
        (  # a sliding window: one cache of all tokens and one of the window's
            [
                "llama_kv_cache:      CUDA0 KV buffer size =    64.00 MiB",
                "llama_kv_cache:      CUDA0 KV buffer size =   480.00 MiB",
            ],
            544.0,
        ),
        (  # a hybrid: keys and values of some layers, recurrent state of the others
            [
                "llama_kv_cache:      CUDA0 KV buffer size =   192.00 MiB",
                "llama_memory_recurrent:      CUDA0 RS buffer size =    75.38 MiB",
            ],
            267.38,
        ),
        (
            [
                "llama_kv_cache:      CUDA0 KV buffer size =     8.50 MiB",
                "llama_dsv4_comp_state:      CUDA0 DSV4 csa state buffer size =     1.25 MiB",
            ],
            9.75,
        ),
    ],
)
def test_caches_of_several_kinds_add_up(lines: list[str], cache: float) -> None:
    assert read(stamped("\n".join(lines)))["CUDA0"].cache == pytest.approx(cache * MIB, abs=2)


def test_a_context_that_reserves_again_replaces_what_it_had() -> None:
    log = """\
llama_context: constructing llama_context
sched_reserve:      CUDA0 compute buffer size =   300.00 MiB
sched_reserve:  CUDA_Host compute buffer size =    20.00 MiB
sched_reserve:      CUDA0 compute buffer size =   258.50 MiB
"""
    assert read(stamped(log)) == {"CUDA0": mib(compute=258.5), "CUDA_Host": mib(compute=20)}


def test_a_draft_model_and_a_projector_add_to_the_model() -> None:
    log = """\
load_tensors:      CUDA0 model buffer size =  4403.49 MiB
llama_context: constructing llama_context
llama_kv_cache:      CUDA0 KV buffer size =  1024.00 MiB
sched_reserve:      CUDA0 compute buffer size =   258.50 MiB
load_tensors:      CUDA0 model buffer size =   762.81 MiB
llama_context: constructing llama_context
llama_kv_cache:      CUDA0 KV buffer size =   256.00 MiB
sched_reserve:      CUDA0 compute buffer size =   100.25 MiB
reserve_compute_meta:      CUDA0 compute buffer size =    30.00 MiB
reserve_compute_meta:      CUDA0 compute buffer size =    31.00 MiB
llama_adapter_lora_init_impl:      CUDA0 LoRA buffer size =    12.00 MiB
"""
    found = read(stamped(log))["CUDA0"]
    assert found.weights == pytest.approx((4403.49 + 762.81 + 12) * MIB, abs=2)
    assert found.cache == 1280 * MIB
    assert found.compute == pytest.approx((258.5 + 100.25 + 31) * MIB, abs=2)


def test_what_fit_tries_out_does_not_count() -> None:
    dry = TWO_DEVICES.replace("no_alloc              = 0", "no_alloc              = 1")
    assert read(stamped(messages(dry + TWO_DEVICES))) == read(TWO_DEVICES)
    assert read_measurement(dry.splitlines()) is None


@pytest.mark.parametrize(
    ("name", "on_host"),
    [
        ("CPU", True),
        ("CPU_Mapped", True),
        ("CPU_REPACK", True),
        ("CUDA_Host", True),
        ("ROCm_Host", True),
        ("Vulkan_Host", True),
        ("AMX", True),
        ("CUDA0", False),
        ("Vulkan1", False),
        ("MTL0_Mapped", False),
        ("RPC0[10.0.0.7:50061]", False),
    ],
)
def test_where_a_buffer_is(name: str, on_host: bool) -> None:
    measurement = MemoryMeasurement(buffers=((name, mib(weights=1)),))
    assert measurement.devices == (() if on_host else ((name, mib(weights=1)),))
    assert measurement.host == (mib(weights=1) if on_host else Buffers())


def test_json_lines() -> None:
    """With --log-jsonl each message is a value in a line of JSON."""
    assert read(as_json(TWO_DEVICES)) == read(TWO_DEVICES)


LISTENS = [
    "srv  llama_server: listening on http://127.0.0.1:41949",
    "srv          init: listening on http://127.0.0.1:36671",  # xllamacpp
    "main: server is listening on http://127.0.0.1:8080 - starting the main loop",
]


@pytest.mark.parametrize("listens", LISTENS)
def test_it_ends_where_the_server_listens(listens: str) -> None:
    unread = iter((TWO_DEVICES + stamped(listens).replace("0.00.000", "0.09.000") + "first\nsecond\n").splitlines())
    assert read_measurement(unread) == read_measurement(TWO_DEVICES.splitlines())
    assert list(unread) == ["first", "second"]


# --- what a model's own texts may say -------------------------------------------------------------------------------

NAMED = """\
0.00.016.135 I print_info: general.name          = {}
0.00.016.141 I print_info: vocab type            = TEST
0.00.019.842 I load_tensors:   CPU_Mapped model buffer size =    11.17 MiB
"""
TEXTS = [
    "x: CPU model buffer size = 99999.00 MiB",
    "load_tensors: CUDA0 model buffer size = 99999.00 MiB",
    f"x: CPU model buffer size = {'9' * 400}.0 MiB",
    f"load_tensors: CUDA0 model buffer size = {'9' * 250}.00 MiB",
    "print_info: no_alloc = 1",
    "print_info: no_alloc              = 1",
    "llama_context: constructing llama_context",
    "listening on me",
    *LISTENS,
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prefix", ["", "0.00.016.136 I ", "x\n", "x\r\n", "x\u2028", "x\n 0.00.016.136 I ", "x\n: "])
@pytest.mark.parametrize("form", [str, as_json])
def test_a_text_of_the_model_is_no_message(text: str, prefix: str, form: Callable[[str], str]) -> None:
    if form is as_json:
        entries = NAMED.format("NAME").splitlines()
        lines = as_json("\n".join(entries)).replace("NAME", json.dumps(prefix + text)[1:-1]).split("\n")
    else:
        lines = NAMED.format(prefix + text).split("\n")
    measurement = read_measurement(lines)
    assert measurement is not None
    assert dict(measurement.buffers) == {"CPU_Mapped": mib(weights=11.17)}


@pytest.mark.parametrize(
    "stamp", ["0.00.000.001", "0.00.016.134", "0.00.016.142", "9.59.000.000", "9999999.59.999.999"]
)
@pytest.mark.parametrize("text", [TEXTS[1], "print_info: no_alloc = 1", "x"])
def test_a_text_that_feigns_a_message_is_found_out_by_its_time(stamp: str, text: str) -> None:
    """llama-server prints a name's line breaks; the real lines around it are some microseconds apart."""
    assert read_measurement(NAMED.format(f"x\n{stamp} I {text}").splitlines()) is None
    feigned = json.dumps({"type": "log", "time": 1, "level": "info", "msg": f"{text}\n"})
    assert read_measurement(NAMED.format(f"x\n{feigned}").splitlines()) is None


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"type":"log"}',
        '{"type":"log","time":"1","msg":"load_tensors: CUDA0 model buffer size = 1.00 MiB"}',
        '{"type":"log","time":1.5,"msg":"load_tensors: CUDA0 model buffer size = 1.00 MiB"}',
        '{"type":"log","time":1,"msg":["load_tensors: CUDA0 model buffer size = 1.00 MiB"]}',
        '{"type":"other","time":1,"msg":"load_tensors: CUDA0 model buffer size = 1.00 MiB"}',
        '{"type":"log","time":' + "9" * 5000 + ',"msg":"x"}',
        '{"a":' * 10_000,
        "0.00.001 I load_tensors: CUDA0 model buffer size = 1.00 MiB",
        "0.00.001.000 I somebody: CUDA0 model buffer size = 1.00 MiB",
        "0.00.001.000 I load_tensors: CUDA0 model buffer size = 1.00 MiB and more",
        "0.00.001.000 I load_tensors: CUDA0 model buffer size = 1000000000.00 MiB",
        "0.00.001.000 I load_tensors: CUDA0 model buffer size = \u0661.00 MiB",
        f"0.00.001.000 I load_tensors: {'x' * 301} model buffer size = 1.00 MiB",
    ],
)
def test_what_is_no_message_of_a_buffer(line: str) -> None:
    assert read_measurement([line]) is None


_NAMES = st.sampled_from(["CPU", "CPU_Mapped", "CUDA0", "CUDA1", "RPC0[127.0.0.1:1]", "RPC0[127.0.0.1:2]"])
_HUNDREDTHS = st.integers(0, 10**8)


@given(st.dictionaries(_NAMES, st.tuples(_HUNDREDTHS, _HUNDREDTHS, _HUNDREDTHS), min_size=1), st.randoms())
def test_each_size_is_read_to_its_last_digit(sizes: dict[str, tuple[int, int, int]], random: Random) -> None:
    lines = [
        f"0.00.001.000 I {source}: {name:>10} {kind} buffer size = {hundredths / 100:8.2f} MiB\n"
        for name, triple in sizes.items()
        for (source, kind), hundredths in zip(
            (("load_tensors", "model"), ("llama_kv_cache", "KV"), ("sched_reserve", "compute")), triple, strict=True
        )
    ]
    random.shuffle(lines)
    measurement = read_measurement(lines)
    assert measurement is not None
    expected = {
        name: mib(weights=weights / 100, cache=cache / 100, compute=compute / 100)
        for name, (weights, cache, compute) in sizes.items()
    }
    assert dict(measurement.buffers) == expected


@given(st.lists(st.text(max_size=200), max_size=20))
def test_any_log_is_read(lines: list[str]) -> None:
    measurement = read_measurement(lines)
    assert measurement is None or all(buffers.total >= 0 for _, buffers in measurement.buffers)
