"""Micro-batches for tests, and what they take of Llama 3.1 8B."""

from typing import Any

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.cache import cache_shape
from stoker.domain.estimation.compute import MicroBatch
from stoker.domain.gguf import ModelProfile
from stoker.domain.units import KIB, MIB
from tests.builders import make_profile

INDICES = 20 * KIB  # 40 bytes for each of 512 tokens
ROW = 8 * MIB  # 512 rows of 4096 in F32
FEED_FORWARD = 108 * MIB  # 512 x (3 x 14,336 + 3 x 4096) in F32
ATTENTION = 26 * MIB  # 512 x (2 x 4096 + 1024 + 4096) in F32


def batch_of(profile: ModelProfile | None = None, context: int = 8192, **options: Any) -> MicroBatch:
    """Of `profile` (Llama 3.1 8B) with `context` tokens a slot."""
    profile, asked = profile or make_profile(), EngineOptions(**options)
    return MicroBatch.of(profile, asked, cache_shape(profile, asked, context), context)
