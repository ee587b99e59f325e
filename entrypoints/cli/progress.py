"""What is shown on stderr while a deployment is waited for: bars on a terminal, else a plain line now and then."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from api.schemas.instances import InstanceRead
from entrypoints.cli.output import console, duration
from entrypoints.cli.printable import printable
from stoker.domain.deployments import InstanceState
from stoker.domain.units import format_bytes

LINE_EVERY_SECONDS = 10.0
"""How often a line says how far a download has come, where there is no terminal."""


class Display(Protocol):
    """A context manager that shows instances on their way."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def show(self, instances: Sequence[InstanceRead]) -> None:
        """How the instances are now."""
        ...


def display() -> Display:
    """The display that fits where stderr goes."""
    return Bars() if console(stderr=True).is_terminal else Lines()


def amount(instance: InstanceRead) -> str:
    """How far it has come, in words: `1.2 GiB of 4.58 GiB, 35 MiB/s, 1m left`, `72 %`; empty when nothing says so."""
    progress = instance.progress
    if progress is None or not progress.total:
        return ""
    if instance.state is not InstanceState.DOWNLOADING:
        return f"{progress.fraction:.0%}".replace("%", " %")
    text = f"{format_bytes(progress.done)} of {format_bytes(progress.total)}"
    if len(progress.files) > 1:
        text += f", {sum(file.done >= file.total for file in progress.files)} of {len(progress.files)} files"
    if progress.bytes_per_second > 0:
        left = duration((progress.total - progress.done) / progress.bytes_per_second)
        text += f", {format_bytes(int(progress.bytes_per_second))}/s, {left} left"
    return text


def file_amounts(instance: InstanceRead) -> list[str]:
    """Of a download of several files, how far each has come: `Q4/m-00001-of-00005.gguf: 1.2 GiB of 4.58 GiB`."""
    progress = instance.progress
    if progress is None or instance.state is not InstanceState.DOWNLOADING or len(progress.files) < 2:
        return []
    return [f"{file.path}: {format_bytes(file.done)} of {format_bytes(file.total)}" for file in progress.files]


def waits_for(instance: InstanceRead) -> list[str]:
    """Why a pending instance waits, and what would help: a line each."""
    if instance.state is not InstanceState.PENDING or instance.pending is None:
        return []
    first = f"{instance.id} waits for room: {instance.pending.summary}"
    return [first, *(f"  what would help: {suggestion.text}" for suggestion in instance.pending.suggestions)]


class _Notes:
    """What was said already about why instances wait: each reason is told once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def new(self, instances: Sequence[InstanceRead]) -> list[str]:
        """The lines that were not told before."""
        found = []
        for instance in instances:
            text = waits_for(instance)
            if text and text[0] not in self._told:
                self._told.add(text[0])
                found += text
        return [printable(line) for line in found]


class Lines:
    """A line at every change of state, and every LINE_EVERY_SECONDS while something is under way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._console, self._notes = clock, console(stderr=True), _Notes()
        self._shown: dict[str, tuple[tuple[str, str], float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def show(self, instances: Sequence[InstanceRead]) -> None:
        """Prints what is new."""
        for line in self._notes.new(instances):
            self._console.print(line)
        now = self._clock()
        for instance in instances:
            state = (instance.state.value, instance.message)
            before, at = self._shown.get(instance.id, (None, 0.0))
            changed = state != before
            if changed or (amount(instance) and now - at >= LINE_EVERY_SECONDS):
                self._shown[instance.id] = (state, now)
                if not waits_for(instance):
                    self._console.print(printable(_line(instance)))


class Bars:
    """A bar an instance."""

    def __init__(self) -> None:
        self._notes = _Notes()
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}", markup=False),
            console=console(stderr=True),
            transient=True,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, instances: Sequence[InstanceRead]) -> None:
        """Moves the bars."""
        for line in self._notes.new(instances):
            self._progress.console.print(line)
        for gone in self._tasks.keys() - {instance.id for instance in instances}:
            self._progress.remove_task(self._tasks.pop(gone))
        for instance in instances:
            if instance.id not in self._tasks:
                self._tasks[instance.id] = self._progress.add_task(instance.id, total=None, amount="")
            done = instance.state is InstanceState.RUNNING
            known = instance.progress if instance.progress and instance.progress.total else None
            self._progress.update(
                self._tasks[instance.id],
                description=f"{instance.id}  {instance.state.value}",
                completed=1.0 if done else known.fraction if known else 0.0,
                total=1.0 if done or known else None,  # None: a bar that only says that something is going on
                amount=amount(instance),
            )


def _line(instance: InstanceRead) -> str:
    parts = (f"{instance.id} {instance.state.value}", amount(instance) or instance.message)
    return ": ".join(part for part in parts if part)
