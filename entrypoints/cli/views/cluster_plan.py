"""What `stoker apply` would do, for people."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from entrypoints.cli.output import cell, fields
from stoker.domain.cluster_plan import Action, Step

_MARKS = {Action.MAKE: ("+", "green"), Action.CHANGE: ("~", "yellow"), Action.REMOVE: ("-", "red")}
_TO_DO = {
    Action.MAKE: "to make",
    Action.CHANGE: "to change",
    Action.KEEP: "as they are",
    Action.REMOVE: "to remove",
}
_DONE = {
    Action.MAKE: "made",
    Action.CHANGE: "changed",
    Action.KEEP: "as they were",
    Action.REMOVE: "removed",
}


def plan_view(steps: Sequence[Step]) -> RenderableType:
    """Each step that does something, and how many there are of each kind."""
    parts: list[RenderableType] = []
    for step in steps:
        if step.action not in _MARKS:
            continue
        mark, style = _MARKS[step.action]
        note = ": its instances are replaced one by one" if step.replaces else ""
        parts.append(Text.assemble(cell(mark, style), f" {step.kind} ", cell(step.name, "bold"), note))
        if step.changes:
            made = fields()
            for change in step.changes:
                made.add_row(cell(change.field), cell(f"{_told(change.before)} -> {_told(change.after)}"))
            parts.append(Padding(made, (0, 0, 0, 4)))
    parts.append(cell(_counted(steps, _TO_DO)))
    left = sum(step.action is Action.LEAVE for step in steps)
    if left:
        parts.append(cell(f"{left} not in the file: left as {_it(left)}; --prune removes {_them(left)}"))
    return Group(*parts)


def plan_summary(done: Iterable[Step]) -> str:
    """`3 made, 1 changed, 46 as they were, 0 removed`."""
    return _counted(done, _DONE)


def done_word(action: Action) -> str:
    """What was done by a step: `made`, `changed`, `removed`."""
    return _DONE[action]


def _counted(steps: Iterable[Step], words: dict[Action, str]) -> str:
    counts = Counter(step.action for step in steps)
    return ", ".join(f"{counts[action]} {word}" for action, word in words.items())


def _told(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _it(count: int) -> str:
    return "it is" if count == 1 else "they are"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"
