"""Which models go from a disk: by need for room, and by age."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.files import StoredModel, choose_by_age, choose_for_room, stored_models
from stoker.domain.reports import StoredFile
from stoker.domain.units import GIB


def model(
    name: str,
    size: int,
    used_at: float | None = 0.0,
    *,
    in_use: bool = False,
    own: bool = True,
    done: int | None = None,
) -> StoredModel:
    file = StoredFile(model=name, path=f"{name}.gguf", size=size, done=size if done is None else done)
    return StoredModel(model=name, files=(file,), used_at=used_at, in_use=in_use, own=own)


A, B, C = model("a", 4 * GIB, 100.0), model("b", 8 * GIB, 200.0), model("c", 2 * GIB, 300.0)


def test_files_are_put_together_by_model() -> None:
    files = (
        StoredFile(model="m", path="2", size=20, done=5, used_at=7.0),
        StoredFile(model="k", path="1", size=1, done=1, own=False),
        StoredFile(model="m", path="1", size=10, done=10, used_at=9.0, in_use=True),
    )
    k, m = stored_models(files)
    assert (k.model, k.size, k.done, k.used_at, k.in_use, k.own) == ("k", 1, 1, None, False, False)
    assert (m.model, m.size, m.done, m.used_at, m.in_use, m.own) == ("m", 30, 15, 9.0, True, True)
    assert [file.path for file in m.files] == ["1", "2"]


def test_one_file_that_was_found_makes_the_model_not_stokers_own() -> None:
    files = (
        StoredFile(model="m", path="1", size=1, done=1),
        StoredFile(model="m", path="2", size=1, done=1, own=False),
    )
    (found,) = stored_models(files)
    assert not found.own


@pytest.mark.parametrize(
    ("models", "lacking", "keep", "used_before", "names"),
    [
        pytest.param([C, B, A], GIB, (), None, ["a"], id="unused longest first"),
        pytest.param([A, B, C], 5 * GIB, (), None, ["b"], id="the oldest is needless where the next gives it all"),
        pytest.param([A, B, C], 11 * GIB, (), None, ["a", "b"], id="as many as it takes"),
        pytest.param([A, B, C], 14 * GIB, (), None, ["a", "b", "c"], id="exactly all"),
        pytest.param([A, B, C], 14 * GIB + 1, (), None, None, id="not enough: then none"),
        pytest.param([A, B, C], 0, (), None, [], id="nothing is lacking"),
        pytest.param([A, B, C], GIB, ("a",), None, ["b"], id="one that must stay"),
        pytest.param([A, B, C], GIB, (), 100.0, None, id="used too lately"),
        pytest.param([A, B, C], GIB, (), 100.1, ["a"], id="used before that"),
        pytest.param([A, model("n", GIB, None)], GIB, (), None, ["n"], id="never used is used longest ago"),
        pytest.param([model("u", GIB, in_use=True), C], GIB, (), None, ["c"], id="one in use stays"),
        pytest.param([model("f", GIB, own=False), C], GIB, (), None, ["c"], id="what was found stays"),
        pytest.param([model("e", GIB, done=0), C], GIB, (), None, ["c"], id="what is not there gives nothing"),
        pytest.param([model("p", 9 * GIB, done=GIB), C], GIB, (), None, ["p"], id="a part gives what it has"),
        pytest.param([], 1, (), None, None, id="an empty disk"),
    ],
)
def test_for_room(
    models: list[StoredModel],
    lacking: int,
    keep: tuple[str, ...],
    used_before: float | None,
    names: list[str] | None,
) -> None:
    chosen = choose_for_room(models, lacking=lacking, keep=keep, used_before=used_before)
    assert (None if chosen is None else [one.model for one in chosen]) == names


@pytest.mark.parametrize(
    ("used_before", "names"),
    [(50.0, ["n"]), (100.0, ["n"]), (100.1, ["n", "a"]), (1000.0, ["n", "a", "b", "c"])],
)
def test_by_age(used_before: float, names: list[str]) -> None:
    used, found = model("u", GIB, in_use=True), model("f", GIB, own=False)
    chosen = choose_by_age([used, C, B, A, model("n", GIB, None), found], used_before=used_before)
    assert [one.model for one in chosen] == names


@st.composite
def disks(draw: st.DrawFn) -> list[StoredModel]:
    return [
        model(
            f"m{number}",
            size,
            draw(st.none() | st.integers(0, 5).map(float)),
            in_use=draw(st.booleans()),
            own=draw(st.booleans()),
        )
        for number, size in enumerate(draw(st.lists(st.integers(0, 20), max_size=6)))
    ]


@given(disks(), st.integers(0, 60), st.sets(st.sampled_from([f"m{number}" for number in range(6)])))
def test_for_room_takes_what_it_may_and_no_more_than_it_needs(
    models: list[StoredModel], lacking: int, keep: set[str]
) -> None:
    chosen = choose_for_room(models, lacking=lacking, keep=keep)
    may = [one for one in models if one.own and not one.in_use and one.model not in keep]
    if chosen is None:
        assert sum(one.done for one in may) < lacking
        return
    assert all(one in may for one in chosen)
    assert sum(one.done for one in chosen) >= lacking
    for fewer in combinations(chosen, max(0, len(chosen) - 1)):
        assert not chosen or sum(one.done for one in fewer) < lacking, "one of them is needless"
    assert list(chosen) == sorted(chosen, key=lambda one: (one.used_at or 0.0, one.model))


@given(disks(), st.integers(0, 6))
def test_by_age_takes_all_that_is_old_and_nothing_else(models: list[StoredModel], moment: int) -> None:
    chosen = choose_by_age(models, used_before=float(moment))
    for one in models:
        old = one.own and not one.in_use and (one.used_at or 0.0) < moment
        assert (one in chosen) is old
