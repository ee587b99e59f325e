"""What an agent must still know of its processes after it died: one small JSON file a process."""

import re
from pathlib import Path

import structlog
from pydantic import Field, ValidationError

from activities.ports import ProcessKey
from stoker.domain.base import Bytes, Value
from stoker.private_files import write_private

log = structlog.get_logger()

_NAME = re.compile(
    r"^(?P<instance>[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\.(?P<incarnation>[0-9]{1,9})\.(?P<role>[a-z]{1,16})$"
)


def file_stem(key: ProcessKey) -> str:
    """`<instance>.<incarnation>.<role>`: what the process's files are called. Raises ValueError for an unsafe key."""
    stem = f"{key.instance_id}.{key.incarnation}.{key.role}"
    if not _NAME.match(stem):
        raise ValueError(f"{stem!r} names no process: <instance, a DNS label>.<incarnation, 0 or more>.<role, a-z>")
    return stem


def parse_stem(stem: str) -> ProcessKey | None:
    """The key that `file_stem` wrote, or None."""
    match = _NAME.match(stem)
    if match is None:
        return None
    return ProcessKey(instance_id=match["instance"], incarnation=int(match["incarnation"]), role=match["role"])


class ProcessExit(Value):
    """How a process ended. `code` is negative for a signal, None where it cannot be known: another's child."""

    code: int | None = None
    cause: str
    retryable: bool = True
    worker: str = ""  # whose fault it was, where that is known to be another's
    frozen: bool = False  # it was ended because it stood still


class ProcessRecord(Value):
    """One process as it is kept on disk. No secrets."""

    key: ProcessKey
    pid: int = Field(default=0, ge=0)  # 0: about to be started
    birth: str = ""  # see pids.birth_of
    port: int = Field(default=0, ge=0, le=65_535)  # 0: not ready yet
    ports: tuple[int, ...] = ()  # of a link that is ready
    wanted_port: int = Field(default=0, ge=0, le=65_535)  # where it was told to listen; 0: its own choice
    rpc_peers: dict[str, str] = Field(default_factory=dict)  # whose RPC server a main server reaches at HOST:PORT
    patience: int = 1  # so many times as long as usual it may stand still
    members: tuple[str, ...] = ()  # workers of its group, the main server's first; none: it is in no group
    model_size: Bytes = 0
    exit: ProcessExit | None = None
    damaged: bool = False  # the file could not be read: nothing but the key is known


class RecordStore:
    """The record files of one host, in one folder of its own. Writes are atomic against the agent's death.

    They are not synced to disk: what a power cut loses is about processes that it ended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, key: ProcessKey) -> Path:
        """Where the record of `key` is kept. Raises ValueError for an unsafe key."""
        return self.folder / f"{file_stem(key)}.json"

    def keys(self) -> list[ProcessKey]:
        """The keys of all records, readable or not."""
        found = (parse_stem(path.name.removesuffix(".json")) for path in sorted(self.folder.glob("*.json")))
        return [key for key in found if key is not None]

    def load(self, key: ProcessKey) -> ProcessRecord | None:
        """The record of `key`; None: there is none. An unreadable one comes back as `damaged`."""
        try:
            record = ProcessRecord.model_validate_json(self.path(key).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            return ProcessRecord(key=key, damaged=True)
        return record if record.key == key else ProcessRecord(key=key, damaged=True)

    def save(self, record: ProcessRecord) -> None:
        """Writes the record, readable by this user only. Raises OSError."""
        write_private(self.path(record.key), record.model_dump_json())

    def keep(self, record: ProcessRecord) -> None:
        """Saves the record of a process that exists already: a disk that refuses it must not cost the process."""
        try:
            self.save(record)
        except OSError as error:
            log.error("process_record_not_written", process=file_stem(record.key), error=str(error))

    def forget(self, key: ProcessKey) -> None:
        """Removes the record. None there is fine."""
        self.path(key).unlink(missing_ok=True)
