"""The wheel: everything is in it, and it runs from anywhere."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("stoker", "workflows", "activities", "api", "worker_agent", "entrypoints")


def uv() -> str:
    """The uv that `make` uses."""
    found = shutil.which("uv") or str(ROOT / ".build" / "uv" / "bin" / "uv")
    assert Path(found).exists(), "make sets uv up"
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([uv(), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


def test_all_packages_and_migrations_are_in_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")} == set(PACKAGES)
    assert "stoker/storage/migrations/env.py" in names
    assert any(name.startswith("stoker/storage/migrations/versions/0001") for name in names)
    assert {"api/web/templates/base.html", "api/web/static/stoker.css", "api/web/static/htmx.LICENSE.txt"} <= set(names)
    assert not any(name.startswith("tests/") for name in names)


def test_it_runs_in_a_clean_environment_from_the_root_folder(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "clean"
    subprocess.run([uv(), "venv", "--quiet", "--python", sys.executable, str(environment)], check=True, timeout=120)
    locked = tmp_path / "locked.txt"
    export = [uv(), "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--project", str(ROOT)]
    subprocess.run([*export, "--output-file", str(locked)], check=True, timeout=120, stdout=subprocess.DEVNULL)
    python = environment / "bin" / "python"
    install = [uv(), "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, "--requirements", str(locked)], check=True, timeout=600)
    subprocess.run([*install, "--no-deps", str(wheel)], check=True, timeout=120)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    stoker = environment / "bin" / "stoker"
    for arguments in (["--help"], ["--version"], ["up", "--help"]):
        done = subprocess.run([stoker, *arguments], cwd="/", env=clean, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    data = tmp_path / "data"
    subprocess.run([stoker, "migrate", "--data-dir", str(data)], cwd="/", env=clean, check=True, timeout=60)
    assert (data / "stoker.db").exists(), "the migrations came along"
