"""`stoker describe | why | logs`."""

import json

import pytest
import yaml

from api.schemas.reasons import PlacementRead
from entrypoints.cli.views.instances import placed_on
from stoker.domain.deployments import EngineOptions, InstanceState
from stoker.domain.links import WorkerLink
from stoker.domain.measurements import Buffers
from stoker.domain.placement.types import DeviceName, Rejection, Rule, Suggestion, Tier, TierOutcome, Unplaceable
from stoker.domain.units import GIB, MIB
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import CREATED_AT, FakeApi, make_group, make_instance, make_measured, make_placement

RUNNING, PENDING = InstanceState.RUNNING, InstanceState.PENDING


def test_describe_watched_tells_each_change_until_it_is_gone(api: FakeApi, stoker: Stoker) -> None:
    api.add(steps=[(make_instance(PENDING),), (make_instance(RUNNING),), None])
    done = stoker("describe", "llama", "--watch")
    assert (done.exit_code, done.stderr) == (0, "it is gone\n")
    assert done.stdout.count("Deployment  llama") == 3


def test_why_watched_as_data(api: FakeApi, stoker: Stoker) -> None:
    api.add(steps=[(make_instance(PENDING),), (make_instance(RUNNING),), None])
    changes = [json.loads(line) for line in stoker("why", "llama", "-w", "-o", "json").stdout.splitlines()]
    assert [change["event"] for change in changes] == ["added", "modified", "deleted"]
    assert [change["object"]["state"] for change in changes[:2]] == ["pending", "running"]


def test_describe_tells_everything(api: FakeApi, stoker: Stoker) -> None:
    options = EngineOptions(context_length=4096, threads=6, embeddings=True)
    api.add(
        make_instance(RUNNING),
        options=options,
        worker_selector={"zone": "lab"},
        devices=(("box-1", "gpu0"),),
        priority=3,
        queue=1,
        cpu_offload=True,
        distributed=False,
        gpu_layers=23,
        tensor_split=(23,),
        min_compute_capability="8.0",
        overcommit=True,
    )
    done = stoker("describe", "llama")
    assert done.exit_code == 0
    created = f"{CREATED_AT:%Y-%m-%d %H:%M:%S} UTC, 3d ago"
    assert done.stdout.splitlines() == [
        "Deployment  llama",
        "State       running: all replicas answer",
        "Replicas    1 running of 1",
        "Model       hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M",
        "Revision    bf5b95e96dac0462e2a09145ec66cae9a3f12067",
        "What it is  llama, 8.03 B parameters, 32 layers, Q4_K_M, trained on 131072 tokens",
        "Size        4.58 GiB in 1 file",
        "            Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf  4.58 GiB",
        "Options     context 4096, slots 4, KV cache f16, batch 2048/512, threads 6, embeddings",
        "Placement   spread, zone=lab, only box-1/gpu0, CPUs may compute layers, on one worker, 23 layers on devices, "
        "split 23, compute capability 8.0 at least, overcommitted where memory does not suffice, priority 3",
        "Queue       1 request may wait for a slot",
        "Generation  1",
        f"Created     {created}",
        f"Changed     {created}",
        "Workflow    deployment/llama",
        "",
        "Instance llama-a1b2c",
        "  State       running for 3d: answers on box-1",
        "  Placed on   box-1: gpu0 (33 layers, 6 GiB)",
        "  Why there   the emptiest GPU that holds it whole",
        "  Estimate    weights 4.28 GiB + KV cache 1 GiB + compute 340 MiB + output 2 MiB + overhead 1.39 GiB, "
        "for 4 x 8192 tokens",
        "  Generation  1, incarnation 1",
        "  Process     pid 1234, held 900 MiB of RAM when it began to answer",
        "  Workflow    instance/llama-a1b2c",
        "",
        "  DEVICE  MEMORY     WEIGHTS  KV CACHE  COMPUTE  OUTPUT  OVERHEAD  OFF BY",
        "  gpu0    estimated  4 GiB    1 GiB     300 MiB  0 B     724 MiB",
        "          measured   4 GiB    1 GiB     297 MiB  0 B     500 MiB   -0.06%",
        "  host    estimated  282 MiB  0 B       40 MiB   2 MiB   700 MiB",
        "          measured   282 MiB  0 B       40 MiB   2 MiB   -         +0.00%",
    ]


