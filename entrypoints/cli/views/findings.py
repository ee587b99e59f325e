"""What `stoker doctor` found, for people."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding

from entrypoints.checks.findings import Finding, Verdict
from entrypoints.cli.output import cell, table

_STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.WRONG: "red"}


def findings_view(findings: Sequence[Finding]) -> RenderableType:
    """A line a check; then what to do, the worst first."""
    made = table("", "CHECK", "FOUND")
    for column in made.columns[:-1]:
        column.no_wrap = True
    for each in findings:
        made.add_row(cell(each.verdict, _STYLES[each.verdict]), cell(each.check), cell(each.found))
    parts: list[RenderableType] = [made]
    for verdict in (Verdict.WRONG, Verdict.WARNING):
        for each in findings:
            if each.verdict is verdict:
                parts += [cell(""), cell(f"{each.check}: {each.found}", _STYLES[verdict])]
                parts.append(Padding(cell(each.advice), (0, 0, 0, 2)))
    return Group(*parts, cell(""))


def findings_summary(findings: Sequence[Finding]) -> str:
    """`17 ok, 1 warning, 0 wrong`."""
    counts = Counter(each.verdict for each in findings)
    warnings = counts[Verdict.WARNING]
    return f"{counts[Verdict.OK]} ok, {warnings} warning{'' if warnings == 1 else 's'}, {counts[Verdict.WRONG]} wrong"
