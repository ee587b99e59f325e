"""`stoker keys`: made with what they may do, listed with it, changed, revoked."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import FakeApi

ROUTE = "/api/v1/keys"
ID = "000000000000"


def test_a_key_is_printed_alone_and_once(api: FakeApi, stoker: Stoker) -> None:
    done = stoker("keys", "create", "my app")
    assert (done.exit_code, done.stdout) == (0, "sk-stoker-000000000000-secret\n")
    assert done.stderr == "key 000000000000 (user), shown this once:\n"
    assert "secret" not in stoker("keys").stdout + stoker("keys", "-o", "json").stdout
    assert api.bodies("POST", ROUTE) == [{"name": "my app", "role": "user"}]


def test_a_key_as_data(stoker: Stoker) -> None:
    made = json.loads(stoker("keys", "create", "ci", "--role", "admin", "-o", "json").stdout)
    assert (made["key"], made["role"]) == ("sk-stoker-000000000000-secret", "admin")


def test_what_a_key_may_do_is_said_in_flags_and_listed(api: FakeApi, stoker: Stoker) -> None:
    flags = ("--expires", "30d", "--model", "smol", "--model", "org/Name", "--rpm", "60", "--tpm", "100k")
    assert stoker("keys", "create", "app", *flags, "--concurrency", "4", "--tokens-per-month", "10M").exit_code == 0
    assert api.bodies("POST", ROUTE) == [
        {
            "name": "app",
            "role": "user",
            "expires_in_seconds": 30 * 86_400,
            "models": ["smol", "org/Name"],
            "limits": {
                "requests_per_minute": 60,
                "tokens_per_minute": 100_000,
                "tokens_per_month": 10_000_000,
                "concurrency": 4,
            },
        }
    ]
    head, line = stoker("keys").stdout.splitlines()
    assert head.split() == ["ID", "NAME", "ROLE", "AGE", "STATE", "MODELS", "LIMITS"]
    limits = "60 requests/min, 100k tokens/min, 10M tokens/month, 4 at once"
    assert line == f"{ID}  app   user  3d   valid for 29d  smol, org/Name  {limits}"


def test_states(api: FakeApi, stoker: Stoker) -> None:
    for name in ("old", "gone", "new"):
        stoker("keys", "create", name)
    api.keys[0] = api.keys[0].model_copy(update={"expires_at": datetime.now(UTC) - timedelta(days=2, hours=1)})
    assert stoker("keys", "revoke", "000000000001").stdout == "000000000001: revoked\n"
    old, gone, new = stoker("keys", "ls").stdout.splitlines()[1:]
    assert old.split() == [ID, "old", "user", "3d", "expired", "2d", "ago", "all", "none"]
    assert gone.split()[4:7] == ["revoked", "0s", "ago"]
    assert new.split()[4:] == ["valid", "all", "none"]


def test_a_key_is_changed_in_what_is_named(api: FakeApi, stoker: Stoker) -> None:
    stoker("keys", "create", "app", "--rpm", "60", "--tpm", "1k", "--expires", "2099-01-31", "--model", "smol")
    assert api.bodies("POST", ROUTE)[0]["expires_at"] == "2099-01-31T00:00:00+00:00"
    flags = ("--rpm", "none", "--tokens-per-month", "2M", "--expires", "never", "--model", "all", "--name", "new app")
    done = stoker("keys", "set", ID, *flags)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1] == (f"{ID}  new app  user  3d   valid  all     1k tokens/min, 2M tokens/month")
    assert api.bodies("PATCH", f"{ROUTE}/{ID}") == [
        {
            "expires_at": None,
            "models": [],
            "limits": {"requests_per_minute": None, "tokens_per_month": 2_000_000},
            "name": "new app",
        }
    ]
    assert json.loads(stoker("keys", "set", ID, "--rpm", "5", "-o", "json").stdout)["limits"] == {
        "requests_per_minute": 5,
        "tokens_per_minute": 1000,
        "tokens_per_month": 2_000_000,
        "concurrency": None,
    }


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error"),
    [
        (("revoke", "nix"), 3, "there is no key 'nix'"),
        (("set", "nix", "--rpm", "5"), 3, "there is no key 'nix'"),
        (("revoke", f"sk-stoker-{ID}-{'a' * 43}"), 2, f"that is the key itself, and was not sent: its id is {ID}"),
        (
            ("revoke", "sk-stoker-cut"),
            2,
            "sk-stoker-[redacted] is a key or token itself, and was not sent: give",
        ),
        (("set", ID), 2, "nothing to change: name at least one of the flags"),
        (("create", ""), 2, "NAME '': String should "),
        (("create", "app", "--role", "king"), 2, "Invalid value for '--role': 'king' is not one of"),
        (("create", "app", "--rpm", "many"), 2, "--rpm: 'many' is not a number: write it like 60, 100k or 10M"),
        (("create", "app", "--concurrency", "0"), 2, "--concurrency 0: Input should be greater than or equal to 1"),
        (("create", "app", "--expires", "soon"), 2, "--expires: 'soon' is not a time: write it like 7d, 12h or 30m"),
        (("create", "app", "--expires", "2026-13-01"), 2, "--expires: '2026-13-01' is no date: write it like 2027-"),
        (("create", "app", "--expires", "0s"), 2, "--expires 0: Input should be greater than or equal to 1"),
        (("create", "app", "--model", "a b"), 2, "--model: 'a b' cannot be a model's name: write letters, digits"),
    ],
)
def test_keys_refused(arguments: tuple[str, ...], exit_code: int, error: str, stoker: Stoker) -> None:
    done = stoker("keys", *arguments)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.startswith(f"error: {error}")
