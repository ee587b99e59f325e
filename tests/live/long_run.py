"""What every long run against a real system begins with: the engine, a folder of its own, and an end in good order."""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from worker_agent.engine_host import look_at_host
from worker_agent.engine_install import InstallRequest, install_engine
from worker_agent.engine_options import Backend


class _Progress:
    """Of building the engine, the first time on a machine."""

    def stage(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def steps(self, done: int, total: int) -> None:
        pass


def engine_folder() -> Path:
    """Where the native engine's programs are; built when they are not."""
    engine = install_engine(InstallRequest(backend=Backend.CPU), look_at_host(), _Progress())
    return engine.program("llama-server").parent


def add_folder_option(parser: argparse.ArgumentParser) -> None:
    """`--folder`, for `run_folder`."""
    parser.add_argument("--folder", type=Path, default=None, help="kept afterwards; else one that is not")


@contextmanager
def run_folder(run: str, kept: Path | None) -> Iterator[Path]:
    """The folder of a run of this name: `kept`, else one that is there inside the block only.

    Who ends the process meanwhile interrupts it as Ctrl-C does, so that all that was started ends with it.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    folder = kept or Path(tempfile.mkdtemp(prefix=f"stoker-{run}-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