def test_describe_before_it_is_measured(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(InstanceState.STARTING))
    lines = stoker("describe", "llama").stdout.splitlines()
    assert lines[-3:] == [
        "  DEVICE  MEMORY     WEIGHTS  KV CACHE  COMPUTE  OUTPUT  OVERHEAD  OFF BY",
        "  gpu0    estimated  4 GiB    1 GiB     300 MiB  0 B     724 MiB",
        "  host    estimated  282 MiB  0 B       40 MiB   2 MiB   700 MiB",
    ]


def test_describe_asks_for_a_report_where_the_engine_took_more(api: FakeApi, stoker: Stoker) -> None:
    estimate = make_placement().estimate.model_copy(update={"caution": "nobody knows this architecture"})
    placement = make_placement().model_copy(update={"estimate": estimate})
    took = Buffers(weights=4 * GIB, cache=1 * GIB, compute=500 * MIB)
    api.add(make_instance(RUNNING, placement=placement, memory=make_measured(buffers=(("CUDA0", took),))))
    shown = stoker("describe", "llama").stdout
    assert "  Caution     nobody knows this architecture\n" in shown
    assert "          measured   4 GiB    1 GiB     500 MiB  0 B     297 MiB   +3.69%\n" in shown
    assert shown.splitlines()[-1] == (
        "  The engine took more than was estimated: please report it with this description and the beginning of "
        "`stoker logs llama-a1b2c`."
    )


@pytest.mark.parametrize("columns", ["80", "120"])
def test_describe_fits_the_terminal(
    columns: str, api: FakeApi, stoker: Stoker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    api.add(make_instance(RUNNING), make_instance(PENDING, instance_id="llama-z"))
    for command in (("describe", "llama"), ("why", "llama"), ("ps",)):
        assert max(len(line) for line in stoker(*command).stdout.splitlines()) <= int(columns)


def test_describe_as_data(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(RUNNING))
    expected = api.shown("llama").model_dump(mode="json")
    assert json.loads(stoker("describe", "llama", "-o", "json").stdout) == expected
    assert yaml.safe_load(stoker("describe", "llama", "-o", "yaml").stdout) == expected


def test_why_it_is_where_it_is(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(RUNNING))
    assert stoker("why", "llama").stdout.splitlines() == [
        "llama is running: 1 of 1 running",
        "",
        "llama-a1b2c running for 3d: answers on box-1",
        "  why there: the emptiest GPU that holds it whole",
        "  DEVICE      LAYERS  CLAIMED",
        "  box-1/gpu0  33      6 GiB",
        "  claimed: weights 4.28 GiB + KV cache 1 GiB + compute 340 MiB + output 2 MiB + overhead 1.39 GiB, "
        "for 4 x 8192 tokens",
    ]


def test_why_it_waits(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(PENDING))
    done = stoker("why", "llama")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "llama is pending: 0 of 1 running",
        "",
        "llama-a1b2c pending for 3d: Needs 6 GiB; the nearest device, box-1/gpu0, has 2 GiB allocatable: 4 GiB short.",
        "  WHERE       SHORT  WHY NOT",
        "  box-1/gpu0  4 GiB  not enough memory for the whole model",
        "  box-2              takes no new instances",
        "  what would help:",
        "    slots 4 → 1 fits on box-1",
        "    q4_0 KV cache fits on box-1",
        "  it starts by itself as soon as there is room",
    ]


