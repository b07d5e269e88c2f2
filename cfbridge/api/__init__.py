"""What do people and programs ask the bridge? The admin API under `/api/v1`; `serve` is its door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfbridge.api.server import ApiServer as ApiServer
    from cfbridge.api.server import serve as serve


def __getattr__(name: str) -> Any:
    """`serve` on demand: the server needs the facade, and whoever implements the facade imports this package."""
    if name in ("serve", "ApiServer"):
        from cfbridge.api import server

        return getattr(server, name)
    raise AttributeError(name)
