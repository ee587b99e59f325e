"""Devices as people write them."""

import pytest

from api.schemas.devices import kind_faults, parse_device, parse_devices
from stoker.domain.workers import DeviceKind
from tests.builders import make_device, make_worker


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("box-1/gpu0", ("box-1", "gpu0")),
        ("box-1/cpu", ("box-1", "cpu")),
        ("box-1:cuda:0", ("box-1", "gpu0")),
        ("box-1:rocm:1", ("box-1", "gpu1")),
        ("box-1:metal:0", ("box-1", "gpu0")),
        ("box-1:vulkan:12", ("box-1", "gpu12")),
        ("box-1:cpu:0", ("box-1", "cpu")),
    ],
)
def test_both_forms(text: str, device: tuple[str, str]) -> None:
    assert parse_device(text)[:2] == device


@pytest.mark.parametrize(
    "text",
    ["", "box-1", "gpu0", "box-1:", "box-1:cuda", "box-1:cuda:", "box-1:cuda:x", "box-1:cuda:-1", "box-1:cuda:0\n",
     "Box:cuda:0", "box-1:CUDA:0", "box-1:tpu:0", "box-1:cuda:1234", "box-1/", "/gpu0", "box-1/a/b", "box-1:cuda:٣"],
)  # fmt: skip
def test_what_is_no_device(text: str) -> None:
    with pytest.raises(ValueError, match="is no device: write WORKER:KIND:INDEX, as in box-1:cuda:0"):
        parse_device(text)


def test_a_device_that_is_named_twice_is_one() -> None:
    assert parse_devices(["a:cuda:0", "a/gpu0", "b:cuda:0"]) == (("a", "gpu0"), ("b", "gpu0"))


def test_only_what_a_worker_has_of_another_kind_is_wrong() -> None:
    devices = (make_device(id="gpu0", kind=DeviceKind.ROCM), make_device(kind=DeviceKind.CPU))
    workers = {"a": make_worker(name="a", devices=devices)}
    assert kind_faults(["a:rocm:0", "a:cpu:0", "a/gpu0", "a:cuda:7", "b:cuda:0"], workers) == []
    assert kind_faults(["a:cuda:0", "a:vulkan:0"], workers) == [
        "'a:cuda:0': gpu0 of a is driven by rocm: write a:rocm:0",
        "'a:vulkan:0': gpu0 of a is driven by rocm: write a:rocm:0",
    ]
