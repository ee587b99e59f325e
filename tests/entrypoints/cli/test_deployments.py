"""`stoker deploy | ps | scale | rm`."""

import json

import pytest

from api.errors import FieldError, ProblemError
from stoker.domain.deployments import EngineOptions, InstanceState
from stoker.domain.statuses import InstanceStatus
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import FakeApi, Steps, make_instance

MODEL = "hf:org/repo:Q4_K_M"
DEPLOY = ("deploy", "smol", "--model", MODEL)
PATH = "/api/v1/deployments"


def instance(state: InstanceState, **overrides: object) -> InstanceStatus:
    values: dict[str, object] = {"instance_id": "smol-0", "deployment": "smol"}
    return make_instance(state, **(values | overrides))


def test_deploy_waits_and_says_where_it_runs(api: FakeApi, stoker: Stoker) -> None:
    done = stoker(*DEPLOY)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "smol is running: 1 of 1 running",
        "  smol-0 on box-1: gpu0 (33 layers, 6 GiB)",
        "  try it: stoker chat smol",
    ]
    assert done.stderr.splitlines() == [
        f"smol: created, {MODEL}",
        "smol-0 placing",
        "smol-0 downloading: 1 GiB of 4 GiB, 35 MiB/s, 1m left",
        "smol-0 starting: 50 %",
        "smol-0 running: answers on box-1",
    ]


def test_only_what_was_given_is_sent(api: FakeApi, stoker: Stoker) -> None:
    stoker(*DEPLOY, "--no-wait")
    every = [
        *("--replicas", "2", "--context", "4096", "--slots", "8", "--cache-type", "q8_0", "--embeddings"),
        *("--cache-type-v", "f16", "--no-flash-attn", "--kv-unified"),
        *("--batch", "1024", "--ubatch", "256", "--threads", "6"),
        *("--strategy", "binpack", "--selector", "zone=lab", "--selector", "disk=ssd"),
        *("--device", "box-1/gpu0", "--device", "box-2:cuda:1", "--priority", "5", "--cpu-offload"),
        *("--queue", "16", "--min-replicas", "0", "--max-replicas", "3", "--idle-timeout", "60"),
        *("--no-distributed", "--gpu-layers", "23", "--tensor-split", "12,11", "--min-compute-capability", "8.0"),
        "--overcommit",
    ]
    stoker(*DEPLOY, "--no-wait", *every)
    assert api.bodies("POST", PATH) == [
        {"name": "smol", "model": MODEL},
        {
            "name": "smol",
            "model": MODEL,
            "replicas": 2,
            "options": {
                "context_length": 4096,
                "slots": 8,
                "cache_type": "q8_0",
                "cache_type_v": "f16",
                "flash_attention": False,
                "kv_unified": True,
                "batch": 1024,
                "micro_batch": 256,
                "threads": 6,
                "embeddings": True,
            },
            "strategy": "binpack",
            "worker_selector": {"zone": "lab", "disk": "ssd"},
            "devices": ["box-1/gpu0", "box-2:cuda:1"],
            "distributed": False,
            "cpu_offload": True,
            "gpu_layers": 23,
            "tensor_split": [12, 11],
            "min_compute_capability": "8.0",
            "overcommit": True,
            "priority": 5,
            "queue": 16,
            "min_replicas": 0,
            "max_replicas": 3,
            "idle_timeout": 60,
        },
    ]


def test_every_field_has_a_flag() -> None:
    from api.schemas.deployments import DeploymentCreate, OptionsWrite
    from entrypoints.cli.spec_flags import FIELD_NAMES

    assert {field.partition(".")[0] for field in FIELD_NAMES} == set(DeploymentCreate.model_fields)
    options = {field.partition(".")[2] for field in FIELD_NAMES if "." in field}
    assert options == set(OptionsWrite.model_fields)


def test_the_choices_of_flags_are_those_of_the_domain() -> None:
    from typing import get_args

    from entrypoints.cli.keys import Role
    from entrypoints.cli.spec_flags import CacheType, Strategy
    from stoker.domain import deployments, keys

    assert get_args(CacheType) == tuple(deployments.CacheType)
    assert get_args(Strategy) == tuple(deployments.Strategy)
    assert set(get_args(Role)) == set(keys.Role)


def test_no_wait_ends_at_once(api: FakeApi, stoker: Stoker) -> None:
    done = stoker(*DEPLOY, "--no-wait")
    assert (done.exit_code, done.stdout) == (0, "smol is progressing: 0 of 1 running\n")


