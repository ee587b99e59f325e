"""The cluster's authority and what it gives out: read back by another implementation where that tells more."""

import base64
import contextlib
import ipaddress
import itertools
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from stoker.certificates import (
    AUTHORITY_VALID,
    Authority,
    CertificateError,
    check_issued,
    facts_of,
    fingerprint_of,
    new_key_and_request,
    request_for,
    serial_text,
    worker_holder,
)

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
W1 = "worker/w1"


@pytest.fixture(scope="module")
def authority() -> Authority:
    """A cluster's."""
    return Authority.new(NOW)


def pem_of(request: x509.CertificateSigningRequest) -> str:
    """A request as it is sent."""
    return request.public_bytes(serialization.Encoding.PEM).decode()


def test_a_certificate_says_who_holds_it_and_for_how_long(authority: Authority) -> None:
    key, request = new_key_and_request(W1)
    issued = authority.issue(request, W1, NOW)
    facts = check_issued(issued.certificate, authority_pem=authority.certificate, key_pem=key, holder=W1)
    assert facts == facts_of(issued.certificate)
    assert (facts.holder, facts.serial, facts.expires_at) == (W1, issued.serial, issued.expires_at)
    assert facts.valid_from == NOW.replace(microsecond=0) - timedelta(minutes=5)
    assert facts.expires_at == NOW.replace(microsecond=0) + timedelta(hours=24)
    assert issued.serial == issued.serial.lower().lstrip("0")
    assert len(issued.serial) > 30


