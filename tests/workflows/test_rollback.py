"""A generation that cannot run is given up by itself, and what ran before it goes on without a pause."""

import os
from pathlib import Path

import pytest
from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateStage

from entrypoints.clock import utc_now
from stoker.domain import rollback
from stoker.domain.deployments import EngineOptions, InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.naming import deployment_workflow_id
from stoker.domain.revisions import OnTrial, Revision, RevisionState
from stoker.domain.statuses import DeploymentStatus
from stoker.domain.units import MIB
from stoker.storage.revisions import Revisions
from tests.builders import make_spec
from tests.cluster import Cluster, eventually
from tests.workflows.conftest import cpu_host, join_hosts, run_one
from workflows.deployment import Deployment
from workflows.types import ApplyInput

pytestmark = pytest.mark.anyio

RUNNING, PENDING = InstanceState.RUNNING, InstanceState.PENDING
CURRENT, SUPERSEDED, ROLLED_BACK = RevisionState.CURRENT, RevisionState.SUPERSEDED, RevisionState.ROLLED_BACK


def refused_by_engines(good: ModelSource, name: str = "refused") -> ModelSource:
    """A file beside the good one, as long as it, whose header can be read: an engine misses a tensor in it."""
    content = Path(good.path).read_bytes()
    path = Path(good.path).with_name(f"{name}.gguf")
    path.write_bytes(content.replace(b"output_norm.weight", b"output_none.weight", 1))
    return ModelSource.parse(f"file:{path}")


def shown(cluster: Cluster) -> DeploymentStatus:
    (status,) = (one for one in cluster.deployments() if one.spec.name == "tiny")
    return status


def revisions(cluster: Cluster) -> list[Revision]:
    """Of the deployment `tiny`, the first one first."""
    with cluster.database.read() as session:
        return list(reversed(Revisions(session, utc_now()).of("tiny")))


async def at_generation(cluster: Cluster, generation: int) -> DeploymentStatus:
    await eventually(lambda: shown(cluster).generation >= generation, lambda: (shown(cluster), cluster.instances()))
    return shown(cluster)


async def only(cluster: Cluster, instance_id: str, pid: int) -> None:
    """Waits until that instance is the only one of `tiny`; it must be the process that it was."""
    (left,) = await eventually(
        lambda: found if len(found := cluster.instances("tiny")) == 1 else None, lambda: cluster.instances("tiny")
    )
    assert (left.instance_id, left.pid, left.state) == (instance_id, pid, RUNNING)
    others = {one.instance_id for one in cluster.instances()} - {instance_id}
    await eventually(lambda: len({claim.instance_id for claim in cluster.claims()} - others) == 1, cluster.claims)


async def test_a_file_that_engines_refuse_is_rolled_back(cluster: Cluster, tiny_model: ModelSource) -> None:
    await join_hosts(cluster, "w1")
    before = await run_one(cluster, tiny_model)
    wrong = make_spec(name="tiny", model=refused_by_engines(tiny_model), replicas=2)
    assert await cluster.apply(wrong) == 2
    status = await at_generation(cluster, 3)
    assert (status.spec, status.instances_generation) == (make_spec(name="tiny", model=tiny_model), 1)
    assert status.rolled_back is not None
    assert status.rolled_back.generation == 2
    assert "output_norm" in status.rolled_back.reason
    await only(cluster, before.instance_id, before.pid)
    first, second, third = revisions(cluster)
    assert [(one.state, one.ran) for one in (first, second, third)] == [
        (SUPERSEDED, True),
        (ROLLED_BACK, False),
        (CURRENT, True),
    ]
    assert second.reason == status.rolled_back.reason
    assert third.spec == first.spec

    assert await cluster.apply(wrong.model_copy(update={"model": tiny_model})) == 4, "what is right rolls as ever"
    await cluster.instances_in("tiny", [RUNNING] * 2)
    assert shown(cluster).rolled_back is None


