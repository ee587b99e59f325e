"""How much memory a model needs, from its header alone. Formulae: see each function."""

from stoker.domain.base import Bytes, Value


class MemoryEstimate(Value):
    """Bytes that one whole model on one device needs, and beside it on the host (RAM).

    On the CPU everything is host memory: `device_*` are then 0 and `host_*` hold it all.
    """

    context_length: int  # tokens a slot, as it will be asked of the engine
    slots: int
    device_weights: Bytes = 0
    device_cache: Bytes = 0
    device_compute: Bytes = 0
    device_overhead: Bytes = 0  # driver context and libraries
    host_weights: Bytes = 0
    host_cache: Bytes = 0
    host_compute: Bytes = 0
    host_overhead: Bytes = 0  # the process itself, output buffer, prompt cache

    @property
    def device_total(self) -> int:
        """Bytes to claim on the device."""
        return self.device_weights + self.device_cache + self.device_compute + self.device_overhead

    @property
    def host_total(self) -> int:
        """Bytes to claim of the host's RAM."""
        return self.host_weights + self.host_cache + self.host_compute + self.host_overhead
