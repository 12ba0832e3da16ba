"""Certificates of the webhook: made, examined, and when the next one is due.

No I/O, and no clock: both are the caller's. An authority signs one certificate, and its key is
forgotten, so there is no key that could sign another one. The next certificate has the next
authority; API servers trust both until the old authority has expired.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pylxcfs.errors import PylxcfsError

LIFE: Final = datetime.timedelta(days=365)
#: Clocks of a cluster differ.
_BEFORE: Final = datetime.timedelta(hours=1)
_NAME: Final = "pylxcfs webhook"


class BadCertificate(PylxcfsError):
    """Certificate, key and authority are not what the webhook can serve with."""


class Served(NamedTuple):
    """What a server needs, in PEM."""

    certificate: bytes
    key: bytes
    #: The authorities that clients trust: that of the certificate, then older ones. Empty where
    #: somebody else tells the clients.
    authorities: bytes = b""


def issue(
    names: Sequence[str],
    now: datetime.datetime,
    *,
    life: datetime.timedelta = LIFE,
    older: bytes = b"",
) -> Served:
    """Return a new certificate for names and addresses. `older`: authorities to be trusted on."""
    authority_key, key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    begins, ends = now - _BEFORE, now + life
    # Each authority has a name of its own: a client finds the issuer by name.
    issuer = _name(f"{_NAME} {x509.random_serial_number():x}"[:60])
    authority = (
        _builder(issuer, issuer, authority_key.public_key(), begins, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _builder(_name(_NAME), issuer, key.public_key(), begins, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Served(
        certificate.public_bytes(pem),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        authority.public_bytes(pem) + b"".join(_alive(older, now)),
    )


def expires(certificate: bytes) -> datetime.datetime:
    """Return when the first certificate in PEM expires. Raise BadCertificate."""
    return _load(certificate)[0].not_valid_after_utc


def is_due(served: Served, names: Sequence[str], now: datetime.datetime) -> bool:
    """Return whether the next certificate is to be made: after two thirds of its life.

    Also where this one is damaged, or for other names.
    """
    try:
        certificate, authority = _load(served.certificate)[0], _load(served.authorities)[0]
        key = serialization.load_pem_private_key(served.key, None)
        if key.public_key() != certificate.public_key():
            return True
        certificate.verify_directly_issued_by(authority)
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (BadCertificate, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return True
    if not {_general(name) for name in names} <= set(named.value):
        return True
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return not begins <= now < begins + (ends - begins) * 2 / 3


def _alive(authorities: bytes, now: datetime.datetime) -> list[bytes]:
    """Return the certificates that have not expired, in PEM."""
    try:
        found = _load(authorities)
    except BadCertificate:
        return []
    pem = serialization.Encoding.PEM
    return [one.public_bytes(pem) for one in found if now < one.not_valid_after_utc]


def _load(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise BadCertificate(f"not a certificate in PEM: {error}") from error


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begins: datetime.datetime,
    ends: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
