"""Who one is, by what lies in a folder that others write."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.certificates import Authority
from stoker.mesh import identity as module
from stoker.mesh.identity import MeshIdentity, NoIdentityError, Peer, peer_of
from tests.worker_agent.mesh.folders import NOW, enrol, put, revoke


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)


@pytest.fixture
def authority() -> Authority:
    return Authority.new(NOW)


def shaken(client: ssl.SSLContext, gateway: ssl.SSLContext) -> tuple[Peer | None, Peer | None]:
    """Whom the client sees and whom the gateway sees. Raises ssl.SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), gateway.wrap_bio(there, back, server_side=True)]
    waiting = list(ends)
    for _ in range(10):
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    assert ends[0].version() == "TLSv1.3"
    return peer_of(ends[0]), peer_of(ends[1])


def test_each_side_sees_who_the_other_is(tmp_path: Path, authority: Authority) -> None:
    server = enrol(tmp_path / "s", "server", authority)
    worker = enrol(tmp_path / "w", "worker/w1", authority)
    seen = shaken(MeshIdentity(tmp_path / "s").for_client(), MeshIdentity(tmp_path / "w").for_gateway())
    assert seen == (Peer("worker/w1", worker), Peer("server", server))


def test_without_a_certificate_there_is_nothing_to_show_until_it_comes(tmp_path: Path, authority: Authority) -> None:
    identity = MeshIdentity(tmp_path / "w")
    with pytest.raises(NoIdentityError, match="it comes when the worker has joined"):
        identity.for_gateway()
    serial = enrol(tmp_path / "w", "worker/w1", authority)
    peer, _ = shaken(identity.for_client(), identity.for_gateway())
    assert peer == Peer("worker/w1", serial)


def _with_another_key(folder: Path) -> None:
    other = folder.with_name("other")
    enrol(other, "worker/w1", Authority.new(NOW))
    put(folder / "certificate.pem", (other / "certificate.pem").read_text())


@pytest.mark.parametrize(
    "damage",
    [
        _with_another_key,
        lambda folder: put(folder / "certificate.pem", "no certificate"),
        lambda folder: put(folder / "authority.pem", ""),
        lambda folder: (folder / "key.pem").unlink(),
        lambda folder: put(folder / "revoked.json", "{"),
        lambda folder: put(folder / "revoked.json", '{"a": 1}'),
    ],
)
def test_what_cannot_be_used_changes_nothing(
    tmp_path: Path, authority: Authority, damage: Callable[[Path], None]
) -> None:
    serial = enrol(tmp_path / "w", "worker/w1", authority)
    revoke(tmp_path / "w", "abc")
    identity = MeshIdentity(tmp_path / "w")
    assert identity.refuses(Peer("worker/w2", "abc"))
    damage(tmp_path / "w")
    peer, _ = shaken(identity.for_client(), identity.for_gateway())
    assert peer == Peer("worker/w1", serial)
    assert identity.refuses(Peer("worker/w2", "abc"))
    renewed = enrol(tmp_path / "w", "worker/w1", authority)
    revoke(tmp_path / "w", "def")
    peer, _ = shaken(identity.for_client(), identity.for_gateway())
    assert peer == Peer("worker/w1", renewed)
    assert identity.refuses(Peer("worker/w2", "def"))
    assert not identity.refuses(Peer("worker/w2", "abc"))


def test_another_authoritys_certificate_ends_the_handshake(tmp_path: Path, authority: Authority) -> None:
    enrol(tmp_path / "w", "worker/w1", authority)
    enrol(tmp_path / "o", "server", Authority.new(NOW), known=authority)
    with pytest.raises(ssl.SSLError):
        shaken(MeshIdentity(tmp_path / "o").for_client(), MeshIdentity(tmp_path / "w").for_gateway())
