"""Measures a model by loading it: every buffer is allocated, and llama-server's log says how large each one is."""

from collections.abc import Sequence
from pathlib import Path

from stoker.domain.measurements import MemoryMeasurement, read_measurement
from tests.referee.options import Options, placement_arguments
from tests.referee.processes import RefereeError, log_until, rpc_server


def measure(
    binaries: Path, model: Path, options: Options, split: Sequence[int] = (), endpoint: str = ""
) -> MemoryMeasurement:
    """The buffers of `model` loaded with `split` layers on RPC devices of this machine's CPU; none: on the CPU itself.

    `endpoint` is that of a running ggml-rpc-server with enough devices; without it one is started for this load alone.

    Raises RefereeError when llama.cpp refuses the model.
    """
    if split and not endpoint:
        with rpc_server(binaries, len(split)) as endpoint:
            return measure(binaries, model, options, split, endpoint)
    return load(binaries, [*options.arguments(model), *placement_arguments(split, endpoint), "-fit", "off", "-lv", "4"])


def load(binaries: Path, arguments: Sequence[str]) -> MemoryMeasurement:
    """The buffers of a llama-server that is started with `arguments` and ended as soon as it listens.

    Weights on the CPU stay as they are in the file: whether they are copied in another order depends on the processor.
    """
    command = [str(binaries / "llama-server"), *arguments, "--no-warmup", "--no-repack"]
    measurement = read_measurement(log_until(command, lambda line: "listening on http" in line))
    if measurement is None:
        raise RefereeError(f"{' '.join(command)} names no buffer in its log")
    return measurement
