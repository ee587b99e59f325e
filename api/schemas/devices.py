"""Devices as people write them: `box-1:cuda:0`, `box-1:cpu:0`, or by their id, `box-1/gpu0`."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stoker.domain.base import DNS_LABEL_PATTERN, DeviceId, WorkerName
from stoker.domain.workers import DeviceKind, Worker

_NAME = DNS_LABEL_PATTERN[1:-1]
_BY_ID = re.compile(rf"(?P<worker>{_NAME})/(?P<device>[A-Za-z0-9._-]{{1,63}})")
_BY_KIND = re.compile(rf"(?P<worker>{_NAME}):(?P<kind>{'|'.join(DeviceKind)}):(?P<index>[0-9]{{1,3}})")


class ChosenDevice(NamedTuple):
    """One device of one worker; `kind` where it was written."""

    worker: WorkerName
    device: DeviceId
    kind: DeviceKind | None = None


def parse_device(text: str) -> ChosenDevice:
    """Reads either form: the GPU of index N is `gpuN` whatever drives it. Raises ValueError saying what is right."""
    if (found := _BY_ID.fullmatch(text)) is not None:
        return ChosenDevice(found["worker"], found["device"])
    found = _BY_KIND.fullmatch(text)
    if found is None:
        kinds = ", ".join(kind for kind in DeviceKind if kind is not DeviceKind.CPU)
        raise ValueError(
            f"{text!r} is no device: write WORKER:KIND:INDEX, as in box-1:cuda:0 ({kinds}) or box-1:cpu:0, "
            "or WORKER/DEVICE, as in box-1/gpu0"
        )
    kind, index = DeviceKind(found["kind"]), int(found["index"])
    if kind is not DeviceKind.CPU:
        return ChosenDevice(found["worker"], f"gpu{index}", kind)
    if index:
        raise ValueError(f"{text!r} is no device: a worker's CPU is one device, {found['worker']}:cpu:0")
    return ChosenDevice(found["worker"], "cpu", kind)


def parse_devices(texts: Iterable[str]) -> tuple[tuple[WorkerName, DeviceId], ...]:
    """Worker and device id of each, each once. Raises ValueError for the first that is none."""
    return tuple(dict.fromkeys((chosen.worker, chosen.device) for chosen in map(parse_device, texts)))


def kind_faults(texts: Iterable[str], workers: Mapping[WorkerName, Worker]) -> list[str]:
    """What is wrong with each device that a worker of the cluster has, but of another kind than was written.

    One that no worker has is not wrong: it may come yet, and until then the instance waits.
    """
    faults = []
    for text in texts:
        chosen = parse_device(text)
        worker = workers.get(chosen.worker)
        there = worker.device(chosen.device) if worker is not None else None
        if worker is None or there is None or chosen.kind in (None, there.kind):
            continue
        right = f"{worker.name}:{there.kind}:{text.rpartition(':')[2]}"
        faults.append(f"{text!r}: {chosen.device} of {worker.name} is driven by {there.kind}: write {right}")
    return faults
