"""Systems for end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import write_tiny_llama
from tests.e2e.system import System, running_system


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an end-to-end test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("e2e")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads in a blink, for tests that are about something else than its answers."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny_llama(path)
    return path


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, tiny: Path, smollm2: Path) -> Iterator[System]:
    """One running system for a whole file of tests; each test leaves it as it found it."""
    folder = tmp_path_factory.mktemp("system")
    with running_system(folder, "--model-dir", str(tiny.parent), "--model-dir", str(smollm2.parent)) as running:
        yield running
