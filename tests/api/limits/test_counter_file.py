"""The file: made anew where it is none of ours, as long as it must be, and never waited for without an end."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.limits.counter_file import KEY, RECORD_BYTES, WORDS, CounterError, CounterFile, word_of
from api.limits.counters import Counted, Counters
from api.limits.record import MONTH_USED, TOKEN_BUCKETS, TOKENS
from stoker.domain.keys import KeyLimits
from stoker.domain.rate_limits import BUCKETS

LIMITS = KeyLimits(requests_per_minute=1000)

HOLDER = """
import sys
from pathlib import Path
from api.limits.counter_file import CounterFile
file = CounterFile(Path(sys.argv[1]))
for number in map(int, sys.argv[2:]):
    file.lock(number)
print(file.slot, file.records, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file will be."""
    return tmp_path / "server" / "counters"


class Holder:
    """Another process that has the file open, and holds some records."""

    def __init__(self, path: Path, *numbers: int) -> None:
        command = [sys.executable, "-c", HOLDER, str(path), *map(str, numbers)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.slot, self.records = map(int, self.process.stdout.readline().split())

    def kill(self) -> None:
        """At once."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold(path: Path) -> Iterator[type[Holder]]:
    """Holders that do not outlive the test."""
    made: list[Holder] = []

    class Kept(Holder):
        def __init__(self, path: Path, *numbers: int) -> None:
            super().__init__(path, *numbers)
            made.append(self)

    yield Kept
    for holder in made:
        holder.kill()


def tokens_of(path: Path, key: str, more: int = 0) -> int:
    """What is counted for the key, with so many more now."""
    file = CounterFile(path)
    try:
        counters = Counters(file)
        counted = counters.admit(counters.account(key), LIMITS, more)
        assert isinstance(counted, Counted)
        counters.settle(counted, more)
        return counted.standing.tokens
    finally:
        file.close()


def test_only_its_owner_may_read_it(path: Path) -> None:
    tokens_of(path, "k")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert tokens_of(path, "k", 5) == 5
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("spoil", ["empty", "short", "garbage", "header", "gone"])
def test_what_is_none_of_ours_is_made_anew(path: Path, spoil: str) -> None:
    assert tokens_of(path, "k", 7) == 7
    assert tokens_of(path, "k", 7) == 14
    content = path.read_bytes()
    spoilt = {
        "empty": b"",
        "short": content[:1000],
        "garbage": os.urandom(len(content) + 777),
        "header": bytes(8) + content[8:],
    }
    if spoil == "gone":
        path.unlink()
    else:
        path.write_bytes(spoilt[spoil])
    assert tokens_of(path, "k", 7) == 7
    assert tokens_of(path, "k", 7) == 14


def test_a_tail_that_was_cut_off_while_growing_costs_nothing(path: Path) -> None:
    assert tokens_of(path, "k", 7) == 7
    with path.open("ab") as file:
        file.write(bytes(100))
    assert tokens_of(path, "k", 7) == 14
    assert path.stat().st_size % RECORD_BYTES == 100


def test_counts_that_cannot_be_are_none(path: Path) -> None:
    assert tokens_of(path, "k", 7) == 7
    file = CounterFile(path)
    record = file.record(file.find(word_of("k")))
    empty = next(word for word in range(TOKEN_BUCKETS, TOKEN_BUCKETS + BUCKETS) if not record[word])
    for word in (TOKENS, empty, MONTH_USED):
        record[word] = -5
    file.close()
    assert tokens_of(path, "k", 0) == 7, "its own bucket is right, and the sum is made of them"


def test_it_grows_with_its_keys_for_all_processes(path: Path, hold: type[Holder]) -> None:
    other = hold(path)
    file = CounterFile(path)
    assert file.records == other.records
    numbers = [file.find(word_of(f"k{number}")) for number in range(100)]
    assert len(set(numbers)) == 100
    assert file.records > other.records
    assert [file.find(word_of(f"k{number}")) for number in range(100)] == numbers
    assert hold(path).records == file.records
    assert all(len(file.record(number)) == WORDS for number in numbers)
    assert file.record(numbers[99])[KEY] == word_of("k99")
    file.close()


def test_a_slot_is_dead_when_its_process_is(path: Path, hold: type[Holder]) -> None:
    file = CounterFile(path)
    first, second = hold(path), hold(path)
    assert len({file.slot, first.slot, second.slot}) == 3
    assert [file.is_dead(slot) for slot in (file.slot, first.slot, second.slot, 99)] == [False, False, False, True]
    first.kill()
    assert file.is_dead(first.slot)
    assert hold(path).slot == first.slot, "the next one takes it"
    file.close()


def test_a_record_that_another_one_holds_for_too_long_is_not_waited_for(path: Path, hold: type[Holder]) -> None:
    file = CounterFile(path)
    counters = Counters(file)
    account, other_account = counters.account("k"), counters.account("other")
    holder = hold(path, account.number)
    os.kill(holder.process.pid, signal.SIGSTOP)
    with pytest.raises(CounterError, match=r"another process has held a record for 0\.25 s"):
        counters.admit(account, LIMITS, 0)
    assert isinstance(counters.admit(other_account, LIMITS, 0), Counted), "other keys are not concerned"
    holder.kill()
    assert isinstance(counters.admit(account, LIMITS, 0), Counted)
    file.close()


def test_a_file_that_was_put_aside_is_noticed(path: Path) -> None:
    file = CounterFile(path)
    assert not file.has_moved()
    path.rename(path.with_name("aside"))
    assert file.has_moved()
    again = CounterFile(path)
    assert file.has_moved()
    assert not again.has_moved()
    file.close()
    again.close()


def test_a_path_that_cannot_be_used_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to("/etc/passwd")
    with pytest.raises(CounterError, match=f"{path}: Too many levels of symbolic links"):
        CounterFile(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CounterError, match=f"{path}: Is a directory"):
        CounterFile(path)
