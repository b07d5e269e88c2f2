"""Who may come in by TCP? Whoever holds the token that was made at the first start and lies in the state folder."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from egress.values import Refused, RefusedError

FILE_NAME = "token"


def ensure(state_dir: str) -> str:
    """The token; made, with mode 0600, where there is none. One that others could read is refused, not trusted."""
    path = Path(state_dir) / FILE_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _read(path)
        token = secrets.token_urlsafe(32)
        with os.fdopen(written, "w") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        return token
    except OSError as error:
        raise RefusedError(Refused("TOKEN_UNREADABLE", f"{path} can not be used: {error.strerror}")) from error


def _read(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise RefusedError(
            Refused("TOKEN_EXPOSED", f"{path} can be read by others; delete it, a new token is made at the next start")
        )
    token = path.read_text().strip()
    if len(token) < 32:
        raise RefusedError(
            Refused("TOKEN_BAD", f"{path} holds no token; delete it, a new one is made at the next start")
        )
    return token


def same(given: str, token: str) -> bool:
    """Takes equally long however much of it is right."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), token.encode())
