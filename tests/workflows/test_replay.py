"""Every recorded history replays on today's code: a change that would break running workflows fails here.

Record new ones with `RECORD_HISTORIES=1 make test ARGS=tests/workflows`; see CONTRIBUTING.md for when to.
"""

import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from entrypoints.control_plane import WORKFLOWS
from stoker.temporal import workflow_runner
from tests.workflows.conftest import HISTORIES

pytestmark = pytest.mark.anyio

RECORDED = sorted(HISTORIES.glob("*.json"))


def test_there_are_histories() -> None:
    kinds = {path.name.split(".")[1] for path in RECORDED}
    assert {"deployment-completed", "instance-completed", "instance-continued_as_new", "drain-completed"} <= kinds


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_replay(path: Path) -> None:
    recorded = json.loads(path.read_text())
    replayer = Replayer(workflows=WORKFLOWS, data_converter=pydantic_data_converter, workflow_runner=workflow_runner())
    await replayer.replay_workflow(WorkflowHistory.from_json(recorded["id"], recorded["history"]))
