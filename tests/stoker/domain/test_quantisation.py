"""Which files a source means, over the names that real repositories use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.quantisation import PREFERENCE, AmbiguousFile, NoSuchFile, quantisation_label, select_file

BARTOWSKI = (
    "README.md",
    "Llama-3.2-3B-Instruct-IQ3_M.gguf",
    "Llama-3.2-3B-Instruct-Q4_0.gguf",
    "Llama-3.2-3B-Instruct-Q4_0_4_4.gguf",
    "Llama-3.2-3B-Instruct-Q4_K_L.gguf",
    "Llama-3.2-3B-Instruct-Q4_K_M.gguf",
    "Llama-3.2-3B-Instruct-Q4_K_S.gguf",
    "Llama-3.2-3B-Instruct-Q8_0.gguf",
    "Llama-3.2-3B-Instruct-f16.gguf",
)
UNSLOTH = (
    "BF16/Qwen3-30B-A3B-BF16-00001-of-00002.gguf",
    "BF16/Qwen3-30B-A3B-BF16-00002-of-00002.gguf",
    "Qwen3-30B-A3B-Q4_K_M.gguf",
    "Qwen3-30B-A3B-UD-Q2_K_XL.gguf",
    "Qwen3-30B-A3B-UD-Q4_K_XL.gguf",
    "imatrix_unsloth.gguf",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
)
QWEN = (
    "qwen2.5-7b-instruct-fp16-00001-of-00002.gguf",
    "qwen2.5-7b-instruct-fp16-00002-of-00002.gguf",
    "qwen2.5-7b-instruct-q3_k_m.gguf",
    "qwen2.5-7b-instruct-q5_k_m-00001-of-00002.gguf",
    "qwen2.5-7b-instruct-q5_k_m-00002-of-00002.gguf",
)
FOLDERS = ("Q4_K_M/big-00001-of-00002.gguf", "Q4_K_M/big-00002-of-00002.gguf", "Q8_0/big-00001-of-00001.gguf")


@pytest.mark.parametrize(
    ("names", "quant", "selected"),
    [
        pytest.param(BARTOWSKI, "Q4_K_M", ["Llama-3.2-3B-Instruct-Q4_K_M.gguf"], id="as written"),
        pytest.param(BARTOWSKI, "q4_k_m", ["Llama-3.2-3B-Instruct-Q4_K_M.gguf"], id="any case"),
        pytest.param(BARTOWSKI, "Q4_0", ["Llama-3.2-3B-Instruct-Q4_0.gguf"], id="whole label: not Q4_0_4_4"),
        pytest.param(BARTOWSKI, "F16", ["Llama-3.2-3B-Instruct-f16.gguf"], id="floats"),
        pytest.param(BARTOWSKI, "", ["Llama-3.2-3B-Instruct-Q4_K_M.gguf"], id="none: the first preference"),
        pytest.param(UNSLOTH, "BF16", list(UNSLOTH[:2]), id="shards in a folder, no projector"),
        pytest.param(UNSLOTH, "UD-Q4_K_XL", ["Qwen3-30B-A3B-UD-Q4_K_XL.gguf"], id="dynamic, named in full"),
        pytest.param(UNSLOTH, "Q4_K_XL", ["Qwen3-30B-A3B-UD-Q4_K_XL.gguf"], id="dynamic, where there is no other"),
        pytest.param(QWEN, "Q5_K_M", list(QWEN[3:]), id="shards"),
        pytest.param(QWEN, "f16", list(QWEN[:2]), id="fp16 is F16"),
        pytest.param(QWEN, "", list(QWEN[3:]), id="none: preference over what comes first in the list"),
        pytest.param(FOLDERS, "Q4_K_M", list(FOLDERS[:2]), id="label in the folder only"),
        pytest.param(FOLDERS, "Q8_0", ["Q8_0/big-00001-of-00001.gguf"], id="a single shard"),
        pytest.param(("m.i1-Q4_K_M.gguf", "m.Q4_K_M.gguf"), "i1-Q4_K_M", ["m.i1-Q4_K_M.gguf"], id="as a whole word"),
        pytest.param(("Model-IQ1_S.gguf",), "", ["Model-IQ1_S.gguf"], id="the only one, whatever it is"),
        pytest.param(("model.gguf", "mmproj-model-f16.gguf"), "", ["model.gguf"], id="a projector is no choice"),
        pytest.param(("m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"), "Q4_K_M", ["m-Q4_K_M.gguf"], id="plain before dynamic"),
    ],
)
def test_the_file_that_is_meant(names: tuple[str, ...], quant: str, selected: list[str]) -> None:
    assert select_file(names, quant, "") == tuple(selected)


@pytest.mark.parametrize(
    ("file", "selected"),
    [
        (QWEN[2], QWEN[2:3]),
        (QWEN[3], QWEN[3:]),
    ],
)
def test_a_file_by_its_name(file: str, selected: tuple[str, ...]) -> None:
    assert select_file(QWEN, "", file) == selected


@pytest.mark.parametrize(
    ("names", "quant", "file", "message"),
    [
        pytest.param(
            QWEN, "Q9_K", "",
            "there is no file of quantisation Q9_K; there is qwen2.5-7b-instruct-fp16-00001-of-00002.gguf, "
            "qwen2.5-7b-instruct-q3_k_m.gguf, qwen2.5-7b-instruct-q5_k_m-00001-of-00002.gguf",
            id="quantisation",
        ),
        pytest.param(
            ("a.gguf",), "", "b.gguf", "there is no file b.gguf; there is a.gguf", id="file",
        ),
        pytest.param(
            ("a.txt",), "", "b.gguf", "there is no file b.gguf; there is no .gguf file at all", id="file, of none",
        ),
        pytest.param(
            ("README.md", "model.safetensors"), "Q4_K_M", "",
            "it holds no GGUF model (*.gguf), and Stoker runs GGUF models only",
            id="no GGUF",
        ),
        pytest.param(
            ("m-00001-of-00003.gguf", "m-00003-of-00003.gguf"), "", "",
            "m-00001-of-00003.gguf is incomplete: m-00002-of-00003.gguf of its 3 shards missing",
            id="missing shard",
        ),
        pytest.param(
            QWEN, "", QWEN[4],
            "'qwen2.5-7b-instruct-q5_k_m-00002-of-00002.gguf' is shard 2 of 2: "
            "name the first, qwen2.5-7b-instruct-q5_k_m-00001-of-00002.gguf",
            id="not the first shard",
        ),
    ],
)  # fmt: skip
def test_nothing_matches(names: tuple[str, ...], quant: str, file: str, message: str) -> None:
    assert select_file(names, quant, file) == NoSuchFile(message=message)


@pytest.mark.parametrize(
    ("names", "quant", "candidates"),
    [
        pytest.param(("a-Q4_K_M.gguf", "b-Q4_K_M.gguf"), "q4_k_m", ("a-Q4_K_M.gguf", "b-Q4_K_M.gguf"), id="named"),
        pytest.param(("a-Q4_K_M.gguf", "b-Q4_K_M.gguf"), "", ("a-Q4_K_M.gguf", "b-Q4_K_M.gguf"), id="preferred"),
        pytest.param(("m-IQ1_S.gguf", "m-Q2_K.gguf"), "", ("m-IQ1_S.gguf", "m-Q2_K.gguf"), id="none preferred"),
        pytest.param(("x.gguf", "y.gguf"), "", ("x.gguf", "y.gguf"), id="no labels"),
    ],
)
def test_several_could_be_meant(names: tuple[str, ...], quant: str, candidates: tuple[str, ...]) -> None:
    selection = select_file(names, quant, "")
    assert isinstance(selection, AmbiguousFile)
    assert selection.candidates == candidates
    assert all(name in selection.message for name in candidates)
    assert f"hf:ORG/REPO/{candidates[0]}" in selection.message


def test_a_long_list_is_cut_short() -> None:
    selection = select_file([f"model-{index:03d}.gguf" for index in range(200)], "", "")
    assert isinstance(selection, AmbiguousFile)
    assert "model-019.gguf and 180 more" in selection.message
    assert "model-020.gguf" not in selection.message


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Qwen2.5-0.5B.gguf", ""),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Phi-3-mini-4k-instruct-fp16.gguf", "F16"),
        ("m-IQ2_XXS.gguf", "IQ2_XXS"),
        ("m-UD-Q4_K_XL-00001-of-00002.gguf", "UD-Q4_K_XL"),
        ("F16/merge-of-Q8_0-TQ1_0.gguf", "TQ1_0"),
        ("ggml-model_q4_0.gguf", "Q4_0"),
        ("", ""),
    ],
)
def test_the_label_in_a_name(name: str, label: str) -> None:
    assert quantisation_label(name) == label


@given(
    labels=st.sets(st.sampled_from(PREFERENCE), min_size=1),
    shards=st.integers(min_value=1, max_value=3),
    order=st.randoms(use_true_random=False),
)
def test_the_preferred_one_is_found_whatever_the_order(labels: set[str], shards: int, order: object) -> None:
    def files(label: str) -> list[str]:
        return [f"m-{label}-{index:05d}-of-{shards:05d}.gguf" for index in range(1, shards + 1)]

    names = [name for label in labels for name in files(label)]
    order.shuffle(names)  # type: ignore[attr-defined]
    assert select_file(names, "", "") == tuple(files(min(labels, key=PREFERENCE.index)))
    for label in labels:
        assert select_file(names, label.lower(), "") == tuple(files(label))


@given(st.lists(st.from_regex(r"[A-Za-z0-9_./-]{1,20}(\.gguf)?", fullmatch=True), unique=True), st.text(max_size=8))
def test_what_is_selected_is_there(names: list[str], quant: str) -> None:
    selection = select_file(names, quant, "")
    if isinstance(selection, tuple):
        assert set(selection) <= set(names)
    else:
        assert selection.message
