"""The long run of downloads, for a moment; `python -m tests.files_run` goes on for longer."""

import random
from pathlib import Path

import pytest

from stoker.domain.units import KIB, MIB
from tests.files_run import damaged, from_the_first, hub_with_shards, killed_again_and_again, wanted_by_three

pytestmark = pytest.mark.anyio


async def test_every_part_of_the_run(tmp_path: Path) -> None:
    with hub_with_shards(tmp_path / "hub", 512 * KIB) as hub:
        hub.faults.rate = 512 * KIB
        cache = tmp_path / "first" / "cache"
        killed = await killed_again_and_again(hub, cache, 2, random.Random(7))  # noqa: S311
        hub.faults.rate = None
        assert (killed["right"], killed["killed"], killed["bytes"]) == (True, 2, 5 * 512 * KIB)
        assert killed["fetched_twice_bytes"] < killed["bytes"], "it goes on, and does not begin anew"
        three = await wanted_by_three(hub, tmp_path / "third" / "cache")
        assert three == {"fetched_bytes": 5 * 512 * KIB, "bytes": 5 * 512 * KIB, "right": True}
        bad = await damaged(hub, cache)
        assert (bad["right"], bad["rotten_fetched_bytes"], bad["came_wrong_fetched_bytes"]) == (True, 512 * KIB, MIB)
        peer = await from_the_first(hub, cache, tmp_path)
        assert (peer["right"], peer["from_peer_bytes"], peer["hub_requests"]) == (True, 5 * 512 * KIB, 0)
