"""`/livez`, `/readyz`, `/version`, `/metrics`: for whoever watches the API, without a key."""

import re
from typing import Any

import pytest

from entrypoints.clock import utc_now
from stoker.domain.statuses import DeploymentProjection
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.version import VERSION
from tests.api.serving import Api, away
from tests.builders import make_files, make_profile, make_spec

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
