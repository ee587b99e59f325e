"""The tables of architectures: every name in one of them, and of the form that a header may have."""

import itertools

import pytest

from stoker.domain.architectures import families
from stoker.domain.architectures.keys import Keys

TABLES = {
    "plain": families.PLAIN,
    "encoders": families.ENCODERS,
    "recurrent": families.RECURRENT,
    "hybrid by heads": families.HYBRID_BY_HEADS,
    "hybrid by interval": frozenset(families.HYBRID_BY_INTERVAL),
    "hybrid everywhere": families.HYBRID_EVERYWHERE,
    "sliding window": frozenset(families.SLIDING_WINDOW),
    "not served": frozenset(families.NOT_SERVED),
}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(TABLES, 2)))
def test_no_architecture_is_in_two_tables(one: str, other: str) -> None:
    assert TABLES[one] & TABLES[other] == frozenset()


def test_known_is_all_that_can_be_estimated() -> None:
    assert frozenset().union(*TABLES.values()) == families.KNOWN | families.NOT_SERVED.keys()
    assert families.KNOWN & families.NOT_SERVED.keys() == frozenset()


@pytest.mark.parametrize("name", sorted(families.KNOWN))
def test_every_name_is_one_that_a_header_may_have(name: str) -> None:
    assert Keys({"general.architecture": name}).architecture == name


@pytest.mark.parametrize("name", sorted(families.FIXED_WINDOW))
def test_a_fixed_window_is_of_an_architecture_with_windows(name: str) -> None:
    assert name in families.SLIDING_WINDOW