def test_openssl_takes_it_for_clients_and_servers_and_finds_nothing_amiss(authority: Authority, tmp_path: Path) -> None:
    _, request = new_key_and_request("server")
    (tmp_path / "ca.pem").write_text(authority.certificate)
    (tmp_path / "server.pem").write_text(authority.issue(request, "server", NOW).certificate)
    for purpose in ("sslclient", "sslserver"):
        command = ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp())), "-purpose", purpose]
        done = subprocess.run(
            [*command, "-CAfile", "ca.pem", "server.pem"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    text = subprocess.run(
        ["openssl", "x509", "-noout", "-text", "-in", "server.pem"], cwd=tmp_path, capture_output=True, text=True
    ).stdout
    assert "URI:stoker://server" in text
    assert "prime256v1" in text
    assert "CA:FALSE" in text


def test_of_a_request_only_the_key_counts(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [
        x509.UniformResourceIdentifier("stoker://server"),
        x509.DNSName("api"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
    ]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=5), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = x509.load_pem_x509_certificate(authority.issue(pem_of(request), W1, NOW).certificate.encode())
    (found,) = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.value == "stoker://worker/w1"
    assert made.public_key() == key.public_key()
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "server" not in made.subject.rfc4514_string()


def _forged() -> str:
    """A request whose signature is of another key."""
    mine, other = (new_key_and_request(W1)[1] for _ in range(2))
    first, second = (x509.load_pem_x509_csr(one.encode()) for one in (mine, other))
    der = first.public_bytes(serialization.Encoding.DER)
    old = first.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    new = second.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    assert der.count(old) == 1
    return pem_of(x509.load_der_x509_csr(der.replace(old, new)))


def _with(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return pem_of(x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm))


@pytest.mark.parametrize(
    ("request_pem", "words"),
    [
        ("", "no certificate request"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "no certificate request"),
        ("x" * 8193, "longer than 8192 characters"),
        (_forged(), "not signed with its own key"),
        (_with(ec.generate_private_key(ec.SECP384R1())), "EC key on the curve P-256"),
        (_with(rsa.generate_private_key(65537, 2048)), "EC key on the curve P-256"),
        (_with(ed25519.Ed25519PrivateKey.generate()), "EC key on the curve P-256"),
    ],
    ids=["empty", "damaged", "long", "forged", "p384", "rsa", "ed25519"],
)
def test_what_is_no_request_gets_no_certificate(authority: Authority, request_pem: str, words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        authority.issue(request_pem, W1, NOW)


@given(st.text(max_size=200))
def test_any_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(CertificateError):
        Authority.new(NOW).issue(text, W1, NOW)
    with pytest.raises(CertificateError):
        facts_of(text)


@pytest.mark.parametrize(
    "holder", ["", "worker", "worker/", "worker/W1", "worker/a/b", "worker/*", "server/x", "worker/w1\n", "client"]
)
def test_a_holder_that_is_none(authority: Authority, holder: str) -> None:
    _, request = new_key_and_request(W1)
    with pytest.raises(CertificateError, match="is no holder"):
        authority.issue(request, holder, NOW)
    with pytest.raises(CertificateError, match="is no holder"):
        new_key_and_request(holder)


def test_the_longest_name_fits(authority: Authority) -> None:
    holder = worker_holder("w" * 63)
    key, request = new_key_and_request(holder)
    issued = authority.issue(request, holder, NOW)
    assert check_issued(issued.certificate, authority_pem=authority.certificate, key_pem=key, holder=holder)


def test_a_certificate_of_another_cluster_holder_or_key_is_told_apart(authority: Authority) -> None:
    key, request = new_key_and_request(W1)
    certificate = authority.issue(request, W1, NOW).certificate
    other = Authority.new(NOW)
    assert other.fingerprint != authority.fingerprint
    with pytest.raises(CertificateError, match="not issued by the cluster's authority"):
        check_issued(certificate, authority_pem=other.certificate, key_pem=key, holder=W1)
    with pytest.raises(CertificateError, match="that of 'worker/w1', not of 'worker/w2'"):
        check_issued(certificate, authority_pem=authority.certificate, key_pem=key, holder="worker/w2")
    stranger, _ = new_key_and_request(W1)
    with pytest.raises(CertificateError, match="for another key"):
        check_issued(certificate, authority_pem=authority.certificate, key_pem=stranger, holder=W1)


def test_an_authority_brings_no_other_one_along(authority: Authority) -> None:
    key, request = new_key_and_request(W1)
    certificate, other = authority.issue(request, W1, NOW).certificate, Authority.new(NOW)
    both = authority.certificate + other.certificate
    with pytest.raises(CertificateError, match="must be one"):
        check_issued(certificate, authority_pem=both, key_pem=key, holder=W1)
    with pytest.raises(CertificateError, match="must be one"):
        fingerprint_of(both)


def test_the_authority_is_no_holder_and_names_none(authority: Authority) -> None:
    with pytest.raises(CertificateError, match="names no holder"):
        facts_of(authority.certificate)
    found = x509.load_pem_x509_certificate(authority.certificate.encode())
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert found.not_valid_after_utc == NOW.replace(microsecond=0) + AUTHORITY_VALID


@pytest.mark.parametrize(
    "names",
    [
        ["stoker://worker/w1", "stoker://server"],
        ["https://worker/w1"],
        ["stoker://worker/w1/x"],
        ["stoker://"],
    ],
)
def test_a_certificate_that_names_other_than_one_holder(names: list[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    uris = [x509.UniformResourceIdentifier(uri) for uri in names]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(uris), critical=False)
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(CertificateError, match="must name one holder"):
        facts_of(made.public_bytes(serialization.Encoding.PEM).decode())


def test_nothing_outlives_the_authority(authority: Authority) -> None:
    _, request = new_key_and_request(W1)
    end = NOW.replace(microsecond=0) + AUTHORITY_VALID
    assert authority.issue(request, W1, end - timedelta(hours=1)).expires_at == end
    with pytest.raises(CertificateError, match="authority expired on 2035-12-30"):
        authority.issue(request, W1, end)


def test_the_fingerprint_is_openssls(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(authority.certificate)
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", "ca.pem"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.strip().partition("=")[2].replace(":", "").lower() == authority.fingerprint
    assert fingerprint_of(authority.certificate) == authority.fingerprint


def test_another_request_for_the_same_key(authority: Authority) -> None:
    key, request = new_key_and_request(W1)
    again = request_for(key, W1)
    for one in (request, again):
        certificate = authority.issue(one, W1, NOW).certificate
        assert check_issued(certificate, authority_pem=authority.certificate, key_pem=key, holder=W1)
    with pytest.raises(CertificateError, match="no private key") as refused:
        request_for("a secret that is no key", W1)
    assert "a secret" not in str(refused.value)


def test_an_rsa_key_is_no_key_of_ours() -> None:
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(CertificateError, match="no EC private key"):
        request_for(key.decode(), W1)


def test_no_private_key_is_shown(authority: Authority) -> None:
    assert "PRIVATE" not in repr(authority)


@pytest.mark.parametrize(("serial", "text"), [(1, "1"), (0x0ABC, "abc"), (1 << 64, "1" + "0" * 16)])
def test_a_serial_as_it_is_written(serial: int, text: str) -> None:
    assert serial_text(serial) == text


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # of serials below zero
def test_a_damaged_certificate_or_request_is_refused_and_nothing_else_happens(authority: Authority) -> None:
    key, request = new_key_and_request(W1)
    issued = authority.issue(request, W1, NOW).certificate
    certificate_der = x509.load_pem_x509_certificate(issued.encode()).public_bytes(serialization.Encoding.DER)
    request_der = x509.load_pem_x509_csr(request.encode()).public_bytes(serialization.Encoding.DER)
    for damaged in _damaged(certificate_der, "CERTIFICATE"):
        with contextlib.suppress(CertificateError):  # where a name is another one, it may be read
            facts_of(damaged)
        with pytest.raises(CertificateError):
            check_issued(damaged, authority_pem=authority.certificate, key_pem=key, holder=W1)
    for damaged in _damaged(request_der, "CERTIFICATE REQUEST"):
        with pytest.raises(CertificateError):
            authority.issue(damaged, W1, NOW)


def _damaged(der: bytes, kind: str) -> Iterator[str]:
    """With one byte changed, each in turn."""
    for position, mask in itertools.product(range(len(der)), (0x03, 0x70)):
        changed = bytearray(der)
        changed[position] ^= mask
        text = base64.encodebytes(bytes(changed)).decode()
        yield f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n"
