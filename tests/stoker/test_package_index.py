"""What pip fetches, with and without a pip; from a folder that stands for the index."""

import hashlib
import importlib.util
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from stoker.package_index import PackageIndexError, download, install, pip_environment

METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
BACKEND = """
import pathlib

def prepare_metadata_for_build_wheel(folder, settings=None):
    info = pathlib.Path(folder, "tiny-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
    return info.name
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the wheel and the sdist of `tiny`: the only index that pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "answer = 42\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    with tarfile.open(folder / "tiny-1.0.tar.gz", "w:gz") as sdist:
        for name, text in {"pyproject.toml": project, "backend.py": BACKEND, "PKG-INFO": METADATA}.items():
            member = tarfile.TarInfo(f"tiny-1.0/{name}")
            member.size = len(text.encode())
            sdist.addfile(member, io.BytesIO(text.encode()))
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(params=["with pip", "without pip"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This environment, and one that has no pip, as uv makes them."""
    if request.param == "without pip":
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


@pytest.mark.usefixtures("_either_way")
def test_a_wheel_or_the_sdist_is_downloaded_and_nothing_else_is_left(index: Path, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    assert download("tiny==1.0", folder) == folder / "tiny-1.0-py3-none-any.whl"
    digest = hashlib.sha256((index / "tiny-1.0.tar.gz").read_bytes()).hexdigest()
    assert download("tiny==1.0", folder, sha256=digest, source=True) == folder / "tiny-1.0.tar.gz"
    assert {path.name for path in folder.iterdir()} == {"tiny-1.0-py3-none-any.whl", "tiny-1.0.tar.gz"}


@pytest.mark.usefixtures("_either_way")
def test_wheels_are_installed_where_no_environment_sees_them(index: Path, tmp_path: Path) -> None:
    install(["tiny==1.0"], tmp_path / "target")
    assert (tmp_path / "target" / "tiny.py").read_text() == "answer = 42\n"
    assert not [path for path in (tmp_path / "target").iterdir() if path.name.startswith(".")]
    assert importlib.util.find_spec("tiny") is None


def test_another_content_is_refused_before_it_is_looked_into(index: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageIndexError, match=r"(?s)could not download tiny==1\.0 .*DO NOT MATCH THE HASHES"):
        download("tiny==1.0", tmp_path, sha256="0" * 64, source=True)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_what_the_index_does_not_have_is_said_in_pips_words(index: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageIndexError, match=r"(?s)could not download tiny==2\.0 .*No matching distribution"):
        download("tiny==2.0", tmp_path)
    with pytest.raises(
        PackageIndexError, match=r"(?s)could not install tiny==2\.0 and x==1 .*No matching distribution"
    ):
        install(["tiny==2.0", "x==1"], tmp_path / "target")


def test_pip_gets_no_secret_of_ours() -> None:
    kept = {"PATH": "/bin", "PIP_INDEX_URL": "https://mirror", "HTTPS_PROXY": "http://proxy", "SSL_CERT_FILE": "/ca"}
    made = pip_environment(kept | {"HF_TOKEN": "secret", "STOKER_API_KEY": "secret", "AWS_SECRET_ACCESS_KEY": "secret"})
    assert made == kept | {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"}


def test_a_python_that_can_make_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho 'No module named ensurepip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(PackageIndexError, match="has neither pip nor the means to make one"):
        download("tiny==1.0", tmp_path)
