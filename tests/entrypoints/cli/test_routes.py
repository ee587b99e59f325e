"""`stoker routes`."""

import json

import pytest

from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import FakeApi

PATH = "/api/v1/routes"


@pytest.fixture(autouse=True)
def _deployed(api: FakeApi) -> None:
    for name in ("llama", "next", "smol"):
        api.add(name=name)


def test_a_route_is_set_listed_and_removed(api: FakeApi, stoker: Stoker) -> None:
    done = stoker(
        *("routes", "set", "org/name", "--to", "llama=9", "--to", "next"),
        *("--fallback", "smol:429,503", "--fallback", "llama"),
    )
    assert done.exit_code == 0, done.stderr
    assert api.bodies("PUT", f"{PATH}/org/name") == [
        {
            "targets": [{"deployment": "llama", "weight": 9}, {"deployment": "next"}],
            "fallbacks": [{"deployment": "smol", "statuses": [429, 503]}, {"deployment": "llama"}],
        }
    ]
    assert stoker("routes", "set", "gpt-4o", "--to", "smol").exit_code == 0
    for arguments in (("routes",), ("routes", "ls")):
        shown = [" ".join(line.split()) for line in stoker(*arguments).stdout.splitlines()]
        assert shown == [
            "NAME LEADS TO FALLBACKS CHANGED",
            "gpt-4o smol 3d ago",
            "org/name llama 90%, next 10% smol (429 503), llama (404 429 502 503 504) 3d ago",
        ]
    assert stoker("routes", "rm", "gpt-4o", "org/name").stdout == "gpt-4o: removed\norg/name: removed\n"
    assert api.routes == {}


def test_routes_as_data(stoker: Stoker) -> None:
    made = stoker("routes", "set", "gpt-4o", "--to", "smol", "-o", "json")
    assert json.loads(made.stdout)["targets"] == [{"deployment": "smol", "weight": 1}]
    assert json.loads(stoker("routes", "-o", "json").stdout) == [json.loads(made.stdout)]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("set", "r"), 2, "Missing option '--to'"),
        (("set", "r", "--to", "=9"), 2, "--to '=9': write DEPLOYMENT or DEPLOYMENT=WEIGHT, like llama=9"),
        (("set", "r", "--to", "llama=x"), 2, "--to 'llama=x': write DEPLOYMENT"),
        (("set", "r", "--to", "llama="), 2, "--to 'llama=': write DEPLOYMENT"),
        (("set", "r", "--to", "llama", "--fallback", ":503"), 2, "--fallback ':503': write DEPLOYMENT or"),
        (("set", "r", "--to", "llama", "--fallback", "smol:"), 2, "--fallback 'smol:': write DEPLOYMENT or"),
        (("set", "r", "--to", "llama", "--fallback", "smol:5x"), 2, "like smol:502,503"),
        (("set", "r", "--to", "gone"), 2, "--to gone 'gone': there is no deployment 'gone'"),
        (("set", "r", "--to", "llama", "--fallback", "smol:400"), 2, "[400] cannot lead to another model"),
        (("set", "r", "--to", "llama=0"), 2, "all weights are 0"),
        (("rm", "gone"), 3, "there is no route 'gone'"),
    ],
)
def test_what_is_refused_says_why(arguments: tuple[str, ...], code: int, error: str, stoker: Stoker) -> None:
    done = stoker("routes", *arguments)
    assert error in done.stderr
    assert done.exit_code == code
