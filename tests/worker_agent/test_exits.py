"""Causes of exits. The log lines are recorded from llama.cpp (xllamacpp 2026.10.11549) unless marked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_agent.exits import explain_end, explain_exit
from worker_agent.records import ProcessExit

STARTED = [
    "2026-11-20T23:53:19+00:00 python -P -m worker_agent.bundled -m /m.gguf",
    "0.00.000.313 I srv          init: initializing ...",
    "0.00.002.236 W srv          init: security: no API key is set and CORS allows all origins",
]
FAILED = "error: the engine did not start: Failed to init server, please check the input params."

LASTING = [
    "gguf_init_from_file: failed to open GGUF file '/m.gguf' (No such file or directory)",
    "gguf_init_from_reader: invalid magic characters: 'hell', expected 'GGUF'",
    "gguf_init_from_reader: failed to read key-value pairs",
    "llama_model_load: error loading model: tensor 'blk.16.ffn_down.weight' data is not within the file bounds, "
    "model is corrupted or incomplete",
    "llama_model_load: error loading model: unknown model architecture: 'nope'",  # after llama.cpp's source
    "llama_init_from_model: K cache type q8_0 with block size 32 does not divide n_embd_head_k=16",
]
PASSING = [
    "srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 43583",
    "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 1099511627776",  # after the source
]


@pytest.mark.parametrize("message", LASTING)
def test_what_another_start_cannot_help(message: str) -> None:
    lines = [*STARTED, f"0.00.004.040 E {message}", "0.00.004.729 E cmn  common_init_: failed to load model", FAILED]
    end = explain_exit(lines, 1, was_ready=False)
    assert (end.cause, end.retryable, end.code) == (message, False, 1)


@pytest.mark.parametrize("message", PASSING)
def test_what_another_start_may_help(message: str) -> None:
    end = explain_exit([*STARTED, f"0.00.002.184 E {message}", FAILED], 1, was_ready=False)
    assert (end.cause, end.retryable) == (message, True)


@pytest.mark.parametrize("line", ["error: invalid argument: --nope", 'error while handling argument "-c": stoi'])
def test_options_that_the_engine_refuses(line: str) -> None:
    end = explain_exit([STARTED[0], line], 1, was_ready=False)
    assert (end.cause, end.retryable) == (line, False)


ABORT = "/src/ggml/src/ggml-rpc/ggml-rpc.cpp:569: Remote RPC server crashed or returned malformed response"
REQUEST_ERROR = "9.59.335.203 E srv    send_error: task id = 7, error: the request exceeds the available context size"


@pytest.mark.parametrize(
    ("lines", "code", "was_ready", "cause", "retryable"),
    [
        ([*STARTED, ABORT], -6, False, f"{ABORT} (aborted itself (SIGABRT))", True),
        ([REQUEST_ERROR, ABORT, "trailing"], -6, True, f"{ABORT} (aborted itself (SIGABRT))", True),
        (
            [REQUEST_ERROR],
            -9,
            True,
            "killed from outside (SIGKILL): by the kernel for want of memory, or by hand",
            True,
        ),
        ([REQUEST_ERROR], -11, True, "crashed (SIGSEGV)", True),
        (STARTED, -15, False, "ended from outside (SIGTERM)", True),
        (STARTED, 0, False, "ended by itself with exit code 0", True),
        (STARTED, -99, False, "ended by signal 99", True),
        ([], 1, False, "ended by itself with exit code 1; its log is empty", True),
        (
            ["Traceback (most recent call last):", "ModuleNotFoundError: No module named 'xllamacpp'"],
            1,
            False,
            "ended by itself with exit code 1; its log ends: ModuleNotFoundError: No module named 'xllamacpp'",
            True,
        ),
        (["all slots are idle"], None, True, "ended while no agent watched it; its log ends: all slots are idle", True),
        ([*STARTED, f"0.00.004.040 E {LASTING[0]}"], None, False, LASTING[0], False),
    ],
)
def test_causes(lines: list[str], code: int | None, was_ready: bool, cause: str, retryable: bool) -> None:
    end = explain_exit(lines, code, was_ready=was_ready)
    assert (end.cause, end.retryable, end.code) == (cause, retryable, code)


def test_a_build_for_another_processor_is_not_worth_another_start() -> None:
    end = explain_exit(STARTED, -4, was_ready=False)
    assert "SIGILL" in end.cause
    assert not end.retryable


def test_what_we_stopped_is_said_so() -> None:
    end = explain_exit([*STARTED, "0.00.004.040 E anything"], -9, was_ready=False, stopped=True)
    assert (end.cause, end.code) == ("stopped by Stoker", -9)


@given(st.lists(st.text()), st.none() | st.integers(-70, 255), st.booleans())
def test_every_end_has_a_short_cause(lines: list[str], code: int | None, was_ready: bool) -> None:
    end = explain_exit(lines, code, was_ready=was_ready)
    assert 0 < len(end.cause) <= 400


@pytest.mark.parametrize(
    ("lines", "code", "stopped", "cause", "retryable"),
    [
        (["banner", "Failed to create server socket", ""], 0, False,
         "ended by itself with exit code 0: Failed to create server socket", True),
        ([], 1, False, "ended by itself with exit code 1", True),
        (["the link to w2 was lost: reset"], None, False,
         "ended while no agent watched it: the link to w2 was lost: reset", True),
        (["banner"], -9, False, "killed from outside (SIGKILL): by the kernel for want of memory, or by hand", True),
        (["banner"], -4, False,
         "crashed (SIGILL): this build of the engine uses instructions that this processor lacks", False),
        (["banner"], -15, True, "stopped by Stoker", True),
        (["x" * 1000], 1, False, f"ended by itself with exit code 1: {'x' * 1000}"[:400], True),
    ],
)  # fmt: skip
def test_of_other_programs_the_last_line_tells(
    lines: list[str], code: int | None, stopped: bool, cause: str, retryable: bool
) -> None:
    assert explain_end(lines, code, stopped=stopped) == ProcessExit(code=code, cause=cause, retryable=retryable)
