"""The repositories: what is put in comes out, and what is late changes nothing."""

from datetime import timedelta

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from stoker.domain.deployments import InstanceState
from stoker.domain.keys import Role
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.placement.types import Placement
from stoker.domain.statuses import DeploymentProjection, InstanceProjection, Progress
from stoker.domain.units import GIB
from stoker.domain.workers import WorkerState
from stoker.storage.claims import ClaimLedger
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database, sent_together
from stoker.storage.instances import Instances
from stoker.storage.keys import Keys
from stoker.storage.projections import RowProjections
from stoker.storage.tables import KeyRow, WorkerRow
from stoker.storage.workers import Workers
from tests.builders import make_device, make_files, make_profile, make_request, make_spec, make_worker
from tests.fakes.api import make_measured
from tests.stoker.storage.conftest import Clock


def projection(name: str = "smol", generation: int = 1, **overrides: object) -> DeploymentProjection:
    return DeploymentProjection.model_validate(
        {
            "spec": make_spec(name=name),
            "generation": generation,
            "profile": make_profile(),
            "files": make_files(),
            **overrides,
        }
    )


def instance(instance_id: str = "smol-aaaaa", incarnation: int = 1, **overrides: object) -> InstanceProjection:
    return InstanceProjection.model_validate(
        {
            "instance_id": instance_id,
            "deployment": "smol",
            "generation": 1,
            "incarnation": incarnation,
            "state": InstanceState.STARTING,
            **overrides,
        }
    )


def test_a_deployment_comes_back_whole(database: Database, clock: Clock) -> None:
    RowProjections(database, clock).put_deployment(projection())
    with database.read() as session:
        status = Deployments(session, clock()).get("smol")
        assert Deployments(session, clock()).get("other") is None
    assert status is not None
    assert DeploymentProjection.model_validate(status.model_dump()) == projection()
    assert status.created_at == status.updated_at == clock()


