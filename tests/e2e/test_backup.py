"""A running system is backed up, lost with everything on its disk, restored: models, keys and usage are there again."""

import shutil
from pathlib import Path

from openai import OpenAI

from tests.e2e.system import System, eventually


def test_backup_loss_restore(tmp_path: Path, tiny: Path) -> None:
    system, backup = System(tmp_path / "data", "--model-dir", str(tiny.parent)), tmp_path / "backup"
    system.start()
    system.cli("deploy", "tiny", "--model", f"file:{tiny}")
    key = system.cli("keys", "create", "app").stdout.split()[-1]
    assert system.answers("tiny")
    claimed, admin_key = system.claims(), system.admin_key

    said = system.cli("backup", str(backup)).stdout
    assert "5 files" in said
    assert system.answers("tiny"), "it runs on"
    refused = system.cli("restore", str(backup), check=False)
    assert refused.returncode == 1
    assert "stop it first" in refused.stderr
    system.cli("rm", "tiny")  # what comes after a backup is not in it
    system.gone("tiny")
    system.stop()
    shutil.rmtree(system.folder)

    assert "Next: `stoker up`" in system.cli("restore", str(backup)).stdout
    system.start()
    try:
        system.running("tiny")
        eventually(lambda: system.answers("tiny"), system.logs)
        assert system.admin_key == admin_key
        assert system.claims() == claimed
        OpenAI(base_url=f"{system.url}/v1", api_key=key).completions.create(model="tiny", prompt="a", max_tokens=1)
        system.cli("rm", "tiny")  # its workflow is there again, too
        system.gone("tiny")
    finally:
        system.stop()
