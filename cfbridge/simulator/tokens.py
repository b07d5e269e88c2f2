"""Is this token real, and whose is it? RS256 tokens as UAA signs them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from cfbridge.simulator.nouns import Client, User

Claims = Mapping[str, Any]


def _new_key(number: int) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": f"key-{number}", "use": "sig", "alg": "RS256"})


@dataclass(slots=True)
class Tokens:
    issuer: str = ""
    seconds: int = 3599
    clock: Callable[[], float] = time.time
    keys: list[RSAKey] = field(default_factory=lambda: [_new_key(1)])
    """The last one signs; older ones still verify."""
    _believed: dict[str, Claims] = field(default_factory=dict)
    _refresh: dict[str, str] = field(default_factory=dict)
    _given: set[str] = field(default_factory=set)
    _ended: set[str] = field(default_factory=set)
    """By `jti`."""
    _rotated: int = 1

    def rotate(self, *, forget: bool = False) -> None:
        """Sign with another key from now on; with `forget`, what older ones signed is believed no longer."""
        self._rotated += 1
        self.keys = [*(() if forget else self.keys), _new_key(self._rotated)]
        self._believed.clear()

    def end(self) -> int:
        """All tokens given so far are over. How many."""
        ended = len(self._given)
        self._ended |= self._given
        self._given.clear()
        return ended

    def _sign(self, claims: dict[str, Any]) -> str:
        key = self.keys[-1]
        self._given.add(claims["jti"])
        return jwt.encode({"alg": "RS256", "kid": key.kid, "typ": "JWT", "jku": f"{self.issuer[:-5]}keys"}, claims, key)

    def _common(self, client: str, subject: str, scopes: tuple[str, ...], grant: str) -> dict[str, Any]:
        now = int(self.clock())
        return {
            "jti": uuid.uuid4().hex,
            "sub": subject,
            "scope": list(scopes),
            "client_id": client,
            "cid": client,
            "azp": client,
            "grant_type": grant,
            "revocable": False,
            "iat": now,
            "exp": now + self.seconds,
            "iss": self.issuer,
            "zid": "uaa",
            "aud": sorted({client, *(scope.rpartition(".")[0] or scope for scope in scopes)}),
        }

    def for_user(self, user: User, client: str, grant: str) -> tuple[str, str, Claims]:
        """(access token, refresh token, claims)"""
        claims = self._common(client, user.guid, user.scopes, grant) | {
            "user_id": user.guid,
            "origin": "uaa",
            "user_name": user.name,
            "email": user.name,
            "auth_time": int(self.clock()),
        }
        refresh = f"{uuid.uuid4().hex}-r"
        self._refresh[refresh] = user.guid
        return self._sign(claims), refresh, claims

    def for_client(self, client: Client) -> tuple[str, Claims]:
        claims = self._common(client.id, client.id, client.authorities, "client_credentials")
        claims["authorities"] = list(client.authorities)
        return self._sign(claims), claims

    def refreshed(self, refresh: str) -> str | None:
        """The guid of the user whom this refresh token was given to."""
        return self._refresh.get(refresh)

    def verify(self, token: str) -> Claims | None:
        """The claims of a token that we signed and that is not over; else None."""
        claims = self._believed.get(token)
        if claims is None:
            claims = self._decode(token)
            if claims is None:
                return None
            if len(self._believed) > 1000:
                self._believed.clear()
            self._believed[token] = claims
        return claims if claims["exp"] > self.clock() and claims["jti"] not in self._ended else None

    def _decode(self, token: str) -> Claims | None:
        for key in reversed(self.keys):
            try:
                return jwt.decode(token, key, algorithms=["RS256"]).claims
            except (JoseError, ValueError):
                continue
        return None
