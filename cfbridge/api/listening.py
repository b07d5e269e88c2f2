"""Where does the API listen? On a unix socket for root, and on TCP with TLS where it has a certificate."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from pathlib import Path

from cfbridge.settings import ApiConfig
from egress.values import Refused, RefusedError


def tls(config: ApiConfig) -> ssl.SSLContext | None:
    if not config.certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.certificate, config.private_key or None)
    except OSError as error:
        where = f"{config.certificate} and {config.private_key}"
        raise RefusedError(
            Refused("API_CERTIFICATE", f"{where} can not be used: {error}", "api.certificate")
        ) from error
    return context


def unix(path: str) -> socket.socket:
    """Nobody can connect between bind and chmod, because nobody listens yet."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        listening.bind(path)
        os.chmod(path, 0o600)
        return listening
    except OSError as error:
        listening.close()
        raise RefusedError(
            Refused("API_LISTEN", f"{path} can not be listened on: {error.strerror}", "api.listen")
        ) from error


def _clear(path: str) -> None:
    """Takes away what a dead bridge left; never what a living one uses, nor what is no socket."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise RefusedError(Refused("API_LISTEN", f"{path} is there and is no socket; name another path", "api.listen"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            Path(path).unlink(missing_ok=True)
            return
    raise RefusedError(Refused("API_LISTEN", f"{path} is in use: another bridge runs here", "api.listen"))


def tcp(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        return socket.create_server(
            (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise RefusedError(Refused("API_LISTEN", f"{listen} can not be listened on: {reason}", "api.listen")) from error
