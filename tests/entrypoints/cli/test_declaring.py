"""`stoker apply | diff | export`."""

import json
from pathlib import Path

import pytest
import yaml

from api.errors import FieldError, ProblemError
from stoker.domain.deployments import InstanceState
from stoker.domain.statuses import InstanceStatus
from tests.entrypoints.cli.conftest import Stoker
from tests.entrypoints.cli.test_deployments import instance
from tests.fakes.api import FakeApi, Steps

MODEL = "hf:org/repo:Q4_K_M"
PATH = "/api/v1/deployments"
FILE = f"""\
version: 1
deployments:
  - name: smol
    model: {MODEL}
    options: {{slots: 8}}
  - name: llama
    model: {MODEL}
    replicas: 2
    priority: 0
routes:
  - name: org/name
    targets: [{{deployment: llama, weight: 9}}, {{deployment: smol}}]
"""
LED_ELSEWHERE = {"name": "r", "targets": [{"deployment": "d19"}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE)
    return path


def changes(api: FakeApi) -> list[tuple[str, str]]:
    """What was asked of the server that may have changed something."""
    return [
        (asked.method, asked.path)
        for asked in api.requests
        if asked.method != "GET" and not asked.path.endswith("/placements")
    ]


def test_a_file_is_applied_and_the_same_again_changes_nothing(api: FakeApi, stoker: Stoker, file: Path) -> None:
    api.add(name="llama", model=MODEL, replicas=1)
    done = stoker("apply", "-f", str(file))
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [
        "+ deployment smol",
        "~ deployment llama",
        "    replicas  1 -> 2",
        "+ route org/name",
        "2 to make, 1 to change, 0 as they are, 0 to remove",
        "2 made, 1 changed, 0 as they were, 0 removed",
    ]
    assert sorted(done.stderr.splitlines()) == [
        "deployment llama: changed",
        "deployment smol: made",
        "route org/name: made",
    ]
    assert sorted(api.bodies("POST", PATH), key=lambda body: str(body["name"])) == [
        {"name": "llama", "model": MODEL, "replicas": 2},
        {"name": "smol", "model": MODEL, "options": {"slots": 8}},
    ]
    targets = [{"deployment": "llama", "weight": 9}, {"deployment": "smol"}]
    assert api.bodies("PUT", "/api/v1/routes/org/name") == [{"targets": targets}]

    api.requests.clear()
    again = stoker("apply", "-f", str(file), "--prune")
    assert (again.exit_code, again.stderr) == (0, "")
    assert again.stdout.splitlines()[-1] == "0 made, 0 changed, 3 as they were, 0 removed"
    assert changes(api) == []


def test_export_makes_the_same_cluster_again(api: FakeApi, stoker: Stoker, file: Path, tmp_path: Path) -> None:
    stoker("apply", "-f", str(file))
    exported = stoker("export").stdout
    assert yaml.safe_load(exported) == {
        "version": 1,
        "deployments": [
            {"name": "llama", "model": MODEL, "replicas": 2},
            {"name": "smol", "model": MODEL, "options": {"slots": 8}},
        ],
        "routes": [{"name": "org/name", "targets": [{"deployment": "llama", "weight": 9}, {"deployment": "smol"}]}],
    }
    assert stoker("diff", "-f", "-", "--prune", stdin=exported).exit_code == 0
    api.deployments.clear()
    api.routes.clear()
    assert stoker("apply", "-f", "-", stdin=exported).exit_code == 0
    assert stoker("export").stdout == exported


def test_an_empty_cluster_exports_an_empty_file(stoker: Stoker) -> None:
    assert stoker("export").stdout == "version: 1\ndeployments: []\nroutes: []\n"


def test_what_the_file_does_not_name_goes_only_with_prune(api: FakeApi, stoker: Stoker, file: Path) -> None:
    api.add(name="old", steps=[(), None])
    stoker("routes", "set", "stale", "--to", "old")
    kept = stoker("apply", "-f", str(file))
    assert "2 not in the file: left as they are; --prune removes them" in kept.stdout
    api.requests.clear()
    done = stoker("apply", "-f", str(file), "--prune", "--yes")
    assert done.stdout.splitlines() == [
        "- route stale",
        "- deployment old",
        "0 to make, 0 to change, 3 as they are, 2 to remove",
        "0 made, 0 changed, 3 as they were, 2 removed",
    ]
    assert changes(api) == [("DELETE", "/api/v1/routes/stale"), ("DELETE", f"{PATH}/old")]


@pytest.mark.parametrize("output", ["table", "json"])
def test_without_a_terminal_nothing_is_removed_unasked(output: str, api: FakeApi, stoker: Stoker) -> None:
    for name in ("a", "b"):
        api.add(name=name)
    cut_short = FILE.split("deployments:")[0]
    done = stoker("apply", "-f", "-", "--prune", "-o", output, stdin=cut_short)
    assert (done.exit_code, changes(api)) == (2, [])
    assert "error: --prune would remove 2, and there is no terminal to ask on: nothing was applied" in done.stderr
    assert "--yes" in done.stderr
    assert ("- deployment a" in done.stdout) is (output == "table"), "the plan tells what would go"
    assert stoker("apply", "-f", "-", "--prune", "--dry-run", stdin=cut_short).exit_code == 0
    assert stoker("apply", "-f", "-", "--prune", "--yes", stdin=cut_short).exit_code == 0
    assert len(changes(api)) == 2


def test_diff_says_by_its_exit_code_whether_something_differs(api: FakeApi, stoker: Stoker, file: Path) -> None:
    first = stoker("diff", "-f", str(file))
    assert (first.exit_code, first.stdout.splitlines()[-1]) == (1, "3 to make, 0 to change, 0 as they are, 0 to remove")
    assert changes(api) == []
    stoker("apply", "-f", str(file))
    assert stoker("diff", "-f", str(file)).exit_code == 0
    api.add(name="other")
    assert stoker("diff", "-f", str(file)).exit_code == 0
    assert stoker("diff", "-f", str(file), "--prune").exit_code == 1


def test_diff_as_data(api: FakeApi, stoker: Stoker, file: Path) -> None:
    api.add(name="llama", model=MODEL, replicas=1)
    done = stoker("diff", "-f", str(file), "-o", "json")
    assert json.loads(done.stdout)[1] == {
        "kind": "deployment",
        "name": "llama",
        "action": "change",
        "changes": [{"field": "replicas", "before": 1, "after": 2}],
        "replaces": False,
    }


def test_diff_of_a_server_that_is_away_is_not_a_difference(stoker: Stoker, file: Path) -> None:
    done = stoker("diff", "-f", str(file), "--server", "http://127.0.0.1:1")
    assert done.exit_code == 2
    assert "no Stoker answers" in done.stderr


def test_a_dry_run_changes_nothing(api: FakeApi, stoker: Stoker, file: Path) -> None:
    done = stoker("apply", "-f", str(file), "--dry-run")
    assert (done.exit_code, done.stdout.splitlines()[-1][:9]) == (0, "3 to make")
    assert changes(api) == []


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("slots: 8", "slots: 0", "cluster.yaml:5: deployments.0.options.slots 0: Input should be greater than"),
        ("name: llama", "name: smol", "cluster.yaml:6: deployments.1.name 'smol': deployments.0 has this name"),
        ("deployment: smol", "deployment: x", "cluster.yaml:12: routes.0.targets.1.deployment 'x': the file names no"),
        ("name: org/name", "name: old", "cluster.yaml:11: routes.0.name 'old': a deployment of the cluster has this"),
    ],
)
def test_nothing_is_applied_if_anything_is_wrong(
    old: str, new: str, error: str, api: FakeApi, stoker: Stoker, file: Path
) -> None:
    api.add(name="old")
    file.write_text(FILE.replace(old, new))
    for command in ("apply", "diff"):
        done = stoker(command, "-f", str(file))
        assert (done.exit_code, done.stdout) == (2, "")
        assert error in done.stderr
    assert changes(api) == []


