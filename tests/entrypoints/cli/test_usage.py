"""`stoker usage`."""

import json
from datetime import UTC, datetime

import pytest
import yaml

from entrypoints.cli.errors import CliError
from entrypoints.cli.usage import moment_of
from stoker.domain.usage import UsageSums
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import FakeApi

NOW = datetime(2026, 3, 10, 12, 0, 0, tzinfo=UTC)

SMOL = UsageSums(1200, 3, 1, 1_000_000, 20_000, 500, 240.0, 1200, 30.0, 1000, 900.0)
LLAMA = UsageSums(1, 0, 0, 10, 0, 0, 0.0, 0, 0.0, 0, 2.0)


@pytest.fixture(autouse=True)
def _used(api: FakeApi) -> None:
    api.usage = {"llama": LLAMA, "smol": SMOL}


def lines(text: str) -> list[str]:
    """The table's, without what aligns it."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_what_was_used_by_model(stoker: Stoker) -> None:
    done = stoker("usage")
    assert done.exit_code == 0, done.stderr
    assert lines(done.stdout) == [
        "MODEL REQUESTS ERRORS GONE TOKENS IN CACHED TOKENS OUT FIRST TOKEN PER TOKEN",
        "llama 1 0 0 10 0 0 - -",
        "smol 1,200 3 1 1,000,000 500 20,000 200 ms 30 ms",
        "all 1,201 3 1 1,000,010 500 20,000 200 ms 30 ms",
    ]


def test_one_line_is_the_sum_already(stoker: Stoker) -> None:
    assert len(lines(stoker("usage", "--model", "smol").stdout)) == 2


def test_nothing_was_used(api: FakeApi, stoker: Stoker) -> None:
    api.usage = {}
    assert lines(stoker("usage", "--by", "day").stdout) == [
        "DAY (UTC) REQUESTS ERRORS GONE TOKENS IN CACHED TOKENS OUT FIRST TOKEN PER TOKEN",
        "all 0 0 0 0 0 0 - -",
    ]


def test_what_is_asked_for(api: FakeApi, stoker: Stoker) -> None:
    asked = ("--by", "key", "--since", "2026-03-01T12:00:00+01:00", "--until", "2026-03-02T00:00:00Z")
    assert stoker("usage", *asked, "--model", "smol", "--key", "0123456789ab").exit_code == 0
    assert api.requests[-1].query == {
        "by": "key",
        "since": "2026-03-01T11:00:00Z",
        "until": "2026-03-02T00:00:00Z",
        "model": "smol",
        "key": "0123456789ab",
    }
    assert stoker("usage").exit_code == 0
    assert api.requests[-1].query == {"by": "model"}


def test_as_data(stoker: Stoker) -> None:
    found = json.loads(stoker("usage", "-o", "json").stdout)
    assert yaml.safe_load(stoker("usage", "-o", "yaml").stdout) == found
    assert [group["group"] for group in found["data"]] == ["llama", "smol"]
    assert found["total"]["requests"] == 1201


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", "2026-03-10T11:58:30Z"),
        ("30m", "2026-03-10T11:30:00Z"),
        ("24h", "2026-03-09T12:00:00Z"),
        ("7d", "2026-03-03T12:00:00Z"),
        ("2w", "2026-02-24T12:00:00Z"),
        ("2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z"),
        ("2026-03-01T12:00:00+02:00", "2026-03-01T10:00:00Z"),
        (None, None),
    ],
)
def test_moments(text: str | None, moment: str | None) -> None:
    assert moment_of("--since", text, NOW) == moment


def test_a_day_begins_where_the_command_runs() -> None:
    begin = datetime(2026, 3, 1).astimezone(UTC)
    assert moment_of("--since", "2026-03-01", NOW) == begin.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    "text", ["", "soon", "24", "h", "-1h", "1y", "999999w", "2026-13-01", "0001-01-01T00:00:00+14:00"]
)
def test_what_is_no_moment(text: str, stoker: Stoker) -> None:
    with pytest.raises(CliError, match=r"--until .*: write how long ago, like 24h or 7d, or when, like 2026-03-01"):
        moment_of("--until", text, NOW)
    assert stoker("usage", f"--since={text}").exit_code == 2
