"""Names that are no deployment's own, in the database."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

from sqlalchemy.exc import IntegrityError

from stoker.domain.model_routes import Fallback, RouteSpec, RouteTarget
from stoker.storage.engine import Database
from stoker.storage.known_rows import known_model_routes
from stoker.storage.model_routes import ModelRoutes
from tests.stoker.storage.conftest import Clock


def spec(name: str = "org/name", weight: int = 1) -> RouteSpec:
    return RouteSpec(
        name=name,
        targets=(RouteTarget(deployment="a", weight=weight),),
        fallbacks=(Fallback(deployment="b", statuses=(503,)),),
    )


def test_a_route_comes_back_whole_until_it_is_removed(database: Database, clock: Clock) -> None:
    with database.write() as session:
        made = ModelRoutes(session, clock()).add(spec())
    assert (made.spec, made.created_at, made.updated_at) == (spec(), clock(), clock())
    with database.read() as session:
        assert ModelRoutes(session, clock()).get("org/name") == made
        assert ModelRoutes(session, clock()).get("org") is None
    for _ in range(2):
        with database.write() as session:
            ModelRoutes(session, clock()).remove("org/name")
    with database.read() as session:
        assert ModelRoutes(session, clock()).all() == ()


def test_a_change_is_dated_and_the_same_again_is_none(database: Database, clock: Clock) -> None:
    with database.write() as session:
        made = ModelRoutes(session, clock()).add(spec())
    clock.advance(seconds=5)
    with database.write() as session:
        assert ModelRoutes(session, clock()).replace(spec()) == made
    with database.write() as session:
        changed = ModelRoutes(session, clock()).replace(spec(weight=2))
    assert (changed.created_at, changed.updated_at - made.updated_at) == (made.created_at, timedelta(seconds=5))
    with database.read() as session:
        assert ModelRoutes(session, clock()).get("org/name", for_change=True) == changed


def test_a_name_is_made_once_whoever_makes_it_at_the_same_moment(database: Database, clock: Clock) -> None:
    everybody = Barrier(4)

    def make(weight: int) -> bool:
        everybody.wait()
        try:
            with database.write() as session:
                if ModelRoutes(session, clock()).get("org/name", for_change=True) is not None:
                    return False
                ModelRoutes(session, clock()).add(spec(weight=weight))
        except IntegrityError:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(make, range(1, 5)))
    assert made.count(True) == 1
    with database.read() as session:
        (left,) = ModelRoutes(session, clock()).all()
    assert left.spec == spec(weight=made.index(True) + 1), "nobody has written over it"


def test_routes_are_paged_by_name(database: Database, clock: Clock) -> None:
    with database.write() as session:
        for name in ("b/1", "a", "c"):
            ModelRoutes(session, clock()).add(spec(name))
    with database.read() as session:
        routes = ModelRoutes(session, clock())
        assert [status.spec.name for status in routes.all()] == ["a", "b/1", "c"]
        assert [status.spec.name for status in routes.all(after="a", limit=1)] == ["b/1"]


def test_changes_are_seen_by_who_reads_again(database: Database, clock: Clock) -> None:
    known, seen = known_model_routes(), []
    with database.write() as session:
        ModelRoutes(session, clock()).add(spec())
    for wanted in (spec(weight=1), spec(weight=1), spec(weight=2)):
        with database.write() as session:
            ModelRoutes(session, clock()).replace(wanted)
        with database.read() as session:
            seen.append(known.read(session))
    assert seen == [(spec(weight=1),), (spec(weight=1),), (spec(weight=2),)]
    assert seen[0][0] is seen[1][0], "not parsed twice"
