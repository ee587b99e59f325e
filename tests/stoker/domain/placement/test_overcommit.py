"""Overcommit: on devices that were named, all of them, with a warning, and nothing else."""

from typing import Any

import pytest

from stoker.domain.claims import Snapshot
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import place, wakeable
from stoker.domain.placement.reservations import Waiting
from stoker.domain.placement.types import Placement, Tier, Unplaceable
from stoker.domain.units import GIB
from stoker.domain.workers import DeviceKind
from tests.builders import make_device, make_layer, make_profile, make_request, make_spec, make_worker

NINE_LAYERS = make_profile(layers=(make_layer(weights=2 * GIB),) * 8)


def box(gpus: int, size: int = 4 * GIB) -> Fleet:
    devices = [make_device(id=f"gpu{index}", engine_name=f"CUDA{index}", total=size) for index in range(gpus)]
    worker = make_worker(name="box", devices=(*devices, make_device(kind=DeviceKind.CPU)))
    return Fleet.of(Snapshot.of([worker], ()))


def asked(*devices: str, **spec: Any) -> Any:
    named = tuple(("box", device) for device in devices)
    return make_request(profile=NINE_LAYERS, spec=make_spec(devices=named, overcommit=True, **spec))


def test_the_named_devices_are_all_used_and_a_warning_stays() -> None:
    placement = place(box(3), asked("gpu0", "gpu1"))
    assert isinstance(placement, Placement)
    assert placement.tier is Tier.ONE_WORKER
    assert {share.device for share in placement.offloaded} == {"gpu0", "gpu1"}
    assert sum(share.layers for share in placement.offloaded) == 9
    assert "overcommitted as asked for: box/gpu0 by " in placement.warning


def test_what_fits_is_not_overcommitted() -> None:
    placement = place(box(2, 80 * GIB), asked("gpu0", "gpu1"))
    assert isinstance(placement, Placement)
    assert placement.warning == ""
    assert len(placement.offloaded) == 1


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(asked("gpu9"), id="a device that is not there is not replaced by the CPU"),
        pytest.param(asked("gpu0", "gpu9"), id="nor are the others used without it"),
        pytest.param(asked("gpu0", "gpu1", tensor_split=(50, 50)), id="more layers than the model has"),
        pytest.param(asked("gpu0", min_compute_capability="9.0"), id="a device that does not say what it is"),
    ],
)
def test_what_cannot_be_done_waits(request_: Any) -> None:
    assert isinstance(place(box(2), request_), Unplaceable)
    assert wakeable(box(2), [Waiting(request=request_)]) == ()


def test_more_devices_than_llama_cpp_takes_wait() -> None:
    many = asked(*(f"gpu{index}" for index in range(16)), options=make_spec().options)
    profile = make_profile(layers=(make_layer(weights=9 * GIB),) * 20)
    request = many.model_copy(update={"profile": profile})
    assert isinstance(place(box(16), request), Unplaceable)
