"""`stoker backup` and `stoker restore` as they are typed; what they do is in tests/entrypoints/test_backup.py."""

from pathlib import Path

import pytest

from stoker.settings import Settings
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.entrypoints.cli.conftest import Stoker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder that the program finds: a database, and a secret."""
    data = tmp_path / "data"
    database = Database(Settings(data_dir=data).database_url)
    migrate(database)
    database.close()
    (data / "server-secret").write_text("secret\n")
    return data


def test_there_and_back(folder: Path, tmp_path: Path, stoker: Stoker) -> None:
    done = stoker("backup", str(tmp_path / "copy"))
    assert done.exit_code == 0, done.stderr
    first, *notes = done.stdout.splitlines()
    assert first.startswith(f"Backed up {folder} to {tmp_path / 'copy'}: 2 files, ")
    assert notes == [
        "Temporal is not in it: it runs elsewhere, and is backed up there.",
        "Not in it: join-token. They come from settings, and are kept where these are.",
    ]
    done = stoker("restore", str(tmp_path / "copy"), "--data-dir", str(tmp_path / "new"))
    assert done.exit_code == 0, done.stderr
    assert f"UTC to {tmp_path / 'new'}." in done.stdout
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"stoker.db", "server-secret", "lock"}


def test_what_cannot_be_done_says_why_and_what_to_do(folder: Path, tmp_path: Path, stoker: Stoker) -> None:
    done = stoker("backup", str(folder))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {folder} is there already\nhint: name a folder that is not: nothing is overwritten\n"
    )
    done = stoker("restore", str(tmp_path / "nothing"))
    assert done.exit_code == 1
    assert "nothing is no backup: its backup.json cannot be read" in done.stderr
    assert stoker("backup").exit_code == 2


def test_a_disk_that_takes_nothing(folder: Path, tmp_path: Path, stoker: Stoker) -> None:
    (tmp_path / "file").touch()
    done = stoker("backup", str(tmp_path / "file" / "copy"))
    assert done.exit_code == 1
    assert "file" in done.stderr
    assert folder.exists()
