"""What API processes tell of what is asked, and what a looker makes of it."""

from sqlalchemy import func, select

from stoker.domain.deployments import InstanceState
from stoker.domain.scaling import Rescale, Told
from stoker.domain.statuses import DeploymentProjection, InstanceProjection
from stoker.storage.demand import KEPT, DemandWatch, forget_process, write_demand
from stoker.storage.engine import Database
from stoker.storage.projections import RowProjections
from stoker.storage.tables import DemandRow
from tests.builders import make_files, make_profile, make_spec
from tests.stoker.storage.conftest import Clock

ASLEEP = {"min_replicas": 0, "max_replicas": 3, "idle_timeout": 10}


class Plane:
    """A looker, and the rows that it looks at."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database, self.clock, self.now = database, clock, 0.0
        self._rows = RowProjections(database, clock)
        self.watch = DemandWatch(database, clock, monotonic=lambda: self.now)

    def deployed(self, name: str = "m", scaled: int | None = None, *, deleting: bool = False, **spec: object) -> None:
        """As its workflow projects it."""
        self._rows.put_deployment(
            DeploymentProjection(
                spec=make_spec(name=name, **(ASLEEP | spec)),
                generation=1,
                profile=make_profile(),
                files=make_files(),
                scaled=scaled,
                deleting=deleting,
            )
        )

    def instance(self, state: InstanceState, number: int = 0, name: str = "m") -> None:
        """As its workflow projects it."""
        self._rows.put_instance(
            InstanceProjection(
                instance_id=f"{name}-{number}", deployment=name, generation=1, incarnation=1, state=state
            )
        )

    def tell(self, busy: int, asked: int, beat: int = 1, *, process: str = "p", name: str = "m") -> None:
        """As an API process does."""
        with self.database.write() as session:
            write_demand(session, [Told(process, name, busy, asked, beat)], self.clock())

    def look(self, seconds: float = 0.0) -> list[tuple[str, int, int]]:
        """Who should have how many, so much later: name, count now, count wanted."""
        self.now += seconds
        return [(one.deployment, one.seen, one.replicas) for one in self.watch.look()]

    def rows(self) -> int:
        """What is kept."""
        with self.database.read() as session:
            return session.execute(select(func.count()).select_from(DemandRow)).scalar_one()


def test_what_is_asked_scales_what_demand_scales(database: Database, clock: Clock) -> None:
    plane = Plane(database, clock)
    plane.deployed(scaled=0)
    plane.deployed("fixed", min_replicas=None, max_replicas=None)
    plane.deployed("going", scaled=0, deleting=True)
    assert plane.look() == []
    for name in ("m", "fixed", "going", "unknown"):
        plane.tell(5, 5, name=name)
    assert plane.watch.look() == (
        Rescale(
            deployment="m",
            seen=0,
            replicas=2,
            reason="requests in work and waiting: 5; slots of a replica: 4",
        ),
    )
    plane.deployed(scaled=2)
    plane.instance(InstanceState.PLACING)
    assert plane.look() == []


def test_it_falls_asleep_when_nothing_was_asked_for_so_long(database: Database, clock: Clock) -> None:
    plane = Plane(database, clock)
    plane.deployed(scaled=1)
    assert plane.look() == []
    assert plane.look(6) == []
    plane.tell(0, 1)  # one came and went between two looks
    assert plane.look(6) == []
    assert plane.look(6) == []
    assert plane.look(6) == [("m", 1, 0)]


def test_while_its_first_replica_starts_it_is_left_alone(database: Database, clock: Clock) -> None:
    plane = Plane(database, clock)
    plane.deployed(scaled=1)
    plane.instance(InstanceState.DOWNLOADING)
    for _ in range(5):
        assert plane.look(8) == []
    plane.instance(InstanceState.RUNNING)
    plane.instance(InstanceState.STARTING, 1)
    assert plane.look(8) == []
    assert plane.look(8) == [("m", 1, 0)]


def test_a_process_that_died_with_requests_in_work_holds_nothing_up(database: Database, clock: Clock) -> None:
    plane = Plane(database, clock)
    plane.deployed(scaled=1)
    plane.instance(InstanceState.RUNNING)
    assert plane.look() == []
    plane.tell(2, 2)
    found = [plane.look(3) for _ in range(10)]
    assert found[-1] == [("m", 1, 0)]
    assert found[:7] == [[]] * 7, "it is silent for long enough only then"


def test_one_that_says_so_again_goes_on_being_busy(database: Database, clock: Clock) -> None:
    plane = Plane(database, clock)
    plane.deployed(scaled=1)
    plane.instance(InstanceState.RUNNING)
    for beat in range(1, 12):
        plane.tell(2, 2, beat)
        assert plane.look(5) == []


def test_one_that_has_just_begun_to_look_neither_wakes_nor_adds_for_what_was_told_before(
    database: Database, clock: Clock
) -> None:
    """Whoever told it may be dead, or idle for an hour."""
    plane = Plane(database, clock)
    plane.deployed("asleep", scaled=0)
    plane.deployed("busy", scaled=1)
    plane.tell(0, 5, 7, name="asleep")
    plane.tell(40, 100, 7, name="busy", process="killed")
    assert [plane.look(3) for _ in range(4)] == [[]] * 4
    assert plane.look(3) == [("busy", 1, 0)]


def test_one_that_has_just_begun_to_look_hears_the_living(database: Database, clock: Clock) -> None:
    plane = Plane(database, clock)
    plane.deployed(scaled=1)
    plane.tell(8, 8, 7)
    assert plane.look() == []
    plane.tell(8, 8, 8)
    assert plane.look(5) == [("m", 1, 2)]


def test_what_was_told_while_nothing_was_scaled_is_known(database: Database, clock: Clock) -> None:
    plane = Plane(database, clock)
    plane.deployed(min_replicas=None, max_replicas=None)
    assert plane.look() == []
    plane.tell(0, 5)
    assert plane.look(2) == []
    plane.deployed(scaled=0)
    assert plane.look(2) == []


def test_time_that_nobody_watched_does_not_count(database: Database, clock: Clock) -> None:
    """The database was away: nobody could tell or look."""
    plane = Plane(database, clock)
    plane.deployed(scaled=1, idle_timeout=30)
    plane.instance(InstanceState.RUNNING)
    plane.tell(2, 2)
    assert plane.look() == []
    assert plane.look(3600) == [], "nothing scales down"
    plane.tell(2, 3, 2)
    for beat in range(3, 20):
        plane.tell(2, 2, beat)
        assert plane.look(3) == []


def test_replicas_that_only_the_row_knows_are_asked_for_again(database: Database, clock: Clock) -> None:
    plane = Plane(database, clock)
    plane.deployed(scaled=1)
    assert plane.look() == []
    plane.tell(2, 2)
    assert plane.look(2) == [("m", 1, 1)]
    plane.instance(InstanceState.PENDING)
    assert plane.look(2) == []


def test_a_process_that_ends_takes_back_what_it_told(database: Database, clock: Clock) -> None:
    plane = Plane(database, clock)
    plane.tell(2, 2)
    plane.tell(1, 9, process="q")
    with database.write() as session:
        forget_process(session, "p")
    assert plane.rows() == 1


def test_what_was_told_long_ago_goes(database: Database, clock: Clock) -> None:
    plane = Plane(database, clock)
    plane.tell(0, 2)
    clock.advance(seconds=KEPT.total_seconds())
    plane.tell(0, 3, process="q")
    plane.watch.tidy()
    assert plane.rows() == 2
    clock.advance(seconds=1)
    plane.watch.tidy()
    assert plane.rows() == 1


def test_nothing_to_tell_is_no_error(database: Database, clock: Clock) -> None:
    with database.write() as session:
        write_demand(session, [], clock())
    assert Plane(database, clock).rows() == 0
