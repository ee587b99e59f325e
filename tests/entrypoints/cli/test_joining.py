"""`stoker workers token | tokens | revoke-token`, and the token as `stoker worker` reads it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from api.schemas.join_tokens import JoinTokenRead
from entrypoints.cli.errors import CliError
from entrypoints.cli.join_token_file import token_from
from entrypoints.cli.joining import seconds_of
from tests.entrypoints.cli.conftest import Stoker, StokerProcess
from tests.fakes.api import FakeApi

NOW = datetime.now(UTC)


def test_a_token_is_printed_alone_and_the_rest_beside_it(api: FakeApi, stoker: Stoker) -> None:
    done = stoker("workers", "token", "--ttl", "90m", "--label", "zone=lab", "--label", "disk=ssd")
    assert (done.exit_code, done.stdout) == (0, "st-join-000000000000-secret\n")
    first, heading, command, hint = done.stderr.splitlines()
    assert first.startswith("join token 000000000000, for one worker, until ")
    assert first.endswith(" UTC, shown this once:")
    assert heading == "on the other machine, with its own address; it asks for the token:"
    assert command.startswith("    stoker worker --server http://")
    assert command.endswith(" --address ADDRESS --join-token-file -")
    assert "127.0.0.1" not in command
    assert "stoker up --host 0.0.0.0" in hint
    assert "secret" not in done.stderr
    assert api.bodies("POST", "/api/v1/join-tokens") == [
        {"ttl_seconds": 5400, "labels": {"zone": "lab", "disk": "ssd"}}
    ]


def test_a_token_as_data(stoker: Stoker) -> None:
    made = json.loads(stoker("workers", "token", "-o", "json").stdout)
    assert (made["token"], made["authority_fingerprint"]) == ("st-join-000000000000-secret", "ab" * 32)


def test_tokens_are_listed_and_revoked(api: FakeApi, stoker: Stoker) -> None:
    now = datetime.now(UTC)  # the command looks at its own clock

    def token(number: int, **overrides: object) -> JoinTokenRead:
        values = {"id": f"{number:012x}", "labels": {}, "created_at": now - timedelta(hours=2)}
        values |= {"expires_at": now + timedelta(minutes=59.5), "used_at": None, "used_by": ""}
        return JoinTokenRead.model_validate(values | overrides)

    api.join_tokens = [
        token(0, labels={"zone": "lab", "disk": "ssd"}),
        token(1, used_at=now - timedelta(minutes=5), used_by="gpu-2"),
        token(2, expires_at=now - timedelta(hours=1)),
    ]
    assert [line.rstrip() for line in stoker("workers", "tokens").stdout.splitlines()] == [
        "ID            AGE  STATE                 LABELS",
        "000000000000  2h   valid for 59m         disk=ssd, zone=lab",
        "000000000001  2h   used by gpu-2 5m ago  none",
        "000000000002  2h   expired 1h ago        none",
    ]
    assert stoker("workers", "revoke-token", "000000000001").stdout == "000000000001: revoked\n"
    assert [token.id for token in api.join_tokens] == ["000000000000", "000000000002"]
    assert [token["id"] for token in json.loads(stoker("workers", "tokens", "-o", "json").stdout)] == [
        "000000000000",
        "000000000002",
    ]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error"),
    [
        (("token", "--ttl", "soon"), 2, "error: --ttl: 'soon' is not a time: write it like 7d, 12h or 30m\n"),
        (("token", "--ttl", "31d"), 2, "error: --ttl 2678400: Input should be less than or equal to 2592000\n"),
        (("token", "--ttl", "0s"), 2, "error: --ttl 0: Input should be greater than or equal to 1\n"),
        (("token", "--label", "zone"), 2, "error: --label 'zone': write KEY=VALUE, like zone=lab\n"),
        (
            ("revoke-token", "nix"),
            3,
            "error: there is no join token 'nix'\nhint: see `stoker workers tokens`\n",
        ),
    ],
)
def test_tokens_refused(arguments: tuple[str, ...], exit_code: int, error: str, stoker: Stoker) -> None:
    done = stoker("workers", *arguments)
    assert (done.exit_code, done.stdout, done.stderr) == (exit_code, "", error)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("30m", 1800), ("1h", 3600), (" 7d ", 604_800), ("0h", 0), ("90s", 90)]
)
def test_times(text: str, seconds: int) -> None:
    assert seconds_of("--ttl", text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1y", "1h30m", "1h\n2"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(CliError, match="write it like 7d, 12h or 30m"):
        seconds_of("--ttl", text)


# --- as the agent reads it --------------------------------------------------------------------------------------------


def test_a_token_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("st-join-x\n\n")
    assert token_from(str(path)) == "st-join-x"
    assert token_from(None) is None


@pytest.mark.parametrize(
    ("source", "stdin", "error"),
    [
        ("/no/such", "", "error: --join-token-file /no/such: it cannot be read: No such file or directory"),
        ("/dev/null", "", "error: --join-token-file /dev/null: no token is there"),
        ("-", "", "error: --join-token-file -: no token is there"),
        ("-", "\nst-join-x\n", "error: --join-token-file -: no token is there"),
    ],
)
def test_a_token_that_is_not_there(source: str, stdin: str, error: str, stoker_process: StokerProcess) -> None:
    done = stoker_process("worker", "--join-token-file", source, stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (2, "", [error])


def test_a_token_that_is_text_of_no_kind(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CliError, match="it is no text"):
        token_from(str(path))
