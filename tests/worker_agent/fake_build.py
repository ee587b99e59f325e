"""Stand-ins for what a build of the engine takes: an sdist, cmake, ninja, and the programs that come out."""

import io
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from worker_agent.engine_options import TARGETS
from worker_agent.engine_patches import PATCHES
from worker_agent.engine_source import SOURCE, BuildTools

HEADER = (
    "#define RPC_PROTO_MAJOR_VERSION    7\n#define RPC_PROTO_MINOR_VERSION    0\n#define RPC_PROTO_PATCH_VERSION    1\n"
)
LLAMA = f"{SOURCE.package.replace('-', '_')}-{SOURCE.release}/vendor/llama.cpp"
FILES = {
    f"{LLAMA}/CMakeLists.txt": "project(llama.cpp)\n",
    f"{LLAMA}/LICENSE": "MIT License\n",
    f"{LLAMA}/ggml/include/ggml-rpc.h": HEADER,
    f"{LLAMA}/tools/server/server-queue.cpp": "".join(f"{patch.before}\n" for patch in PATCHES),
    f"{LLAMA}/docs/long.md": "no build reads this\n",
    "llama_cpp_python-0.3.36/setup.py": "raise SystemExit('not llama.cpp')\n",
}

# As llama-server answers: the version on stderr, the devices on stdout.
SERVER = """#!/bin/sh
case "$1" in
--version) echo "version: {version}" >&2; echo "built with cc for x86_64-linux-gnu" >&2;;
--list-devices) printf 'Available devices:\\n{devices}\\n';;
*) exit 1;;
esac
"""

RPC_SERVER = """#!{python} -S
import socket, sys
if "--help" in sys.argv:
    sys.exit(0)
port = int(sys.argv[sys.argv.index("--port") + 1])
with socket.create_server(("127.0.0.1", port)) as server:
    client, _ = server.accept()
    request = b""
    while len(request) < 33:
        request += client.recv(33)
    assert request == bytes([14, 24]) + bytes(31), request
    client.sendall((28).to_bytes(8, "little") + bytes([{protocol}]) + bytes(25))
    client.recv(1)
"""

CMAKE = """#!/bin/sh
test -f "$2/CMakeLists.txt" || exit 9
mkdir -p "$4" && echo "$@" > "$4/arguments" && echo "-- Configuring done"
"""

NINJA = """#!/bin/sh
mkdir -p "$2/bin" && cp {ready}/* "$2/bin/"
echo "[1/3] Building CXX object a.o"
echo "[2/3] Building CXX object b.o"
echo "[3/3] Linking CXX executable bin/llama-server"
"""


def has_ended(pid: int) -> bool:
    """Whether that process computes no more; where nobody waits for it, it stays as a zombie."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def program(path: Path, text: str, mode: int = 0o755) -> Path:
    """Writes a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def fake_server(
    path: Path, *, version: str = f"{SOURCE.version} (build 0, commit {SOURCE.commit})", devices: str = ""
) -> Path:
    """A program that answers as llama-server does; `devices` like `CUDA0`, comma-separated."""
    lines = [f"  {name}: A GPU (100 MiB, 90 MiB free)" for name in devices.split(",") if name] or ["  (none)"]
    return program(path, SERVER.format(version=version, devices="\\n".join(lines)))


def fake_rpc_server(path: Path, protocol: str = "7.0.1") -> Path:
    """A program that answers HELLO as ggml-rpc-server does."""
    return program(path, RPC_SERVER.format(python=sys.executable, protocol=protocol.replace(".", ",")))


def fake_programs(folder: Path, *, devices: str = "", protocol: str = "7.0.1") -> Path:
    """A folder with all programs of an engine."""
    for name in TARGETS:
        program(folder / name, "#!/bin/sh\n")
    fake_server(folder / "llama-server", devices=devices)
    fake_rpc_server(folder / "ggml-rpc-server", protocol)
    return folder


def fake_sdist(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    """An archive with `files`."""
    path = folder / "sdist.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def fake_tools(folder: Path, *, cmake: str = CMAKE, ninja: str = NINJA, devices: str = "") -> BuildTools:
    """cmake and ninja whose build brings forth `fake_programs`."""
    ready = fake_programs(folder / "ready", devices=devices)
    return BuildTools(
        cmake=program(folder / "cmake", cmake), ninja=program(folder / "ninja", ninja.replace("{ready}", str(ready)))
    )