def test_why_it_waits_on_a_large_fleet(api: FakeApi, stoker: Stoker) -> None:
    misses = [
        Rejection(rule=Rule.MEMORY, worker=f"box-{n}", device="gpu0", message="too small", needed=n * GIB)
        for n in range(1, 8)
    ]
    why = Unplaceable(
        rejections=(*misses, Rejection(rule=Rule.NO_RPC, worker="box-8", message="it lends no devices")),
        more={Rule.MEMORY: 90, Rule.CORDONED: 2},
        tiers=(
            TierOutcome(tier=Tier.ONE_DEVICE, rule=Rule.MEMORY, message="it is too large", short=3 * GIB, layers=20,
                        of_layers=33),
            TierOutcome(tier=Tier.SEVERAL_WORKERS, rule=Rule.NO_RPC, message="no worker lends its devices"),
        ),
        summary="It is too large.",
        suggestions=(Suggestion(text="one more device with at least 3 GiB"),),
        reserved=(DeviceName(worker="box-1", device="gpu0"), DeviceName(worker="box-2", device="cpu")),
    )  # fmt: skip
    api.add(make_instance(PENDING, message=why.summary, unplaceable=why))
    assert stoker("why", "llama").stdout.splitlines()[2:] == [
        "llama-a1b2c pending for 3d: It is too large.",
        "  PLACED ON                LAYERS    SHORT  WHY NOT",
        "  one GPU                  20 of 33  3 GiB  it is too large",
        "  GPUs of several workers                   no worker lends its devices",
        "  WHERE       SHORT  WHY NOT",
        *(f"  box-{n}/gpu0  {n} GiB  too small" for n in range(1, 6)),
        "  and 95 more: 92 not enough memory, 2 worker cordoned, 1 no rpc",
        "  what would help:",
        "    one more device with at least 3 GiB",
        "  kept free for it, which has waited long: box-1/gpu0, box-2/cpu",
        "  it starts by itself as soon as there is room",
    ]
    told = json.loads(stoker("why", "llama", "-o", "json").stdout)["instances"][0]["pending"]
    assert (len(told["rejections"]), told["more"]) == (8, {"not_enough_memory": 90, "worker_cordoned": 2})
    assert told["tiers"][0] == {
        "tier": "one_device",
        "rule": "not_enough_memory",
        "message": "it is too large",
        "short_bytes": 3 * GIB,
        "layers": 20,
        "of_layers": 33,
    }
    assert told["reserved"] == ["box-1/gpu0", "box-2/cpu"]


def test_a_model_over_several_workers(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(RUNNING, placement=make_group(), memory=None))
    shown = stoker("describe", "llama").stdout.splitlines()
    at = shown.index("  Placed on   box-1: gpu0 (17 layers, 3 GiB) + cpu (1 GiB)")
    assert shown[at + 1] == "              box-2: gpu0 (16 layers, 2 GiB)"
    assert "  Warning     box-2 may be too slow" in shown
    assert [line.split()[0] for line in shown[-3:]] == ["box-1/gpu0", "box-2/gpu0", "host"]
    told = stoker("why", "llama").stdout.splitlines()
    assert told[4:8] == [
        "  DEVICE      LAYERS  CLAIMED",
        "  box-1/gpu0  17      3 GiB",
        "  box-2/gpu0  16      2 GiB",
        "  box-1/cpu   -       1 GiB",
    ]
    assert told[-1] == "  warning: box-2 may be too slow"


def test_the_ways_between_a_models_workers_and_whom_it_avoids(api: FakeApi, stoker: Stoker) -> None:
    link = WorkerLink(worker="box-1", peer="box-2", round_trip_seconds=0.000_42, bytes_per_second=112 * MIB,
                      checked_at=CREATED_AT)  # fmt: skip
    broken = link.model_copy(update={"peer": "box-3", "problem": "its gateway cannot be reached"})
    api.add(make_instance(RUNNING, placement=make_group(), links=(link, broken), avoids=("box-2", "box-9")))
    shown = stoker("describe", "llama").stdout
    assert "  Link        box-1 to box-2: 0.42 ms there and back, 112 MiB/s, 3d ago\n" in shown
    assert "  Link        box-1 to box-3: its gateway cannot be reached, 3d ago\n" in shown
    avoided = "box-2, box-9, which failed it of late; nothing else fits, so it is on box-2 again"
    assert f"  Avoids      {avoided}\n" in shown
    assert stoker("why", "llama").stdout.splitlines()[-1] == f"  avoids: {avoided}"
    told = json.loads(stoker("describe", "llama", "-o", "json").stdout)["instances"][0]
    assert told["avoids"] == ["box-2", "box-9"]
    assert told["links"][0]["bytes_per_second"] == 112 * MIB
    api.add(make_instance(RUNNING, avoids=("box-9",)))
    assert stoker("why", "llama").stdout.splitlines()[-1] == "  avoids: box-9, which failed it of late"


