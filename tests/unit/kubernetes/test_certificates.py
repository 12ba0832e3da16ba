"""Certificates, as OpenSSL sees them."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from pylxcfs.kubernetes import certificates
from pylxcfs.kubernetes.certificates import BadCertificate, Served, issue

NOW = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
NAMES = ["pylxcfs.system.svc", "127.0.0.1"]


def verify(served: Served, authorities: bytes, now: datetime.datetime) -> None:
    store = Store(x509.load_pem_x509_certificates(authorities))
    policy = PolicyBuilder().store(store).time(now.replace(tzinfo=None))
    policy.build_server_verifier(x509.DNSName(NAMES[0])).verify(
        x509.load_pem_x509_certificate(served.certificate), []
    )


def test_a_certificate_is_verified_by_its_authority_alone() -> None:
    one, other = issue(NAMES, NOW), issue(NAMES, NOW)
    verify(one, one.authorities, NOW)
    with pytest.raises(VerificationError):
        verify(one, other.authorities, NOW)
    with pytest.raises(VerificationError):
        verify(one, one.authorities, NOW + 366 * DAY)


def test_the_next_one_comes_before_this_one_expires() -> None:
    served = issue(NAMES, NOW, life=90 * DAY)
    assert not certificates.is_due(served, NAMES, NOW + 59 * DAY)
    assert certificates.is_due(served, NAMES, NOW + 61 * DAY)
    assert certificates.expires(served.certificate) == NOW + 90 * DAY


def test_both_are_trusted_until_the_old_one_has_expired() -> None:
    old = issue(NAMES, NOW, life=90 * DAY)
    new = issue(NAMES, NOW + 61 * DAY, life=90 * DAY, older=old.authorities)
    for served in (old, new):
        verify(served, new.authorities, NOW + 61 * DAY)
    newest = issue(NAMES, NOW + 122 * DAY, life=90 * DAY, older=new.authorities)
    assert newest.authorities.count(b"BEGIN CERTIFICATE") == 2, "the first has expired"


def test_one_that_cannot_be_served_is_due() -> None:
    served, other = issue(NAMES, NOW), issue(NAMES, NOW)
    for wrong in (
        Served(b"", b"", b""),
        Served(b"x", b"y", b"z"),
        served._replace(key=other.key),
        served._replace(authorities=other.authorities),
        served._replace(authorities=b""),
        served._replace(key=b"-----BEGIN PRIVATE KEY-----\n"),
    ):
        assert certificates.is_due(wrong, NAMES, NOW)
    assert certificates.is_due(served, [*NAMES, "other.system.svc"], NOW)
    assert certificates.is_due(served, NAMES, NOW - DAY)
    assert not certificates.is_due(served, NAMES, NOW)


def test_nonsense_has_no_end() -> None:
    with pytest.raises(BadCertificate):
        certificates.expires(b"nonsense")