def test_json_is_what_the_server_says_at_the_end(api: FakeApi, stoker: Stoker) -> None:
    done = stoker(*DEPLOY, "-o", "json")
    assert json.loads(done.stdout) == api.shown("smol").model_dump(mode="json")
    assert json.loads(done.stdout)["state"] == "running"


def test_the_same_again_changes_nothing(api: FakeApi, stoker: Stoker) -> None:
    stoker(*DEPLOY)
    done = stoker(*DEPLOY)
    assert done.stderr.splitlines()[0] == "smol: is as asked for already"
    assert done.exit_code == 0


def test_a_change_waits_for_its_own_instances(api: FakeApi, stoker: Stoker) -> None:
    def rolls(*_: object) -> Steps:
        old = instance(InstanceState.RUNNING, instance_id="smol-old")
        new = [
            instance(state, instance_id="smol-new", generation=2)
            for state in (InstanceState.STARTING, InstanceState.RUNNING)
        ]
        return [(old,), (old, new[0]), (old, new[1])]

    stoker(*DEPLOY)
    api.life = rolls
    done = stoker(*DEPLOY, "--slots", "1")
    assert done.stderr.splitlines() == [
        "smol: options.slots 4 -> 1",
        "smol: replace 1 instance, one at a time",
        "smol: changed, now generation 2",
        "smol-new starting",
        "smol-new running: answers on box-1",
    ]
    assert done.exit_code == 0


def test_pending_is_explained_once_and_waited_out(api: FakeApi, stoker: Stoker) -> None:
    waits, runs = instance(InstanceState.PENDING), instance(InstanceState.RUNNING)
    api.life = lambda *_: [(waits,), (waits,), (instance(InstanceState.PLACING),), (waits,), (runs,)]
    done = stoker(*DEPLOY)
    assert done.exit_code == 0
    assert done.stderr.count("waits for room") == 1
    assert done.stderr.count("what would help: slots 4 → 1") == 1


def test_too_late_is_exit_code_124(api: FakeApi, stoker: Stoker) -> None:
    api.life = lambda *_: [(instance(InstanceState.PENDING),)]
    done = stoker(*DEPLOY, "--timeout", "1")
    assert (done.exit_code, done.stdout) == (124, "")
    assert done.stderr.splitlines()[-2:] == [
        "error: smol does not run yet after 1 s: pending: "
        "Needs 6 GiB; the nearest device, box-1/gpu0, has 2 GiB allocatable: 4 GiB short.",
        "hint: it goes on by itself: see `stoker why smol`",
    ]


def test_failed_is_exit_code_1(api: FakeApi, stoker: Stoker) -> None:
    failed = instance(InstanceState.FAILED, message="llama-server ended: unknown architecture")
    api.life = lambda *_: [(instance(InstanceState.STARTING),), (failed,)]
    done = stoker(*DEPLOY)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-2:] == [
        "error: smol failed: smol-0: llama-server ended: unknown architecture",
        "hint: see `stoker logs smol-0`",
    ]


def test_deleted_by_somebody_else_is_exit_code_3(api: FakeApi, stoker: Stoker) -> None:
    api.life = lambda *_: [(instance(InstanceState.STARTING),), None]
    done = stoker(*DEPLOY)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (3, "error: smol was deleted meanwhile")


def test_a_watch_that_ends_is_begun_again(api: FakeApi, stoker: Stoker) -> None:
    api.end_watch_after = [1, 0, 2]
    done = stoker(*DEPLOY)
    assert done.exit_code == 0
    assert sum(asked.query.get("watch") == "true" for asked in api.requests) == 4


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("model_not_found", 3),
        ("file_not_found", 3),
        ("not_gguf", 1),
        ("truncated_gguf", 1),
        ("access_denied", 4),
        ("path_not_allowed", 4),
        ("hub_unavailable", 1),
        ("deployment_deleting", 1),
    ],
)
def test_a_model_that_cannot_be_had(code: str, exit_code: int, api: FakeApi, stoker: Stoker) -> None:
    api.refusals = [ProblemError(code, "this is why")]
    done = stoker(*DEPLOY)
    assert (done.exit_code, done.stdout, done.stderr) == (exit_code, "", "error: this is why\n")
    assert api.deployments == {}


def test_a_server_that_lacks_something_sends_for_the_doctor(api: FakeApi, stoker: Stoker) -> None:
    api.refusals = [ProblemError("control_plane_unavailable", "this is why")]
    done = stoker(*DEPLOY)
    assert (done.exit_code, done.stderr) == (1, "error: this is why\nhint: `stoker doctor` tells what is wrong\n")


