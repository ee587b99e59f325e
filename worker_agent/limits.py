"""What an administrator lets Stoker have of a host: the written forms of --offer and --reserve. Pure."""

import re
from collections.abc import Iterable

from stoker.domain.base import Bytes, DeviceId, Value
from stoker.domain.units import parse_bytes

_DEVICE = re.compile(r"^(cpu|gpu[0-9]{1,3})$")


class Reserves(Value):
    """Bytes kept free for the system: of the RAM, and of each GPU's memory. None: the default."""

    ram: Bytes | None = None
    vram: Bytes | None = None


def parse_offers(texts: Iterable[str]) -> dict[DeviceId, int]:
    """Bytes that Stoker may use at most of each named device, from `cpu=2GiB`, `gpu0=20GiB,gpu1=0`.

    Raises ValueError naming what was given and what would be right.
    """
    offers: dict[DeviceId, int] = {}
    for name, size in _pairs("--offer", texts):
        if not _DEVICE.match(name):
            raise ValueError(f"--offer {name}=…: {name!r} is no device: write cpu, gpu0, gpu1 …")
        offers[name] = size
    return offers


def parse_reserves(text: str) -> Reserves:
    """What to keep free, from `ram=2GiB,vram=1GiB`. Empty: the defaults.

    Raises ValueError naming what was given and what would be right.
    """
    sizes = dict(_pairs("--reserve", [text] if text.strip() else []))
    if unknown := sizes.keys() - {"ram", "vram"}:
        name = min(unknown)
        raise ValueError(f"--reserve {name}=…: {name!r} cannot be reserved: write ram or vram")
    return Reserves(**sizes)


def _pairs(option: str, texts: Iterable[str]) -> list[tuple[str, int]]:
    pairs: dict[str, int] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        name, equals, size = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise ValueError(f"{option} {part!r}: write NAME=SIZE, like {_EXAMPLES[option]}")
        if name in pairs:
            raise ValueError(f"{option} {part!r}: {name} was given before")
        try:
            pairs[name] = parse_bytes(size)
        except ValueError as error:
            raise ValueError(f"{option} {part!r}: {error}") from None
    return list(pairs.items())


_EXAMPLES = {"--offer": "cpu=2GiB", "--reserve": "ram=2GiB"}
