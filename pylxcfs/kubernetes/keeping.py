"""Where the webhook's certificate comes from, and how the next one comes to be served.

    Files     cert-manager or somebody else writes them; they are read again when they change
    Managed   our own: a Secret holds it for all replicas, and the webhook configurations get the
              authorities to trust

A context of TLS takes the next certificate while it serves; connections that are open keep theirs.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from pylxcfs.errors import PylxcfsError
from pylxcfs.kubernetes import certificates
from pylxcfs.kubernetes.api import Api
from pylxcfs.kubernetes.certificates import BadCertificate, Served

_log = logging.getLogger(__name__)

_REGISTRATION: Final = "/apis/admissionregistration.k8s.io/v1"


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Source(Protocol):
    """A place of certificates."""

    #: Seconds between two questions.
    every_s: float

    async def current(self) -> Served | None:
        """Return what is to be served now; None for what is served. Raise PylxcfsError."""
        ...


class Context:
    """A context of TLS, and what it serves with."""

    def __init__(self) -> None:
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self.tls.set_alpn_protocols(["h2", "http/1.1"])
        self.served: Served | None = None
        self.expires: datetime.datetime | None = None

    def take(self, served: Served) -> None:
        """Serve with this from the next connection on. Raise BadCertificate."""
        if served == self.served:
            return
        expires = certificates.expires(served.certificate)
        # OpenSSL takes a path and no bytes; the key is in no directory.
        memory = os.memfd_create("pylxcfs-certificate")
        try:
            os.write(memory, served.certificate.rstrip() + b"\n" + served.key)
            self.tls.load_cert_chain(f"/proc/self/fd/{memory}")
        except (OSError, ssl.SSLError) as error:
            raise BadCertificate(f"certificate and key: {error}") from error
        finally:
            os.close(memory)
        self.served, self.expires = served, expires
        _log.info("serving with a certificate that expires on %s", expires.date())

    @property
    def is_valid(self) -> bool:
        return self.expires is not None and utc_now() < self.expires


class Files:
    """Certificate and key in files."""

    every_s = 5.0

    def __init__(self, certificate: str, key: str) -> None:
        self._paths = certificate, key

    async def current(self) -> Served:
        """Return what is in the files. Raise BadCertificate."""
        texts = []
        for path in self._paths:
            try:
                with open(path, "rb") as file:
                    texts.append(file.read())
            except OSError as error:
                raise BadCertificate(f"{path}: {error.strerror}") from error
        return Served(*texts)


class Managed:
    """A certificate of our own, in a Secret.

    The Secret exists already: then the service account needs no right to create any. A certificate
    is served in the round after the one that published its authority, so clients know it by then.
    """

    every_s = 20.0

    def __init__(
        self,
        api: Api,
        names: Sequence[str],
        secret: str,
        configurations: Sequence[str],
        *,
        now: Callable[[], datetime.datetime] = utc_now,
        life: datetime.timedelta = certificates.LIFE,
    ) -> None:
        self._api = api
        self._names = names
        self._secret = f"/api/v1/namespaces/{api.namespace}/secrets/{secret}"
        self._configurations = [f"{_REGISTRATION}/{name}" for name in configurations]
        self._now = now
        self._life = life
        self._serves = False

    async def current(self) -> Served | None:
        """Return the certificate once its authority is published. Raise ApiError."""
        secret = await self._api.get(self._secret)
        served = _of_secret(secret)
        if certificates.is_due(served, self._names, self._now()):
            served = certificates.issue(
                self._names, self._now(), life=self._life, older=served.authorities
            )
            # The version of the Secret goes with it: of two replicas one fails here.
            await self._api.put(self._secret, {**secret, "data": _data(served)})
            _log.info("made a certificate for %s", ", ".join(self._names))
        known = [await self._publish(path, served.authorities) for path in self._configurations]
        if not all(known) and self._serves:
            return None
        self._serves = True
        return served

    async def _publish(self, path: str, authorities: bytes) -> bool:
        """Write the authorities where they are not yet; return whether they were there."""
        text = base64.b64encode(authorities).decode()
        operations: list[dict[str, Any]] = []
        for i, webhook in enumerate((await self._api.get(path)).get("webhooks") or []):
            if webhook["clientConfig"].get("caBundle") != text:
                place = f"/webhooks/{i}"
                operations += [
                    {"op": "test", "path": f"{place}/name", "value": webhook["name"]},
                    {"op": "add", "path": f"{place}/clientConfig/caBundle", "value": text},
                ]
        if operations:
            await self._api.patch(path, operations)
            _log.info("wrote the authorities into %s", path.rpartition("/")[2])
        return not operations


_FIELDS: Final = ("tls.crt", "tls.key", "ca.crt")


def _of_secret(secret: dict[str, Any]) -> Served:
    data = secret.get("data") or {}
    try:
        return Served(*(base64.b64decode(data.get(field) or "") for field in _FIELDS))
    except (binascii.Error, ValueError):
        return Served(b"", b"", b"")


def _data(served: Served) -> dict[str, str]:
    return {
        field: base64.b64encode(text).decode() for field, text in zip(_FIELDS, served, strict=True)
    }


async def renew(context: Context, source: Source) -> bool:
    """Ask the source once; return whether the context has a certificate then."""
    try:
        served = await source.current()
        if served is not None:
            context.take(served)
    except PylxcfsError as error:
        # Another replica was faster: its certificate is there in the next round.
        level = logging.INFO if getattr(error, "status", 0) == 409 else logging.WARNING
        _log.log(level, "certificate: %s", error)
    return context.served is not None
