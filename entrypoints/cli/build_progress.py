"""What is shown on stderr while an engine is built: a bar on a terminal, else a plain line now and then."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.progress import BarColumn, Progress, TextColumn

from entrypoints.cli.output import console, duration
from entrypoints.cli.printable import printable

LINE_EVERY_SECONDS = 10.0
"""How often a line says how far the build has come, where there is no terminal."""

_ETA_AFTER_STEPS = 5


class BuildDisplay(Protocol):
    """A context manager that shows a build on its way. Satisfies `worker_agent.engine_install.Progress`."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def note(self, text: str) -> None:
        """A line that stays."""
        ...

    def stage(self, text: str) -> None:
        """What is being done from here on."""
        ...

    def steps(self, done: int, total: int) -> None:
        """How many steps of the compilation are done."""
        ...


def display() -> BuildDisplay:
    """The display that fits where stderr goes."""
    return Bar() if console(stderr=True).is_terminal else Lines()


def amount(done: int, total: int, seconds: float) -> str:
    """How far a build has come after so many seconds: `42 %, 96 of 226, 3m left`. The rest is taken to go as fast."""
    text = f"{100 * done // max(1, total)} %, {done} of {total}"
    if done == 0 or done < min(_ETA_AFTER_STEPS, total):
        return text
    return f"{text}, {duration(seconds / done * (total - done))} left"


class Lines:
    """A line a stage, and one every LINE_EVERY_SECONDS while it compiles."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._console = clock, console(stderr=True)
        self._began: float | None = None
        self._shown_at = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def note(self, text: str) -> None:
        """Prints it."""
        self._console.print(printable(text))

    def stage(self, text: str) -> None:
        """Prints it."""
        self._began, self._shown_at = None, self._clock()
        self.note(text)

    def steps(self, done: int, total: int) -> None:
        """Prints how far it is, now and then."""
        now = self._clock()
        if self._began is None:
            self._began = now
        if now - self._shown_at >= LINE_EVERY_SECONDS:
            self._shown_at = now
            self._console.print(f"  {amount(done, total, now - self._began)}")


class Bar:
    """One bar; its text says what is being done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}", markup=False),
            console=console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("looking at this machine", total=None, amount="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """Prints it above the bar."""
        self._progress.console.print(printable(text))

    def stage(self, text: str) -> None:
        """The bar moves without saying how far, until steps are known."""
        self._began = None
        self._progress.remove_task(self._task)  # a task's total cannot be made unknown again
        self._task = self._progress.add_task(printable(text), total=None, amount="")

    def steps(self, done: int, total: int) -> None:
        """Moves the bar."""
        now = self._clock()
        if self._began is None:
            self._began = now
        self._progress.update(self._task, completed=done, total=total, amount=amount(done, total, now - self._began))