@pytest.mark.parametrize(
    ("arguments", "errors"),
    [
        (("deploy", "smol", "-m", "smollm2"), ["--model 'smollm2': 'smollm2' is no model source: write file:/path"]),
        ((*DEPLOY, "--replicas", "-1"), ["--replicas -1: Input should be greater than or equal to 0"]),
        ((*DEPLOY, "--context", "1"), ["--context 1: Input should be greater than or equal to 128"]),
        (("deploy", "Smol", "-m", MODEL), ["NAME 'Smol': write lower-case letters, digits and '-'"]),
        ((*DEPLOY, "--slots", "0", "--priority", "9999"), ["--slots 0: Input", "--priority 9999: Input"]),
        ((*DEPLOY, "--queue", "-1"), ["--queue -1: Input should be greater than or equal to 0"]),
        ((*DEPLOY, "--device", "gpu0"), ["--device: 'gpu0' is no device: write WORKER:KIND:INDEX, as in box-1:cuda:0"]),
        ((*DEPLOY, "--gpu-layers", "-1"), ["--gpu-layers -1: Input should be greater than or equal to 0"]),
        ((*DEPLOY, "--tensor-split", "3,x"), ["--tensor-split '3,x': write the layers of each device, like 16,15"]),
        ((*DEPLOY, "--tensor-split", "3,0"), ["--tensor-split 0: Input should be greater than or equal to 1"]),
        (
            (*DEPLOY, "--tensor-split", "3,4", "--gpu-layers", "8"),
            ["--tensor-split: its sum is 7 and gpu_layers is 8: make them equal, or leave gpu_layers out"],
        ),
        ((*DEPLOY, "--min-compute-capability", "8"), ["--min-compute-capability '8': write major and minor number"]),
        ((*DEPLOY, "--overcommit"), ["--overcommit True: only chosen devices are overcommitted: name them"]),
    ],
)
def test_a_refused_field_goes_by_its_flag(
    arguments: tuple[str, ...], errors: list[str], api: FakeApi, stoker: Stoker
) -> None:
    done = stoker(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    for line, error in zip(done.stderr.splitlines(), errors, strict=True):
        assert line.startswith(f"error: {error}")


def test_a_field_that_this_program_does_not_know(api: FakeApi, stoker: Stoker) -> None:
    field = FieldError(field="options.newer", message="must be smaller", value=None)
    api.refusals = [ProblemError("invalid_request", "options.newer: must be smaller", errors=[field])]
    assert stoker(*DEPLOY).stderr == "error: options.newer: must be smaller\n"


# --- scale ----------------------------------------------------------------------------------------------------------


def test_scale_sends_only_the_replicas(api: FakeApi, stoker: Stoker) -> None:
    api.add(instance(InstanceState.RUNNING), name="smol", options=EngineOptions(slots=2))
    done = stoker("scale", "smol", "3")
    assert (done.exit_code, done.stderr) == (0, "smol: 3 replicas wanted\n")
    assert api.bodies("PATCH", f"{PATH}/smol") == [{"replicas": 3}]
    assert api.deployments["smol"].status.spec.options.slots == 2


def test_scale_down_waits_until_the_others_are_gone(api: FakeApi, stoker: Stoker) -> None:
    first, second = (instance(InstanceState.RUNNING, instance_id=f"smol-{n}") for n in range(2))
    api.add(first, second, name="smol", replicas=2)
    stopping = instance(InstanceState.STOPPING, instance_id="smol-1")
    api.life = lambda *_: [(first, second), (first, stopping), (first,)]
    done = stoker("scale", "smol", "1", "--wait")
    assert (done.exit_code, len(api.shown("smol").instances)) == (0, 1)
    assert done.stdout.splitlines()[0] == "smol is running: 1 of 1 running"


def test_how_many_demand_may_ask_for_is_shown(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(InstanceState.RUNNING), replicas=1, min_replicas=0, max_replicas=3, idle_timeout=60)
    assert "  running  1 of 0..3  " in stoker("ps").stdout
    described = stoker("describe", "llama").stdout
    assert "Replicas    1 running of 1\n" in described
    assert "            0..3, as requests need; fewer when they have sufficed for 60 s\n" in described


def test_one_that_sleeps_is_no_error(api: FakeApi, stoker: Stoker) -> None:
    api.add(replicas=0, min_replicas=0)
    assert stoker("scale", "llama", "0", "--wait").stdout == "llama is stopped\n"
    assert "it sleeps: the first request starts it" in stoker("why", "llama").stdout


@pytest.mark.parametrize(("name", "replicas", "exit_code"), [("nix", "1", 3), ("smol", "5000", 2)])
def test_scale_refused(name: str, replicas: str, exit_code: int, api: FakeApi, stoker: Stoker) -> None:
    api.add(instance(InstanceState.RUNNING), name="smol")
    done = stoker("scale", name, replicas)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.startswith("error: ")


# --- ps -------------------------------------------------------------------------------------------------------------


def test_ps(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(InstanceState.RUNNING))
    big = {"instance_id": "big-0", "deployment": "big"}
    path = "/srv/models/huge/Some-Very-Large-Model-70B.gguf"
    api.add(make_instance(InstanceState.PENDING, **big), name="big", model=f"file:{path}", replicas=2)
    done = stoker("ps")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "NAME   MODEL                             STATE    READY  AGE  MESSAGE",
        "big    file:/srv/…-Large-Model-70B.gguf  pending  0/2    3d   "
        "Needs 6 GiB; the nearest device, box-1/gpu0, has 2 GiB allocatable: 4 GiB short.",
        "llama  hf:bartows…-Instruct-GGUF:Q4_K_M  running  1/1    3d   all replicas answer",
    ]


