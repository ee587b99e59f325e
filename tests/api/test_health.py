"""`/livez`, `/readyz`, `/version`, `/metrics`: for whoever watches the API. `/api/v1/health`: for administrators."""

import asyncio
import re
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import OperationalError

from api.absence_view import AbsenceView
from entrypoints.clock import utc_now
from stoker.domain.absence import Absence
from stoker.domain.statuses import DeploymentProjection
from stoker.storage.absence import AbsenceWatch
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.version import VERSION
from tests.api.serving import Api, away
from tests.builders import make_files, make_profile, make_spec
from tests.cluster import eventually_async

pytestmark = pytest.mark.anyio


async def readiness(api: Api, status: int) -> dict[str, str]:
    """How each part is, when /readyz answers with `status`."""
    response = await api.anyone.get("/readyz")
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    assert body["status"] == ("ok" if status == 200 else "failed")
    return {name: check["status"] for name, check in body["checks"].items()}


async def test_it_lives(lone_api: Api) -> None:
    response = await lone_api.anyone.get("/livez")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_the_version(lone_api: Api) -> None:
    assert (await lone_api.anyone.get("/version")).json() == {"version": VERSION}
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", VERSION)


async def test_without_temporal_it_is_ready_and_says_so(lone_api: Api) -> None:
    checks = await readiness(lone_api, 200)
    assert checks == {"database": "ok", "temporal": "failed: RuntimeError", "control_plane": "failed: RuntimeError"}


async def test_with_everything(api: Api) -> None:
    assert await readiness(api, 200) == {"database": "ok", "temporal": "ok", "control_plane": "ok"}


async def test_without_the_database_it_is_ready_only_for_models_that_it_knows(
    lone_api: Api, database: Database
) -> None:
    with away(database):
        assert (await readiness(lone_api, 503))["database"] == "failed: OperationalError"
        assert (await lone_api.anyone.get("/livez")).status_code == 200, "a restart would not help"
    projection = DeploymentProjection(spec=make_spec(), generation=1, profile=make_profile(), files=make_files())
    with database.write() as session:
        Deployments(session, utc_now()).put(projection)
    await lone_api.context.routes.refresh()
    with away(database):
        assert (await readiness(lone_api, 200))["database"] == "failed: OperationalError"


async def test_the_metrics(lone_api: Api) -> None:
    await lone_api.anyone.get("/v1/models")  # without a key: refused, and counted
    response = await lone_api.anyone.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    lines = response.text.splitlines()
    assert f'stoker_build_info{{version="{VERSION}"}} 1.0' in lines
    assert 'stoker_requests_total{model="",status_class="4xx"} 1.0' in lines


async def test_the_clusters_health_is_for_administrators(lone_api: Api) -> None:
    assert (await lone_api.anyone.get("/api/v1/health")).status_code == 401
    response = await lone_api.admin.get("/api/v1/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok", "alarms": [], "workers_lost": []})


async def test_an_alarm_is_shown_until_it_is_over_and_not_while_nobody_knows(
    lone_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.absence_view.LOOK_EVERY_SECONDS", 0.01)
    found: Absence | Exception = Absence()

    class Watch:
        def look(self) -> Absence:
            if isinstance(found, Exception):
                raise found
            return found

    registry = CollectorRegistry()
    view = AbsenceView(cast(AbsenceWatch, Watch()), registry)
    monkeypatch.setitem(vars(lone_api.context), "absence", view)
    task = asyncio.create_task(view.run())

    async def shown(absence: Absence) -> bool:
        body = (await lone_api.admin.get("/api/v1/health")).json()
        metrics = [registry.get_sample_value(f"stoker_workers_{name}") for name in ("lost", "held_back")]
        alarms = [{"code": "workers_silent_at_once", "message": absence.alarm, "workers": list(absence.held_back)}]
        return metrics == [len(absence.lost), len(absence.held_back)] and body == {
            "status": "alarm" if absence.alarm else "ok",
            "alarms": alarms if absence.alarm else [],
            "workers_lost": list(absence.lost),
        }

    alarm = Absence(held_back=("w1", "w2"), alarm="2 of 3 workers are silent at once")
    looks: list[tuple[Absence | Exception, Absence]] = [
        (alarm, alarm),
        (OperationalError("SELECT 1", {}, Exception("closed")), Absence()),
        (alarm, alarm),
        (KeyError("a mistake of ours"), Absence()),
        (Absence(lost=("w3",)), Absence(lost=("w3",))),
    ]
    for look, expected in looks:
        found = look
        await eventually_async(lambda expected=expected: shown(expected), f"{expected} after {look!r}")  # type: ignore[misc]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
