"""Bytes of tensors in a CPU's and in a GPU's buffer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.architectures.sizes import size_in_ram, size_of_gpu_padding
from stoker.domain.gguf import TensorInfo
from tests.stoker.domain.architectures.headers import SIZES, tensor

tensors = st.builds(
    tensor,
    st.just("x"),
    st.integers(1, 64).map(lambda blocks: 32 * blocks),
    st.integers(1, 64),
    kind=st.sampled_from(sorted(SIZES)),
)


@pytest.mark.parametrize(
    ("row", "kind", "in_ram", "padding"),
    [
        (9, "F16", 32, 96),  # 18 bytes
        (16, "F16", 32, 96),
        (64, "F16", 128, 0),
        (65, "F16", 160, 96),  # 130 bytes
        (512, "Q8_0", 544, 96),  # a whole row of 512 elements
        (544, "Q8_0", 608, 544),  # 578 bytes and 480 elements, 510 bytes, more: 1088 is 1152 rounded up
        (480, "Q4_0", 288, 96),  # 270 bytes and 32 elements, 18 bytes, more
    ],
)
def test_one_row(row: int, kind: str, in_ram: int, padding: int) -> None:
    one = tensor("x", row, kind=kind)
    assert (size_in_ram([one]), size_of_gpu_padding([one])) == (in_ram, padding)


@given(st.lists(tensors, max_size=5), st.lists(tensors, max_size=5))
def test_sizes_add_up(some: list[TensorInfo], others: list[TensorInfo]) -> None:
    for size in (size_in_ram, size_of_gpu_padding):
        assert size([*some, *others]) == size(some) + size(others)


@given(tensors)
def test_a_buffer_is_never_smaller_than_its_tensor(one: TensorInfo) -> None:
    assert one.size <= size_in_ram([one]) < one.size + 32
    assert 0 <= size_of_gpu_padding([one]) < 128 + 512 * 4
