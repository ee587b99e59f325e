"""`/api/v1/placements`: what would be, if. Nothing of it is kept."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from entrypoints.clock import utc_now
from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.placement.types import Placement
from stoker.domain.statuses import DeploymentProjection, InstanceProjection
from stoker.domain.units import GIB
from stoker.domain.workers import Worker
from stoker.remote_models import remote_models
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.migrate import migrate
from stoker.storage.workers import Workers
from tests.api.serving import Api, serving_api
from tests.api.test_deployments import problem_of
from tests.builders import make_device, make_files, make_profile, make_request, make_spec, make_worker, write_tiny_llama
from tests.cluster import Cluster
from tests.fakes.hub import FakeHub

pytestmark = pytest.mark.anyio

PATH = "/api/v1/placements"
MODEL = "hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M"

ONE = 10 * GIB
"""Room for one of the builders' model: it takes 9.4 GiB."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Of each test its own: a fleet is what is asked about."""
    opened = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
async def fleet_api(database: Database) -> AsyncIterator[Api]:
    """The API on it, without Temporal and hub: what is asked here needs neither."""
    async with serving_api(database) as running:
        yield running


def join(database: Database, *workers: Worker) -> None:
    with database.write() as session:
        for worker in workers:
            Workers(session, utc_now()).join(worker, credential_hash="", engine_secret="s")


def box(name: str, total: int = 24 * GIB, **overrides: Any) -> Worker:
    """A worker with one GPU; its RAM is not counted."""
    return make_worker(name=name, devices=(make_device(total=total),), **overrides)


def deploy(database: Database, name: str, *, deleting: bool = False, **spec: Any) -> None:
    """A deployment's row, as its workflow would write it."""
    wanted = make_spec(name=name, **spec)
    with database.write() as session:
        projection = DeploymentProjection(
            spec=wanted, generation=1, profile=make_profile(), files=make_files(wanted.model), deleting=deleting
        )
        Deployments(session, utc_now()).put(projection)


async def place(
    api: Api,
    instance_id: str,
    deployment: str,
    *,
    on: str = "",
    state: InstanceState = InstanceState.RUNNING,
    **spec: Any,
) -> None:
    """An instance of it on the worker `on`, or one that waits."""
    chosen = {"devices": ((on, "gpu0"),)} if on else {}
    request = make_request(instance_id=instance_id, spec=make_spec(name=deployment, **chosen, **spec))
    outcome = await asyncio.to_thread(api.context.ledger.place, request)
    assert isinstance(outcome, Placement) is bool(on), outcome
    if on:
        with api.context.database.write() as session:
            projection = InstanceProjection(
                instance_id=instance_id,
                deployment=deployment,
                generation=1,
                incarnation=1,
                state=state,
            )
            Instances(session, utc_now()).put(projection)


