"""The source: what comes out of an archive, and what must not."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.worker_agent.fake_build import FILES, LLAMA, fake_sdist
from worker_agent.engine_options import EngineInstallError
from worker_agent.engine_source import fetch_source, fetch_tools, read_rpc_protocol, unpack_source


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_llama_cpp_comes_out_and_only_what_a_build_reads(tmp_path: Path) -> None:
    source = unpack_source(fake_sdist(tmp_path), tmp_path / "llama.cpp")
    assert files_of(source) == {
        "CMakeLists.txt",
        "LICENSE",
        "ggml/include/ggml-rpc.h",
        "tools/server/server-queue.cpp",
    }
    assert read_rpc_protocol(source) == "7.0.1"


@pytest.mark.parametrize("name", [f"{LLAMA}/../../../escaped", f"{LLAMA}/src/../../../../escaped"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    archive = fake_sdist(tmp_path, FILES | {name: "x"})
    with pytest.raises(EngineInstallError, match="a source has no such path"):
        unpack_source(archive, tmp_path / "inner" / "llama.cpp")
    assert not list(tmp_path.rglob("escaped"))


def test_a_link_does_not_come_out(tmp_path: Path) -> None:
    archive = tmp_path / "links.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for kind, name in ((tarfile.SYMTYPE, "sym"), (tarfile.LNKTYPE, "hard"), (tarfile.FIFOTYPE, "pipe")):
            member = tarfile.TarInfo(f"{LLAMA}/{name}")
            member.type, member.linkname = kind, "/etc/passwd"
            packed.addfile(member)
        member = tarfile.TarInfo(f"{LLAMA}/CMakeLists.txt")
        packed.addfile(member, io.BytesIO())
    assert files_of(unpack_source(archive, tmp_path / "llama.cpp")) == {"CMakeLists.txt"}
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_more_than_any_source_is_refused_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_agent.engine_source._UNPACKED_LIMIT", 1000)
    archive = fake_sdist(tmp_path, FILES | {f"{LLAMA}/big": "x" * 1000})
    with pytest.raises(EngineInstallError, match="nor more than 1000 B"):
        unpack_source(archive, tmp_path / "llama.cpp")
    assert not (tmp_path / "llama.cpp" / "big").exists()


def test_an_archive_without_llama_cpp_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineInstallError, match=r"holds no vendor/llama.cpp/CMakeLists.txt"):
        unpack_source(fake_sdist(tmp_path, {"x/setup.py": ""}), tmp_path / "one")
    whole = fake_sdist(tmp_path).read_bytes()
    for text in (b"no archive", whole[: len(whole) // 2]):
        (tmp_path / "bad.tar.gz").write_bytes(text)
        with pytest.raises(EngineInstallError, match=r"bad\.tar\.gz: is damaged"):
            unpack_source(tmp_path / "bad.tar.gz", tmp_path / "two")


def test_a_given_archive_must_be_the_pinned_one(tmp_path: Path) -> None:
    with pytest.raises(EngineInstallError, match=r"its sha256 is [0-9a-f]{64}, not 832db069"):
        fetch_source(tmp_path, fake_sdist(tmp_path))
    with pytest.raises(EngineInstallError, match=r"--source .*gone: cannot be read: No such file"):
        fetch_source(tmp_path, tmp_path / "gone")


@pytest.mark.parametrize("fetch", [fetch_source, fetch_tools])
def test_an_index_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetch: object) -> None:
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(EngineInstallError, match=r"(?s)from your package index.*Check that pip reaches its index"):
        fetch(tmp_path)  # type: ignore[operator]


def test_a_header_without_a_version(tmp_path: Path) -> None:
    with pytest.raises(EngineInstallError, match=r"no ggml-rpc\.h"):
        read_rpc_protocol(tmp_path)
    (tmp_path / "ggml/include").mkdir(parents=True)
    (tmp_path / "ggml/include/ggml-rpc.h").write_text("#define RPC_PROTO_MAJOR_VERSION 7\n")
    with pytest.raises(EngineInstallError, match="does not name RPC_PROTO"):
        read_rpc_protocol(tmp_path)
