"""Which files of a repository make up the model that was asked for."""

import re
from collections.abc import Iterable, Sequence

from stoker.domain.base import Value
from stoker.domain.models import shard_names

PREFERENCE = (
    "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q8_0", "Q4_0", "Q4_K_XL", "Q5_K_S", "Q6_K", "Q4_1", "IQ4_XS", "IQ4_NL",
    "MXFP4", "MXFP4_MOE", "Q5_0", "Q5_1", "Q3_K_L", "Q3_K_M", "BF16", "F16", "F32",
)  # fmt: skip
"""What is taken when no quantisation is named and a repository offers several: the first of these it has.

Four bits come first: the usual trade of quality for memory. Floats come last, and what loses much quality
(small 3 bits, 2 bits, 1 bit) is never taken unasked.
"""

_LABEL = re.compile(
    r"(?<![A-Za-z0-9])(?P<dynamic>UD-)?"
    r"(?P<quant>I?Q[1-9](?:_[A-Za-z0-9]+)*|TQ[12]_0|BF16|FP?16|FP?32|MXFP4(?:_MOE)?)"
    r"(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
_SAME = {"FP16": "F16", "FP32": "F32"}
_LATER_SHARD = re.compile(r"-(?!00001)[0-9]{5}-of-[0-9]{5}\.gguf$")
_NO_MODEL = ("mmproj", "imatrix")  # vision projectors and calibration records: GGUF, but no language models
_LISTED = 20


class NoSuchFile(Value):
    """Nothing there matches; `message` says what there is instead."""

    message: str


class AmbiguousFile(Value):
    """Several models match; `candidates` are their (first) files."""

    message: str
    candidates: tuple[str, ...]


Selection = tuple[str, ...] | NoSuchFile | AmbiguousFile


def select_file(names: Sequence[str], quant: str, file: str) -> Selection:
    """The names of all files of one model, in the order of its shards, out of a repository's `names`.

    1. `file` given: exactly that one.
    2. `quant` given: the model of that quantisation, in any case of letters: the files whose own label it is,
       or else those whose label is that after `UD-`, or else those with it as a whole word in their path.
    3. Neither given: the only model there is, or else the first in PREFERENCE.
    """
    if file:
        return _whole_model(file, names) if file in names else _missing(f"there is no file {file}", names)
    models = _models(names)
    if not models:
        return NoSuchFile(message="it holds no GGUF model (*.gguf), and Stoker runs GGUF models only")
    if quant:
        found = _of_quantisation(models, quant)
        if not found:
            return _missing(f"there is no file of quantisation {quant}", names)
        return _only_one(found, names, f"several files are of quantisation {quant}")
    if len(models) == 1:
        return _whole_model(models[0], names)
    for preferred in PREFERENCE:
        if found := _of_label(models, preferred):
            return _only_one(found, names, f"several files are of quantisation {preferred}, the first choice")
    return _ambiguous("several files could be meant, and none is of a quantisation chosen unasked", models)


def quantisation_label(name: str) -> str:
    """The quantisation that a file's path names, in capitals (`Q4_K_M`, `UD-Q4_K_XL`), or an empty string."""
    matches = list(_LABEL.finditer(name))
    if not matches:
        return ""
    match = matches[-1]  # a folder or the model's own name may hold one too
    label = match["quant"].upper()
    return (match["dynamic"] or "").upper() + _SAME.get(label, label)


def _models(names: Sequence[str]) -> list[str]:
    """One name per model, sorted: whole files and first shards."""
    return sorted(
        name
        for name in names
        if name.lower().endswith(".gguf")
        and not _LATER_SHARD.search(name)
        and not any(word in name.rpartition("/")[2].lower() for word in _NO_MODEL)
    )


def _of_label(models: Sequence[str], wanted: str) -> list[str]:
    return [name for name in models if quantisation_label(name) == wanted] or [
        name for name in models if quantisation_label(name) == f"UD-{wanted}"
    ]


def _of_quantisation(models: Sequence[str], quant: str) -> list[str]:
    whole_word = re.compile(rf"(?<![A-Za-z0-9_]){re.escape(quant)}(?![A-Za-z0-9_])", re.IGNORECASE)
    label = quantisation_label(quant) if _LABEL.fullmatch(quant) else quant.upper()
    return _of_label(models, label) or list(filter(whole_word.search, models))


def _only_one(found: Sequence[str], names: Sequence[str], problem: str) -> Selection:
    return _whole_model(found[0], names) if len(found) == 1 else _ambiguous(problem, found)


def _whole_model(first: str, names: Sequence[str]) -> Selection:
    try:
        shards = shard_names(first)
    except ValueError as error:
        return NoSuchFile(message=str(error))
    missing = [shard for shard in shards if shard not in names]
    if missing:
        message = f"{first} is incomplete: {_listing(missing)} of its {len(shards)} shards missing"
        return NoSuchFile(message=message)
    return shards


def _missing(problem: str, names: Sequence[str]) -> NoSuchFile:
    return NoSuchFile(message=f"{problem}; there is {_listing(_models(names)) or 'no .gguf file at all'}")


def _ambiguous(problem: str, found: Sequence[str]) -> AmbiguousFile:
    message = f"{problem}: {_listing(found)}; name one of them, as in hf:ORG/REPO/{found[0]}"
    return AmbiguousFile(message=message, candidates=tuple(found))


def _listing(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
