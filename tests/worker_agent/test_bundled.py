"""The launcher, as a program: it must behave as llama-server does."""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from worker_agent.bundled import OptionError, build_params
from worker_agent.engines import BundledEngine
from worker_agent.pids import listening_port

OPTIONS = ["-c", "512", "-np", "1", "-t", "1", "-fit", "off", "--host", "127.0.0.1", "--port", "0"]
KEY = {"Authorization": "Bearer a-key"}


@contextmanager
def running(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Runs the launcher; gives the process and its log."""
    log_file = folder / "log"
    environment = os.environ | {"LLAMA_API_KEY": "a-key,a-key"}
    with log_file.open("ab") as output:
        process = subprocess.Popen(
            BundledEngine().main_command(options),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        yield process, log_file
    finally:
        process.kill()
        process.wait(30)


def until_port(process: subprocess.Popen[bytes]) -> int:
    """The port, as soon as the process listens."""
    while not (port := listening_port(process.pid)):
        assert process.poll() is None, "it ended before it listened"
        time.sleep(0.005)
    return port


def until_ready(process: subprocess.Popen[bytes]) -> tuple[int, list[int]]:
    """The port, and the answers of /health on the way to 200, each once."""
    port = until_port(process)
    seen: list[int] = []
    while 200 not in seen:
        assert process.poll() is None, "it ended before it was ready"
        status = httpx.get(f"http://127.0.0.1:{port}/health", timeout=60, trust_env=False).status_code
        if status not in seen:
            seen.append(status)
    return port, seen


def test_it_answers_503_while_loading_then_serves_until_sigterm(smollm2: Path, tmp_path: Path) -> None:
    with running(tmp_path, "-m", str(smollm2), *OPTIONS, "--metrics", "-a", "smol") as (process, log_file):
        port, seen = until_ready(process)
        assert seen == [503, 200]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            assert client.get("/metrics").status_code == 401
            assert "llamacpp:requests_processing 0" in client.get("/metrics", headers=KEY).text
            assert client.get("/v1/models", headers=KEY).json()["data"][0]["id"] == "smol"
            assert client.get("/slots", headers=KEY).json()[0]["n_ctx"] == 512
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
        log = log_file.read_text()
        assert re.search(rf"^[0-9.]+ I srv .* listening on http://127\.0\.0\.1:{port}$", log, re.MULTILINE)
        assert "a-key" not in log


def test_sigterm_cuts_an_answer_in_progress(tiny_model: Path, tmp_path: Path) -> None:
    with running(tmp_path, "-m", str(tiny_model), *OPTIONS) as (process, _):
        port, _ = until_ready(process)
        body = {"prompt": "a", "n_predict": 100_000, "ignore_eos": True, "stream": True}
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=KEY, trust_env=False) as client,
            client.stream("POST", "/completion", json=body) as answer,
        ):
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(15) == 0  # xllamacpp's own way out waits 30 s for the stream at times


def test_sigterm_ends_it_while_it_loads(smollm2: Path, tmp_path: Path) -> None:
    with running(tmp_path, "-m", str(smollm2), *OPTIONS) as (process, _):
        until_port(process)  # it listens before it loads
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


def test_embeddings_and_reranking(tiny_model: Path, tmp_path: Path) -> None:
    with running(tmp_path, "-m", str(tiny_model), *OPTIONS, "--embeddings", "--pooling", "mean") as (process, _):
        port, _ = until_ready(process)
        url = f"http://127.0.0.1:{port}/v1/embeddings"
        answer = httpx.post(url, json={"input": ["a", "b"]}, headers=KEY, timeout=60, trust_env=False)
        assert [len(one["embedding"]) for one in answer.json()["data"]] == [64, 64]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--nope"], "error: invalid argument: --nope"),
        (["-m", "x", "stray"], "error: invalid argument: stray"),
        (["-c=512"], "error: invalid argument: -c=512"),
        (["-c"], 'error while handling argument "-c": expected value for argument'),
        (["-c", "many"], "error while handling argument \"-c\": 'many' is no whole number"),
        (["-c", "99999999999"], 'error while handling argument "-c": value too large to convert to int32_t'),
        (["-fa", "maybe"], "error while handling argument \"-fa\": 'maybe' is none of on, off, auto"),
        (
            ["-ctk", "q3"],
            'error while handling argument "-ctk": '
            "'q3' is none of f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl",
        ),
        (["--device", "CUDA0"], 'error while handling argument "--device": invalid device: CUDA0'),
        (["-c", "512"], "error: no model given: -m FILE"),
    ],
)
def test_a_command_line_that_llama_server_would_refuse(options: list[str], line: str) -> None:
    with pytest.raises(OptionError) as raised:
        build_params(options, {})
    assert str(raised.value) == line


def test_a_key_on_the_command_line_is_refused_without_repeating_it() -> None:
    with pytest.raises(OptionError, match="LLAMA_API_KEY") as raised:
        build_params(["-m", "x", "--api-key", "hunter2"], {})
    assert "hunter2" not in str(raised.value)


def test_a_taken_port_is_said_and_ends_it(tiny_model: Path, tmp_path: Path) -> None:
    with running(tmp_path, "-m", str(tiny_model), *OPTIONS) as (first, _):
        port = until_port(first)
        again = ["-m", str(tiny_model), *OPTIONS[:-1], str(port)]
        with running(tmp_path, *again) as (second, log_file):
            assert second.wait(30) == 1
            assert f"couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {port}" in log_file.read_text()


def test_options_reach_the_engine() -> None:
    options = shlex.split(
        "-m /m.gguf -a x,y -c 4096 -np 2 -t 3 -tb 5 -b 256 -ub 128 -ngl all -ctk q8_0 -ctv q4_0 -fa on -cram 7 -ctxcp 1"
        " -fit off --pooling mean --host 127.0.0.1,::1 --port 0 --threads-http 9 -to 60 -lv 4 --metrics --no-slots"
        " --embeddings -kvu --no-webui --no-repack --no-op-offload --no-warmup --offline"
    )
    params = build_params(options, {"LLAMA_API_KEY": "one,two"})
    expected = {
        "n_ctx": 4096,
        "n_parallel": 2,
        "n_batch": 256,
        "n_ubatch": 128,
        "n_gpu_layers": -2,
        "cache_type_k": 8,  # ggml_type: GGML_TYPE_Q8_0
        "cache_type_v": 2,  # GGML_TYPE_Q4_0
        "flash_attn_type": 1,
        "cache_ram_mib": 7,
        "n_ctx_checkpoints": 1,
        "fit_params": False,
        "pooling_type": 1,
        "hostnames": ["127.0.0.1", "::1"],
        "port": 0,
        "n_threads_http": 9,
        "timeout_read": 60,
        "timeout_write": 60,
        "verbosity": 4,
        "endpoint_metrics": True,
        "endpoint_slots": False,
        "embedding": True,
        "kv_unified": True,
        "ui": False,
        "no_extra_bufts": True,
        "no_op_offload": True,
        "warmup": False,
        "offline": True,
        "api_keys": ["one", "two"],
        "model_alias": {"x", "y"},
    }
    assert {name: getattr(params, name) for name in expected} == expected
    assert params.model.path == "/m.gguf"
    assert (params.cpuparams.n_threads, params.cpuparams_batch.n_threads) == (3, 5)


def test_the_cpu_alone_may_be_asked_for() -> None:
    assert build_params(["-m", "x", "-ngl", "all", "--device", "none"], {}).n_gpu_layers == 0
