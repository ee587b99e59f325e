"""The installed native engines of this user: a folder each, with its programs and a manifest."""

import ctypes
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import platformdirs
from pydantic import Field, ValidationError

from stoker.domain.base import Bytes, Value
from worker_agent.engine_options import Backend, EngineInstallError

MANIFEST = "engine.json"
_SCRATCH, _DOOMED, _LOGS = ".building-", ".removed-", "logs"
_LOCK_POLL_SECONDS = 0.2
_HERE, _EXCHANGE = -100, 2  # Linux's AT_FDCWD and RENAME_EXCHANGE


class Program(Value):
    """One program of an engine."""

    size: Bytes
    sha256: str


class Manifest(Value):
    """What an installed engine is. Written last: a folder without one is no engine."""

    name: str
    version: str  # as its llama-server says it
    release: str  # the source's, like "0.3.36"
    source_sha256: str
    backend: Backend
    platform: str
    options: tuple[str, ...]  # cmake's
    rpc_protocol: str
    built_at: datetime
    build_seconds: float = Field(ge=0)
    programs: dict[str, Program]


class InstalledEngine(Value):
    """An engine in the store."""

    manifest: Manifest
    folder: Path

    def program(self, name: str) -> Path:
        """The path of one of its programs."""
        return self.folder / "bin" / name

    @property
    def size(self) -> int:
        """Bytes of its programs."""
        return sum(program.size for program in self.manifest.programs.values())


class EngineStore:
    """A folder of installed engines. What starts with a dot is under way or to be removed, and no engine."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: the user's cache by default. It need not exist."""
        self.folder = folder or platformdirs.user_cache_path("stoker") / "engines"

    def installed(self) -> list[InstalledEngine]:
        """The whole engines, by name."""
        return [engine for engine in map(self._read, self._folders()) if isinstance(engine, InstalledEngine)]

    def damaged(self) -> dict[str, str]:
        """What is wrong with each of the others, by name."""
        read = {folder.name: self._read(folder) for folder in self._folders()}
        return {name: wrong for name, wrong in read.items() if isinstance(wrong, str)}

    def find(self, name: str) -> InstalledEngine | None:
        """The whole engine of that name."""
        return next((engine for engine in self.installed() if engine.manifest.name == name), None)

    def remove(self, name: str) -> bool:
        """Removes the engine, damaged or not; whether there was one. Raises OSError."""
        if name not in {folder.name for folder in self._folders()}:
            return False
        doomed = self.folder / f"{_DOOMED}{name}-{os.getpid()}"
        (self.folder / name).rename(doomed)  # gone at once and as a whole, even when the rest is cut short
        shutil.rmtree(doomed)
        return True

    def log_path(self, name: str) -> Path:
        """Where the log of the last build of that name is kept."""
        return self.folder / _LOGS / f"{name}.log"

    def put(self, built: Path, name: str) -> InstalledEngine:
        """Makes the finished folder `built` (in a scratch folder of this store) the engine `name`. Raises OSError.

        One of that name is replaced in one step where the system can (Linux): workers start servers meanwhile.
        """
        target = self.folder / name
        if not (target.exists() and _exchanged(built, target)):
            if target.exists():
                target.rename(self.folder / f"{_DOOMED}{name}-{os.getpid()}")
            built.rename(target)
        self._sweep(_DOOMED)
        engine = self.find(name)
        if engine is None:
            raise EngineInstallError(f"{target} was put in place, and is no whole engine: {self.damaged().get(name)}")
        return engine

    @contextmanager
    def building(self, wait_seconds: float, on_wait: Callable[[str], None]) -> Iterator[Path]:
        """A scratch folder on the store's disk for the one that may build now; it is gone at the end.

        Waits while another process builds, after telling `on_wait` its pid. What killed builds left is removed first.
        Raises EngineInstallError.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / _LOGS).mkdir(exist_ok=True)
            with (self.folder / ".lock").open("a+") as lock:
                _wait_for(lock.fileno(), wait_seconds, lambda: on_wait(_holder(lock.name)))
                lock.truncate(0)
                lock.write(str(os.getpid()))
                lock.flush()
                self._sweep(_SCRATCH)
                self._sweep(_DOOMED)
                scratch = self.folder / f"{_SCRATCH}{os.getpid()}"
                scratch.mkdir()
                try:
                    yield scratch
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
        except TimeoutError:
            raise EngineInstallError(
                f"process {_holder(str(self.folder / '.lock'))} builds an engine in {self.folder},"
                f" and was not ready within {wait_seconds:.0f} s"
            ) from None

    def _folders(self) -> list[Path]:
        try:
            entries = sorted(self.folder.iterdir())
        except OSError:
            return []
        return [entry for entry in entries if entry.is_dir() and not entry.name.startswith((".", _LOGS))]

    def _read(self, folder: Path) -> InstalledEngine | str:
        """The engine in a folder, or what is wrong with it. Of the programs, their sizes are compared only."""
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        except OSError as error:
            return f"{folder / MANIFEST}: {error.strerror}"
        except ValidationError as error:
            first = error.errors()[0]
            return f"{folder / MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        if manifest.name != folder.name:
            return f"{folder / MANIFEST}: is of {manifest.name}"
        engine = InstalledEngine(manifest=manifest, folder=folder)
        for name, program in manifest.programs.items():
            path = engine.program(name)
            size = path.stat().st_size if path.is_file() else -1
            if size != program.size:
                return f"{path}: {'is missing' if size < 0 else f'has {size} bytes instead of {program.size}'}"
        return engine

    def _sweep(self, prefix: str) -> None:
        for left in self.folder.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Lets two folders change places, in one step; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _wait_for(descriptor: int, seconds: float, on_wait: Callable[[], None]) -> None:
    """Takes the lock; raises TimeoutError."""
    deadline, told = time.monotonic() + seconds, False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                told = True
                on_wait()
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(_LOCK_POLL_SECONDS)


def _holder(lock: str) -> str:
    try:
        return Path(lock).read_text().strip() or "unknown"
    except OSError:
        return "unknown"
