"""What does the foundation believe no longer? Tokens that end, keys that are rotated, certificates that are renewed."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cfbridge.simulator import certificates
from cfbridge.simulator.cc_requests import UNPROCESSABLE, ComplainedError, flag_in, only
from cfbridge.simulator.certificates import Certificates
from cfbridge.simulator.state import Foundation
from cfbridge.simulator.tokens import Tokens

_YEAR = 365 * 86400.0
_LONGEST = 100 * _YEAR


@dataclass(frozen=True, slots=True)
class Trust:
    """What may be changed while servers run."""

    tokens: Tokens
    certificates: Certificates
    contexts: Sequence[ssl.SSLContext]
    """Of the servers: what is loaded into them holds from the next handshake on."""
    hang_up: Callable[[], None]
    """Ends connections, as a server does that is started again."""

    def end_tokens(self, state: Foundation, body: Mapping[str, Any]) -> object:
        """Those that were given so far are over, as after their hours."""
        only(body)
        return {"ended": self.tokens.end()}

    def rotate_key(self, state: Foundation, body: Mapping[str, Any]) -> object:
        """UAA signs with another key; with `forget`, nobody believes the older ones any more."""
        only(body, "forget")
        self.tokens.rotate(forget=flag_in(body, "forget", False))
        return {"keys": [key.kid for key in self.tokens.keys]}

    def renew(self, state: Foundation, body: Mapping[str, Any]) -> object:
        """A new certificate for the servers and one for the client, in the same files; also one that is over."""
        only(body, "server_seconds", "client_seconds", "authority")
        now = datetime.now(UTC)
        server, client = (
            now + timedelta(seconds=_seconds(body, name)) for name in ("server_seconds", "client_seconds")
        )
        certificates.renew(self.certificates, server, client, authority=flag_in(body, "authority", False))
        for context in self.contexts:
            certificates.load(context, self.certificates)
        self.hang_up()
        return {"server_ends": server.isoformat(), "client_ends": client.isoformat()}


def _seconds(body: Mapping[str, Any], name: str) -> float:
    value = body.get(name, _YEAR)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LONGEST <= value <= _LONGEST:
        raise ComplainedError(UNPROCESSABLE, f"'{name}' must be a number of seconds from now, negative for the past")
    return float(value)
