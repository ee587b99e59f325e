"""What an estimate says: bytes per device and on the host, by what they are for."""

from stoker.domain.base import Bytes, Value


class DeviceMemory(Value):
    """Bytes on one device."""

    layers: int = 0  # repeating layers and, on the last device, the output layer counted as one
    weights: Bytes = 0
    cache: Bytes = 0  # keys and values, or recurrent state
    compute: Bytes = 0  # what one micro-batch takes at its peak
    overhead: Bytes = 0  # the driver's context and libraries

    @property
    def total(self) -> int:
        """Bytes to claim on the device."""
        return self.weights + self.cache + self.compute + self.overhead


class HostMemory(Value):
    """Bytes of RAM on the host of the main server."""

    layers: int = 0  # those on no device; where none is, the output layer is counted, too
    weights: Bytes = 0  # token embeddings, and every layer that is on no device
    cache: Bytes = 0
    compute: Bytes = 0
    output: Bytes = 0  # results of a micro-batch, as they are handed to the server
    overhead: Bytes = 0  # the process itself, its tokenizer, its prompt cache

    @property
    def total(self) -> int:
        """Bytes to claim of the host's RAM."""
        return self.weights + self.cache + self.compute + self.output + self.overhead


class MemoryEstimate(Value):
    """What one model needs with given options, layer by layer on given devices."""

    context_length: int  # tokens a slot, as it will be asked of the engine
    slots: int
    devices: tuple[DeviceMemory, ...] = ()  # in the order of the split; none: everything is on the CPU
    host: HostMemory = HostMemory()
    caution: str = ""  # why the numbers are larger than they may need to be; empty: they are the engine's own


class EstimateRefusal(Value):
    """No estimate: the model cannot run as asked, or its memory cannot be worked out; `message` says why."""

    message: str
