"""Deployments that should have another number of replicas are told so."""

import asyncio
from contextlib import suppress

import pytest
import structlog
from sqlalchemy.exc import OperationalError
from temporalio.service import RPCError, RPCStatusCode

from entrypoints.scaling import keep_scaling, scale_once
from stoker.domain.scaling import Rescale
from tests.cluster import eventually

pytestmark = pytest.mark.anyio

UP = Rescale(deployment="up", seen=0, replicas=2, reason="requests in work and waiting: 5; slots of a replica: 4")
DOWN = Rescale(deployment="down", seen=1, replicas=0, reason="nothing was asked for 600 s")
AWAY = OperationalError("SELECT 1", {}, Exception("the server closed the connection"))


class Rows:
    """What each look finds; the last for ever. An exception is raised."""

    def __init__(self, *looks: tuple[Rescale, ...] | Exception) -> None:
        self._looks = list(looks)
        self.count = 0

    def look(self) -> tuple[Rescale, ...]:
        """As `DemandWatch`."""
        self.count += 1
        found = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(found, Exception):
            raise found
        return found

    def tidy(self) -> None:
        """As `DemandWatch`."""


class Signals:
    """Keeps what was told. Who is in `away` cannot be, who is in `gone` is no more."""

    def __init__(self, *away: str, gone: tuple[str, ...] = ()) -> None:
        self.told: list[Rescale] = []
        self._away, self._gone = away, gone

    async def scale(self, rescale: Rescale) -> bool:
        """As the way to Temporal does."""
        await asyncio.sleep(0)
        if rescale.deployment in self._away:
            raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
        self.told.append(rescale)
        return rescale.deployment not in self._gone


async def test_each_is_told_with_its_reason() -> None:
    signals = Signals()
    with structlog.testing.capture_logs() as logs:
        await scale_once(Rows((UP, DOWN)), signals)
    assert signals.told == [UP, DOWN]
    assert logs == [
        {
            "event": "deployment_scaled",
            "log_level": "info",
            "deployment": one.deployment,
            "before": one.seen,
            "replicas": one.replicas,
            "reason": one.reason,
        }
        for one in (UP, DOWN)
    ]


async def test_of_one_that_is_gone_nothing_is_said() -> None:
    signals = Signals(gone=("up",))
    with structlog.testing.capture_logs() as logs:
        await scale_once(Rows((UP, DOWN)), signals)
    assert signals.told == [UP, DOWN]
    assert [one["deployment"] for one in logs] == ["down"]


async def test_one_that_cannot_be_told_holds_up_no_other() -> None:
    signals = Signals("up")
    with pytest.raises(RPCError):
        await scale_once(Rows((UP, DOWN)), signals)
    assert signals.told == [DOWN]


@pytest.mark.parametrize("error", [AWAY, RuntimeError("no connection"), KeyError("a mistake of ours")])
async def test_what_goes_wrong_is_tried_again(error: Exception) -> None:
    rows, signals = Rows(error, (), (UP,)), Signals()
    task = asyncio.create_task(keep_scaling(rows, signals, every=0.01))
    await eventually(lambda: UP in signals.told, lambda: signals.told)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert rows.count >= 3
