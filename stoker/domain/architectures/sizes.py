"""Bytes that tensors take where the engine puts them."""

from collections.abc import Iterable

from stoker.domain.gguf import TensorInfo

_ALIGNMENT = 32  # bytes: of a tensor in a CPU's buffer (ggml's TENSOR_ALIGNMENT)
_GPU_ALIGNMENT = 128  # bytes: in a GPU's
_GPU_ROW = 512  # elements: CUDA fills rows of quantised matrices up to a multiple (MATRIX_ROW_PADDING)
_UNQUANTISED = frozenset({"F64", "F32", "F16", "BF16", "I8", "I16", "I32", "I64"})


def size_in_ram(tensors: Iterable[TensorInfo]) -> int:
    """Bytes of `tensors` in a CPU's buffer."""
    return sum(_aligned(tensor.size, _ALIGNMENT) for tensor in tensors)


def size_of_gpu_padding(tensors: Iterable[TensorInfo]) -> int:
    """Bytes that they take more in a GPU's (ggml_backend_cuda_buffer_type_get_alloc_size)."""
    return sum(_on_gpu(tensor) - _aligned(tensor.size, _ALIGNMENT) for tensor in tensors)


def _on_gpu(tensor: TensorInfo) -> int:
    missing = -tensor.shape[0] % _GPU_ROW if tensor.type not in _UNQUANTISED else 0
    return _aligned(tensor.size + missing * tensor.size // tensor.elements, _GPU_ALIGNMENT)


def _aligned(size: int, step: int) -> int:
    return -(-size // step) * step
