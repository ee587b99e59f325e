"""Why an engine ended, read from its log and its exit code: llama.cpp exits with 1 for nearly everything. Pure."""

import re
import signal
from collections.abc import Sequence

from worker_agent.records import ProcessExit

# llama.cpp's text log: minutes.seconds.milliseconds.microseconds since the start, the level, the component's text.
_ERROR = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} E (?P<message>.+)$")
_USAGE = re.compile(r"^(?P<message>error: .+|error while handling argument .+)$")
_ABORT = re.compile(r"^(?P<message>\S+\.(?:c|cpp|cu|cuh|h|hpp|m|mm|metal):\d+: .+)$")

# What another start of the same files with the same options would run into again.
_LASTING = re.compile(
    r"failed to open GGUF file"
    r"|invalid magic|failed to read header|failed to read key-value pairs|failed to read tensor"
    r"|bad GGUF version|is not within the file bounds|corrupted or incomplete"
    r"|illegal split file idx|failed to load GGUF split|invalid split file name|invalid split"
    r"|unknown model architecture|missing tensor|wrong shape|unknown pre-tokenizer|failed to load multimodal model"
    r"|quantized V cache|requires flash_attn|cache type \S+ with block size"
    r"|invalid argument|error while handling argument|invalid device|no model given",
)
_SIGNALS = {
    signal.SIGKILL: ("killed from outside (SIGKILL): by the kernel for want of memory, or by hand", True),
    signal.SIGABRT: ("aborted itself (SIGABRT)", True),
    signal.SIGSEGV: ("crashed (SIGSEGV)", True),
    signal.SIGBUS: ("crashed (SIGBUS): the model file changed or its disk failed under it", True),
    signal.SIGILL: ("crashed (SIGILL): this build of the engine uses instructions that this processor lacks", False),
}
_CAUSE_LIMIT = 400  # characters


def explain_exit(lines: Sequence[str], code: int | None, *, was_ready: bool, stopped: bool = False) -> ProcessExit:
    """How a process ended.

    `lines`: of its log, the beginning if it never became ready, else the end. `code`: negative for a signal, None if
    unknown. While loading, the first error line is the cause and all later ones follow from it; once ready, error
    lines are about single requests, and only an abort's line tells why the process went.
    """
    if stopped:
        return ProcessExit(code=code, cause="stopped by Stoker")
    if was_ready:
        reason = _first(lines[::-1], _ABORT)
    else:
        reason = _first(lines, _ERROR) or _first(lines, _USAGE) or _first(lines, _ABORT)
    how, retryable = _from_code(code)
    if reason:
        cause = reason if code is None or code > 0 else f"{reason} ({how})"
        retryable = retryable and not _LASTING.search(reason)
    elif code is None or code > 0:
        cause = how + (f"; its log ends: {lines[-1].strip()}" if lines and lines[-1].strip() else "; its log is empty")
    else:
        cause = how
    return ProcessExit(code=code, cause=cause[:_CAUSE_LIMIT], retryable=retryable)


def explain_end(lines: Sequence[str], code: int | None, *, stopped: bool = False) -> ProcessExit:
    """How a program ended that is no llama-server: its exit code says nothing, its last line is the cause.

    `code`: negative for a signal, None if unknown.
    """
    if stopped:
        return ProcessExit(code=code, cause="stopped by Stoker")
    how, retryable = _from_code(code)
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if code is not None and code < 0:
        return ProcessExit(code=code, cause=how, retryable=retryable)
    return ProcessExit(code=code, cause=(f"{how}: {said}" if said else how)[:_CAUSE_LIMIT], retryable=retryable)


def _from_code(code: int | None) -> tuple[str, bool]:
    if code is None:
        return "ended while no agent watched it", True
    if code >= 0:
        return f"ended by itself with exit code {code}", True
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"ended by signal {-code}", True
    return _SIGNALS.get(number, (f"ended from outside ({number.name})", True))


def _first(lines: Sequence[str], pattern: re.Pattern[str]) -> str:
    matches = (pattern.match(line) for line in lines)
    return next((" ".join(match["message"].split()) for match in matches if match), "")
