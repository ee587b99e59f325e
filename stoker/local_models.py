"""Models that lie on this machine's own disk."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from stoker.byte_source import FileSource
from stoker.domain.gguf import Header, ModelProfile, ProjectorProfile
from stoker.domain.models import ModelFile, ModelFiles, ModelSource, shard_names
from stoker.gguf_header import Allowance, GGUFError, profile_of, projector_of, read_header
from stoker.model_source_error import ModelSourceError

T = TypeVar("T")


def inspect_here(source: ModelSource) -> tuple[ModelFiles, ModelProfile]:
    """The file, or all shards given the first, and what their headers say. Raises ModelSourceError.

    It reads whatever this process may read: for a process that serves others, see `worker_agent.model_store`.
    """
    return _inspect(source, profile_of)


def inspect_projector_here(source: ModelSource) -> ProjectorProfile:
    """The multimodal projector in that file. Raises ModelSourceError."""
    return _inspect(source, projector_of)[1]


def _inspect(source: ModelSource, described: Callable[[Sequence[Header]], T]) -> tuple[ModelFiles, T]:
    try:
        paths = shard_names(source.path)
    except ValueError as error:
        raise ModelSourceError("file_not_found", str(error)) from error
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(FileSource(Path(path))) for path in paths]
            allowance = Allowance()
            found = described([read_header(file, allowance) for file in opened])
    except GGUFError as error:
        raise ModelSourceError(error.code, f"{source.path}: {error}") from error
    except FileNotFoundError as error:
        raise ModelSourceError("file_not_found", f"there is no file {error.filename}") from error
    except PermissionError as error:
        raise ModelSourceError("access_denied", f"{error.filename} may not be read: {error.strerror}") from error
    except OSError as error:
        raise ModelSourceError("file_not_found", f"{error.filename} cannot be read: {error.strerror}") from error
    files = tuple(ModelFile(path=path, size=file.size) for path, file in zip(paths, opened, strict=True))
    return ModelFiles(source=source, files=files), found
