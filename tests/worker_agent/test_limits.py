"""The written forms of --offer and --reserve."""

import pytest

from stoker.domain.units import GIB, MIB
from worker_agent.limits import Reserves, parse_offers, parse_reserves


@pytest.mark.parametrize(
    ("texts", "offers"),
    [
        ([], {}),
        (["cpu=2GiB"], {"cpu": 2 * GIB}),
        (["cpu=2GiB", "gpu0=20GiB"], {"cpu": 2 * GIB, "gpu0": 20 * GIB}),
        (["cpu=0, gpu12 = 512M"], {"cpu": 0, "gpu12": 512 * MIB}),
    ],
)
def test_offers(texts: list[str], offers: dict[str, int]) -> None:
    assert parse_offers(texts) == offers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--offer '': write NAME=SIZE, like cpu=2GiB"),
        ("cpu", "--offer 'cpu': write NAME=SIZE, like cpu=2GiB"),
        ("=2GiB", "--offer '=2GiB': write NAME=SIZE, like cpu=2GiB"),
        ("cpu=", "--offer 'cpu=': '' is not a size: write it like 2GiB, 512MiB or 1073741824"),
        ("cpu=lots", "--offer 'cpu=lots': 'lots' is not a size: write it like 2GiB, 512MiB or 1073741824"),
        ("cpu=-1GiB", "--offer 'cpu=-1GiB': '-1GiB' is not a size: write it like 2GiB, 512MiB or 1073741824"),
        ("tpu0=2GiB", "--offer tpu0=…: 'tpu0' is no device: write cpu, gpu0, gpu1 …"),
        ("cpu=1GiB,cpu=2GiB", "--offer 'cpu=2GiB': cpu was given before"),
    ],
)
def test_bad_offers_say_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        parse_offers([text])
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("text", "reserves"),
    [
        ("", Reserves()),
        ("ram=2GiB", Reserves(ram=2 * GIB)),
        ("vram=0", Reserves(vram=0)),
        ("ram=2GiB,vram=1GiB", Reserves(ram=2 * GIB, vram=1 * GIB)),
    ],
)
def test_reserves(text: str, reserves: Reserves) -> None:
    assert parse_reserves(text) == reserves


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2GiB", "--reserve '2GiB': write NAME=SIZE, like ram=2GiB"),
        ("cpu=2GiB", "--reserve cpu=…: 'cpu' cannot be reserved: write ram or vram"),
        ("ram=1GiB,ram=1GiB", "--reserve 'ram=1GiB': ram was given before"),
    ],
)
def test_bad_reserves_say_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        parse_reserves(text)
    assert str(raised.value) == message
