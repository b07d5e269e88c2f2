"""What does an answer mean that is not what was asked for? Whose it was, who has to act, and whether to ask again.

401, 403, 404, other 4xx    -> `RefusedError`: somebody must change something, and it says what
429, 5xx, unreadable        -> `Unavailable`: ask again
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cfbridge.foundation import read
from cfbridge.foundation.bounded import Answer
from egress.values import Refused, RefusedError, Unavailable

T = TypeVar("T")
BUSY = frozenset({429, 502, 503, 504})
"""Worth asking again at once."""
_NOT_AUTHENTICATED = 10002
"""Cloud Controller's code where no token came."""


def check(status: int, body: bytes, who: str, what: str) -> None:
    if status == 200:
        return
    said = ascii(body[:200].decode("utf-8", "replace"))
    if status == 404:
        raise RefusedError(Refused("CF_NOT_FOUND", f"{who}: {what} is not there (HTTP 404): {said}", what))
    if status in (401, 403):
        code, hint = _forbidden(status, body)
        raise RefusedError(Refused(code, f"{who}: {what} is refused (HTTP {status}): {hint}: {said}", what))
    if 400 <= status < 500 and status not in BUSY:
        raise RefusedError(Refused("CF_REFUSED", f"{who}: {what} is refused (HTTP {status}): {said}", what))
    raise Unavailable(f"{who}: {what} is answered with HTTP {status}: {said}")


def _forbidden(status: int, body: bytes) -> tuple[str, str]:
    """A code, and what to change. (A 401 comes here for a token that is brand-new: the old one was renewed before.)"""
    if status == 403:
        return (
            "CF_FORBIDDEN",
            "give the client the authority cloud_controller.admin_read_only, or check its certificate",
        )
    if read.error_code(body) == _NOT_AUTHENTICATED:
        return "CF_TOKEN_MISSING", "our token did not arrive: does a proxy take the Authorization header away?"
    hint = "it does not believe the token that UAA gave a moment ago: compare its UAA keys and its clock with UAA's"
    return "CF_TOKEN_REFUSED", hint


def no_token(who: str, client: str, answer: Answer) -> Refused:
    error = read.token_error(answer.body)
    hint, field = {
        "unauthorized_client": ("add client_credentials to its authorized_grant_types", "client_id"),
        "invalid_scope": ("give it the authority cloud_controller.admin_read_only", "client_id"),
    }.get(error, ("check client_id and client_secret_file", "client_secret_file"))
    said = ascii(answer.body[:200].decode("utf-8", "replace"))
    message = f"{who} gives the client {client!r} no token (HTTP {answer.status}): {hint}: {said}"
    return Refused("UAA_REFUSED", message, field)


def understood(who: str, reader: Callable[[bytes], T], body: bytes) -> T:
    """What an answer says, or whose answer can't be read."""
    try:
        return reader(body)
    except Unavailable as unreadable:
        raise Unavailable(f"{who}: {unreadable}") from unreadable


def reason(error: BaseException) -> str:
    """In words, also where the error has none."""
    return str(error) or type(error).__name__
