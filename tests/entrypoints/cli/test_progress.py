"""What is shown on the way where there is no terminal; tests/entrypoints/cli/test_terminal.py has the rest."""

import pytest

from api.schemas.instances import InstanceRead
from entrypoints.cli.progress import LINE_EVERY_SECONDS, Lines, amount, file_amounts, waits_for
from stoker.domain.deployments import InstanceState
from stoker.domain.placement.types import Rejection, Rule, Unplaceable
from stoker.domain.statuses import FileProgress, Progress
from stoker.domain.units import GIB, MIB
from tests.fakes.api import make_instance

DOWNLOADING, STARTING = InstanceState.DOWNLOADING, InstanceState.STARTING
SHARDS = (
    FileProgress(path="a-00001-of-00002.gguf", done=2 * GIB, total=2 * GIB),
    FileProgress(path="a-00002-of-00002.gguf", done=GIB, total=2 * GIB),
)


def read(state: InstanceState, progress: Progress | None = None, **overrides: object) -> InstanceRead:
    return InstanceRead.of_status(make_instance(state, progress=progress, **overrides))


@pytest.mark.parametrize(
    ("state", "progress", "text"),
    [
        (DOWNLOADING, None, ""),
        (DOWNLOADING, Progress(done=0, total=0), ""),
        (DOWNLOADING, Progress(done=GIB, total=4 * GIB), "1 GiB of 4 GiB"),
        (DOWNLOADING, Progress(done=GIB, total=4 * GIB, rate=32.0 * MIB), "1 GiB of 4 GiB, 32 MiB/s, 1m left"),
        (
            DOWNLOADING,
            Progress(done=3 * GIB, total=4 * GIB, rate=32.0 * MIB, files=SHARDS),
            "3 GiB of 4 GiB, 1 of 2 files, 32 MiB/s, 32s left",
        ),
        (STARTING, Progress(done=725, total=1000), "72 %"),
        (STARTING, Progress(done=1000, total=1000, rate=5.0), "100 %"),
    ],
)
def test_amount(state: InstanceState, progress: Progress | None, text: str) -> None:
    assert amount(read(state, progress)) == text


def test_each_file_of_a_download_of_several() -> None:
    progress = Progress(done=3 * GIB, total=4 * GIB, files=SHARDS)
    assert file_amounts(read(DOWNLOADING, progress)) == [
        "a-00001-of-00002.gguf: 2 GiB of 2 GiB",
        "a-00002-of-00002.gguf: 1 GiB of 2 GiB",
    ]
    assert file_amounts(read(STARTING, progress)) == []
    assert file_amounts(read(DOWNLOADING, Progress(done=GIB, total=4 * GIB, files=SHARDS[:1]))) == []


def test_why_it_waits() -> None:
    assert waits_for(read(InstanceState.PENDING)) == [
        "llama-a1b2c waits for room: Needs 6 GiB; the nearest device, box-1/gpu0, has 2 GiB allocatable: 4 GiB short.",
        "  what would help: slots 4 → 1 fits on box-1",
        "  what would help: q4_0 KV cache fits on box-1",
    ]
    assert waits_for(read(InstanceState.RUNNING)) == []


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_at_each_change_and_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()

    def told(*instances: InstanceRead) -> str:
        lines.show(instances)
        return capsys.readouterr().err

    with Lines(clock) as lines:
        assert told(read(InstanceState.PLACING)) == "llama-a1b2c placing\n"
        assert told(read(InstanceState.PLACING)) == ""
        assert (
            told(read(DOWNLOADING, Progress(done=1 * GIB, total=4 * GIB)))
            == "llama-a1b2c downloading: 1 GiB of 4 GiB\n"
        )
        assert told(read(DOWNLOADING, Progress(done=2 * GIB, total=4 * GIB))) == ""
        clock.now = LINE_EVERY_SECONDS
        assert (
            told(read(DOWNLOADING, Progress(done=3 * GIB, total=4 * GIB)))
            == "llama-a1b2c downloading: 3 GiB of 4 GiB\n"
        )
        assert told(read(STARTING)) == "llama-a1b2c starting\n"
        clock.now = 10 * LINE_EVERY_SECONDS
        assert told(read(STARTING)) == ""  # nothing says how far it has come: nothing new to tell
        assert told(read(InstanceState.BACKOFF, message="killed")) == "llama-a1b2c backoff: killed\n"


def test_each_reason_to_wait_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    none = Unplaceable(
        rejections=(Rejection(rule=Rule.NO_WORKERS, message="no worker"),),
        summary="No worker has joined the cluster yet.",
    )
    with Lines(Clock()) as lines:
        for state in (InstanceState.PENDING, InstanceState.PLACING, InstanceState.PENDING):
            lines.show([read(state)])
        lines.show([read(InstanceState.PENDING, unplaceable=none)])
    assert capsys.readouterr().err.splitlines() == [
        *waits_for(read(InstanceState.PENDING)),
        "llama-a1b2c placing",
        "llama-a1b2c waits for room: No worker has joined the cluster yet.",
    ]


def test_what_engines_say_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(Clock()) as lines:
        lines.show([read(InstanceState.BACKOFF, message="\x1b[2Jgone")])
    assert capsys.readouterr().err == "llama-a1b2c backoff: \ufffd[2Jgone\n"
