"""Sizes in bytes and times in seconds, written and read the way people write them."""

import re
from decimal import Decimal

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


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(r"^\s*([0-9]{1,9}(?:\.[0-9]+)?)\s*([smhdw])\s*$")


def parse_duration(text: str) -> float:
    """Seconds from `7d`, `12h`, `1.5h`, `30m`, `45s` or `2w`. Raises ValueError naming what would be right."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time: write it like 7d, 12h or 30m")
    return float(match.group(1)) * _SECONDS[match.group(2)]


def format_duration(seconds: float) -> str:
    """`42s`, `3m`, `2h`, `5d`: one unit, rounded down."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


_COUNTS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "b": 1000**3, "t": 1000**4}
_COUNT = re.compile(r"^\s*([0-9]{1,16}(?:\.[0-9]{1,15})?)\s*([KkMmGgBbTt]?)\s*$")


def parse_count(text: str) -> int:
    """A number of things from `250`, `100k`, `10M` or `1.5G`. Raises ValueError naming what would be right."""
    match = _COUNT.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number: write it like 60, 100k or 10M")
    return int(Decimal(match.group(1)) * _COUNTS[match.group(2).lower()])


def format_count(count: int) -> str:
    """`count` as `parse_count` reads it, exactly: `100k`, `2.5M`, `1234`."""
    for unit, size in (("G", 1000**3), ("M", 1000**2), ("k", 1000)):
        if count >= size and count * 100 % size == 0:
            whole, hundredths = divmod(count * 100 // size, 100)
            return f"{whole}.{hundredths:02d}".rstrip("0").rstrip(".") + unit
    return str(count)
