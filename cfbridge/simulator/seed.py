"""What is in the foundation at the start? People and clients always; the recorded orgs and apps if asked."""

from __future__ import annotations

from dataclasses import replace

from cfbridge.simulator.nouns import Client
from cfbridge.simulator.state import ADMIN_SCOPES, DEVELOPER_SCOPES, READER_SCOPES, Foundation

ADMIN = "6385cabf-8ffa-5a9f-a42a-af0872f0f8a8"
DEV = "50f37753-c803-5532-8a67-917a6ead221b"
NOBODY = "cb8f2e0c-70fa-58db-952f-3ae915b31552"

ACME = "a08c6039-3d83-50da-8687-1acd3a1dfe72"
GLOBEX = "5d88cc1b-2328-5074-b04d-43b4d67f6607"
ACME_DEV = "05d19f90-8986-56e2-a86d-8abf16517538"
ACME_PROD = "1fdb9f19-2348-5f5b-95d8-1b27e6003722"
GLOBEX_DEV = "ca43b720-d524-5e74-87fb-6cfc75f26b30"

FRONTEND = "1cfc7f0b-41cd-5e8c-a8e0-d8437ad8c5e1"
BACKEND = "35466616-ff56-5553-832b-fb67ae76623a"
DB = "6307bd65-7c82-5e23-930f-72f4ab3b1765"
SPY = "74e94b9b-607d-5a90-bc97-aed2788e1cba"

PUBLIC_NETWORKS = "9b5f9bce-8164-5f63-bae9-f21684c73627"
DB_ONLY = "e5ac690e-1ee3-522d-a208-383c797d87e2"


def people(state: Foundation, client_secret: str) -> None:
    """Three users (password = name) and the clients of the CLI, the policy server and the bridge."""
    state.create_user("admin", "admin", ADMIN_SCOPES, ADMIN)
    state.create_user("dev", "dev", DEVELOPER_SCOPES, DEV)
    state.create_user("nobody", "nobody", READER_SCOPES, NOBODY)
    bridge = ("cloud_controller.admin_read_only", "network.admin", "uaa.resource")
    for client in (
        Client("cf", "", ()),
        Client("cfbridge", client_secret, bridge),
        Client("network-policy", client_secret, ("cloud_controller.admin_read_only", "uaa.resource")),
    ):
        state.clients[client.id] = client


def recorded(state: Foundation) -> None:
    """The small foundation of the recorded sessions, with its guids."""
    state.create_org("acme", ACME)
    state.create_org("globex", GLOBEX)
    state.create_space(ACME, "dev", ACME_DEV)
    state.create_space(ACME, "prod", ACME_PROD)
    state.create_space(GLOBEX, "dev", GLOBEX_DEV)
    for space, name, guid in (
        (ACME_DEV, "frontend", FRONTEND),
        (ACME_DEV, "backend", BACKEND),
        (ACME_PROD, "db", DB),
        (GLOBEX_DEV, "spy", SPY),
    ):
        state.create_app(space, name, guid, labels={"tier": name})
    public = state.create_security_group(
        "public_networks",
        (
            {"protocol": "all", "destination": "0.0.0.0-9.255.255.255"},
            {
                "protocol": "tcp",
                "destination": "10.0.11.0/24",
                "ports": "443,8080-8090",
                "log": True,
                "description": "internal",
            },
            {"protocol": "icmp", "destination": "0.0.0.0/0", "type": 8, "code": 0},
        ),
        PUBLIC_NETWORKS,
    )
    state.change_security_group(replace(public, running=True, staging=True))
    database = {"protocol": "tcp", "destination": "10.1.0.5", "ports": "5432"}
    state.bind(state.create_security_group("db-only", (database,), DB_ONLY), "running", (ACME_DEV,))
    # Everybody of the recorded sessions could find these spaces; only dev may change one of them.
    state.create_role("space_developer", DEV, space=ACME_DEV)
    state.create_role("space_auditor", DEV, space=ACME_PROD)
    state.create_role("space_auditor", NOBODY, space=ACME_DEV)
