"""One process a folder."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from entrypoints.folder_lock import FolderInUseError, locked

HOLDER = """
import sys
from pathlib import Path
from entrypoints.folder_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(folder: Path) -> "subprocess.Popen[str]":
    """Another process that holds the folder until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_is_made_for_its_owner_and_held(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    with locked(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder / "lock").read_text() == str(os.getpid())
        with pytest.raises(FolderInUseError, match=rf"process {os.getpid()} holds {folder}"), locked(folder):
            pass
    with locked(folder):
        pass


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(LookupError), locked(tmp_path):
        raise LookupError
    with locked(tmp_path):
        pass


def test_who_comes_second_is_told_who_is_there(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        with pytest.raises(FolderInUseError, match=f"process {holder.pid} holds"), locked(tmp_path):
            pass
        holder.communicate("")
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid()), "the old pid, perhaps longer, is gone"


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    with locked(tmp_path):
        pass
