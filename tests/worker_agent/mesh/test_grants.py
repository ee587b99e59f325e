"""What others may reach, as files."""

from pathlib import Path

import pytest

from worker_agent.mesh.grants import ANY_WORKER, SERVER, Grant, Grants, Held


@pytest.fixture
def grants(tmp_path: Path) -> Grants:
    return Grants(tmp_path / "mesh")


def test_what_was_granted_is_found_until_it_is_withdrawn(grants: Grants, tmp_path: Path) -> None:
    grants.grant("agent", 4000, [SERVER])
    grants.grant("rpc/chat-x.1", 4001, ["worker/w1"])
    grants.grant("rpc/chat-x.1", 4002, ["worker/w2"])  # anew
    assert Grants(tmp_path / "mesh").all() == {
        "agent": Grant(service="agent", port=4000, peers=(SERVER,)),
        "rpc/chat-x.1": Grant(service="rpc/chat-x.1", port=4002, peers=("worker/w2",)),
    }
    grants.withdraw("rpc/chat-x.1")
    grants.withdraw("rpc/chat-x.1")
    assert list(grants.all()) == ["agent"]


def test_the_files_are_as_others_read_them_and_nobody_else_may(grants: Grants, tmp_path: Path) -> None:
    grants.grant("rpc/chat-x.1", 4001, ["worker/w1"])
    file = tmp_path / "mesh" / "grants" / "rpc.chat-x.1.json"
    assert file.read_text() == '{"service":"rpc/chat-x.1","port":4001,"peers":["worker/w1"]}'
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("peers", "peer", "expected"),
    [
        (("worker/w1",), "worker/w1", True),
        (("worker/w1",), "worker/w2", False),
        (("worker/w1",), "worker/w11", False),
        (("worker/w1",), "server", False),
        ((SERVER,), "server", True),
        ((SERVER,), "worker/server", False),
        ((ANY_WORKER,), "worker/w9", True),
        ((ANY_WORKER,), "server", False),
        ((), "server", False),
    ],
)
def test_whom_a_grant_admits(peers: tuple[str, ...], peer: str, expected: bool) -> None:
    assert Grant(service="files", port=1, peers=peers).admits(peer) is expected


@pytest.mark.parametrize("service", ["rpc/../../x.1", "rpc/x", "main", "", "AGENT", "rpc/x.1\n"])
def test_a_service_that_is_none_is_refused(grants: Grants, service: str) -> None:
    with pytest.raises(ValueError, match="is no service"):
        grants.grant(service, 4000, [SERVER])
    with pytest.raises(ValueError, match="is no service"):
        grants.withdraw(service)


@pytest.mark.parametrize("peer", ["w1", "worker/", "*", "worker/W1", "Server"])
def test_a_peer_that_is_none_is_refused(grants: Grants, peer: str) -> None:
    with pytest.raises(ValueError, match="is no peer"):
        grants.grant("agent", 4000, [peer])


@pytest.mark.parametrize("port", [0, 65_536, -1, "", "files.sock", "/" + "x" * 107])
def test_a_port_that_is_none_is_refused(grants: Grants, port: int | str) -> None:
    with pytest.raises(ValueError, match="port"):
        grants.grant("agent", port, [SERVER])


def test_a_damaged_grant_grants_nothing_and_hides_no_other(grants: Grants, tmp_path: Path) -> None:
    grants.grant("agent", 4000, [SERVER])
    folder = tmp_path / "mesh" / "grants"
    (folder / "files.json").write_text("{")
    (folder / "main.x.1.json").write_text('{"service":"rpc/x.1","port":1,"peers":[]}')  # another's name
    (folder / ".agent.json.draft").write_text("{")
    assert list(grants.all()) == ["agent"]


def test_a_folder_that_cannot_be_read_is_no_empty_one(grants: Grants) -> None:
    with pytest.raises(OSError, match="grants"):
        grants.all()


def test_the_word_on_a_link(grants: Grants) -> None:
    assert grants.held("chat-x", 1) is None
    grants.tell_held("rpc/chat-x.1", Held(held=True, since=5.0))
    assert grants.held("chat-x", 1) == Held(held=True, since=5.0)
    lost = Held(held=False, since=6.0, reason="nothing was heard for 5 s")
    grants.tell_held("rpc/chat-x.1", lost)
    assert grants.told_held() == {"rpc/chat-x.1": lost}
    assert grants.held("chat-x", 2) is None
    grants.grant("rpc/chat-x.1", 4000, ["worker/w1"])
    grants.withdraw("rpc/chat-x.1")
    assert grants.held("chat-x", 1) is None


def test_an_unreadable_word_is_none(grants: Grants, tmp_path: Path) -> None:
    grants.tell_held("rpc/chat-x.1", Held(held=True, since=5.0))
    (tmp_path / "mesh" / "held" / "chat-x.1.json").write_text("{}")
    assert grants.held("chat-x", 1) is None
    assert grants.told_held() == {}


def test_a_unix_socket_instead_of_a_port(grants: Grants) -> None:
    grants.grant("files", "/run/stoker/files.sock", [ANY_WORKER])
    assert grants.all() == {"files": Grant(service="files", port="/run/stoker/files.sock", peers=(ANY_WORKER,))}


def test_its_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    Grants(tmp_path / "new" / "mesh").grant("agent", 4000, [SERVER])
    made = (tmp_path / "new" / "mesh", tmp_path / "new" / "mesh" / "grants")
    assert [folder.stat().st_mode & 0o777 for folder in made] == [0o700, 0o700]
