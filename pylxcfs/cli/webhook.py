"""`webhook`: flags to settings, and the source of certificates.

What it does is in kubernetes/.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, NamedTuple

from pylxcfs.errors import HostError, UsageError
from pylxcfs.kubernetes import annotations as keys
from pylxcfs.kubernetes import environment
from pylxcfs.kubernetes.patch import Settings

if TYPE_CHECKING:
    from pylxcfs.kubernetes.keeping import Source

_PACKAGES = ("hypercorn", "starlette", "cryptography", "h11")


class Certificate(NamedTuple):
    """What the command line says of certificates."""

    certificate: str | None
    key: str | None
    service: str | None
    secret: str
    configurations: tuple[str, ...]


def settings(mountpoint: str, volumes: str, files: str | None, env: str | None) -> Settings:
    """Return what pods get. Raise UsageError."""
    if mountpoint.count("/") < 2:
        raise UsageError(
            f"{mountpoint} has no directory of its own above it",
            "the mountpoint on the nodes is a directory below another one: /var/lib/pylxcfs/mount",
        )
    found = Settings(mountpoint, volumes)
    if files is not None:
        known, unknown = keys.file_names(files)
        if unknown:
            raise UsageError(f"no file {unknown[0]}", f"one of: {', '.join(keys.PATHS)}")
        found = found._replace(files=known)
    if env is not None:
        known, unknown = keys.variable_names(env)
        if unknown:
            names = ", ".join(environment.VARIABLES)
            raise UsageError(f"unknown variable {unknown[0]}", f"one of: {names}")
        found = found._replace(env=known)
    return found


def run(what: Settings, listen: str, certificate: Certificate) -> None:
    """Serve until SIGTERM or SIGINT. Raise UserError."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise HostError(
            f"the webhook needs the package {missing[0]}, which is not installed",
            "install it beside pylxcfs: pip install 'pylxcfs[webhook]'",
        )
    import trio

    from pylxcfs.kubernetes import webhook

    source = _source(certificate)
    try:
        trio.run(webhook.serve, what, source, listen)
    except* OSError as group:
        error = group.exceptions[0]
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise HostError(f"{listen}: {error}", "give another address with --listen") from None


def _source(certificate: Certificate) -> Source:
    from pylxcfs.kubernetes.api import Api
    from pylxcfs.kubernetes.keeping import Files, Managed

    if (certificate.certificate is None) != (certificate.key is None):
        raise UsageError("--tls-cert and --tls-key belong together", "give both")
    if (
        certificate.certificate is not None
        and certificate.key is not None
        # Where there is a service, they may come from cert-manager, or not at all.
        and (certificate.service is None or os.path.exists(certificate.certificate))
    ):
        return Files(certificate.certificate, certificate.key)
    if certificate.service is None:
        raise UsageError(
            "no certificate", "give --tls-cert and --tls-key, or --service for one of its own"
        )
    api = Api.of_pod(os.environ)
    names = [f"{certificate.service}.{api.namespace}.{end}" for end in ("svc", "svc.cluster.local")]
    return Managed(api, names, certificate.secret, certificate.configurations)