def test_why_it_failed(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(InstanceState.FAILED, message="unknown architecture"))
    shown = stoker("why", "llama").stdout
    assert "llama-a1b2c failed for 3d: unknown architecture" in shown
    assert shown.splitlines()[-1] == "  what it wrote: stoker logs llama-a1b2c"


def test_why_there_is_nothing(api: FakeApi, stoker: Stoker) -> None:
    api.add(replicas=0)
    assert stoker("why", "llama").stdout == "llama is stopped: 0 of 0 running\nno replicas are wanted\n"


def test_why_as_data_is_the_reasons_alone(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(PENDING))
    told = json.loads(stoker("why", "llama", "-o", "json").stdout)
    assert set(told) == {"name", "state", "message", "instances"}
    (instance,) = told["instances"]
    assert set(instance) == {"id", "state", "message", "placement", "pending"}
    assert instance["pending"]["rejections"][0]["short_bytes"] == 4 * 1024**3


@pytest.mark.parametrize("command", ["describe", "why", "logs"])
def test_of_what_is_not_there(command: str, stoker: Stoker) -> None:
    done = stoker(command, "nix")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith("error: there is no ")


# --- logs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "llama-a1b2c"])
def test_logs_of_one_instance(name: str, api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(RUNNING))
    api.logs["llama-a1b2c"] = ["one", "two\u2028still two", "three"]
    done = stoker("logs", name, "--tail", "2")
    assert (done.exit_code, done.stdout) == (0, "two\u2028still two\nthree\n")
    assert stoker("logs", name, "-f", "-n", "1").stdout == "three\nand more\n"


def test_logs_of_several_instances_name_them(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(RUNNING, instance_id="llama-a"), make_instance(RUNNING, instance_id="llama-long"))
    api.logs |= {"llama-a": ["1", "2"], "llama-long": ["3"]}
    done = stoker("logs", "llama")
    assert sorted(done.stdout.splitlines()) == ["llama-a     1", "llama-a     2", "llama-long  3"]


def test_logs_where_only_some_can_be_had(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(RUNNING, instance_id="llama-a"), make_instance(PENDING, instance_id="llama-b"))
    api.logs["llama-a"] = ["1"]
    done = stoker("logs", "llama")
    assert (done.exit_code, done.stdout) == (0, "llama-a  1\n")
    assert done.stderr == "error: there is no instance 'llama-b'\n"
    del api.logs["llama-a"]
    assert stoker("logs", "llama").exit_code == 3


def test_logs_of_a_deployment_that_is_stopped(api: FakeApi, stoker: Stoker) -> None:
    api.add(replicas=0)
    done = stoker("logs", "llama")
    assert (done.exit_code, done.stderr) == (1, "error: llama has no instances: no replicas are wanted\n")


def test_layers_that_stay_with_the_main_server_are_told() -> None:
    """They are on no device of the engine's, and the share of the CPU only books the RAM."""
    group = make_group()
    kept = group.estimate.host.model_copy(update={"layers": 5})
    told = placed_on(
        PlacementRead.of(group.model_copy(update={"estimate": group.estimate.model_copy(update={"host": kept})}))
    )
    assert told == "box-1: gpu0 (17 layers, 3 GiB) + cpu (5 layers, 1 GiB); box-2: gpu0 (16 layers, 2 GiB)"
