"""YAML that remembers on which line each field stands."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import yaml

Path = Sequence[str | int]


class MarkedYaml(NamedTuple):
    """One document. `data` is None where it is empty."""

    data: Any
    root: yaml.Node | None

    def line(self, path: Path) -> int:
        """The line of the field at `path`, or of the nearest one above it that is there; 1 at least."""
        node, line = self.root, 1 if self.root is None else self.root.start_mark.line + 1
        for part in path:
            key, node = _child(node, part)
            if node is None:
                break
            line = (key or node).start_mark.line + 1
        return line


class MarkedYamlError(ValueError):
    """Why a text is no such document. `line` is 0 where nobody can say."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """What looks like a date is a text: none of our fields is a date."""

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        **yaml.SafeLoader.yaml_constructors,
        "tag:yaml.org,2002:timestamp": yaml.SafeLoader.construct_yaml_str,
    }


def load(text: str) -> MarkedYaml:
    """Reads one document. Raises MarkedYamlError, also for a key that stands twice: YAML would drop one in silence."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return MarkedYaml(None, None)
        for key in _repeated(root, set()):
            raise MarkedYamlError(f"{key.value!r} stands here twice", key.start_mark.line + 1)
        return MarkedYaml(loader.construct_document(root), root)
    except yaml.YAMLError as error:
        raise _told(error) from error
    except RecursionError as error:
        raise MarkedYamlError("no valid YAML: it is nested too deeply") from error
    except ValueError as error:
        if isinstance(error, MarkedYamlError):
            raise
        raise MarkedYamlError(f"no valid YAML: {error}") from error  # a number that is too long


def _told(error: yaml.YAMLError) -> MarkedYamlError:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    return MarkedYamlError(
        f"no valid YAML: {f'{context}: ' if context else ''}{reason}", mark.line + 1 if mark is not None else 0
    )


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node | None, yaml.Node | None]:
    """The key and the value of a mapping's field, or no key and a sequence's item; Nones where there is none."""
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):  # merged keys come first, and lose
            if key.value == str(part):
                return key, value
    return None, None


def _repeated(node: yaml.Node, seen: set[int]) -> Iterator[yaml.Node]:
    """Keys that their mapping has already. An alias may lead back to what holds it: each node is looked at once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        names: set[object] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in names:
                    yield key
                names.add(key.value)
            yield from _repeated(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item, seen)
