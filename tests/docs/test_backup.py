"""docs/backup.md: what it writes holds secrets, and must not come into the checkout."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(r"^    (.+)$", (ROOT / "docs" / "backup.md").read_text(), re.MULTILINE)


def test_backups_are_written_outside_of_the_checkout() -> None:
    folders = {line.removeprefix("backup=") for line in COMMANDS if line.startswith("backup=")}
    assert folders
    assert all(folder.startswith("/") for folder in folders)
    written = {word for line in COMMANDS for word in re.findall(r"[<>] (\S+)", line)}
    assert written
    assert all(path.startswith("$backup/") for path in written)


def test_one_that_was_written_there_all_the_same_stays_out_of_git() -> None:
    assert {"secrets/", "/backup/"} <= set((ROOT / ".gitignore").read_text().splitlines())