async def test_a_file_that_vanished_is_rolled_back_and_a_change_meanwhile_stays(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await join_hosts(cluster, "w1")
    await run_one(cluster, tiny_model)
    other = Path(tiny_model.path).with_name("other.gguf")
    other.write_bytes(Path(tiny_model.path).read_bytes())
    spec = make_spec(name="tiny", model=ModelSource.parse(f"file:{other}"), replicas=0)
    await cluster.apply(spec)
    await eventually(lambda: not cluster.instances("tiny"), lambda: cluster.instances("tiny"))
    other.unlink()
    assert await cluster.apply(spec.model_copy(update={"replicas": 2})) == 3
    status = await at_generation(cluster, 4)
    assert status.spec == make_spec(name="tiny", model=tiny_model, replicas=2)
    assert status.rolled_back is not None
    assert "other.gguf" in status.rolled_back.reason
    await cluster.instances_in("tiny", [RUNNING] * 2, generation=1)
    assert [one.state for one in revisions(cluster)] == [SUPERSEDED, ROLLED_BACK, ROLLED_BACK, CURRENT]


async def test_what_ran_before_is_wanted_again_by_hand_and_never_stops(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await join_hosts(cluster, "w1")
    before = await run_one(cluster, tiny_model)
    spec = make_spec(name="tiny", model=tiny_model)
    for generation, slots in ((2, 1), (3, 2)):  # nothing has such a label: none of them ever runs
        nowhere = {"worker_selector": {"zone": "moon"}, "options": EngineOptions(slots=slots)}
        assert await cluster.apply(spec.model_copy(update=nowhere)) == generation
        await cluster.instances_in("tiny", [RUNNING, PENDING])
    assert await cluster.apply(spec) == 4
    assert shown(cluster).instances_generation == 1
    await only(cluster, before.instance_id, before.pid)
    assert [one.state for one in revisions(cluster)] == [SUPERSEDED, SUPERSEDED, SUPERSEDED, CURRENT]


@pytest.mark.skipif("RECORD_HISTORIES" in os.environ, reason="with the real time-out its history is another")
async def test_what_does_not_run_in_time_is_rolled_back(
    cluster: Cluster, tiny_model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "ROLLOUT_TIMEOUT_SECONDS", 1.0)
    await join_hosts(cluster, "w1")
    before = await run_one(cluster, tiny_model)
    nowhere = make_spec(name="tiny", model=tiny_model, worker_selector={"zone": "moon"})
    assert await cluster.apply(nowhere) == 2
    status = await at_generation(cluster, 3)
    assert status.trial is None
    assert status.rolled_back is not None
    assert status.rolled_back.reason.startswith("none of its instances ran within")
    await only(cluster, before.instance_id, before.pid)


TOO_LARGE = EngineOptions(slots=256, batch=16384, micro_batch=8192)


@pytest.mark.skipif("RECORD_HISTORIES" in os.environ, reason="with the real time-out its history is another")
async def test_what_fits_nowhere_stops_nothing_and_is_rolled_back(
    cluster: Cluster, tiny_model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "ROLLOUT_TIMEOUT_SECONDS", 1.0)
    await cluster.add_host(cpu_host("w1", total=550 * MIB))
    before = await run_one(cluster, tiny_model)
    assert await cluster.apply(make_spec(name="tiny", model=tiny_model, options=TOO_LARGE)) == 2
    status = await at_generation(cluster, 3)
    assert status.rolled_back is not None
    assert status.rolled_back.reason.startswith("none of its instances ran within")
    await only(cluster, before.instance_id, before.pid)


@pytest.mark.skipif("RECORD_HISTORIES" in os.environ, reason="with the real time-out its history is another")
async def test_what_fits_only_without_another_deployment_stops_nothing_and_is_rolled_back(
    cluster: Cluster, tiny_model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "ROLLOUT_TIMEOUT_SECONDS", 1.0)
    await cluster.add_host(cpu_host("w1", total=900 * MIB))
    await cluster.apply(make_spec(name="other", model=tiny_model))
    await cluster.instances_in("other", [RUNNING])
    before = await run_one(cluster, tiny_model)
    assert await cluster.apply(make_spec(name="tiny", model=tiny_model, options=TOO_LARGE)) == 2
    status = await at_generation(cluster, 3)
    assert status.rolled_back is not None
    await only(cluster, before.instance_id, before.pid)


@pytest.mark.skipif("RECORD_HISTORIES" in os.environ, reason="with the real time-out its history is another")
async def test_room_that_was_made_and_taken_by_another_is_not_waited_for_for_ever(
    cluster: Cluster, tiny_model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "MOST_WAITING_SECONDS", 1.0)
    await cluster.add_host(cpu_host("w1", total=700 * MIB))
    await run_one(cluster, tiny_model)
    await cluster.apply(make_spec(name="urgent", model=tiny_model, priority=5))
    await cluster.instances_in("urgent", [PENDING])
    assert await cluster.apply(make_spec(name="tiny", model=tiny_model, options=EngineOptions(slots=2))) == 2
    status = await at_generation(cluster, 3)
    assert status.rolled_back is not None
    assert status.rolled_back.reason.startswith("it found no room within")
    await cluster.instances_in("urgent", [RUNNING])
    await cluster.delete("urgent")
    await cluster.instances_in("tiny", [RUNNING], generation=1)


@pytest.mark.skipif("RECORD_HISTORIES" in os.environ, reason="with the real time-out its history is another")
async def test_time_that_ends_while_a_change_is_looked_at_is_judged_after_it_and_not_before(
    cluster: Cluster, tiny_model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "ROLLOUT_TIMEOUT_SECONDS", 5.0)  # half of what the look takes
    await join_hosts(cluster, "w1")
    await run_one(cluster, tiny_model)
    await cluster.stop_agent("w1")  # nobody reads the model of the next change but one: it is refused after 10 s
    nowhere = make_spec(name="tiny", model=tiny_model, worker_selector={"zone": "moon"})
    assert await cluster.apply(nowhere) == 2
    handle = cluster.client.get_workflow_handle_for(Deployment.run, deployment_workflow_id("tiny"))
    unread = ApplyInput(spec=make_spec(name="tiny", model=refused_by_engines(tiny_model)))
    applying = await handle.start_update(Deployment.apply, unread, wait_for_stage=WorkflowUpdateStage.ACCEPTED)
    with pytest.raises(WorkflowUpdateFailedError):
        await applying.result()
    status = await at_generation(cluster, 3)
    assert status.rolled_back is not None
    assert status.rolled_back.reason.startswith("none of its instances ran within")
    history = await handle.fetch_history()
    asked = [event.activity_task_scheduled_event_attributes.activity_type.name for event in history.events]
    assert asked.count("sweep_instances") == 0


async def test_the_row_says_what_is_on_trial_until_an_instance_of_it_runs(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await join_hosts(cluster, "w1")
    await run_one(cluster, tiny_model)
    spec = make_spec(name="tiny", model=tiny_model)
    assert shown(cluster).trial is None
    nowhere = {"worker_selector": {"zone": "moon"}}
    assert await cluster.apply(spec.model_copy(update=nowhere)) == 2
    assert shown(cluster).trial == OnTrial(previous=spec, instances_generation=1)
    changed = spec.model_copy(update={"options": EngineOptions(slots=1)})
    assert await cluster.apply(changed) == 3
    await cluster.instances_in("tiny", [RUNNING], generation=3)
    await eventually(lambda: shown(cluster).trial is None, lambda: shown(cluster))
    assert shown(cluster).spec == changed
