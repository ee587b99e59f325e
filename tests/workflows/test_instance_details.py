"""What an SRE reads of an instance: where it is, and why not elsewhere."""

from stoker.domain.deployments import InstanceState
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.placement.types import (
    DeviceName,
    DeviceShare,
    Placement,
    Rejection,
    Rule,
    Suggestion,
    Tier,
    TierOutcome,
    Unplaceable,
)
from stoker.domain.units import GIB
from stoker.domain.workers import DeviceKind
from tests.builders import make_files, make_profile, make_spec
from workflows.instance_details import pending_details, state_details
from workflows.types import InstanceInput

INPUT = InstanceInput(
    instance_id="llama-bcdfg", generation=1, spec=make_spec(), profile=make_profile(), files=make_files(), incarnation=3
)


def share(device: str, layers: int, *, worker: str = "", claim: int = 4 * GIB) -> DeviceShare:
    kind = DeviceKind.CPU if device == "cpu" else DeviceKind.CUDA
    return DeviceShare(device=device, kind=kind, worker=worker, layers=layers, claim=claim)


def test_what_has_no_place_yet() -> None:
    assert state_details(INPUT, InstanceState.BACKOFF, "w1 does not answer", None) == (
        "**Backoff** - w1 does not answer\n\nModel `hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M`, incarnation 3"
    )


def test_a_placement_is_told_worker_by_worker() -> None:
    placement = Placement(
        worker="w1",
        shares=(share("gpu0", 20), share("gpu1", 12, worker="w2"), share("cpu", 0, claim=GIB)),
        estimate=MemoryEstimate(context_length=8192, slots=4),
        tier=Tier.SEVERAL_WORKERS,
        reason="20 layers here and 12 there",
        warning="it may run out of memory",
    )
    assert state_details(INPUT, InstanceState.RUNNING, "answers on w1", placement).splitlines()[4:] == [
        "Placed: 20 layers here and 12 there",
        "",
        "- `w1` (gpu0: 4 GiB, 20 layers, cpu: 1 GiB)",
        "- `w2` (gpu1: 4 GiB, 12 layers)",
        "",
        "**Warning:** it may run out of memory",
    ]


def test_why_it_is_pending() -> None:
    rejections = tuple(
        Rejection(rule=Rule.MEMORY, worker=f"w{number}", device="gpu0", message="2 GiB short") for number in range(22)
    )
    why = Unplaceable(
        summary="Needs 8 GiB.",
        rejections=rejections,
        more={Rule.CORDONED: 3, Rule.MEMORY: 4},
        tiers=(
            TierOutcome(tier=Tier.ONE_DEVICE, rule=Rule.MEMORY, message="2 GiB short on w0/gpu0"),
            TierOutcome(tier=Tier.CPU, rule=Rule.CPU_NOT_ALLOWED, message="cpu_offload is false"),
        ),
        suggestions=(Suggestion(text="set context_length to 8192: fits on w0"), Suggestion(text="set slots to 1")),
        reserved=(DeviceName(worker="w0", device="gpu0"), DeviceName(worker="w1", device="gpu0")),
    )
    lines = pending_details(why).splitlines()
    assert lines[:7] == [
        "**Pending** - Needs 8 GiB.",
        "",
        "- one device: 2 GiB short on w0/gpu0",
        "- cpu: cpu_offload is false",
        "",
        "The nearest misses:",
        "",
    ]
    assert lines[7:27] == [f"- w{number}/gpu0: 2 GiB short" for number in range(20)]
    assert lines[27:] == [
        "- … and 9 more",
        "",
        "It would fit now with one of these:",
        "",
        "- set context_length to 8192: fits on w0",
        "- set slots to 1",
        "",
        "It has waited long. Kept free of younger ones for it: w0/gpu0, w1/gpu0.",
    ]


def test_a_refusal_of_no_worker_in_particular() -> None:
    why = Unplaceable(summary="No worker.", rejections=(Rejection(rule=Rule.NO_WORKERS, message="none has joined"),))
    assert pending_details(why) == "**Pending** - No worker.\n\n- none has joined"
