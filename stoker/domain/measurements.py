"""What llama.cpp allocated when it loaded a model, read from its own log."""

import json
import re
from collections.abc import Iterable

from stoker.domain.base import Bytes, Value
from stoker.domain.units import MIB


class Buffers(Value):
    """Bytes of one of llama.cpp's buffers, by what is in them; to 0.01 MiB, which is what the log says."""

    weights: Bytes = 0
    cache: Bytes = 0
    """KV cache and recurrent state."""
    compute: Bytes = 0
    output: Bytes = 0
    """Logits and embeddings, one row an output."""

    @property
    def total(self) -> Bytes:
        return self.weights + self.cache + self.compute + self.output


class MemoryMeasurement(Value):
    """The buffers of a loaded model, under llama.cpp's names and in the order in which they were allocated.

    The number in `RPC0[127.0.0.1:50061]` counts the devices behind that endpoint; `RPC1` as --device writes it counts
    those of all endpoints.
    """

    buffers: tuple[tuple[str, Buffers], ...]

    @property
    def host(self) -> Buffers:
        """What is in the host's RAM: all CPU buffers, and the pinned ones that a GPU's backend keeps there."""
        return _sum(buffers for name, buffers in self.buffers if _is_host(name))

    @property
    def devices(self) -> tuple[tuple[str, Buffers], ...]:
        """The buffers outside the host's RAM, in order of appearance."""
        return tuple((name, buffers) for name, buffers in self.buffers if not _is_host(name))


_TEXT = re.compile(r"([0-9]{1,7})\.([0-9]{2})\.([0-9]{3})\.([0-9]{3}) [DIWE] (.*)")  # minutes, seconds, ms, µs
_SIZE = re.compile(
    r"(?P<source>load_tensors|llama_context|llama_kv_cache|llama_memory_recurrent|llama_dsv4_comp_state|sched_reserve"
    r"|llama_adapter_lora_init_impl|reserve_compute_meta): +(?P<buffer>\S{1,300}) +"
    r"(?P<kind>model|KV|RS|DSV4 \w+ state|LoRA|compute|output) buffer size = *"
    r"(?P<mib>[0-9]{1,9}\.[0-9]{2}) MiB"  # 10 digits were a PiB: nobody has that
)
_FIELDS = {"model": "weights", "LoRA": "weights", "compute": "compute", "output": "output"}  # all else is cache
_DRY_RUN = re.compile(r"print_info: no_alloc += (?P<on>[01])")
_NEW_CONTEXT = "llama_context: constructing llama_context"
_LISTENS = re.compile(r"(srv +\w+: |main: server is )listening on https?://.*")


def read_measurement(lines: Iterable[str]) -> MemoryMeasurement | None:
    """The buffers that a llama-server's log tells of, from its start until it listens; None where it names none.

    The log must be at verbosity 4 or above (-lv 4), with its times (llama.cpp's default), as text or JSON. Buffers of
    one name and kind add up: the two caches of a sliding-window model, cache and state of a hybrid, a draft model and
    its target. A context that reserves its compute buffers again replaces them. What --fit tries out before the load
    (shown at -lv 5) is not counted. Lines behind the one that says where the server listens are left unread.

    The log repeats texts of the model, such as its name, line breaks included. So only whole messages count, and a log
    whose times go back is not believed at all: a text cannot know the microsecond at which it will be written.
    """
    sizes: dict[str, dict[str, int]] = {}
    reserved: dict[tuple[int, str, str], int] = {}
    context, dry_run, now = 0, False, 0
    for line in lines:
        if (found := _message(line)) is None:
            continue
        before, (now, message) = now, found
        if now < before:
            return None
        if _LISTENS.fullmatch(message):
            break
        if (switch := _DRY_RUN.fullmatch(message)) is not None:
            dry_run = switch["on"] == "1"
        elif message == _NEW_CONTEXT:
            context += 1
        if dry_run or (match := _SIZE.fullmatch(message)) is None:
            continue
        name, size = match["buffer"], round(float(match["mib"]) * MIB)
        kinds = sizes.setdefault(name, {})
        field = _FIELDS.get(match["kind"], "cache")
        if field == "compute":
            size -= reserved.get(key := (context, match["source"], name), 0)
            reserved[key] = reserved.get(key, 0) + size
        kinds[field] = kinds.get(field, 0) + size
    if not sizes:
        return None
    return MemoryMeasurement(buffers=tuple((name, Buffers(**kinds)) for name, kinds in sizes.items()))


def _message(line: str) -> tuple[int, str] | None:
    """A line's time (µs since the engine's start) and message; None where no message begins.

    llama.cpp's common/log.cpp writes `0.00.092.588 I load_tensors: …` or, with --log-jsonl, an object a line.
    """
    if (text := _TEXT.fullmatch(line.rstrip("\r\n"))) is not None:
        minutes, seconds, milliseconds, microseconds = map(int, text.groups()[:4])
        return ((minutes * 60 + seconds) * 1000 + milliseconds) * 1000 + microseconds, text[5]
    if not line.startswith("{"):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match entry:
        case {"type": "log", "time": int(time), "msg": str(message)}:
            return time, message.removesuffix("\n")
        case _:
            return None


def _is_host(name: str) -> bool:
    """Whether llama.cpp keeps the buffer `name` in the host's RAM (`CPU`, `CPU_Mapped`, `CUDA_Host`, `AMX`)."""
    return name.startswith("CPU") or name.endswith("_Host") or name == "AMX"


def _sum(parts: Iterable[Buffers]) -> Buffers:
    parts = list(parts)
    return Buffers(**{field: sum(getattr(part, field) for part in parts) for field in Buffers.model_fields})
