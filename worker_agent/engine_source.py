"""llama.cpp's source: the copy in the sdist of llama-cpp-python, and the programs that build it. All from PyPI."""

import hashlib
import re
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from stoker.domain.base import Bytes, Value
from stoker.domain.units import GIB, format_bytes
from stoker.package_index import PackageIndexError, download, install
from worker_agent.engine_options import EngineInstallError


class EngineSource(Value):
    """A pinned sdist. `commit` is llama.cpp's, as the sdist's changelog names it; `version` that of its CMakeLists."""

    package: str
    release: str
    sha256: str
    version: str
    commit: str


SOURCE = EngineSource(
    package="llama-cpp-python",
    release="0.3.36",
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    version="0.5.0-dev",
    commit="0c1e57098",
)

CMAKE, NINJA = "cmake==4.4.4", "ninja==1.13.2"

_INSIDE = ("vendor", "llama.cpp")
_NOT_NEEDED = frozenset({"docs", "models", "media", "tests", "benches", "examples", ".git"})  # 120 MB of 176
_UNPACKED_LIMIT: Bytes = GIB
_PROTOCOL = re.compile(r"^#define RPC_PROTO_(MAJOR|MINOR|PATCH)_VERSION\s+(\d+)", re.MULTILINE)


class BuildTools(Value):
    """The programs that build."""

    cmake: Path
    ninja: Path


def fetch_source(folder: Path, given: Path | None = None) -> Path:
    """The sdist's archive, checked: `given`, or downloaded into `folder`. Raises EngineInstallError."""
    if given is None:
        try:
            requirement = f"{SOURCE.package}=={SOURCE.release}"
            return download(requirement, folder, sha256=SOURCE.sha256, source=True)
        except PackageIndexError as error:
            raise EngineInstallError(
                f"{error}\nCheck that pip reaches its index (`pip config list`, HTTPS_PROXY), or fetch"
                f" {SOURCE.package} {SOURCE.release}'s .tar.gz elsewhere and give it with --source"
            ) from error
    try:
        with given.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EngineInstallError(f"--source {given}: cannot be read: {error.strerror}") from error
    if digest != SOURCE.sha256:
        raise EngineInstallError(
            f"--source {given}: is not the sdist of {SOURCE.package} {SOURCE.release}: its sha256 is {digest},"
            f" not {SOURCE.sha256}"
        )
    return given


def fetch_tools(folder: Path) -> BuildTools:
    """cmake and ninja, as pinned, in `folder`: no environment sees them. Raises EngineInstallError."""
    try:
        install([CMAKE, NINJA], folder)
    except PackageIndexError as error:
        raise EngineInstallError(
            f"{error}\nCheck that pip reaches its index (`pip config list`, HTTPS_PROXY)"
        ) from error
    tools = BuildTools(cmake=folder / "cmake/data/bin/cmake", ninja=folder / "bin/ninja")
    for tool in (tools.cmake, tools.ninja):
        if not tool.is_file():
            raise EngineInstallError(f"{CMAKE} and {NINJA} were installed, but there is no {tool}")
    return tools


def unpack_source(archive: Path, folder: Path) -> Path:
    """Unpacks llama.cpp out of the sdist into `folder` (new), without what no build reads; returns `folder`.

    Only plain files come out, and none beside `folder`, whatever the archive says. Raises EngineInstallError.
    """
    room = _UNPACKED_LIMIT
    try:
        with tarfile.open(archive, "r|gz") as packed:
            for member in packed:
                parts = PurePosixPath(member.name).parts
                inner = parts[1 + len(_INSIDE) :]
                if not member.isreg() or parts[1 : 1 + len(_INSIDE)] != _INSIDE or not inner or inner[0] in _NOT_NEEDED:
                    continue
                room -= member.size
                if ".." in parts or room < 0:
                    raise EngineInstallError(
                        f"{archive.name} holds {member.name!r} ({format_bytes(member.size)}):"
                        f" a source has no such path, nor more than {format_bytes(_UNPACKED_LIMIT)}"
                    )
                target = folder.joinpath(*inner)
                target.parent.mkdir(parents=True, exist_ok=True)
                content = packed.extractfile(member)
                if content is not None:
                    with target.open("xb") as out:
                        shutil.copyfileobj(content, out)
    except (tarfile.TarError, EOFError, FileExistsError) as error:
        raise EngineInstallError(f"{archive}: is damaged: {error}") from error
    if not (folder / "CMakeLists.txt").is_file():
        raise EngineInstallError(f"{archive}: holds no {'/'.join(_INSIDE)}/CMakeLists.txt")
    return folder


def read_rpc_protocol(source: Path) -> str:
    """The RPC protocol that this source speaks, like `7.0.0`. Raises EngineInstallError."""
    header = source / "ggml" / "include" / "ggml-rpc.h"
    try:
        found = dict(_PROTOCOL.findall(header.read_text()))
    except OSError as error:
        raise EngineInstallError(f"the source has no {header.name}: {error.strerror}") from error
    if len(found) != 3:
        raise EngineInstallError(f"{header} does not name RPC_PROTO_MAJOR_VERSION, …MINOR… and …PATCH…")
    return ".".join(found[part] for part in ("MAJOR", "MINOR", "PATCH"))
