"""With which certificates do we speak, and which one is to blame when a handshake fails?

Files are read again when they are other files: a rotated certificate needs no restart. What is wrong with one is said
with its owner, its end, and who has to act.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cfbridge.foundation import answers, validity
from cfbridge.foundation.validity import Certificate
from cfbridge.settings import PolicyServerConfig

SOON_SECONDS = 14 * 86400.0
"""So long before its end our own certificate is worth an alarm."""
_NOT_NOW, _UNKNOWN_AUTHORITY = (9, 10), (2, 18, 19, 20, 21)
"""OpenSSL's codes of what it found wrong with a peer's certificate."""
_LOOK_SECONDS = 5.0

_Signature = tuple[tuple[int, int, int] | None, ...]


class ClientTls:
    """The TLS context of a client with a certificate, as its files are now."""

    def __init__(self, config: PolicyServerConfig) -> None:
        self._config = config
        self._made: tuple[_Signature, ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext | bool:
        """The same object while the files are the same, since connections are shared by it. An OSError (all of `ssl`'s
        errors are) where the files can't be read or don't fit each other, as for a moment while somebody writes them.
        """
        config = self._config
        if not config.url.startswith("https:"):
            return True
        now = tuple(_signature(path) for path in (config.ca, config.certificate, config.private_key))
        if self._made is None or self._made[0] != now:
            self._made = None
            try:
                context = ssl.create_default_context(cafile=config.ca or None)
                if config.certificate:
                    context.load_cert_chain(config.certificate, config.private_key or None)
            except OSError as error:
                files = ", ".join(path for path in (config.ca, config.certificate, config.private_key) if path)
                raise OSError(f"the certificates {files} can't be used: {error}") from error
            self._made = now, context
        return self._made[1]

    def forget(self) -> None:
        """Read the files again, however much they look the same."""
        self._made = None


def of_file(path: str) -> Certificate | None:
    """The first one in a PEM file; None where there is none."""
    try:
        text = Path(path).read_text(encoding="ascii")
        begin = text.index("-----BEGIN CERTIFICATE-----")
        end = text.index("-----END CERTIFICATE-----", begin) + len("-----END CERTIFICATE-----")
        return validity.read(ssl.PEM_cert_to_DER_cert(text[begin:end]))
    except (OSError, ValueError):
        return None


def of_server(url: str) -> Certificate | None:
    """The one that a server shows, believed or not; None where it shows none. Blocks for some seconds at most."""
    try:
        there = urlsplit(url)
        shown = ssl.get_server_certificate((there.hostname or "", there.port or 443), timeout=_LOOK_SECONDS)
        return validity.read(ssl.PEM_cert_to_DER_cert(shown))
    except (OSError, ValueError):
        return None


def blame(
    error: BaseException,
    url: str,
    *,
    ca: str = "",
    ours: str = "",
    clock: Callable[[], float] = time.time,
    shown: Callable[[str], Certificate | None] = of_server,
) -> str:
    """Whose certificate made a request fail, until when it was good, and what to do; empty = none that we know of."""
    now = datetime.fromtimestamp(clock(), UTC)
    own = of_file(ours) if ours else None
    if own is not None and not own.begins <= now <= own.ends:
        return f"our certificate {ours} {_described(own, now)}: put a good one there, it needs no restart ({error})"
    wrong = next((each for each in _causes(error) if hasattr(each, "verify_code")), None)
    theirs = shown(url) if wrong is not None else None
    if theirs is None or not isinstance(wrong, ssl.SSLCertVerificationError):
        return ""
    whose = f"the certificate of {urlsplit(url).netloc} {_described(theirs, now)}"
    bundle = ca or "the system's bundle"
    if wrong.verify_code in _NOT_NOW:
        if theirs.begins <= now <= theirs.ends:
            return f"{whose}, but an authority's above it, or in {bundle}, is over: renew that one"
        return f"{whose}: whoever runs that server has to renew it"
    if wrong.verify_code in _UNKNOWN_AUTHORITY:
        return f"{whose} and is not by an authority in {bundle}: if the authority is a new one, add it there"
    return f"{whose} and is not for this server: {wrong.verify_message}"


def ending(config: PolicyServerConfig, now: float) -> str:
    """What to say about our own certificate while its end is near; empty while it is far."""
    own = of_file(config.certificate) if config.certificate else None
    moment = datetime.fromtimestamp(now, UTC)
    if own is None or own.ends.timestamp() - now > SOON_SECONDS:
        return ""
    return f"our certificate {config.certificate} for {config.url} {_described(own, moment)}: put a new one there"


def _described(certificate: Certificate, now: datetime) -> str:
    whose = f"({answers.quoted(certificate.subject)}, by {answers.quoted(certificate.issuer)})"
    if now < certificate.begins:
        return f"{whose} begins at {certificate.begins:%Y-%m-%dT%H:%M:%SZ}"
    verb = "ended" if certificate.ends < now else "ends"
    return f"{whose} {verb} at {certificate.ends:%Y-%m-%dT%H:%M:%SZ}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it came from; libraries keep them in their arguments, too."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = (each.__cause__, each.__context__, getattr(each, "reason", None), *each.args)
        waiting += [other for other in inner if isinstance(other, BaseException)]


def _signature(path: str) -> tuple[int, int, int] | None:
    """Tells a file from what stood there before; None where none is."""
    try:
        found = os.stat(path) if path else None
    except OSError:
        return None
    return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)
