"""Which engine a host uses."""

import itertools
import platform
from pathlib import Path

import pytest

from stoker.domain.workers import EngineKind
from tests.worker_agent.fake_build import fake_rpc_server, fake_server, program
from tests.worker_agent.test_engine_store import put_engine
from worker_agent.engine_choice import Candidate, by_preference, choose_engine
from worker_agent.engine_options import Backend
from worker_agent.engine_programs import EngineError
from worker_agent.engine_store import EngineStore, InstalledEngine

HERE = f"{platform.system()}-{platform.machine()}".lower()


def candidate(name: str, **fields: object) -> Candidate:
    values: dict[str, object] = {"name": name, "release": "0.3.36", "backend": Backend.CPU}
    return Candidate.model_validate(values | fields)


CPU = candidate("cpu")
OLD = candidate("old", release="0.3.9")
AGAIN = candidate("again", built_at=1.0)
GPU = candidate("gpu", backend=Backend.CUDA, devices=("CUDA0",))
OLD_GPU = candidate("old-gpu", release="0.3.9", backend=Backend.CUDA, devices=("CUDA0",))
NO_GPU = candidate("no-gpu", backend=Backend.CUDA, built_at=9.0)


@pytest.mark.parametrize(
    "best_first",
    [
        (CPU, OLD),
        (AGAIN, CPU),
        (GPU, CPU),
        (OLD_GPU, CPU),
        (GPU, OLD_GPU, CPU, OLD),
        (CPU, NO_GPU),  # the newest CPU build before a GPU build of the same release that finds no GPU
        (NO_GPU, OLD),
    ],
)
def test_a_gpu_that_is_here_first_then_the_newest(best_first: tuple[Candidate, ...]) -> None:
    for order in itertools.permutations(best_first):
        assert by_preference(order) == list(best_first)


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    """An empty store."""
    return EngineStore(tmp_path / "engines")


def put(store: EngineStore, name: str, **fields: object) -> InstalledEngine:
    return put_engine(store, name, **({"platform": HERE} | fields))


def test_without_any_other_the_bundled_one(store: EngineStore) -> None:
    chosen = choose_engine(store=store)
    assert (chosen.name, chosen.reason, chosen.passed_over) == ("bundled", "no other engine is installed", {})
    assert chosen.engine.describe().kind is EngineKind.BUNDLED
    assert chosen.engine.describe().rpc_protocol is None


def test_an_installed_engine_is_used_and_reports_what_it_is(store: EngineStore) -> None:
    installed = put(store, "a")
    chosen = choose_engine(store=store)
    assert (chosen.name, chosen.reason) == ("a", "the only one installed")
    described = chosen.engine.describe()
    assert (described.kind, described.rpc_protocol) == (EngineKind.NATIVE, "7.0.1")
    assert described.version == installed.manifest.version
    assert chosen.engine.main_command(["-m", "x"]) == [str(installed.program("llama-server")), "-m", "x"]


def test_the_one_with_a_gpu_before_a_newer_one(store: EngineStore) -> None:
    put(store, "a", release="0.3.35", backend=Backend.CUDA, devices="CUDA0,CUDA1")
    put(store, "b", release="0.3.36")
    chosen = choose_engine(store=store)
    assert (chosen.name, chosen.reason) == ("a", "it can use CUDA0, CUDA1")
    assert chosen.engine.device_names == {"CUDA0", "CUDA1"}


def test_the_newest_of_several(store: EngineStore) -> None:
    put(store, "a", release="0.3.9")
    put(store, "b", release="0.3.36")
    chosen = choose_engine(store=store)
    assert (chosen.name, chosen.reason) == ("b", "the newest of those installed")


@pytest.mark.parametrize("wanted", ["a", "bundled"])
def test_the_one_that_is_set(store: EngineStore, wanted: str) -> None:
    put(store, "a", release="0.3.9")
    put(store, "b", release="0.3.36")
    chosen = choose_engine(wanted, store=store)
    assert (chosen.name, chosen.reason) == (wanted, "set")


def crashes(engine: InstalledEngine) -> None:
    text = "#!/bin/sh\nkill -ILL $$\n"
    size = engine.program("llama-server").stat().st_size
    program(engine.program("llama-server"), text + "#" * (size - len(text)))


def is_cut(engine: InstalledEngine) -> None:
    engine.program("llama-server").write_text("cut")


def cannot_be_run(engine: InstalledEngine) -> None:
    engine.program("llama-server").chmod(0o644)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(crashes, "SIGILL"), (is_cut, "has 3 bytes instead of"), (cannot_be_run, "executable llama-server")],
)
@pytest.mark.parametrize("wanted", ["auto", "b"])
def test_a_broken_engine_does_not_keep_a_worker_from_starting(
    store: EngineStore, spoil: object, why: str, wanted: str
) -> None:
    spoil(put(store, "b"))  # type: ignore[operator]
    chosen = choose_engine(wanted, store=store)
    assert (chosen.name, chosen.reason) == ("bundled", "no installed engine can be used")
    assert list(chosen.passed_over) == ["b"]
    assert why in chosen.passed_over["b"]
    if wanted == "auto":
        put(store, "a", release="0.3.9")
        assert choose_engine(store=store).name == "a"


def test_an_engine_of_another_platform_is_passed_over(store: EngineStore) -> None:
    put(store, "a", platform="plan9-mips")
    assert choose_engine(store=store).passed_over == {"a": f"it was built for plan9-mips, and this is {HERE}"}


def test_an_engine_that_is_set_and_not_there(store: EngineStore) -> None:
    put(store, "a")
    chosen = choose_engine("0.3.99-cpu-1", store=store)
    assert chosen.name == "bundled"
    assert chosen.passed_over == {"0.3.99-cpu-1": f"no engine of that name is installed in {store.folder}"}


def test_an_own_program_comes_before_all_others(store: EngineStore, tmp_path: Path) -> None:
    put(store, "a", devices="CUDA0")
    own = fake_server(tmp_path / "own" / "llama-server", version="11434 (abc1234)")
    rpc = fake_rpc_server(tmp_path / "elsewhere" / "ggml-rpc-server", "6.1.0")
    for wanted in ("auto", "a", "bundled"):
        chosen = choose_engine(wanted, llama_server=own, rpc_server=rpc, store=store)
        assert (chosen.name, chosen.reason) == ("own", f"set: {own}")
        assert (chosen.engine.describe().version, chosen.engine.describe().rpc_protocol) == ("11434 (abc1234)", "6.1.0")


def test_an_own_program_that_is_unusable_is_an_error(store: EngineStore, tmp_path: Path) -> None:
    put(store, "a")
    with pytest.raises(EngineError, match="must be the absolute path of an executable llama-server"):
        choose_engine(llama_server=tmp_path / "gone", store=store)
