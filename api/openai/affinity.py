"""Which replica a conversation stays with, so that its next turn finds its prefix in a slot's cache. Pure.

Weighted rendezvous hashing: every replica draws a number for the conversation, and the highest wins. So every process
finds the same one with no word between them, each gets its share by its slots, and a replica that goes moves its own
conversations only (Thaler and Ravishankar 1998; the weights after Schindelhauer and Schomaker 2005: -w / ln u).
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

from api.openai.router import Replica

_MASK = 2**64 - 1


def preferred(prefix: int, replicas: Iterable[Replica]) -> Replica | None:
    """The replica that conversations with this prefix stay with; None when there is none at all."""
    best, highest = None, -1.0
    for replica in replicas:
        score = -replica.slots / math.log(drawn(prefix, replica.instance_id))
        if score > highest:
            best, highest = replica, score
    return best


def drawn(prefix: int, name: str) -> float:
    """A number between 0 and 1, both excluded, that is as good as random, and always the same for both together."""
    mixed = (_salt(name) + prefix * 0x9E3779B97F4A7C15) & _MASK  # SplitMix64: Steele, Lea and Flood 2014
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return ((mixed ^ mixed >> 31) >> 12 | 1) * 2.0**-52


@lru_cache(maxsize=8192)
def _salt(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