def test_an_older_generation_changes_nothing(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    rows.put_deployment(projection(generation=2))
    clock.advance(seconds=5)
    rows.put_deployment(projection(generation=1, deleting=True))
    with database.read() as session:
        (status,) = Deployments(session, clock()).all()
    assert (status.generation, status.deleting) == (2, False)
    assert clock() - status.updated_at == timedelta(seconds=5)


def test_deployments_are_paged_by_name(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    for name in ("b", "a", "c"):
        rows.put_deployment(projection(name))
    with database.read() as session:
        deployments = Deployments(session, clock())
        assert [d.spec.name for d in deployments.all(limit=2)] == ["a", "b"]
        assert [d.spec.name for d in deployments.all(after="b")] == ["c"]


def test_an_older_incarnation_changes_nothing(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    rows.put_instance(instance(incarnation=2, state=InstanceState.RUNNING, port=4321, pid=99))
    rows.put_instance(instance(incarnation=1, state=InstanceState.BACKOFF))
    with database.read() as session:
        (status,) = Instances(session, clock()).all(deployment="smol")
    assert (status.incarnation, status.state, status.port, status.pid) == (2, InstanceState.RUNNING, 4321, 99)


def test_what_it_took_is_kept_while_it_runs(database: Database, clock: Clock) -> None:
    def memory() -> MeasuredMemory | None:
        with database.read() as session:
            status = Instances(session, clock()).get("smol-aaaaa")
        assert status is not None
        return status.memory

    rows = RowProjections(database, clock)
    rows.put_instance(instance(state=InstanceState.RUNNING, memory=make_measured()))
    assert memory() == make_measured()
    rows.put_instance(instance(state=InstanceState.BACKOFF))
    assert memory() is None
    rows.put_instance(instance(state=InstanceState.RUNNING, memory=make_measured()))
    with database.write() as session:
        Workers(session, clock()).join(make_worker(name="w1"), credential_hash="", engine_secret="")
    ClaimLedger(database, clock).place(make_request(instance_id="smol-aaaaa", incarnation=2))
    assert memory() is None


def test_since_when_is_kept_while_the_state_stays(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    rows.put_instance(instance())
    since = clock()
    clock.advance(seconds=3)
    rows.put_instance(instance(message="still"))
    with database.read() as session:
        status = Instances(session, clock()).get("smol-aaaaa")
    assert status is not None
    assert (status.state_since, status.message) == (since, "still")


def test_progress_is_kept_only_from_the_worker_that_has_the_instance(database: Database, clock: Clock) -> None:
    with database.write() as session:
        Workers(session, clock()).join(make_worker(name="w1"), credential_hash="", engine_secret="")
    ClaimLedger(database, clock).place(make_request(instance_id="smol-aaaaa"))
    with database.write() as session:
        instances = Instances(session, clock())
        instances.set_progress("smol-aaaaa", "w1", Progress(done=1, total=4))
        instances.set_progress("smol-aaaaa", "w2", Progress(done=4, total=4))
        instances.set_progress("unknown", "w1", Progress(done=4, total=4))
    with database.read() as session:
        status = Instances(session, clock()).get("smol-aaaaa")
    assert status is not None
    assert status.progress == Progress(done=1, total=4)


def test_removing_a_deployment_takes_its_instances_along(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    rows.put_deployment(projection())
    rows.put_instance(instance())
    rows.remove_deployment("smol")
    rows.remove_deployment("smol")
    with database.read() as session:
        assert Deployments(session, clock()).all() == ()
        assert Instances(session, clock()).all() == ()


def test_a_worker_that_joins_again_keeps_its_engine_secret(database: Database, clock: Clock) -> None:
    with database.write() as session:
        workers = Workers(session, clock())
        assert workers.join(make_worker(name="w1"), credential_hash="one", engine_secret="first") == "first"
        assert workers.join(make_worker(name="w1"), credential_hash="two", engine_secret="second") == "first"
        assert workers.credential_hash("w1") == "two"
        assert workers.report(make_worker(name="w2")) is False


def test_cordon_holds_across_reports_and_silence_is_derived(database: Database, clock: Clock) -> None:
    def state() -> WorkerState:
        with database.read() as session:
            status = Workers(session, clock()).get("w1")
        assert status is not None
        return status.worker.state

    with database.write() as session:
        Workers(session, clock()).join(make_worker(name="w1"), credential_hash="", engine_secret="")
        assert Workers(session, clock()).cordon("w1", True)
    with database.write() as session:
        Workers(session, clock()).report(make_worker(name="w1"))
    assert state() is WorkerState.CORDONED
    clock.advance(minutes=1)
    assert state() is WorkerState.UNREACHABLE
    with database.write() as session:
        Workers(session, clock()).report(make_worker(name="w1"))
        Workers(session, clock()).cordon("w1", False)
    assert state() is WorkerState.READY


def test_draining_cordons_and_uncordoning_ends_both(database: Database, clock: Clock) -> None:
    def state() -> WorkerState:
        with database.read() as session:
            status = Workers(session, clock()).get("w1")
        assert status is not None
        return status.worker.state

    with database.write() as session:
        workers = Workers(session, clock())
        workers.join(make_worker(name="w1"), credential_hash="", engine_secret="")
        assert workers.set_draining("w1", True)
        assert not workers.set_draining("w2", True)
        workers.report(make_worker(name="w1"))
    assert state() is WorkerState.DRAINING
    with database.write() as session:
        Workers(session, clock()).set_draining("w1", False)
    assert state() is WorkerState.CORDONED
    with database.write() as session:
        Workers(session, clock()).set_draining("w1", True)
        Workers(session, clock()).cordon("w1", True)
    assert state() is WorkerState.DRAINING
    clock.advance(minutes=1)
    assert state() is WorkerState.UNREACHABLE
    with database.write() as session:
        Workers(session, clock()).report(make_worker(name="w1"))
        Workers(session, clock()).cordon("w1", False)
    assert state() is WorkerState.READY


def test_only_a_report_that_says_something_new_is_a_new_version(database: Database, clock: Clock) -> None:
    def version() -> int:
        with database.read() as session:
            return session.exec(select(WorkerRow.report_version)).one()

    with database.write() as session:
        Workers(session, clock()).join(make_worker(name="w1"), credential_hash="", engine_secret="")
    first = version()
    for labels, expected in (({}, first), ({"zone": "a"}, first + 1), ({"zone": "a"}, first + 1), ({}, first + 2)):
        clock.advance(seconds=5)
        with database.write() as session:
            Workers(session, clock()).report(make_worker(name="w1", labels=labels))
        assert version() == expected


def test_who_is_on_a_worker_is_told_by_its_claims(database: Database, clock: Clock) -> None:
    small = [make_device(id=f"gpu{number}", engine_name=f"CUDA{number}", total=6 * GIB) for number in (0, 1)]
    lender, owner = make_worker(name="w1", devices=(small[0],)), make_worker(name="w2", devices=(small[1],))
    with database.write() as session:
        for worker in (lender, owner, make_worker(name="w3")):
            joining = worker.model_copy(update={"serves_rpc": True})
            Workers(session, clock()).join(joining, credential_hash="", engine_secret="")
    ledger = ClaimLedger(database, clock)
    shared = make_spec(name="shared", devices=(("w1", "gpu0"), ("w2", "gpu1")))
    outcome = ledger.place(make_request(instance_id="shared-1", spec=shared))
    assert isinstance(outcome, Placement)
    assert set(outcome.workers) == {"w1", "w2"}
    ledger.place(make_request(instance_id="alone-1"))
    with database.read() as session:
        instances = Instances(session, clock())
        found = {name: [one.instance_id for one in instances.on_worker(name)] for name in ("w1", "w2", "w3", "w4")}
    assert found == {"w1": ["shared-1"], "w2": ["shared-1"], "w3": ["alone-1"], "w4": []}
    ledger.release("shared-1")
    with database.read() as session:
        assert Instances(session, clock()).on_worker("w1") == ()


def test_errors_of_statements_sent_together_are_the_database_s(database: Database, clock: Clock) -> None:
    def twice() -> None:
        with database.write() as session, sent_together(session):
            for _ in range(2):
                session.execute(
                    insert(KeyRow), {"id": "k", "name": "n", "role": "admin", "hash": "h", "created_at": clock()}
                )

    with pytest.raises(IntegrityError):
        twice()
    with database.read() as session:
        assert Keys(session, clock()).all() == ()


def test_a_revoked_key_opens_nothing(database: Database, clock: Clock) -> None:
    with database.write() as session:
        keys = Keys(session, clock())
        keys.add("k1", "one", Role.ADMIN, "digest-1")
        keys.add("k2", "two", Role.USER, "digest-2")
        assert keys.revoke("k1")
        assert not keys.revoke("k3")
    with database.read() as session:
        keys = Keys(session, clock())
        assert {key_id: digest for key_id, (_, digest) in keys.digests().items()} == {"k2": "digest-2"}
        assert [(key.id, key.revoked_at) for key in keys.all()] == [("k1", clock()), ("k2", None)]


def test_a_failed_change_leaves_nothing(database: Database, clock: Clock) -> None:
    def fail() -> None:
        with database.write() as session:
            Keys(session, clock()).add("k1", "one", Role.ADMIN, "digest")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    with database.read() as session:
        assert Keys(session, clock()).all() == ()


def test_two_reports_in_one_transaction(database: Database, clock: Clock) -> None:
    with database.write() as session:
        Workers(session, clock()).join(make_worker(name="w1"), credential_hash="", engine_secret="")
    with database.write() as session:
        for used in (1, 2):
            gpu = make_device(used=used * GIB)
            assert Workers(session, clock()).report(make_worker(name="w1", devices=(gpu,)))
    with database.read() as session:
        status = Workers(session, clock()).get("w1")
    assert status is not None
    assert [device.used for device in status.worker.devices] == [2 * GIB]
