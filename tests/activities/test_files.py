"""What a download is told of other workers."""

import pytest
from temporalio.testing import ActivityEnvironment

from activities.files import FileActivities
from activities.types import LookForFilesInput, LookForFilesResult
from stoker.domain.files import Peer

PEER = Peer(worker="w2", address="10.0.0.2", mesh_port=8411)


class Holders:
    """Rows as a test says."""

    def peers(self, model: str, *, besides: str) -> tuple[Peer, ...]:
        """Who has it."""
        assert (model, besides) == ("hf:a/b@c/d.gguf", "w1")
        return (PEER,)

    def placed_on(self, worker: str) -> tuple[str, ...]:
        """What must stay."""
        assert worker == "w1"
        return ("hf:x/y@z/w.gguf",)


@pytest.mark.anyio
async def test_who_has_it_and_what_must_stay() -> None:
    order = LookForFilesInput(model="hf:a/b@c/d.gguf", worker="w1")
    found = await ActivityEnvironment().run(FileActivities(Holders()).look_for_files, order)
    assert found == LookForFilesResult(peers=(PEER,), keep=("hf:x/y@z/w.gguf",))
