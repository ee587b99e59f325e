"""`stoker simulate`, and what a drain would move, for people."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from api.schemas.placements import MoveRead, WhatIfRead
from api.schemas.reasons import TIER_NAMES
from entrypoints.cli.output import cell, table
from entrypoints.cli.views.explanation import pending_reasons
from entrypoints.cli.views.instances import placed_on
from stoker.domain.units import format_bytes


def simulation_view(name: str, read: WhatIfRead) -> RenderableType:
    """Where each replica would go, and why the next one would go nowhere."""
    count = len(read.placements)
    if read.fits:
        headline = Text.assemble(cell(name, "bold"), " ", cell("fits", "green"), f": {_replicas(count)}")
        parts: list[RenderableType] = [headline]
    else:
        found = f": {_replicas(count)} would have a place, and the next would not" if count else ""
        parts = [Text.assemble(cell(name, "bold"), " ", cell("does not fit", "yellow"), found)]
    if read.placements:
        parts.append(_placements(read))
    for placement in read.placements[:1]:
        parts.append(cell(f"why there: {placement.reason}"))
    parts += [cell(f"warning: {text}", "yellow") for text in _warnings(read)]
    if read.unplaceable is not None:
        parts += [Text(), cell(f"replica {count + 1}: {read.unplaceable.summary}")]
        parts += [Padding(reason, (0, 0, 0, 2)) for reason in pending_reasons(read.unplaceable)]
    return Group(*parts)


def drain_view(name: str, read: WhatIfRead) -> RenderableType:
    """Where each instance of a worker would go, and why some would go nowhere."""
    if not read.moves:
        return Text.assemble(cell(name, "bold"), " holds nothing that would have to move")
    parts: list[RenderableType] = [
        Text.assemble(cell(name, "bold"), ": ", cell(drain_summary(read.moves), "green" if read.fits else "yellow"))
    ]
    made = table("INSTANCE", "WOULD MOVE TO")
    for move in read.moves:
        to = placed_on(move.placement) if move.placement is not None else "nowhere"
        made.add_row(cell(move.instance), cell(to, "" if move.placement is not None else "yellow"))
    parts.append(made)
    for move in read.moves:
        if move.pending is not None:
            parts += [Text(), cell(f"{move.instance}: {move.pending.summary}")]
            parts += [Padding(reason, (0, 0, 0, 2)) for reason in pending_reasons(move.pending)]
    return Group(*parts)


def drain_summary(moves: Sequence[MoveRead]) -> str:
    """`3 instances would move`, `1 of 3 instances fits nowhere else now: it would stop, and wait for room`."""
    stuck = sum(move.placement is None for move in moves)
    instances = f"{len(moves)} instance{'' if len(moves) == 1 else 's'}"
    if not stuck:
        return f"{instances} would move, and {'it has' if len(moves) == 1 else 'all have'} a place elsewhere"
    fits, it = ("fits", "it") if stuck == 1 else ("fit", "they")
    return f"{stuck} of {instances} {fits} nowhere else now: {it} would stop, and wait for room"


def _placements(read: WhatIfRead) -> Table:
    made = table("REPLICA", "PLACED ON", "WORKER", "DEVICE", "LAYERS", "CLAIMED")
    for number, placement in enumerate(read.placements, 1):
        for index, share in enumerate(placement.shares):
            first = index == 0
            made.add_row(
                cell(number if first else ""),
                cell(TIER_NAMES[placement.tier] if first else ""),
                cell(share.worker if first or share.worker != placement.shares[index - 1].worker else ""),
                cell(share.device),
                cell(share.layers or "-"),
                cell(format_bytes(share.claimed_bytes)),
            )
    return made


def _warnings(read: WhatIfRead) -> list[str]:
    return list(dict.fromkeys(placement.warning for placement in read.placements if placement.warning))


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"
