"""/metrics of a real server of several processes, one of which is killed."""

import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster import eventually, eventually_async
from tests.entrypoints.test_server import WITHIN_SECONDS, server

pytestmark = pytest.mark.anyio


async def test_the_sum_never_goes_down(tmp_path: Path) -> None:
    async with (
        server(tmp_path, "--processes", "2") as running,
        httpx.AsyncClient(
            base_url=running.url,
            headers={"connection": "close"},  # each request may go to another process
            trust_env=False,
            timeout=WITHIN_SECONDS,
        ) as client,
    ):
        await eventually(lambda: len(running.children()) == 2, running.children, seconds=WITHIN_SECONDS)

        async def refused() -> float:
            families = text_string_to_metric_families((await client.get("/metrics")).raise_for_status().text)
            samples = {sample.name: sample for family in families for sample in family.samples}
            assert samples["stoker_build_info"].value == 1, "what all see alike is no sum"
            assert samples["stoker_usage_records_waiting"].value == 0
            found = samples.get("stoker_requests_total")
            return found.value if found is not None else 0.0

        async def refuse(count: int) -> None:
            for _ in range(count):
                assert (await client.post("/v1/chat/completions")).status_code == 401

        async def all_there(count: int) -> bool:
            found = await refused()
            assert shown[-1] <= found <= count
            shown.append(found)
            return found == count

        shown = [0.0]
        await refuse(30)
        await eventually_async(lambda: all_there(30), "the sum of both", seconds=WITHIN_SECONDS)
        killed = running.children().pop()
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: not psutil.pid_exists(killed), running.children, seconds=WITHIN_SECONDS)
        assert await refused() == 30
        await refuse(10)
        await eventually_async(lambda: all_there(40), "with those of its successor", seconds=WITHIN_SECONDS)
