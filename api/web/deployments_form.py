"""The form of a deployment: read into what REST takes, and filled from it. Pure: texts in, values out.

A field that is left empty is left out, so that it has the API's own default. Checkboxes that are not ticked are false.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from api.errors import FieldError, field_errors
from api.schemas.deployments import DeploymentCreate, DeploymentUpdate

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_SEPARATOR = re.compile(r"[\s,]+")
_DEFAULTS = DeploymentCreate(name="x", model="hf:x/x")

Texts = Mapping[str, str]


class FormReading(NamedTuple):
    """What a form says. `body` is None where something is wrong with it; `faults` say what, by the form's fields."""

    body: DeploymentCreate | None
    faults: dict[str, str]


def read_deployment(texts: Texts) -> FormReading:
    """The deployment that the form's texts describe. What names none of its fields is passed over."""
    try:
        return FormReading(DeploymentCreate.model_validate(_values(texts)), {})
    except ValidationError as error:
        return FormReading(None, faults_by_field(field_errors(error.errors())))


def change_of(body: DeploymentCreate) -> DeploymentUpdate:
    """The change that makes a deployment what the form says. What the form has no field for stays as it is."""
    values = body.model_dump(mode="json")
    options = {field: values["options"][field] for field, (_, in_options) in _FIELDS.items() if in_options}
    others = {field: values[field] for field, (_, in_options) in _FIELDS.items() if not in_options and field != "name"}
    return DeploymentUpdate.model_validate({**others, "options": options})


def faults_by_field(errors: Sequence[FieldError]) -> dict[str, str]:
    """What is wrong, by the form's own fields: `options.slots` is its `slots`, `devices.0` one of its `devices`."""
    faults: dict[str, list[str]] = {}
    for error in errors:
        path = error.field.removeprefix("deployment.").split(".")
        field = path[1] if path[0] == "options" and len(path) > 1 else path[0]
        faults.setdefault(field, []).append(error.message)
    return {field: "; ".join(dict.fromkeys(messages)) for field, messages in faults.items()}


def form_of(body: DeploymentCreate) -> dict[str, str]:
    """The texts of a form that reads as `body`; what has its default is left empty where the form may leave it so."""
    values = body.model_dump(mode="json", exclude={"options"}) | body.options.model_dump(mode="json")
    defaults = _DEFAULTS.model_dump(mode="json", exclude={"options"}) | _DEFAULTS.options.model_dump(mode="json")
    texts = {}
    for field, value in values.items():
        if field in _CHECKBOXES:
            texts[field] = "on" if value else ""
        elif field in _ALWAYS_SHOWN or value != defaults.get(field):
            texts[field] = _written(value)
    return texts


def empty_form() -> dict[str, str]:
    """A form that nobody has filled yet."""
    return {field: text for field, text in form_of(_DEFAULTS).items() if field not in ("name", "model")}


def _values(texts: Texts) -> dict[str, Any]:
    values: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for field, (read, into_options) in _FIELDS.items():
        text = texts.get(field, "").strip()
        if text or read is _checked:
            (options if into_options else values)[field] = read(text)
    for field in ("name", "model"):
        values.setdefault(field, "")
    return values | {"options": options}


def _text(text: str) -> str:
    return text


def _number(text: str) -> int | str:
    """What is no number stays as it was written: the refusal names it."""
    return int(text) if _INTEGER.fullmatch(text) else text


def _checked(text: str) -> bool:
    return text == "on"


def _list(text: str) -> list[str]:
    return [part for part in _SEPARATOR.split(text) if part]


def _numbers(text: str) -> list[int | str]:
    return [_number(part) for part in _list(text)]


def _labels(text: str) -> dict[str, str]:
    """`zone=a, gpu=h100`; a label without `=` gets an empty value, which the API refuses by name."""
    pairs = (part.partition("=") for part in _list(text))
    return {key: value for key, _, value in pairs}


_FIELDS: dict[str, tuple[Callable[[str], Any], bool]] = {
    "name": (_text, False),
    "model": (_text, False),
    "replicas": (_number, False),
    "context_length": (_number, True),
    "slots": (_number, True),
    "cache_type": (_text, True),
    "cache_type_v": (_text, True),
    "flash_attention": (_checked, True),
    "kv_unified": (_checked, True),
    "batch": (_number, True),
    "micro_batch": (_number, True),
    "threads": (_number, True),
    "embeddings": (_checked, True),
    "strategy": (_text, False),
    "worker_selector": (_labels, False),
    "devices": (_list, False),
    "distributed": (_checked, False),
    "cpu_offload": (_checked, False),
    "gpu_layers": (_number, False),
    "tensor_split": (_numbers, False),
    "min_compute_capability": (_text, False),
    "overcommit": (_checked, False),
    "priority": (_number, False),
    "queue": (_number, False),
    "min_replicas": (_number, False),
    "max_replicas": (_number, False),
    "idle_timeout": (_number, False),
}
"""How each field's text is read, and whether it is one of the engine's options."""

FIELDS = tuple(_FIELDS)
_CHECKBOXES = frozenset(field for field, (read, _) in _FIELDS.items() if read is _checked)
_ALWAYS_SHOWN = frozenset({"name", "model", "replicas", "slots", "cache_type", "strategy"})


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key}={label}" for key, label in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
