"""The runbook has a word on every state that somebody may see."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from api.cluster_metrics import DEPLOYMENT_STATES
from stoker.domain.deployments import InstanceState
from stoker.domain.workers import WorkerState

RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()


@pytest.mark.parametrize(
    ("of", "states"),
    [
        ("an instance", [state.value for state in InstanceState]),
        ("a deployment", DEPLOYMENT_STATES),
        ("a worker", [state.value for state in WorkerState]),
    ],
)
def test_each_state_has_a_row_that_says_what_to_do(of: str, states: Sequence[str]) -> None:
    (table,) = re.findall(rf"^Of {of}[^|]*?:\n\n((?:\|.*\n)+)", RUNBOOK, re.MULTILINE)
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", table, re.MULTILINE))
    assert rows.keys() == set(states)
    assert all(rows[state].strip() for state in states)


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