def test_ps_of_nothing(stoker: Stoker) -> None:
    assert stoker("ps").stdout == "NAME  MODEL  STATE  READY  AGE  MESSAGE\n"
    assert stoker("ps", "-o", "json").stdout == "[]\n"


def test_ps_fetches_every_page(api: FakeApi, stoker: Stoker) -> None:
    for number in range(7):
        api.add(name=f"d{number}", replicas=0)
    api.page = 3
    assert [item["name"] for item in json.loads(stoker("ps", "-o", "json").stdout)] == [f"d{n}" for n in range(7)]


# --- rm -------------------------------------------------------------------------------------------------------------


def test_rm_waits_until_it_is_gone(api: FakeApi, stoker: Stoker) -> None:
    api.add(instance(InstanceState.RUNNING), name="smol")
    api.add(make_instance(InstanceState.RUNNING))
    done = stoker("rm", "smol", "llama")
    assert (done.exit_code, done.stdout) == (0, "smol: deleted\nllama: deleted\n")
    assert api.all_shown() == []


def test_rm_without_waiting(api: FakeApi, stoker: Stoker) -> None:
    api.add(instance(InstanceState.RUNNING), name="smol")
    assert stoker("rm", "smol", "--no-wait").stdout == "smol: being deleted\n"
    assert api.shown("smol").state == "deleting"


def test_rm_that_takes_too_long(api: FakeApi, stoker: Stoker) -> None:
    stuck = instance(InstanceState.STOPPING)
    api.add(name="smol", steps=[(stuck,)] * 1000 + [None])
    done = stoker("rm", "smol", "--timeout", "1")
    assert done.exit_code == 124
    assert done.stderr.startswith("error: smol is not gone yet after 1 s\nhint: it goes on by itself")


def test_rm_of_what_is_not_there(stoker: Stoker) -> None:
    done = stoker("rm", "nix")
    assert (done.exit_code, done.stderr) == (3, "error: there is no deployment 'nix'\nhint: see `stoker ps`\n")


def test_a_name_cannot_lead_to_another_route(api: FakeApi, stoker: Stoker) -> None:
    done = stoker("rm", "../keys/abc", "--no-wait")
    assert done.exit_code == 3
    assert [asked.path for asked in api.requests if "/keys/" in asked.path and "deployments" not in asked.path] == []


# --- keys that do not open ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "error", "hint"),
    [
        ("", "no API key: send", "no key was found in STOKER_API_KEY and "),
        (
            "sk-stoker-x-y",
            "this API key is not known, has expired, or was revoked",
            "the key from STOKER_API_KEY is not one of",
        ),
        ("user", "the key 'app' has the role user; this needs admin", "the key from STOKER_API_KEY may not: set "),
    ],
)
def test_not_allowed_is_exit_code_4(
    key: str, error: str, hint: str, api: FakeApi, stoker: Stoker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_API_KEY", api.user_key if key == "user" else key)
    done = stoker("ps")
    assert (done.exit_code, done.stdout) == (4, "")
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {error}")
    assert second.startswith(f"hint: {hint}")
    assert "keys create" not in second, "that needs the very key which is missing"
