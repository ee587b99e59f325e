"""What is shown while an engine is built."""

import pytest

from entrypoints.cli.build_progress import Bar, BuildDisplay, Lines, amount, display


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (0, 221, 0.0, "0 %, 0 of 221"),
        (4, 221, 60.0, "1 %, 4 of 221"),  # too early to tell
        (5, 221, 10.0, "2 %, 5 of 221, 7m left"),
        (110, 220, 150.0, "50 %, 110 of 220, 2m left"),
        (221, 221, 300.0, "100 %, 221 of 221, 0s left"),
        (3, 3, 9.0, "100 %, 3 of 3, 0s left"),
        (0, 0, 0.0, "0 %, 0 of 0"),
    ],
)
def test_how_far_it_is(done: int, total: int, seconds: float, text: str) -> None:
    assert amount(done, total, seconds) == text


class Clock:
    """Shows what it was set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_each_stage_and_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Lines(clock) as shown:
        shown.note("backend cpu: no GPU")
        shown.stage("building")
        for second in range(26):
            clock.now = float(second)
            shown.steps(second * 4, 200)
        shown.stage("trying what was built")
    assert capsys.readouterr().err.splitlines() == [
        "backend cpu: no GPU",
        "building",
        "  20 %, 40 of 200, 40s left",
        "  40 %, 80 of 200, 30s left",
        "trying what was built",
    ]


def test_a_bar_shows_what_is_done_and_how_far(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Bar(clock) as shown:
        shown.note("backend cpu: no GPU")
        shown.stage("building")
        shown.steps(1, 200)
        clock.now = 50.0
        shown.steps(100, 200)
        (task,) = shown._progress.tasks
        assert (task.description, task.completed, task.total) == ("building", 100, 200)
        assert task.fields["amount"] == "50 %, 100 of 200, 50s left"
        shown.stage("trying")
        (task,) = shown._progress.tasks
        assert (task.description, task.total, task.fields["amount"]) == ("trying", None, "")
    assert "backend cpu: no GPU" in capsys.readouterr().err


def test_without_a_terminal_it_is_lines() -> None:
    shown: BuildDisplay = display()
    assert isinstance(shown, Lines)
