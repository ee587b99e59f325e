"""The cluster's certificates: one authority, and short-lived certificates of its workers and its server.

An identity is what the certificate's one URI says (`stoker://worker/w1`, `stoker://server`); in Stoker it is called
the *holder* ("worker/w1", "server"). Keys are EC P-256. Nothing here reads a clock: `now` is given.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stoker.domain.base import DNS_LABEL_PATTERN

AUTHORITY_VALID: Final = timedelta(days=3650)
CERTIFICATE_VALID: Final = timedelta(hours=24)
CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""So long before it is issued a certificate is valid already: clocks of machines differ."""

SERVER_HOLDER: Final = "server"

_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)
_LONGEST_REQUEST = 8192  # characters of PEM: a request with a P-256 key has some 500
_URI = "stoker://"
_HOLDER = re.compile(rf"server|worker/(?:{DNS_LABEL_PATTERN.removeprefix('^').removesuffix('$')})")


class CertificateError(ValueError):
    """A certificate, or a request for one, that is not as it must be; the message says how."""


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate that the authority gave out."""

    certificate: str  # PEM
    serial: str  # as `serial_text` writes it
    expires_at: datetime


@dataclass(frozen=True)
class CertificateFacts:
    """What a certificate says of itself. Whether that is true is for who checks its signature."""

    holder: str
    serial: str
    valid_from: datetime
    expires_at: datetime


@dataclass(frozen=True)
class Authority:
    """The cluster's certificate authority: a certificate and its private key, both PEM."""

    certificate: str
    private_key: str = field(repr=False)

    @classmethod
    def new(cls, now: datetime) -> "Authority":
        """A new authority. It signs certificates of holders only, never another authority's."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Stoker cluster authority")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_TOLERANCE)
            .not_valid_after(now + AUTHORITY_VALID)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate=_pem(certificate), private_key=_key_pem(key))

    def issue(
        self, request_pem: str, holder: str, now: datetime, valid: timedelta = CERTIFICATE_VALID
    ) -> IssuedCertificate:
        """A certificate of `holder` for the key of a PKCS #10 request.

        Of the request only the key counts, and the proof that who asks has it: whatever it says of a subject or of
        names is ignored. Raises CertificateError: no request, a key of another kind, a wrong signature, an unknown
        kind of holder, or an authority that has expired.
        """
        _check_holder(holder)
        key = _requested_key(request_pem)
        authority, signer = self._parsed, self._signer
        if now >= authority.not_valid_after_utc:
            raise CertificateError(f"the cluster's authority expired on {authority.not_valid_after_utc:%Y-%m-%d}")
        serial = x509.random_serial_number()
        expires_at = min(now + valid, authority.not_valid_after_utc).replace(microsecond=0)  # as X.509 writes it
        kind = holder.partition("/")[0]  # the name itself stands in the URI alone: a common name ends at 64 characters
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Stoker {kind}")]))
            .issuer_name(authority.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(now - CLOCK_TOLERANCE)
            .not_valid_after(expires_at)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_URI + holder)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )
        return IssuedCertificate(certificate=_pem(certificate), serial=serial_text(serial), expires_at=expires_at)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate (DER), 64 hexadecimal digits."""
        return fingerprint_of(self.certificate)

    @cached_property
    def _parsed(self) -> x509.Certificate:
        return _certificate(self.certificate)

    @cached_property
    def _signer(self) -> ec.EllipticCurvePrivateKey:
        return _private_key(self.private_key)


def new_key_and_request(holder: str) -> tuple[str, str]:
    """A new private key (PEM), and a request (PEM) for a certificate of `holder` for it."""
    _check_holder(holder)
    key = ec.generate_private_key(ec.SECP256R1())
    return _key_pem(key), _request(key, holder)


def request_for(key_pem: str, holder: str) -> str:
    """A request (PEM) for a certificate of `holder` for a key that there is already. Raises CertificateError."""
    _check_holder(holder)
    return _request(_private_key(key_pem), holder)


def facts_of(certificate_pem: str) -> CertificateFacts:
    """What a certificate says. Raises CertificateError."""
    certificate = _certificate(certificate_pem)
    return CertificateFacts(
        holder=_holder_of(certificate),
        serial=serial_text(certificate.serial_number),
        valid_from=certificate.not_valid_before_utc,
        expires_at=certificate.not_valid_after_utc,
    )


def check_issued(certificate_pem: str, *, authority_pem: str, key_pem: str, holder: str) -> CertificateFacts:
    """That the authority gave this certificate to `holder` for this key; says what it holds. Its time is not judged.

    Raises CertificateError.
    """
    certificate, authority = _certificate(certificate_pem), _certificate(authority_pem)
    try:
        certificate.verify_directly_issued_by(authority)
    except (*_UNREADABLE, TypeError, InvalidSignature) as error:
        raise CertificateError("the certificate was not issued by the cluster's authority") from error
    facts = facts_of(certificate_pem)
    if facts.holder != holder:
        raise CertificateError(f"the certificate is that of {facts.holder!r}, not of {holder!r}")
    if certificate.public_key() != _private_key(key_pem).public_key():
        raise CertificateError("the certificate is for another key")
    return facts


def fingerprint_of(certificate_pem: str) -> str:
    """SHA-256 of a certificate (DER), 64 hexadecimal digits. Raises CertificateError."""
    return sha256(_certificate(certificate_pem).public_bytes(serialization.Encoding.DER)).hexdigest()


def serial_text(serial: int) -> str:
    """A certificate's serial number as Stoker writes it: hexadecimal, lower case, no leading zeros."""
    return format(serial, "x")


def worker_holder(name: str) -> str:
    """The holder that the worker `name` is."""
    return f"worker/{name}"


def _check_holder(holder: str) -> None:
    if _HOLDER.fullmatch(holder) is None:
        raise CertificateError(f'{holder!r} is no holder of a certificate: write "server" or "worker/<name>"')


def _holder_of(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise CertificateError("the certificate names no holder: it has no URI") from error
    except _UNREADABLE as error:
        raise CertificateError(f"the certificate's extensions cannot be read: {error}") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    holder = uris[0].removeprefix(_URI) if len(uris) == 1 and len(list(names)) == 1 else ""
    if not uris or not uris[0].startswith(_URI) or _HOLDER.fullmatch(holder) is None:
        raise CertificateError(f"the certificate must name one holder, as {_URI}worker/<name>; it names {uris}")
    return holder


def _requested_key(request_pem: str) -> ec.EllipticCurvePublicKey:
    if len(request_pem) > _LONGEST_REQUEST:
        raise CertificateError(f"the request is longer than {_LONGEST_REQUEST} characters")
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        key = request.public_key()
        signed = request.is_signature_valid
    except (*_UNREADABLE, InvalidSignature) as error:
        raise CertificateError(f"no certificate request (PEM of PKCS #10): {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError("the request's key must be an EC key on the curve P-256")
    if not signed:
        raise CertificateError("the request is not signed with its own key")
    return key


def _request(key: ec.EllipticCurvePrivateKey, holder: str) -> str:
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_URI + holder)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _certificate(pem: str) -> x509.Certificate:
    if pem.count("-----BEGIN") > 1:  # the first would be judged here, and TLS would believe the others too
        raise CertificateError("no certificate (PEM): it must be one, and nothing else")
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except _UNREADABLE as error:
        raise CertificateError(f"no certificate (PEM): {error}") from error


def _private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError("no private key (PEM)") from error  # never what was there instead
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("no EC private key")
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
