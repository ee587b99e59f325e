"""A running system is backed up, lost with everything on its disk, and restored: models and keys are there again."""

import shutil
from pathlib import Path

from tests.e2e.system import System, eventually


def test_backup_loss_restore(tmp_path: Path, tiny: Path) -> None:
    system, backup = System(tmp_path / "data", "--model-dir", str(tiny.parent)), tmp_path / "backup"
    system.start()
    system.cli("deploy", "tiny", "--model", f"file:{tiny}")
    with system.api() as api:
        key = api.post("/keys", json={"name": "app"}).raise_for_status().json()["key"]
    assert system.answers("tiny")
    claimed, admin_key = system.claims(), system.admin_key

    said = system.cli("backup", str(backup)).stdout
    assert "5 files" in said
    assert system.answers("tiny"), "it runs on"
    with system.api() as api:  # what comes after a backup is not in it
        late = api.post("/keys", json={"name": "late"}).raise_for_status().json()["id"]
    system.stop()
    shutil.rmtree(system.folder)

    assert "Next: `stoker up`" in system.cli("restore", str(backup)).stdout
    system.start()
    try:
        system.running("tiny")
        eventually(lambda: system.answers("tiny"), system.logs)
        assert system.admin_key == admin_key
        assert system.claims() == claimed
        system.openai(api_key=key).completions.create(model="tiny", prompt="a", max_tokens=1)
        with system.api() as api:
            assert late not in {one["id"] for one in api.get("/keys").raise_for_status().json()["data"]}
            api.delete("/deployments/tiny").raise_for_status()
        system.gone("tiny")  # its workflow was there again, too
    finally:
        system.stop()
