"""`stoker simulate`."""

import json

import pytest

from api.errors import FieldError, ProblemError
from api.schemas.placements import WhatIfRead
from stoker.domain.deployments import EngineOptions
from stoker.domain.placement.what_if import Drained, Move, Simulation
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import FakeApi, make_group, make_instance, make_placement, make_unplaceable

PATH = "/api/v1/placements"
MODEL = "hf:org/repo:Q4_K_M"

MOVES = Drained(
    moves=(
        Move(instance_id="llama-a", deployment="llama", outcome=make_placement("box-2")),
        Move(instance_id="qwen-b", deployment="qwen", outcome=make_unplaceable()),
    )
)


def test_what_fits(api: FakeApi, stoker: Stoker) -> None:
    api.what_if = WhatIfRead.of_simulation(Simulation(placements=(make_placement(), make_group())))
    done = stoker("simulate", "llama")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "llama fits: 2 replicas",
        "REPLICA  PLACED ON                WORKER  DEVICE  LAYERS  CLAIMED",
        "1        one GPU                  box-1   gpu0    33      6 GiB",
        "2        GPUs of several workers  box-1   gpu0    17      3 GiB",
        "                                  box-2   gpu0    16      2 GiB",
        "                                  box-1   cpu     -       1 GiB",
        "why there: the emptiest GPU that holds it whole",
        "warning: box-2 may be too slow",
    ]
    assert api.bodies("POST", PATH) == [{"name": "llama", "add": [], "without": []}]


def test_what_does_not_fit(api: FakeApi, stoker: Stoker) -> None:
    found = Simulation(placements=(make_placement(),), unplaceable=make_unplaceable())
    api.what_if = WhatIfRead.of_simulation(found)
    done = stoker("simulate", "llama")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "llama does not fit: 1 replica would have a place, and the next would not",
        "REPLICA  PLACED ON  WORKER  DEVICE  LAYERS  CLAIMED",
        "1        one GPU    box-1   gpu0    33      6 GiB",
        "why there: the emptiest GPU that holds it whole",
        "",
        "replica 2: Needs 6 GiB; the nearest device, box-1/gpu0, has 2 GiB allocatable: 4 GiB short.",
        "  WHERE       SHORT  WHY NOT",
        "  box-1/gpu0  4 GiB  not enough memory for the whole model",
        "  box-2              takes no new instances",
        "  what would help:",
        "    slots 4 → 1 fits on box-1",
        "    q4_0 KV cache fits on box-1",
    ]


def test_as_data(api: FakeApi, stoker: Stoker) -> None:
    api.what_if = WhatIfRead.of_simulation(Simulation(placements=(), unplaceable=make_unplaceable()))
    done = stoker("simulate", "llama", "-o", "json")
    assert (done.exit_code, json.loads(done.stdout)) == (1, api.what_if.model_dump(mode="json"))


def test_a_model_on_other_machines(api: FakeApi, stoker: Stoker) -> None:
    flags = ("--replicas", "2", "--context", "4096", "--no-distributed")
    machines = ("--add", "4x24GiB", "--add", "2x80GiB+256GiB", "--without", "box-1")
    assert stoker("simulate", MODEL, *flags, *machines).exit_code == 0
    assert api.bodies("POST", PATH) == [
        {
            "deployment": {
                "name": "simulated",
                "model": MODEL,
                "replicas": 2,
                "options": {"context_length": 4096},
                "distributed": False,
            },
            "add": ["4x24GiB", "2x80GiB+256GiB"],
            "without": ["box-1"],
        }
    ]


def test_a_deployment_as_if_it_were_changed(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance(), options=EngineOptions(slots=8), priority=3)
    assert stoker("simulate", "llama", "--context", "65536", "--cpu-offload").exit_code == 0
    (asked,) = api.bodies("POST", PATH)
    wanted = asked["deployment"]
    assert (wanted["name"], wanted["priority"], wanted["cpu_offload"]) == ("llama", 3, True)
    assert (wanted["options"]["slots"], wanted["options"]["context_length"]) == (8, 65536)


def test_a_drain(api: FakeApi, stoker: Stoker) -> None:
    api.what_if = WhatIfRead.of_drain(MOVES)
    done = stoker("simulate", "--drain", "box-1", "--add", "1x24GiB")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "box-1: 1 of 2 instances fits nowhere else now: it would stop, and wait for room",
        "INSTANCE  WOULD MOVE TO",
        "llama-a   box-2: gpu0 (33 layers, 6 GiB)",
        "qwen-b    nowhere",
        "",
        "qwen-b: Needs 6 GiB; the nearest device, box-1/gpu0, has 2 GiB allocatable: 4 GiB short.",
        "  WHERE       SHORT  WHY NOT",
        "  box-1/gpu0  4 GiB  not enough memory for the whole model",
        "  box-2              takes no new instances",
        "  what would help:",
        "    slots 4 → 1 fits on box-1",
        "    q4_0 KV cache fits on box-1",
    ]
    assert api.bodies("POST", PATH) == [{"drain": "box-1", "add": ["1x24GiB"], "without": []}]
    api.what_if = WhatIfRead.of_drain(Drained(moves=MOVES.moves[:1]))
    done = stoker("simulate", "--drain", "box-1")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (
        0,
        "box-1: 1 instance would move, and it has a place elsewhere",
    )
    api.what_if = WhatIfRead.of_drain(Drained(moves=()))
    assert stoker("simulate", "--drain", "box-1").stdout == "box-1 holds nothing that would have to move\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "nothing to simulate: name a deployment, a model or --drain WORKER"),
        (("llama", "--drain", "box-1"), "--drain moves what a worker holds, as it is: leave out all else"),
        (("--drain", "box-1", "--slots", "1"), "--drain moves what a worker holds"),
        (("llama", "--add", "many"), "--add: 'many' is no machine: 'many' is not a size: write it like 2GiB"),
        (("llama", "--add", "2x0GiB"), "--add: '2x0GiB': no device has 0GiB: write it like 4x24GiB"),
        ((MODEL, "--replicas", "-1"), "--replicas -1: Input should be greater than or equal to 0"),
        ((MODEL, "--overcommit"), "--overcommit True: only chosen devices are overcommitted"),
        (("hf:repo",), "MODEL 'hf:repo': hf:repo must name a repository as ORG/REPO"),
        (("--drain", "Box"), "--drain 'Box': write lower-case letters"),
        (("llama", "--without", "Box"), "--without 'Box': write lower-case letters"),
    ],
)
def test_a_wrong_question(arguments: tuple[str, ...], error: str, stoker: Stoker) -> None:
    done = stoker("simulate", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {error}")


def test_refusals_of_the_server(api: FakeApi, stoker: Stoker) -> None:
    api.refusals = [
        ProblemError("not_found", "there is no worker 'box-9'"),
        ProblemError(
            "invalid_request", "", errors=[FieldError(field="deployment.devices", message="'box-1:rocm:0': write cuda")]
        ),
    ]
    done = stoker("simulate", "llama", "--without", "box-9")
    assert (done.exit_code, done.stderr) == (3, "error: there is no worker 'box-9'\n")
    done = stoker("simulate", MODEL, "--device", "box-1:rocm:0")
    assert (done.exit_code, done.stderr) == (2, "error: --device: 'box-1:rocm:0': write cuda\n")
    done = stoker("simulate", "nix", "--slots", "1")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (3, "error: there is no deployment 'nix'")
