"""Every recorded history replays on today's code: a change that would break running workflows fails here.

Record new ones with `RECORD_HISTORIES=1 make test ARGS=tests/workflows`; see CONTRIBUTING.md for when to.
"""

import json
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from entrypoints.control_plane import WORKFLOWS
from stoker.temporal import workflow_runner
from stoker.tracing import WorkflowTracing
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


async def test_replay_while_tracing() -> None:
    """What began before tracing was turned on goes on afterwards: it only adds headers to what is asked for anyway."""
    tracing = WorkflowTracing(TracerProvider().get_tracer("replay"))
    replayer = Replayer(
        workflows=WORKFLOWS,
        data_converter=pydantic_data_converter,
        workflow_runner=workflow_runner(),
        interceptors=[tracing],
    )
    for path in RECORDED[::10]:
        recorded = json.loads(path.read_text())
        await replayer.replay_workflow(WorkflowHistory.from_json(recorded["id"], recorded["history"]))
