"""The options of a llama-server under measurement, where llama.cpp knows more of them than Stoker offers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What a measurement varies. `context` is -c: the tokens of all slots together."""

    context: int = 4096
    parallel: int = 1
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: bool = True
    batch: int = 2048
    micro_batch: int = 512
    unified: bool = False
    embeddings: bool = False
    pooling: str = ""  # --pooling; empty: as the model's header says

    def arguments(self, model: Path) -> list[str]:
        """llama-server's arguments, without those that say where the layers go."""
        arguments = [
            *("--host", "127.0.0.1", "--port", "0", "-m", str(model), "-a", "model"),
            *("-c", str(self.context), "-np", str(self.parallel)),
            "--kv-unified" if self.unified else "--no-kv-unified",
            *("-b", str(self.batch), "-ub", str(self.micro_batch)),
            *("-ctk", self.cache_type_k, "-ctv", self.cache_type_v, "-fa", "on" if self.flash_attention else "off"),
            *("--cache-ram", "0", "-ctxcp", "0", "--no-ui", "-t", "1"),
        ]
        if self.embeddings:
            arguments.append("--embeddings")
        if self.pooling:
            arguments += ["--pooling", self.pooling]
        return arguments


def placement_arguments(split: Sequence[int], endpoint: str) -> list[str]:
    """Layers a device, the output layer counted as one, on the RPC devices in order; none: all on the CPU."""
    if not split:
        return ["-ngl", "0", "--device", "none"]
    devices = ",".join(f"RPC{index}" for index in range(len(split)))
    arguments = ["--rpc", endpoint, "-ngl", str(sum(split)), "--device", devices]
    if len(split) > 1:
        arguments += ["--tensor-split", ",".join(map(str, split))]
    return arguments
