"""The folder of one member's identity."""

import json
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stoker.certificates import Authority, CertificateError
from stoker.identity_folder import IdentityFolder

NOW = datetime(2026, 1, 1, tzinfo=UTC)
W1 = "worker/w1"


@pytest.fixture(scope="module")
def authority() -> Authority:
    """A cluster's."""
    return Authority.new(NOW)


@pytest.fixture
def folder(tmp_path: Path) -> IdentityFolder:
    """A worker's, empty."""
    return IdentityFolder(tmp_path / "w1" / "mesh", W1)


def give(folder: IdentityFolder, authority: Authority, now: datetime = NOW) -> None:
    """A certificate, as it is got from the authority."""
    folder.keep(authority.issue(folder.request(), folder.holder, now).certificate, authority.certificate)


def test_an_identity_is_whole_and_for_its_owner_only(folder: IdentityFolder, authority: Authority) -> None:
    assert (folder.facts(), folder.renew_at(), folder.fingerprint()) == (None, None, None)
    give(folder, authority)
    facts = folder.facts()
    assert facts is not None
    assert facts.holder == W1
    assert folder.fingerprint() == authority.fingerprint
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()} == {
        "key.pem": 0o600,
        "certificate.pem": 0o600,
        "authority.pem": 0o600,
    }
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_it_is_renewed_at_half_of_its_life_for_the_same_key(folder: IdentityFolder, authority: Authority) -> None:
    give(folder, authority)
    key = (folder.path / "key.pem").read_text()
    first = folder.facts()
    assert folder.renew_at() == NOW + timedelta(hours=12) - timedelta(minutes=2.5)
    give(folder, authority, NOW + timedelta(hours=12))
    second = folder.facts()
    assert first is not None
    assert second is not None
    assert second.serial != first.serial
    assert (folder.path / "key.pem").read_text() == key


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem", "authority.pem"])
@pytest.mark.parametrize("damage", ["gone", "empty", "other", "binary"])
def test_one_that_lost_a_file_is_none_and_the_next_certificate_mends_it(
    folder: IdentityFolder, authority: Authority, tmp_path: Path, name: str, damage: str
) -> None:
    give(folder, authority)
    stranger = IdentityFolder(tmp_path / "other", W1)
    give(stranger, Authority.new(NOW))
    path = folder.path / name
    match damage:
        case "gone":
            path.unlink()
        case "empty":
            path.write_text("")
        case "binary":
            path.write_bytes(b"\xff\xfe\x00")
        case _:
            path.write_bytes((stranger.path / name).read_bytes())
    assert folder.renew_at() is None
    give(folder, authority)
    assert folder.facts() is not None
    assert folder.fingerprint() == authority.fingerprint


def test_what_was_given_to_another_is_not_kept(folder: IdentityFolder, authority: Authority, tmp_path: Path) -> None:
    give(folder, authority)
    before = folder.facts()
    other = IdentityFolder(tmp_path / "w2", "worker/w2")
    for_other = authority.issue(other.request(), "worker/w2", NOW).certificate
    named_other = authority.issue(folder.request(), "worker/w2", NOW).certificate
    for certificate in (for_other, named_other, "nonsense"):
        with pytest.raises(CertificateError):
            folder.keep(certificate, authority.certificate)
    mine = authority.issue(folder.request(), W1, NOW).certificate
    strangers = Authority.new(NOW).certificate
    for believed in (strangers, authority.certificate + strangers, strangers + authority.certificate):
        with pytest.raises(CertificateError):
            folder.keep(mine, believed)
    with pytest.raises(CertificateError):
        folder.keep(mine + for_other, authority.certificate)
    assert folder.facts() == before


def test_who_is_revoked_is_written_when_it_changed(folder: IdentityFolder) -> None:
    path = folder.path / "revoked.json"
    assert folder.revoke(["b", "a", "b"])
    assert json.loads(path.read_text()) == ["a", "b"]
    before = path.stat().st_mtime_ns
    assert not folder.revoke(("a", "b"))
    assert path.stat().st_mtime_ns == before
    assert folder.revoke(())
    assert json.loads(path.read_text()) == []
    path.unlink()
    assert folder.revoke(()), "an empty list is a list too"


def test_an_identity_that_is_forgotten(folder: IdentityFolder, authority: Authority) -> None:
    give(folder, authority)
    folder.revoke(["a"])
    folder.forget()
    assert [path.name for path in folder.path.iterdir()] == ["revoked.json"]
    folder.forget()


MAKER = """
import sys
from pathlib import Path
from stoker.identity_folder import IdentityFolder
print("there", flush=True)
sys.stdin.readline()
for number in range(20):
    IdentityFolder(Path(sys.argv[1]) / str(number), "server").request()
    print((Path(sys.argv[1]) / str(number) / "key.pem").read_text())
"""


def test_processes_that_make_the_key_at_once_have_the_same_one(tmp_path: Path) -> None:
    for number in range(10, 20):  # the other half of the folders holds a damaged one
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "key.pem").write_text("damaged")
    command = [sys.executable, "-c", MAKER, str(tmp_path)]
    makers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "there\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    first, second = (maker.communicate(timeout=60)[0] for maker in makers)
    assert [maker.returncode for maker in makers] == [0, 0]
    assert first == second
    assert first.count("BEGIN PRIVATE KEY") == 20
