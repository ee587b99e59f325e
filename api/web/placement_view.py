"""Decisions of placement in words: pure functions of what the API reads."""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

from api.schemas.placements import MoveRead
from api.schemas.reasons import TIER_NAMES, PendingRead, PlacementRead
from api.web.words import counted

NEAREST = 5
"""So many refusals are shown, the nearest misses."""


def drain_summary(moves: Sequence[MoveRead]) -> str:
    """What a drain would do to a worker's instances, in a sentence."""
    if not moves:
        return "It holds nothing that would have to move."
    stuck = sum(move.placement is None for move in moves)
    if not stuck:
        has = "it has a place" if len(moves) == 1 else "all have a place"
        return f"{counted(len(moves), 'instance')} would move, and {has} elsewhere."
    fits, it = ("fits", "it") if stuck == 1 else ("fit", "they")
    of = counted(len(moves), "instance")
    return f"{stuck} of {of} {fits} nowhere else now: {it} would stop, and wait for room."


def placed_on(placement: PlacementRead) -> str:
    """Its devices, by worker: `box-1 (gpu0, gpu1), box-2 (gpu0)`."""
    devices: dict[str, list[str]] = {}
    for share in placement.shares:
        devices.setdefault(share.worker, []).append(share.device)
    return ", ".join(f"{worker} ({', '.join(names)})" for worker, names in devices.items()) or placement.worker


def others_refused(pending: PendingRead) -> str:
    """How many refusals are not among the nearest, by what they are about; empty: none."""
    rules = Counter(rejection.rule for rejection in pending.rejections[NEAREST:])
    rules.update(pending.more)
    if not rules:
        return ""
    named = ", ".join(f"{count} {rule.replace('_', ' ')}" for rule, count in rules.most_common())
    return f"and {rules.total()} more: {named}"


WORDS = SimpleNamespace(tiers=TIER_NAMES, nearest=NEAREST, placed_on=placed_on, others_refused=others_refused)
"""What `_placement.html` asks for."""
