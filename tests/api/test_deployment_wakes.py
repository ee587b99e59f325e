"""Waking while Temporal is away; the rest is in `tests/workflows/test_scaling.py`."""

import pytest
import structlog

from api import deployment_wakes
from api.deployment_wakes import DeploymentWakes
from entrypoints.clock import utc_now
from stoker.storage.engine import Database
from stoker.temporal import connect
from tests.api.serving import NOBODY
from tests.cluster import eventually

pytestmark = pytest.mark.anyio


async def test_what_cannot_be_told_now_is_told_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_wakes, "AGAIN_SECONDS", 0.0)
    wakes = DeploymentWakes(await connect(NOBODY, lazy=True), database, utc_now)
    with structlog.testing.capture_logs() as logs:
        for count in (1, 2):
            for _ in range(5):
                wakes.wake("m")
            await eventually(lambda so_far=count: len(logs) == so_far, lambda: logs)  # type: ignore[misc]
            await eventually(lambda: not wakes._under_way, lambda: wakes._under_way)
    assert {(one["event"], one["deployment"]) for one in logs} == {("deployment_not_woken", "m")}
