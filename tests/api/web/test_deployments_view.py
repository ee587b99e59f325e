"""What the pages of deployments draw: layers on devices, memory in bars, progress, and changes that would help."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.schemas.deployments import DeploymentRead
from api.schemas.instances import InstanceRead
from api.schemas.reasons import PendingRead, PlacementRead
from api.web.deployments_view import (
    BAR_UNITS,
    change_body,
    count_words,
    deployment_line,
    layer_rows,
    memory_rows,
    progress_view,
    suggested_changes,
)
from stoker.domain.deployments import InstanceState
from stoker.domain.estimation.types import DeviceMemory, HostMemory, MemoryEstimate
from stoker.domain.placement.types import DeviceShare, Placement, Suggestion, Tier
from stoker.domain.statuses import DeploymentStatus, FileProgress, InstanceStatus, Progress
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import DeviceKind
from tests.builders import make_files, make_profile, make_spec
from tests.fakes.api import CREATED_AT, make_group, make_instance, make_measured, make_placement, make_unplaceable


def placed(layers: list[tuple[str, str, int]], on_host: int, main: str = "box-1") -> PlacementRead:
    """Devices in the engine's order as worker, device, layers; the main server's CPU last."""
    shares = tuple(
        DeviceShare(worker=worker, device=device, kind=DeviceKind.CUDA, layers=count, claim=count * MIB)
        for worker, device, count in layers
    )
    ram = DeviceShare(worker=main, device="cpu", kind=DeviceKind.CPU, layers=0, claim=GIB)
    estimate = MemoryEstimate(
        context_length=4096,
        slots=4,
        devices=tuple(DeviceMemory(layers=count) for _, _, count in layers),
        host=HostMemory(layers=on_host),
    )
    tier = Tier.PART_ON_CPU if on_host else Tier.SEVERAL_WORKERS
    return PlacementRead.of(Placement(worker=main, shares=(*shares, ram), estimate=estimate, tier=tier))


# --- layers ---------------------------------------------------------------------------------------------------------


def test_layers_of_a_group_follow_the_engines_order() -> None:
    rows = layer_rows(PlacementRead.of(make_group()))
    assert [(r.worker, r.device, r.first, r.held, r.of, r.words) for r in rows] == [
        ("box-1", "gpu0", 0, 17, 33, "layers 1 to 17"),
        ("box-2", "gpu0", 17, 16, 33, "layers 18 to 32 and the output"),
        ("box-1", "cpu", 33, 0, 33, "no layer, only memory"),
    ]


def test_the_first_layers_are_on_the_host_where_part_is_on_its_cpu() -> None:
    rows = layer_rows(placed([("box-1", "gpu0", 10)], on_host=23))
    assert [(r.device, r.first, r.held, r.words) for r in rows] == [
        ("cpu", 0, 23, "layers 1 to 23"),
        ("gpu0", 23, 10, "layers 24 to 32 and the output"),
    ]


def test_all_on_a_cpu() -> None:
    (row,) = layer_rows(placed([], on_host=3))
    assert (row.device, row.words, list(row.layers)) == ("cpu", "layers 1 to 2 and the output", [0, 1, 2])


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([1, 32], ["layer 1", "layers 2 to 32 and the output"]),
        ([32, 1], ["layers 1 to 32", "the output"]),
        ([31, 2], ["layers 1 to 31", "layer 32 and the output"]),
    ],
)
def test_one_layer_is_called_one_layer(counts: list[int], words: list[str]) -> None:
    rows = layer_rows(placed([("box-1", f"gpu{i}", count) for i, count in enumerate(counts)], on_host=0))
    assert [row.words for row in rows if row.held] == words


@given(st.lists(st.integers(1, 40), max_size=15), st.integers(0, 40))
def test_every_layer_is_drawn_once(counts: list[int], on_host: int) -> None:
    rows = layer_rows(placed([(f"box-{i % 3}", f"gpu{i}", count) for i, count in enumerate(counts)], on_host))
    drawn = sorted(layer for row in rows for layer in row.layers)
    assert drawn == list(range(on_host + sum(counts)))
    assert {row.of for row in rows} == {on_host + sum(counts)}


# --- memory ---------------------------------------------------------------------------------------------------------


def instance(state: InstanceState = InstanceState.RUNNING, **overrides: Any) -> InstanceRead:
    return InstanceRead.of_status(make_instance(state, **overrides))


def test_estimate_and_measurement_share_one_scale() -> None:
    gpu, host = memory_rows(instance().memory)
    assert [(part.name, part.size) for part in gpu.estimated] == [
        ("weights", 4 * GIB),
        ("KV cache", GIB),
        ("compute", 300 * MIB),
        ("overhead", 724 * MIB),
    ]
    assert sum(part.width for part in gpu.estimated) == pytest.approx(BAR_UNITS, abs=0.1)  # the largest fills it
    assert gpu.measured is not None
    assert [(part.name, part.size) for part in gpu.measured][-1] == ("overhead", 500 * MIB)
    assert sum(part.width for part in gpu.measured) < BAR_UNITS
    assert (gpu.off_by, gpu.exceeds) == ("-0.06%", False)
    assert (host.device, host.off_by) == ("host", "+0.00%")


def test_before_it_runs_nothing_is_measured() -> None:
    gpu, _ = memory_rows(instance(InstanceState.STARTING).memory)
    assert (gpu.measured, gpu.off_by, gpu.exceeds) == (None, "", False)


def test_more_than_an_estimate_may_be_off_stands_out() -> None:
    buffers = [
        (name, sizes.model_copy(update={"compute": sizes.compute + GIB}) if name == "CUDA0" else sizes)
        for name, sizes in make_measured().buffers
    ]
    gpu, _ = memory_rows(instance(memory=make_measured(buffers=tuple(buffers))).memory)
    assert gpu.exceeds


def test_nothing_placed_has_no_bars() -> None:
    assert memory_rows(instance(InstanceState.PENDING).memory) == []


# --- progress -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "progress", "words"),
    [
        (
            InstanceState.DOWNLOADING,
            Progress(done=GIB, total=4 * GIB, rate=32.0 * MIB),
            "1 GiB of 4 GiB, 32 MiB/s, 1m left",
        ),
        (InstanceState.DOWNLOADING, Progress(done=GIB, total=4 * GIB), "1 GiB of 4 GiB"),
        (
            InstanceState.DOWNLOADING,
            Progress(
                done=3,
                total=4,
                files=(FileProgress(path="a", done=2, total=2), FileProgress(path="b", done=1, total=2)),
            ),
            "3 B of 4 B, 1 of 2 files",
        ),
        (InstanceState.STARTING, Progress(done=720, total=1000), "72 % loaded"),
        (InstanceState.STARTING, Progress(), None),
        (InstanceState.STARTING, None, None),
        (InstanceState.RUNNING, Progress(done=720, total=1000), None),
    ],
)
def test_progress_in_words(state: InstanceState, progress: Progress | None, words: str | None) -> None:
    shown = progress_view(instance(state, progress=progress))
    assert (shown.words if shown else None) == words


# --- changes that would help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "body"),
    [
        ({"options.slots": 1}, {"options": {"slots": 1}}),
        ({"options.slots": 1, "options.cache_type": "q4_0"}, {"options": {"slots": 1, "cache_type": "q4_0"}}),
        ({"cpu_offload": True}, {"cpu_offload": True}),
        ({}, {}),
    ],
)
def test_dotted_fields_become_the_body_of_a_change(changes: dict[str, Any], body: dict[str, Any]) -> None:
    assert change_body(changes) == body


def test_only_what_a_deployment_has_can_be_applied() -> None:
    more_memory = Suggestion(text="one more GPU of 24 GiB")
    why = make_unplaceable()
    why = why.model_copy(update={"suggestions": (*why.suggestions, more_memory)})
    assert [(one.text, one.body) for one in suggested_changes(PendingRead.of(why))] == [
        ("slots 4 → 1 fits on box-1", {"options": {"slots": 1}}),
        ("q4_0 KV cache fits on box-1", {"options": {"cache_type": "q4_0"}}),
        ("one more GPU of 24 GiB", None),
    ]


# --- the list -------------------------------------------------------------------------------------------------------


def deployment(*instances: InstanceStatus, scaled: int | None = None, **spec: int) -> DeploymentRead:
    status = DeploymentStatus(
        spec=make_spec(name="llama", **spec),
        scaled=scaled,
        generation=1,
        profile=make_profile(),
        files=make_files(),
        created_at=CREATED_AT,
        updated_at=CREATED_AT,
    )
    return DeploymentRead.of_status(status, instances)


def test_a_line_names_the_devices_in_use_once() -> None:
    group = make_instance(placement=make_group())
    alone = make_instance(instance_id="llama-2", placement=make_placement("box-2"))
    line = deployment_line(deployment(group, alone, replicas=2))
    assert (line.tone, line.read.state, line.progress) == ("good", "running", None)
    assert line.places == ["box-1/gpu0", "box-2/gpu0"]


def test_a_line_shows_who_is_nearest_to_its_start_and_what_would_help_who_waits() -> None:
    half, less = (
        make_instance(InstanceState.STARTING, instance_id=name, progress=Progress(done=done, total=100))
        for name, done in (("a", 50), ("b", 20))
    )
    waiting = make_instance(InstanceState.PENDING, instance_id="c")
    line = deployment_line(deployment(half, less, waiting, replicas=3))
    assert line.progress is not None
    assert line.progress.words == "50 % loaded"
    assert (line.tone, line.places) == ("warn", [])
    assert [one.text for one in line.suggestions] == [one.text for one in make_unplaceable().suggestions]


@pytest.mark.parametrize(
    ("spec", "scaled", "words"),
    [
        ({"replicas": 2}, None, "1 of 2"),
        ({"replicas": 1, "min_replicas": 0, "max_replicas": 3}, 1, "1 of 1 (0..3)"),
        ({"replicas": 1, "min_replicas": 0, "max_replicas": 3}, 0, "1 of 0 (0..3)"),
    ],
)
def test_how_many_replicas_answer(spec: dict[str, int], scaled: int | None, words: str) -> None:
    assert count_words(deployment(make_instance(), scaled=scaled, **spec)) == words
