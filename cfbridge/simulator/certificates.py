"""Which certificates does the foundation use? One authority, a server's and a client's, kept in a directory."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    ca: Path
    ca_key: Path
    server: Path
    """Private key and certificate in one file."""
    client_cert: Path
    client_key: Path


def ensure(directory: Path) -> Certificates:
    """Made once: a box that starts again keeps its authority, so that clients keep trusting it."""
    directory.mkdir(parents=True, exist_ok=True)
    names = ("ca.pem", "ca.key", "server.pem", "client.pem", "client.key")
    made = Certificates(*(directory / name for name in names))
    if not all((directory / name).exists() for name in names):
        far = datetime.now(UTC) + timedelta(days=3650)
        renew(made, far, far, authority=True)
    return made


def renew(made: Certificates, server_ends: datetime, client_ends: datetime, *, authority: bool = False) -> None:
    """Other certificates in the same files, by the same authority or by a new one."""
    if authority:
        issuer = trustme.CA(organization_name="simulated foundation")
        write_private(made.ca_key, issuer.private_key_pem.bytes())
        issuer.cert_pem.write_to_path(str(made.ca))
    else:
        issuer = trustme.CA.from_pem(made.ca.read_bytes(), made.ca_key.read_bytes())
    # An RSA key, because TLS 1.2 to the policy server is ECDHE-RSA or nothing.
    server = issuer.issue_cert(
        "127.0.0.1",
        "::1",
        "localhost",
        key_type=trustme.KeyType.RSA,
        not_before=_before(server_ends),
        not_after=server_ends,
    )
    client = issuer.issue_cert(
        "127.0.0.1",
        common_name="network-policy-client",
        not_before=_before(client_ends),
        not_after=client_ends,
    )
    write_private(made.server, server.private_key_and_cert_chain_pem.bytes())
    write_private(made.client_key, client.private_key_pem.bytes())
    made.client_cert.write_bytes(client.cert_chain_pems[0].bytes())


def _before(ends: datetime) -> datetime:
    return min(ends, datetime.now(UTC)) - timedelta(days=30)


def write_private(path: Path, content: bytes) -> None:
    """Readable by its owner alone, from the first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load(context, certificates)
    return context


def load(context: ssl.SSLContext, certificates: Certificates) -> None:
    """The files as they are now; a running server shows them from its next handshake on."""
    context.load_cert_chain(certificates.server)
    if context.verify_mode == ssl.CERT_REQUIRED:
        context.load_verify_locations(certificates.ca)


class _TellingObject(ssl.SSLObject):
    """A failed handshake ends with its alert. asyncio drops the connection with the alert still in its buffer, so the
    failure is reported one step late: "more input wanted" first, which sends what is buffered.
    """

    _told = False

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            if self._told:
                raise
            self._told = True
            raise ssl.SSLWantReadError("the alert goes out first") from None


def mutual_context(certificates: Certificates) -> ssl.SSLContext:
    """As the internal policy server: TLS 1.3, or 1.2 with one cipher; no client certificate, no conversation."""
    context = server_context(certificates)
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    context.verify_mode = ssl.CERT_REQUIRED
    load(context, certificates)
    context.sslobject_class = _TellingObject
    return context


def client_context(certificates: Certificates, *, with_certificate: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    if with_certificate:
        context.load_cert_chain(certificates.client_cert, certificates.client_key)
    return context
