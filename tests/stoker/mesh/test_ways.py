"""Which way leads from the API to a service."""

import pytest

from stoker.mesh.ways import GatewayService, way_to
from tests.builders import make_worker

DIRECT = ("127.0.0.1", 4711)


def _gateway(host: str) -> GatewayService:
    return GatewayService(host, 8411, "box-1", "main/chat-x.1")


@pytest.mark.parametrize(
    ("address", "mesh_port", "always", "expected"),
    [
        ("127.0.0.1", 8411, False, DIRECT),
        ("127.0.0.1", 0, False, DIRECT),
        ("localhost", 8411, False, DIRECT),
        ("LOCALHOST", 0, False, DIRECT),
        ("::1", 8411, False, DIRECT),
        ("127.0.0.9", 8411, False, DIRECT),
        ("127.0.0.9", 8411, True, _gateway("127.0.0.9")),
        ("127.0.0.1", 0, True, None),
        ("10.0.0.7", 8411, False, _gateway("10.0.0.7")),
        ("10.0.0.7", 8411, True, _gateway("10.0.0.7")),
        ("10.0.0.7", 0, False, None),  # never in the clear
        ("box-1.example.org", 8411, False, _gateway("box-1.example.org")),
        ("localhost.example.org", 0, False, None),
        ("fd00::7", 8411, False, _gateway("fd00::7")),
        ("0.0.0.0", 0, False, None),  # noqa: S104
    ],
)
def test_the_way(address: str, mesh_port: int, always: bool, expected: object) -> None:
    worker = make_worker(name="box-1", address=address, mesh_port=mesh_port)
    assert way_to(worker, 4711, "main/chat-x.1", always_by_gateway=always) == expected
