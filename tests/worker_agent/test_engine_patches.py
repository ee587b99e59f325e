"""Our changes of llama.cpp: made where they belong, or not at all."""

from pathlib import Path

import pytest

from worker_agent.engine_options import EngineInstallError
from worker_agent.engine_patches import Patch, apply_patches

PATCH = Patch(file="a/b.cpp", before="wait_for(1)", after="wait_until(deadline)")


def source_with(folder: Path, text: str) -> Path:
    (folder / "a").mkdir()
    (folder / "a/b.cpp").write_text(text)
    return folder


def test_the_text_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    apply_patches(source_with(tmp_path, "x = wait_for(1);\ny = wait_for(2);\n"), (PATCH,))
    assert (tmp_path / "a/b.cpp").read_text() == "x = wait_until(deadline);\ny = wait_for(2);\n"


@pytest.mark.parametrize(
    ("text", "found"), [("nothing of it", 0), ("wait_for(1) wait_for(1)", 2)], ids=["gone", "twice"]
)
def test_another_source_is_refused(tmp_path: Path, text: str, found: int) -> None:
    with pytest.raises(EngineInstallError, match=rf"a/b\.cpp has {found} places for our change"):
        apply_patches(source_with(tmp_path, text), (PATCH,))


def test_a_source_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineInstallError, match=r"a/b\.cpp has 0 places"):
        apply_patches(tmp_path, (PATCH,))
