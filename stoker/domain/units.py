"""Sizes in bytes, written and read the way people write them."""

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_FACTORS = {
    "": 1,
    "b": 1,
    "k": KIB, "kib": KIB, "kb": 1000,
    "m": MIB, "mib": MIB, "mb": 1000**2,
    "g": GIB, "gib": GIB, "gb": 1000**3,
    "t": TIB, "tib": TIB, "tb": 1000**4,
}  # fmt: skip
_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*$")


def parse_bytes(text: str) -> int:
    """Bytes from `2GiB`, `512M`, `1.5 GB` or `1048576`. A bare K, M, G or T is binary, as in Kubernetes' Ki, Mi.

    Raises ValueError naming what was given and what would be right.
    """
    match = _SIZE.match(text)
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size: write it like 2GiB, 512MiB or 1073741824")
    return int(float(match.group(1)) * factor)


def format_bytes(count: int) -> str:
    """`count` bytes for people: three significant figures and a binary unit, e.g. `1.46 GiB`."""
    sign, value = ("-", -count) if count < 0 else ("", count)
    for unit, size in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if value >= size:
            return f"{sign}{value / size:.3g} {unit}" if value < 999.5 * size else f"{sign}{value / size:.0f} {unit}"
    return f"{sign}{value} B"