def test_a_model_that_is_not_there_is_found_before_anything_is_applied(
    api: FakeApi, stoker: Stoker, file: Path
) -> None:
    detail = "the hub has no repository org/repo"
    errors = [FieldError(field="deployment.model", message=detail, value=MODEL)]
    api.refusals = [ProblemError("model_not_found", detail, errors=errors)]
    done = stoker("apply", "-f", str(file))
    assert (done.exit_code, changes(api)) == (3, [])
    assert f"cluster.yaml:3: deployments.0 (smol): model {MODEL!r}: {detail}" in done.stderr
    looked = api.bodies("POST", "/api/v1/placements")
    assert [body["deployment"]["name"] for body in looked] == ["smol"]  # both have the same model


def test_no_answer_about_a_model_is_an_error_and_not_a_traceback(
    stoker: Stoker, api: FakeApi, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrypoints.cli.client.ANSWER_WITHIN_SECONDS", 3.0)
    api.unanswered = {"/api/v1/placements"}
    done = stoker("apply", "-f", str(file))
    assert (done.exit_code, changes(api)) == (124, [])
    assert f"error: {api.url} did not answer in time\nhint: nothing was applied" in done.stderr


def test_what_fails_is_told_and_the_rest_is_done(api: FakeApi, stoker: Stoker, file: Path) -> None:
    api.add(name="served", model=MODEL)  # nothing has to be looked at first
    api.add(name="old")
    api.refusals = [ProblemError("deployment_deleting", "it is being deleted")]
    done = stoker("apply", "-f", str(file), "--prune", "--yes")
    assert done.exit_code == 1
    (failed,) = [line for line in done.stderr.splitlines() if line.endswith("it is being deleted")]
    assert failed.startswith("error: deployment ")
    assert "error: deployment old: not removed, because not all else was done" in done.stderr
    assert "hint: what was done stays; the same command goes on from here" in done.stderr
    assert done.stdout.splitlines()[-1].endswith("0 changed, 0 as they were, 0 removed")
    assert "old" in api.deployments


def test_a_server_that_is_away_is_not_asked_again_and_again(api: FakeApi, stoker: Stoker, tmp_path: Path) -> None:
    api.add(name="served", model=MODEL)
    many = [{"name": f"d{number}", "model": MODEL} for number in range(40)]
    path = tmp_path / "many.json"
    path.write_text(json.dumps({"version": 1, "deployments": many}))
    api.refusals = [ProblemError("temporal_unavailable", "Temporal does not answer")] * 40
    done = stoker("apply", "-f", str(path), "-o", "json")
    assert done.exit_code == 1
    errors = [step["error"] for step in json.loads(done.stdout) if step["name"] != "served"]
    assert len(errors) == 40
    assert "not tried any more" in errors
    assert len(api.bodies("POST", PATH)) < 40


def test_one_that_is_being_deleted_is_waited_for_and_made_anew(api: FakeApi, stoker: Stoker, file: Path) -> None:
    api.add(name="llama", model=MODEL, replicas=2, deleting=True, steps=[(), (), None])
    done = stoker("apply", "-f", str(file))
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "+ deployment smol"), done.stderr
    assert "+ deployment llama" in done.stdout
    assert not api.deployments["llama"].status.deleting


