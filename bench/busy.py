"""What does a busy cell look like? Containers of as many apps, and policies among those apps."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator

from cfbridge.simulator.garden import ContainerSpec, diego_spec

ORG = ("5b8ffb0a-0c1d-4f0e-9a5e-000000000001", "acme")
SPACE = ("5b8ffb0a-0c1d-4f0e-9a5e-000000000002", "dev")
FIRST_PORT = 20_000
"""Ports of policies begin here: nothing else uses them."""


def app_guid(number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"bench:{number}"))


def spec(handle: str, app: int, index: int = 0) -> ContainerSpec:
    """An instance of app `app`, as Diego asks for it: two mapped ports, one rule out."""
    out = {"protocol": 1, "networks": [{"start": "198.51.100.0", "end": "198.51.100.255"}], "ports": [_port(443)]}
    return diego_spec(
        handle,
        org=ORG[0],
        space=SPACE[0],
        app=app_guid(app),
        org_name=ORG[1],
        space_name=SPACE[1],
        app_name=f"app-{app}",
        index=index,
        netin=[(0, 8080), (0, 8081)],
        netout_rules=[out],
    )


def policies(apps: int, count: int) -> Iterator[tuple[int, int, int]]:
    """(source app, destination app, port): evenly among all pairs, port by port."""
    for number in range(count):
        source, rest = number % apps, number // apps
        yield source, (source + 1 + rest % max(1, apps - 1)) % apps, FIRST_PORT + rest // max(1, apps - 1)


def policy_body(policies: Iterable[tuple[int, int, int]], protocol: str = "tcp") -> dict[str, object]:
    """As the external policy API takes it."""
    return {
        "policies": [
            {
                "source": {"id": app_guid(source)},
                "destination": {"id": app_guid(destination), "protocol": protocol, "ports": _port(port)},
            }
            for source, destination, port in policies
        ]
    }


def _port(number: int) -> dict[str, int]:
    return {"start": number, "end": number}
