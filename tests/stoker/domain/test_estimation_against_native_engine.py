"""The estimates against llama.cpp's own numbers, on RPC devices that are this machine's CPU, and from headers alone.

What holds everywhere: weights, cache and output buffer to the last digit of the engine's log; the total of a device,
and of the host, at most 2 % or 8 MiB too high, whichever is more, and at most 2 % too low.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from stoker.domain.units import MIB
from tests.architectures.catalogue import DECODERS, EMBEDDERS
from tests.architectures.sketch import uniform
from tests.published import MODELS
from tests.referee.cases import SMOLLM2, Models, published_cases, smollm2_cases, tiny_cases
from tests.referee.comparison import Judge, Row, judge
from tests.referee.dry_run import dry_run
from tests.referee.loading import measure
from tests.referee.options import Options
from worker_agent.engine_store import InstalledEngine

_STEP = 0.01 * MIB  # the log's last digit
_ROOM = 8 * MIB
_PART = 0.02
CASES = list(chain(tiny_cases(), smollm2_cases(), published_cases()))


@pytest.fixture(scope="module")
def court(native_engine: InstalledEngine, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    models = Models(tmp_path_factory.mktemp("models"), smollm2)
    with judge(native_engine.folder / "bin", models) as found:
        yield found


@pytest.mark.parametrize("model", [*DECODERS, *EMBEDDERS, SMOLLM2, *MODELS])
def test_estimates(court: Judge, model: str) -> None:
    rows = [row for case in CASES if case.model == model for row in court.compare(case)]
    assert rows
    wrong = [complaint for row in rows for complaint in complaints(row)]
    assert not wrong, "\n".join(wrong)


def complaints(row: Row) -> Iterator[str]:
    where = f"{row.case}, {'' if row.device == 'host' else 'device '}{row.device}: "
    exact = ["weights", "cache"] if row.embeds else ["weights", "cache", "output"]
    for field in exact:
        estimated, engine = getattr(row.estimated, field), getattr(row.engine, field)
        if abs(estimated - engine) > _STEP:
            yield f"{where}{field} {estimated / MIB:.3f} MiB, and the engine says {engine / MIB:.3f}"
    estimated, engine = row.totals
    if not (1 - _PART) * engine <= estimated <= max((1 + _PART) * engine, engine + _ROOM):
        over = f"{100 * row.over:+.2f} %"
        yield f"{where}{estimated / MIB:.2f} MiB in all, and the engine says {engine / MIB:.2f} ({over})"


@pytest.mark.parametrize(
    ("model", "split"), [("llama", (2, 2, 2)), ("gemma3", (9,)), ("deepseek2", (1, 1, 1, 1, 1)), ("jamba", (4, 5))]
)
def test_a_plan_from_the_header_is_what_a_load_takes(
    native_engine: InstalledEngine, tmp_path: Path, model: str, split: tuple[int, ...]
) -> None:
    """Otherwise the published models, which are only planned, would prove nothing."""
    path = DECODERS[model]().write(tmp_path / "model.gguf", uniform("Q8_0"))
    options = Options(context=2048, parallel=2, micro_batch=256)
    binaries = native_engine.folder / "bin"
    loaded, planned = measure(binaries, path, options, split), dry_run(binaries, path, options, split)
    for (_, real), (_, said) in zip(
        (*loaded.devices, ("host", loaded.host)), (*planned.devices, ("host", planned.host)), strict=True
    ):
        assert said.model_dump() == pytest.approx(real.model_dump(), abs=_STEP)


def test_the_cases_are_those_that_were_asked_for() -> None:
    """At least 16 architectures loaded on one and on two devices, and 12 published models."""
    loaded = {(case.model, len(case.split)) for case in CASES if case.loaded}
    architectures = {
        make().architecture for name, make in (DECODERS | EMBEDDERS).items() if {(name, 1), (name, 2)} <= loaded
    }
    assert len(architectures) >= 16
    assert len({case.model for case in CASES if not case.loaded}) >= 12


def test_the_published_models_have_their_true_size(tmp_path: Path) -> None:
    """Billions of parameters, as their publishers count them (GLM: its prediction layer's embeddings are left out)."""
    parameters = {
        "Llama-3.1-8B-Q4_K_M": 8.03,
        "Llama-3.1-405B-Q4_K_M": 405.85,
        "Qwen3-235B-A22B-Q4_K_M": 235.09,
        "gpt-oss-120b-MXFP4": 116.83,
        "DeepSeek-R1-671B-Q4_K_M": 671.03,
        "Qwen3-Next-80B-A3B-Q4_K_M": 79.67,
        "Falcon-H1-34B-Q4_K_M": 33.64,
        "Jamba-1.5-Large-398B-Q4_K_M": 398.56,
    }
    models = Models(tmp_path, tmp_path)
    assert {name: round(models.profile(name).parameters / 1e9, 2) for name in parameters} == parameters
    assert models.path("Llama-3.1-405B-Q4_K_M").stat().st_blocks * 512 < 16 * MIB  # the rest is a hole