async def asked(api: Api, **body: Any) -> dict[str, Any]:
    response = await api.admin.post(PATH, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def places(answer: dict[str, Any]) -> list[str]:
    return sorted(placement["worker"] for placement in answer["placements"])


def moves(answer: dict[str, Any]) -> dict[str, str | None]:
    """Where each instance would go; None: nowhere."""
    return {
        move["instance"]: move["placement"]["worker"] if move["placement"] is not None else None
        for move in answer["moves"]
    }


async def everything(api: Api) -> tuple[Any, ...]:
    """All that is kept."""
    kept = [(await api.admin.get(f"/api/v1/{kind}")).json()["data"] for kind in ("deployments", "instances", "workers")]
    return tuple(kept)


# --- a deployment ---------------------------------------------------------------------------------------------------


async def test_where_a_deployment_would_go_anew(fleet_api: Api, database: Database) -> None:
    join(database, box("a", ONE), box("b", ONE))
    deploy(database, "llama", replicas=2)
    await place(fleet_api, "llama-1", "llama", on="a")
    await place(fleet_api, "llama-2", "llama", on="b")
    before = await everything(fleet_api)
    answer = await asked(fleet_api, name="llama")
    assert (answer["fits"], places(answer), answer["unplaceable"], answer["moves"]) == (True, ["a", "b"], None, [])
    (share,) = answer["placements"][0]["shares"]
    assert (share["layers"], share["kind"], share["worker"]) == (33, "cuda", answer["placements"][0]["worker"])
    assert answer["placements"][0]["tier"] == "one_device"
    assert await everything(fleet_api) == before


async def test_with_more_and_with_fewer_machines(fleet_api: Api, database: Database) -> None:
    join(database, box("a"), box("small", 2 * GIB))
    deploy(database, "llama")
    assert places(await asked(fleet_api, name="llama")) == ["a"]
    answer = await asked(fleet_api, name="llama", without=["a"])
    assert (answer["fits"], answer["placements"]) == (False, [])
    why = answer["unplaceable"]
    assert why["rejections"][0]["short_bytes"] > 0
    assert why["tiers"][0]["tier"] == "one_device"
    assert why["summary"]
    assert places(await asked(fleet_api, name="llama", without=["a"], add=["1x24GiB+64GiB"])) == ["plus-1"]


async def test_a_deployment_as_if_it_were_changed_needs_no_reading_of_its_model(
    fleet_api: Api, database: Database
) -> None:
    join(database, box("a", ONE))
    deploy(database, "llama")
    await place(fleet_api, "llama-1", "llama", on="a")
    wanted = {"name": "llama", "model": MODEL}
    assert (await asked(fleet_api, deployment=wanted))["fits"]
    more = await asked(fleet_api, deployment=wanted | {"replicas": 2})
    assert (more["fits"], places(more)) == (False, ["a"])
    longer = await asked(fleet_api, deployment=wanted | {"options": {"context_length": 131072}})
    assert (longer["fits"], places(longer)) == (False, [])
    assert {"text", "changes"} == set(longer["unplaceable"]["suggestions"][0])


async def test_what_a_machine_must_have_is_what_is_added(fleet_api: Api, database: Database) -> None:
    deploy(database, "llama", worker_selector={"zone": "lab"}, min_compute_capability="9.0")
    assert places(await asked(fleet_api, name="llama", add=["1x24GiB"])) == ["plus-1"]


async def test_a_stopped_deployment_is_asked_for_once(fleet_api: Api, database: Database) -> None:
    join(database, box("a"))
    deploy(database, "llama", replicas=0)
    assert places(await asked(fleet_api, name="llama")) == ["a"]


async def test_one_that_has_waited_long_keeps_its_place_against_others(database: Database) -> None:
    past = utc_now() - timedelta(hours=1)
    join(database, box("a", 2 * GIB))
    async with serving_api(database, clock=lambda: past) as api:
        await place(api, "old-1", "old")
    join(database, box("a"))
    deploy(database, "llama")
    deploy(database, "old")
    async with serving_api(database) as api:
        answer = await asked(api, name="llama")
        assert (answer["fits"], answer["unplaceable"]["rejections"][0]["rule"]) == (False, "reserved")
        assert (await asked(api, name="old"))["fits"], "not against itself"


# --- a model that is not deployed ------------------------------------------------------------------------------------


async def test_a_model_of_the_hub(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub/acme/tiny").mkdir(parents=True)
    write_tiny_llama(tmp_path / "hub/acme/tiny/tiny-F16.gguf")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    join(database, box("a"))
    with FakeHub(tmp_path / "hub") as hub:
        models = remote_models(None, endpoint=hub.url)
        async with serving_api(database, models=models) as api:
            answer = await asked(api, deployment={"name": "tiny", "model": "hf:acme/tiny", "replicas": 2})
            assert places(answer) == ["a", "a"]
            response = await api.admin.post(PATH, json={"deployment": {"name": "tiny", "model": "hf:acme/none"}})
            assert "no model acme/none" in problem_of(response, 422, "model_not_found").detail
            assert await everything(api) == ([], [], (await everything(api))[2])


async def test_a_file_on_a_worker(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    answer = await asked(api, deployment={"name": "tiny", "model": str(tiny_model)})
    assert (answer["fits"], places(answer), answer["placements"][0]["tier"]) == (True, ["w1"], "cpu")
    more = await asked(api, deployment={"name": "tiny", "model": str(tiny_model)}, without=["w1"], add=["1x4GiB"])
    assert places(more) == ["plus-1"], "as if the file lay there"
    assert cluster.deployments() == ()


# --- a drain --------------------------------------------------------------------------------------------------------


async def test_what_a_drain_would_move(fleet_api: Api, database: Database) -> None:
    join(database, box("a", 4 * ONE), box("b", ONE))
    for name, priority in (("low", 0), ("high", 5)):
        deploy(database, name, priority=priority)
        await place(fleet_api, f"{name}-1", name, on="a")
    deploy(database, "ending", deleting=True)
    await place(fleet_api, "ending-1", "ending", on="a")
    await place(fleet_api, "high-0", "high", on="a", state=InstanceState.STOPPING)
    before = await everything(fleet_api)
    answer = await asked(fleet_api, drain="a")
    assert list(moves(answer).items()) == [("high-1", "b"), ("low-1", None)]
    assert (answer["fits"], answer["placements"], answer["unplaceable"]) == (False, [], None)
    assert answer["moves"][1]["pending"]["rejections"][0]["worker"] == "b"
    assert answer["moves"][1]["deployment"] == "low"
    assert moves(await asked(fleet_api, drain="a", add=["1x24GiB"])) == {"high-1": "plus-1", "low-1": "plus-1"}
    assert moves(await asked(fleet_api, drain="a", without=["b"])) == {"high-1": None, "low-1": None}
    assert await asked(fleet_api, drain="b") == {"fits": True, "placements": [], "unplaceable": None, "moves": []}
    assert await everything(fleet_api) == before


async def test_what_those_that_move_ask_for_is_what_is_added(fleet_api: Api, database: Database) -> None:
    new = make_device(compute_capability="12.0")
    join(database, make_worker(name="a", devices=(new,), labels={"zone": "lab"}))
    for name, asked_for in (("modern", "10.0"), ("older", "9.0")):
        spec: dict[str, Any] = {"worker_selector": {"zone": "lab"}, "min_compute_capability": asked_for}
        deploy(database, name, **spec)
        await place(fleet_api, f"{name}-1", name, on="a", **spec)
    answer = await asked(fleet_api, drain="a", add=["1x24GiB"])
    assert moves(answer) == {"modern-1": "plus-1", "older-1": "plus-1"}


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "body", "given: none of them"),
        ({"name": "llama", "drain": "a"}, "body", "given: name and drain"),
        ({"name": "Llama"}, "name", "lower-case letters"),
        ({"name": "llama", "add": ["many"]}, "add", "'many' is not a size"),
        ({"name": "llama", "add": ["1x1GiB"] * 65}, "add", "at most 64 items"),
        ({"name": "llama", "add": ["1x" + "1" * 100]}, "add.0", "at most 100 characters"),
        ({"name": "llama", "without": ["A"]}, "without.0", "lower-case letters"),
        ({"name": "llama", "remove": ["a"]}, "remove", "not permitted"),
        ({"deployment": {"name": "x", "model": "x"}}, "deployment.model", "no model source"),
        ({"deployment": {"name": "x", "model": MODEL, "overcommit": True}}, "deployment.overcommit", "name them in"),
        (
            {"deployment": {"name": "x", "model": MODEL, "devices": ["a:rocm:0"]}},
            "deployment.devices",
            "write a:cuda:0",
        ),
    ],
)
async def test_a_wrong_question(
    fleet_api: Api, database: Database, body: dict[str, Any], field: str, words: str
) -> None:
    join(database, box("a"))
    problem = problem_of(await fleet_api.admin.post(PATH, json=body), 422, "invalid_request")
    (error,) = problem.errors
    assert error.field == field
    assert words in error.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "nix"}, "no deployment 'nix'"),
        ({"drain": "nix"}, "no worker 'nix'"),
        ({"drain": "a", "without": ["nix"]}, "no worker 'nix'"),
        ({"deployment": {"name": "llama", "model": MODEL}, "without": ["nix"]}, "no worker 'nix'"),
    ],
)
async def test_what_is_not_there(fleet_api: Api, database: Database, body: dict[str, Any], words: str) -> None:
    join(database, box("a"))
    deploy(database, "llama")
    assert words in problem_of(await fleet_api.admin.post(PATH, json=body), 404, "not_found").detail
