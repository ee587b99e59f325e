"""llama.cpp's own HTTP server out of the PyPI wheel xllamacpp, behind llama-server's command line.

Run as `python -m worker_agent.bundled <llama-server options>`, it does what llama-server does: 503 while the model
loads, then 200; `--port 0` takes a free port and logs `listening on http://HOST:PORT`; SIGTERM ends it at once, with
0 once it serves; whatever keeps it from starting is in the log, and it exits with 1. The options are the part of
llama-server's that Stoker uses, spelt the same. Imports nothing of ours: it starts in 0.1 s.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import xllamacpp

Apply = Callable[[Any, str], None]


class OptionError(Exception):
    """A command line that llama-server would refuse; the message is worded as llama-server's."""


def _choice(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return choices[text]

    return convert


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def _to(attribute: str, convert: Callable[[str], Any] = _number) -> Apply:
    *path, last = attribute.split(".")

    def apply(params: Any, text: str) -> None:
        target = params
        for name in path:
            target = getattr(target, name)
        setattr(target, last, convert(text))

    return apply


def _each(*steps: Apply) -> Apply:
    def apply(params: Any, text: str) -> None:
        for step in steps:
            step(params, text)

    return apply


def _device(params: Any, text: str) -> None:
    """`none` keeps everything on the CPU. Names are checked, not chosen among: this build knows one GPU at most."""
    if text == "none":
        params.n_gpu_layers = 0
        return
    known = [device["name"] for device in xllamacpp.get_device_info()]
    for name in text.split(","):
        if name not in known or name == "CPU":
            raise ValueError(f"invalid device: {name}")


def _layers(text: str) -> int:
    return {"auto": -1, "all": -2}.get(text) or _number(text)


def _refuse_key(_params: Any, _text: str) -> None:
    raise ValueError("every user of this host can read a command line: set LLAMA_API_KEY instead")


_CACHE_TYPE = _choice(
    {
        name: xllamacpp.ggml_type[f"GGML_TYPE_{name.upper()}"]
        for name in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
    }
)
_FLASH = xllamacpp.llama_flash_attn_type
_FLASH_ATTENTION = _choice(
    {"on": _FLASH.LLAMA_FLASH_ATTN_TYPE_ENABLED, "off": _FLASH.LLAMA_FLASH_ATTN_TYPE_DISABLED,
     "auto": _FLASH.LLAMA_FLASH_ATTN_TYPE_AUTO}
)  # fmt: skip
_POOLING = _choice(
    {name: xllamacpp.llama_pooling_type[f"LLAMA_POOLING_TYPE_{name.upper()}"]
     for name in ("none", "mean", "cls", "last", "rank")}
)  # fmt: skip
_ON_OFF = _choice({"on": True, "off": False})

_WITH_VALUE: dict[tuple[str, ...], Apply] = {
    ("-m", "--model"): _to("model.path", str),
    ("-a", "--alias"): _to("model_alias", lambda text: set(text.split(","))),
    ("-c", "--ctx-size"): _to("n_ctx"),
    ("-np", "--parallel"): _to("n_parallel"),
    ("-t", "--threads"): _to("cpuparams.n_threads"),
    ("-tb", "--threads-batch"): _to("cpuparams_batch.n_threads"),
    ("-b", "--batch-size"): _to("n_batch"),
    ("-ub", "--ubatch-size"): _to("n_ubatch"),
    ("-ngl", "--gpu-layers", "--n-gpu-layers"): _to("n_gpu_layers", _layers),
    ("-ctk", "--cache-type-k"): _to("cache_type_k", _CACHE_TYPE),
    ("-ctv", "--cache-type-v"): _to("cache_type_v", _CACHE_TYPE),
    ("-fa", "--flash-attn"): _to("flash_attn_type", _FLASH_ATTENTION),
    ("-cram", "--cache-ram"): _to("cache_ram_mib"),
    ("-ctxcp", "--ctx-checkpoints"): _to("n_ctx_checkpoints"),
    ("-fit", "--fit"): _to("fit_params", _ON_OFF),
    ("-mm", "--mmproj"): _to("mmproj.path", str),
    ("-dev", "--device"): _device,
    ("--pooling",): _to("pooling_type", _POOLING),
    ("--kv-unified-per-slot",): _to("kv_unified_per_slot"),
    ("--sleep-idle-seconds",): _to("sleep_idle_seconds"),
    ("--host",): _to("hostnames", lambda text: text.split(",")),
    ("--port",): _to("port"),
    ("--threads-http",): _to("n_threads_http"),
    ("-to", "--timeout"): _each(_to("timeout_read"), _to("timeout_write")),
    ("--sse-ping-interval",): _to("sse_ping_interval"),
    ("--api-key",): _refuse_key,
    ("-lv", "--verbosity", "--log-verbosity"): _to("verbosity"),
}
_SWITCHES: dict[tuple[str, ...], dict[str, Any]] = {
    ("--metrics",): {"endpoint_metrics": True},
    ("--slots",): {"endpoint_slots": True},
    ("--no-slots",): {"endpoint_slots": False},
    ("--embeddings", "--embedding"): {"embedding": True},
    ("--reranking", "--rerank"): {
        "embedding": True,
        "pooling_type": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK,
    },
    ("-kvu", "--kv-unified"): {"kv_unified": True},
    ("-no-kvu", "--no-kv-unified"): {"kv_unified": False},
    ("--no-ui", "--no-webui"): {"ui": False},
    ("-nr", "--no-repack"): {"no_extra_bufts": True},
    ("--op-offload",): {"no_op_offload": False},
    ("--no-op-offload",): {"no_op_offload": True},
    ("--no-warmup",): {"warmup": False},
    ("--jinja",): {"use_jinja": True},
    ("--no-jinja",): {"use_jinja": False},
    ("--offline",): {"offline": True},
}


def _switch(settings: Mapping[str, Any]) -> Callable[[Any], None]:
    def apply(params: Any) -> None:
        for attribute, value in settings.items():
            setattr(params, attribute, value)

    return apply


def build_params(arguments: list[str], environment: Mapping[str, str]) -> Any:
    """llama.cpp's parameters (xllamacpp.CommonParams) for llama-server's `arguments`.

    The API key comes from LLAMA_API_KEY (several: comma-separated). Raises OptionError.
    """
    with_value = {name: apply for names, apply in _WITH_VALUE.items() for name in names}
    switches = {name: _switch(settings) for names, settings in _SWITCHES.items() for name in names}
    params = xllamacpp.CommonParams()
    params.port = 8080  # llama-server's default
    params.api_keys = [key for key in environment.get("LLAMA_API_KEY", "").split(",") if key]
    rest: Iterator[str] = iter(arguments)
    for name in rest:
        if name in switches:
            switches[name](params)
        elif name in with_value:
            value = next(rest, None)
            if value is None:
                raise OptionError(f'error while handling argument "{name}": expected value for argument')
            try:
                with_value[name](params, value)
            except (ValueError, OverflowError) as error:
                raise OptionError(f'error while handling argument "{name}": {error}') from error
        else:
            raise OptionError(f"error: invalid argument: {name}")
    if not params.model.path:
        raise OptionError("error: no model given: -m FILE")
    return params


def serve(params: Any) -> NoReturn:
    """Loads the model, serves until SIGTERM or SIGINT, and ends the process."""
    try:
        # Loading holds the interpreter's lock, so no Python handler could run: until the server is up, signals keep
        # their default action and end the process by themselves (exit -15), as they do with llama-server.
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(f"error: the engine did not start: {error}")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)  # a signal may arrive on any of the server's threads; this wakes the main one
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    received = signal.Signals(os.read(reader, 1)[0])
    sys.stderr.write(f"{received.name}: {server.listening_address} ends\n")
    # Not through the server's destructor: that waits for a stream in progress to notice, up to its ping
    # interval (30 s were seen). The kernel closes the sockets at once.
    os._exit(0)


def main() -> NoReturn:
    """The program."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        params = build_params(sys.argv[1:], os.environ)
    except OptionError as error:
        sys.exit(str(error))
    serve(params)


if __name__ == "__main__":
    main()
