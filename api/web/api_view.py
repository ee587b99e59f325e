"""The API's OpenAPI document, as its page shows it: each operation, and each shape that one takes or gives."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

REFERENCE = "#/components/schemas/"
_NO_TAG = "the process"
_LIMITS = {
    "minimum": "at least",
    "ge": "at least",
    "maximum": "at most",
    "le": "at most",
    "minLength": "characters, at least",
    "maxLength": "characters, at most",
    "minItems": "items, at least",
    "maxItems": "items, at most",
}


class Word(NamedTuple):
    """A piece of a type in words."""

    text: str
    shape: str = ""  # the shape that it names, if it names one


class Field(NamedTuple):
    """A parameter of an operation, or a field of a shape."""

    name: str
    place: str  # of a parameter: `path`, `query` or `header`
    type: tuple[Word, ...]
    required: bool
    description: str


class Answer(NamedTuple):
    """What an operation may answer."""

    status: str
    description: str
    type: tuple[Word, ...]


class Operation(NamedTuple):
    """A method of a path."""

    id: str
    method: str
    path: str
    description: str
    needs_key: bool
    fields: tuple[Field, ...]
    body: tuple[Word, ...]  # empty: none
    answers: tuple[Answer, ...]


class Shape(NamedTuple):
    """An object, or a word of a few."""

    name: str
    description: str
    type: tuple[Word, ...]  # of what has no fields
    fields: tuple[Field, ...]


def operations_of(document: Mapping[str, Any]) -> dict[str, list[Operation]]:
    """By what they are about, in the document's order."""
    found: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            about = next(iter(described.get("tags", ())), _NO_TAG)
            found.setdefault(about, []).append(_operation(method, path, described))
    return found


def shapes_of(document: Mapping[str, Any]) -> list[Shape]:
    """All, by name."""
    return [_shape(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]


def type_in_words(schema: Mapping[str, Any]) -> tuple[Word, ...]:
    """`list of Device or null`; empty: nothing is said of it."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(REFERENCE)
        return (Word(name, name),)
    if "enum" in schema:
        return (Word(" | ".join(f"{one}" for one in schema["enum"])),)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _joined(type_in_words(one) for one in schema[several])
    kind = schema.get("type")
    if kind == "array":
        return (Word("list of "), *(type_in_words(schema.get("items", {})) or (Word("anything"),)))
    if kind == "object":
        inner = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), None)
        return (
            (Word("object of "), *type_in_words(inner)) if isinstance(inner, Mapping) and inner else (Word("object"),)
        )
    if kind is None:
        return ()
    said = [
        str(schema.get("format", kind)),
        *(f"{title} {schema[key]}" for key, title in _LIMITS.items() if key in schema),
    ]
    return (Word(", ".join(said)),)


def _joined(parts: Iterable[tuple[Word, ...]]) -> tuple[Word, ...]:
    joined: list[Word] = []
    for part in parts:
        joined += [*([Word(" or ")] if joined and part else []), *part]
    return tuple(joined)


def _operation(method: str, path: str, described: Mapping[str, Any]) -> Operation:
    fields = (
        _field(one["name"], one["schema"], one.get("required", False), one["in"], one.get("description", ""))
        for one in described.get("parameters", ())
    )
    answers = (
        Answer(status, one.get("description", ""), _content(one))
        for status, one in sorted(described["responses"].items())
    )
    return Operation(
        id=described["operationId"],
        method=method.upper(),
        path=path,
        description=described.get("description", ""),
        needs_key=bool(described.get("security")),
        fields=tuple(fields),
        body=_content(described.get("requestBody", {})),
        answers=tuple(answers),
    )


def _content(described: Mapping[str, Any]) -> tuple[Word, ...]:
    """What is in a body; several media types with the same are said once."""
    found = dict.fromkeys(type_in_words(one.get("schema", {})) for one in described.get("content", {}).values())
    return _joined(found)


def _shape(name: str, schema: Mapping[str, Any]) -> Shape:
    required = schema.get("required", ())
    fields = tuple(_field(one, inner, one in required) for one, inner in schema.get("properties", {}).items())
    return Shape(name, schema.get("description", ""), () if fields else type_in_words(schema), fields)


def _field(name: str, schema: Mapping[str, Any], required: bool, place: str = "", description: str = "") -> Field:
    said = description or schema.get("description", "")
    default = schema.get("default")
    if default not in (None, "", [], {}):
        said = f"{said} Default: {default}".strip()
    return Field(name, place, type_in_words(schema), required, said)
