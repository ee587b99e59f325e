"""The run of all tests: how it is cut, and what it tells of parts that fail or hang."""

from pathlib import Path

import pytest

from tests import parts
from tests.parts import parts_of, run


def test_a_part_is_a_folder_or_a_file_that_drives_the_system() -> None:
    files = ["tests/api/test_a.py", "tests/api/openai/test_b.py", "tests/api/test_c.py", "tests/e2e/test_d.py"]
    assert parts_of([*files, "tests/e2e/test_e.py"]) == {
        "tests/api/openai": ["tests/api/openai/test_b.py"],
        "tests/api": ["tests/api/test_a.py", "tests/api/test_c.py"],
        "tests/e2e/test_d.py": ["tests/e2e/test_d.py"],
        "tests/e2e/test_e.py": ["tests/e2e/test_e.py"],
    }


def test_what_is_long_is_begun_first() -> None:
    last_first = ("tests/aaa", *reversed(parts.LONG_FIRST))
    files = [part if part.endswith(".py") else f"{part}/test_x.py" for part in last_first]
    assert list(parts_of(files)) == [*parts.LONG_FIRST, "tests/aaa"]


@pytest.mark.parametrize(("body", "code"), [("assert True", 0), ("assert 1 == 2", 1)], ids=["passes", "fails"])
def test_a_part_ends_as_its_tests_do(tmp_path: Path, body: str, code: int) -> None:
    file = tmp_path / "test_one.py"
    file.write_text(f"def test_it():\n    {body}\n")
    outcome = run("one", [str(file)])
    assert outcome.code == code
    assert ("1 passed" in outcome.summary) == (code == 0)
    assert code == 0 or "test_it" in outcome.printed


def test_what_failed_is_tried_once_more_and_told(tmp_path: Path) -> None:
    (tmp_path / "test_flaky.py").write_text(
        "from pathlib import Path\n\n"
        "def test_flaky():\n    mark = Path(__file__).with_name('mark')\n"
        "    was_there = mark.exists()\n    mark.touch()\n    assert was_there\n\n"
        "def test_steady():\n    pass\n"
    )
    first, second = (run("flaky", [str(tmp_path / "test_flaky.py")]) for _ in range(2))
    assert (first.code, first.again) == (0, True)
    assert "1 failed, 1 passed" in first.printed
    assert "1 passed, 1 deselected" in first.printed
    assert (second.code, second.again) == (0, False)


def test_a_part_that_hangs_is_ended_and_tells_where(tmp_path: Path) -> None:
    file = tmp_path / "test_hangs.py"
    file.write_text("import threading\n\ndef test_it():\n    threading.Event().wait()\n")
    outcome = run("hangs", [str(file)], seconds=15.0)
    assert outcome.code != 0
    assert "It was ended after 15 s." in outcome.printed
    assert "in test_it" in outcome.printed, "the stack of what hung"
