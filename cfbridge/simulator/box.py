"""Where does the whole foundation run? All its servers in one process on loopback ports, and a handle to reach them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from cfbridge.simulator import certificates, control, seed
from cfbridge.simulator.cc_objects import Written
from cfbridge.simulator.cloud_controller import API_VERSION, CloudController, Links
from cfbridge.simulator.policy_server import ExternalApi, InternalApi, PolicySettings, cleanup
from cfbridge.simulator.state import Foundation
from cfbridge.simulator.tokens import Tokens
from cfbridge.simulator.trust import Trust
from cfbridge.simulator.uaa import Uaa


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    directory: Path
    """Certificates and the client's secret live here."""
    host: str = "127.0.0.1"
    api_port: int = 0
    uaa_port: int = 0
    policy_port: int = 0
    internal_port: int = 0
    """0 = any free port."""
    tls: bool = False
    """HTTPS for Cloud Controller, UAA and the external policy API; the internal one is always mutual TLS."""
    api_version: str = API_VERSION
    seeded: bool = True
    """Start with the recorded orgs, apps and security groups."""
    self_service: bool = False
    policy_quota: int = 150
    asg_sync_seconds: float | None = 0.0
    """How often the ASG syncer looks (60 upstream); 0 = at every read; None = only when told."""
    cleanup_seconds: float = 3600.0
    token_seconds: int = 3599


@dataclass(frozen=True, slots=True)
class SimulatedFoundation:
    """All that a client has to know."""

    api_url: str
    uaa_url: str
    policy_url: str
    internal_url: str
    ca: Path
    client_cert: Path
    client_key: Path
    client_id: str
    client_secret_file: Path

    def as_json(self) -> dict[str, str]:
        return {name: str(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(slots=True)
class Box:
    """A running foundation; `state` may be changed in place by who lives in the same process."""

    foundation: SimulatedFoundation
    state: Foundation
    tokens: Tokens
    certificates: certificates.Certificates
    _runners: list[web.AppRunner] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for service in list(self.state.faults):
            self.state.set_fault(service, None)
        for runner in self._runners:
            await runner.cleanup()

    def hang_up(self) -> None:
        """All connections end, as when servers start again; but not Cloud Controller's, which is being told this."""
        for runner in self._runners[1:]:
            for connection in runner.server.connections if runner.server is not None else ():
                connection.force_close()

    async def __aenter__(self) -> Box:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()


async def serve(config: SimulatorConfig, state: Foundation | None = None) -> Box:
    """Start every server and say where they are. With a `state`, that one is served, and nothing is seeded."""
    made = certificates.ensure(config.directory)
    secret_file = config.directory / "client_secret"
    if not secret_file.exists():
        certificates.write_private(secret_file, secrets.token_urlsafe(24).encode())
    if state is None:
        state = Foundation()
        if config.seeded:
            seed.recorded(state)
    if not state.users:
        seed.people(state, secret_file.read_text().strip())
    sockets = [
        _listen(config.host, port)
        for port in (config.api_port, config.uaa_port, config.policy_port, config.internal_port)
    ]
    scheme = "https" if config.tls else "http"
    api, uaa_url, policy = (f"{scheme}://{config.host}:{_port(sock)}" for sock in sockets[:3])
    internal = f"https://{config.host}:{_port(sockets[3])}"

    tokens = Tokens(f"{uaa_url}/oauth/token", config.token_seconds)
    uaa = Uaa(state, tokens, uaa_url)
    controller = CloudController(state, Written(api), tokens, config.api_version, Links(api, uaa_url, policy))
    settings = PolicySettings(config.self_service, config.policy_quota, config.tls)
    outside = certificates.server_context(made) if config.tls else None
    inside = certificates.mutual_context(made)
    foundation = SimulatedFoundation(
        api, uaa_url, policy, internal, made.ca, made.client_cert, made.client_key, "cfbridge", secret_file
    )
    box = Box(foundation, state, tokens, made)
    contexts = [context for context in (outside, inside) if context is not None]
    trust = Trust(tokens, made, contexts, box.hang_up)
    deeds = {"tokens/end": trust.end_tokens, "tokens/rotate-key": trust.rotate_key, "certificates": trust.renew}
    applications: tuple[tuple[web.Application, ssl.SSLContext | None], ...] = (
        (controller.application(control.routes(state, deeds)), outside),
        (uaa.application(), outside),
        (ExternalApi(state, tokens, settings).application(), outside),
        (InternalApi(state, config.asg_sync_seconds == 0).application(), inside),
    )
    for (application, context), sock in zip(applications, sockets, strict=True):
        # A handler of somebody who hung up ends; a hanging fault does not keep the box from stopping.
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
        await runner.setup()
        await web.SockSite(runner, sock, ssl_context=context).start()
        box._runners.append(runner)
    if config.asg_sync_seconds:
        box._tasks.append(asyncio.create_task(_sync_every(state, config.asg_sync_seconds)))
    box._tasks.append(asyncio.create_task(_clean_every(state, config.cleanup_seconds)))
    return box


async def _sync_every(state: Foundation, seconds: float) -> None:
    while True:
        state.sync_groups()
        await asyncio.sleep(seconds)


async def _clean_every(state: Foundation, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        cleanup(state)


def _listen(host: str, port: int) -> socket.socket:
    # Ports are bound before anything answers, because every server's answers name the others' addresses.
    return socket.create_server((host, port), backlog=512)


def _port(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])
