"""Models on this machine's own disk."""

import errno
import os
from pathlib import Path

import pytest

from stoker.domain.models import ModelFile, ModelSource
from stoker.local_models import inspect_here, inspect_projector_here
from stoker.model_source_error import ModelSourceError
from tests.architectures.gguf_file import Tensor, write_gguf
from tests.builders import write_tiny_llama


def at(path: Path) -> ModelSource:
    return ModelSource.parse(f"file:{path}")


def refusal(path: Path) -> ModelSourceError:
    with pytest.raises(ModelSourceError) as raised:
        inspect_here(at(path))
    return raised.value


def write_projector(path: Path) -> Path:
    """A projector of pictures of 224 x 224, in patches of 14 x 14."""
    metadata = {
        "general.architecture": "clip",
        "clip.has_vision_encoder": True,
        "clip.vision.block_count": 2,
        "clip.vision.image_size": 224,
        "clip.vision.patch_size": 14,
        "clip.vision.embedding_length": 64,
        "clip.vision.feed_forward_length": 128,
        "clip.vision.attention.head_count": 4,
    }
    return write_gguf(path, metadata, [Tensor("mm.0.weight", (64, 64), "F16")])


def test_a_file(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=3)
    files, profile = inspect_here(at(path))
    assert files.files == (ModelFile(path=str(path), size=path.stat().st_size),)
    assert profile.block_count == 3


def test_shards(tmp_path: Path) -> None:
    first = write_tiny_llama(tmp_path / "tiny.gguf", max_tensors_per_file=8)
    files, profile = inspect_here(at(first))
    assert [file.size for file in files.files] == [path.stat().st_size for path in sorted(tmp_path.glob("tiny-*"))]
    assert profile.block_count == 2


def test_a_projector_and_a_model_are_told_apart(tmp_path: Path) -> None:
    projector, model = write_projector(tmp_path / "mmproj.gguf"), write_tiny_llama(tmp_path / "tiny.gguf")
    assert inspect_projector_here(at(projector)).patches == 16 * 16
    assert inspect_projector_here(at(projector)).weights == 2 * 64 * 64
    assert "is a multimodal projector, not a model" in str(refusal(projector))
    with pytest.raises(ModelSourceError, match="a multimodal projector \\(mmproj\\) says clip"):
        inspect_projector_here(at(model))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>")
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    cut = write_tiny_llama(tmp_path / "cut.gguf")
    os.truncate(cut, 10_000)
    codes = {name: refusal(tmp_path / f"{name}.gguf").code for name in ("none", "page", "folder", "pipe", "cut")}
    assert codes == {
        "none": "file_not_found",
        "page": "not_gguf",
        "folder": "file_not_found",
        "pipe": "file_not_found",
        "cut": "truncated_gguf",
    }
    assert str(refusal(tmp_path / "none.gguf")) == f"there is no file {tmp_path}/none.gguf"
    assert refusal(tmp_path / "m-00002-of-00003.gguf").code == "file_not_found"


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("stoker.local_models.FileSource", refuse)  # root, who may run the tests, may read everything
    error = refusal(tmp_path / "tiny.gguf")
    assert (error.code, str(error)) == ("access_denied", f"{tmp_path}/tiny.gguf may not be read: Permission denied")
