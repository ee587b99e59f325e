"""The runbook has a word on every state that somebody may see."""

import re
from enum import StrEnum
from pathlib import Path

import pytest

from api.cluster_metrics import DEPLOYMENT_STATES
from stoker.domain.deployments import InstanceState
from stoker.domain.workers import WorkerState

RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()


@pytest.mark.parametrize("states", [InstanceState, WorkerState])
def test_each_state_has_a_row_that_says_what_to_do(states: type[StrEnum]) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", RUNBOOK, re.MULTILINE))
    assert {state.value for state in states} <= rows.keys()
    assert all(rows[state.value].strip() for state in states)


def test_each_state_of_a_deployment_is_named() -> None:
    (line,) = re.findall(r"^Of a deployment: .+?\.$", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", line)) == set(DEPLOYMENT_STATES)


def test_its_links_lead_somewhere() -> None:
    docs = Path(__file__).parents[2] / "docs"
    for name in ("runbook.md", "administrators.md", "backup.md", "upgrading.md"):
        text = (docs / name).read_text()
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
            path = docs / target if target else docs / name
            assert path.exists(), f"{name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{name}: {target}#{anchor}"