def test_one_that_is_slow_to_go_stops_no_other(api: FakeApi, stoker: Stoker, tmp_path: Path) -> None:
    api.add(name="d0", model=MODEL, deleting=True, steps=[()])
    path = tmp_path / "many.json"
    many = [{"name": f"d{number}", "model": MODEL} for number in range(20)]
    path.write_text(json.dumps({"version": 1, "deployments": many, "routes": [LED_ELSEWHERE]}))
    slow = stoker("apply", "-f", str(path), "--timeout", "0.05")
    assert (slow.exit_code, "not tried any more" in slow.stderr) == (124, False), slow.stderr
    assert "error: deployment d0: d0 is not gone yet after 0.05 s" in slow.stderr
    assert len(api.bodies("POST", PATH)) == 19
    assert api.routes.keys() == {"r"}


def test_wait_ends_when_all_run(api: FakeApi, stoker: Stoker, file: Path) -> None:
    done = stoker("apply", "-f", str(file), "--wait", "--timeout", "60")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all 2 run"
    assert "smol-0 running: answers on box-1" in done.stderr


def test_wait_says_what_failed(api: FakeApi, stoker: Stoker, file: Path) -> None:
    def dies(*_: object) -> Steps:
        return [(), (failed("llama-0", "the engine refused the file"),)]

    api.life = dies
    done = stoker("apply", "-f", str(file), "--wait")
    assert done.exit_code == 1
    assert "error: llama failed: llama-0: the engine refused the file" in done.stderr


def test_wait_has_an_end(api: FakeApi, stoker: Stoker, file: Path) -> None:
    api.life = lambda *_: [()]
    done = stoker("apply", "-f", str(file), "--wait", "--timeout", "0.2")
    assert done.exit_code == 124
    assert "error: smol does not run yet after 0.2 s: progressing: instances are being placed" in done.stderr


def failed(name: str, message: str) -> InstanceStatus:
    return instance(InstanceState.FAILED, instance_id=name, deployment=name.removesuffix("-0"), message=message)
