"""What does Guardian do around a container's network? It runs the networker just so, without a container runtime.

    create: own namespace ─> `up` (pid on stdin) ─> created ─> run(): user processes      any failure ─> destroy
    destroy: kill ─> `down` ─> forgotten                                                   `down` failed ─> kept

As recorded from the real one: extra arguments first, stdin without newline, a process group of its own, the environment
inherited, no timeout, no order between handles. A container is one process that sleeps in a network namespace of its
own; it dies with this process, so that nothing is left behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

DESTROY_ATTEMPTS = 30
_PARALLEL = 300
_T = TypeVar("_T")


class GardenError(Exception):
    """What a Garden client is told. `stderr` is what only gdn's log would show."""

    def __init__(self, message: str, stderr: str = "") -> None:
        super().__init__(message)
        self.stderr = stderr


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What Diego asks for. `diego_spec` and `health_check_spec` make the usual ones."""

    handle: str
    properties: Mapping[str, str] = field(default_factory=dict)
    """As Garden has them: `network.*`, `log_config` and others, which the networker never sees."""
    netin: Sequence[tuple[int, int]] = ()
    """(host port or 0, container port)"""
    netout_rules: Sequence[Mapping[str, Any]] = ()
    """As Garden's API has them: protocol, networks, ports, icmps, log."""
    runtime_fails: bool = False
    """The container can't be made: `down` comes for a handle that never was up."""


@dataclass(frozen=True, slots=True)
class Call:
    """One run of the networker."""

    action: str
    handle: str
    stdin: bytes
    status: int
    stdout: bytes
    stderr: str
    seconds: float


@dataclass
class Container:
    spec: ContainerSpec
    init: subprocess.Popen[bytes] | None
    properties: dict[str, str]
    """Garden's, with what the networker added."""
    dns_servers: tuple[str, ...] | None = None
    search_domains: tuple[str, ...] | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def handle(self) -> str:
        return self.spec.handle

    @property
    def pid(self) -> int:
        if self.init is None:
            raise GardenError(f"unknown handle: {self.handle}")
        return self.init.pid

    @property
    def netns(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    @property
    def address(self) -> str:
        """Empty when the networker gave none."""
        return self.properties.get("garden.network.container-ip", "")

    @property
    def address6(self) -> str:
        """Empty where the org's pool has no IPv6."""
        return self.properties.get("garden.network.container-ipv6", "")

    @property
    def mapped_ports(self) -> dict[int, int]:
        """Container port → host port."""
        mapped = json.loads(self.properties.get("garden.network.mapped-ports") or "[]")
        return {each["ContainerPort"]: each["HostPort"] for each in mapped}


class Guardian:
    def __init__(
        self,
        network_plugin: str,
        extra_args: Sequence[str],
        *,
        external_ip: str = "192.0.2.10",
        retry_seconds: float = 3.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment` None: this process's own, as gdn's is inherited."""
        self._plugin = (network_plugin, *extra_args)
        self._external_ip = external_ip
        self._retry_seconds = retry_seconds
        self._environment = None if environment is None else dict(environment)
        self._threads = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="guardian")
        self._networkers: set[subprocess.Popen[bytes]] = set()
        self.containers: dict[str, Container] = {}
        self.calls: list[Call] = []

    async def __aenter__(self) -> Guardian:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Every process ends; no `down` is called, as when the machine goes."""
        for networker in tuple(self._networkers):
            networker.kill()
        await asyncio.gather(*(self._in_thread(partial(_kill, c)) for c in self.containers.values()))
        self.containers.clear()
        self._threads.shutdown(wait=True)

    async def restart(self, *, destroy_containers: bool = False) -> None:
        """Containers that survive see no call at all. With `destroy_containers` (destroy_containers_on_start) each gets
        a `down`, all at once, each tried up to 30 times."""
        if not destroy_containers:
            return
        await asyncio.gather(*(self._destroy_persistently(handle) for handle in tuple(self.containers)))

    async def power_cut(self) -> None:
        """Every process is gone at once, and nobody was told. The handles are known still: they lie on disk."""
        await asyncio.gather(*(self._in_thread(partial(_kill, c)) for c in self.containers.values()))
        for container in self.containers.values():
            container.init = None
            container.processes.clear()

    async def create(self, spec: ContainerSpec) -> Container:
        """Raises GardenError, and then nothing of it is left but what a failing `down` leaves."""
        if spec.handle in self.containers:
            raise GardenError(f"Handle '{spec.handle}' already in use")
        properties = {**spec.properties, "garden.network.external-ip": self._external_ip}
        container = self.containers[spec.handle] = Container(spec, None, properties)
        try:
            if spec.runtime_fails:
                raise GardenError("runc run: exit status 1: container_linux.go: starting container process failed")
            container.init = await self._in_thread(_start_init)
            answer = await self._call("up", spec.handle, up_stdin(spec, container.init.pid))
            _accept(container, answer)
        except BaseException:
            try:
                await self.destroy(spec.handle)
            except GardenError:
                pass  # as Guardian does: logged, and the first failure is what the client hears
            raise
        return container

    async def destroy(self, handle: str) -> None:
        """When `down` fails the handle stays, and may be destroyed again."""
        container = self._known(handle)
        await self._in_thread(partial(_kill, container))
        container.init = None
        await self.down(handle)
        self.containers.pop(handle, None)

    async def down(self, handle: str) -> None:
        """The bare call, for handles that nobody knows as well."""
        await self._call("down", handle, b"null")

    async def net_in(self, handle: str, host_port: int, container_port: int) -> tuple[int, int]:
        """(host port, container port)"""
        container = self._networked(handle)
        asked = {
            "HostIP": self._external_ip,
            "HostPort": host_port,
            "ContainerIP": container.address,
            "ContainerPort": container_port,
        }
        answer = json.loads(await self._call("net-in", handle, go_json(asked)) or b"{}")
        got = answer.get("host_port", 0), answer.get("container_port", 0)
        mapped = json.loads(container.properties.get("garden.network.mapped-ports") or "[]")
        mapped.append({"HostPort": got[0], "ContainerPort": got[1]})
        container.properties["garden.network.mapped-ports"] = go_json(mapped).decode()
        return got

    async def net_out(self, handle: str, rule: Mapping[str, Any]) -> None:
        asked = {"container_ip": self._networked(handle).address, "netout_rule": net_out_rule(rule)}
        await self._call("net-out", handle, go_json(asked))

    async def bulk_net_out(self, handle: str, rules: Sequence[Mapping[str, Any]] | None) -> None:
        written = None if rules is None else [net_out_rule(rule) for rule in rules]
        asked = {"container_ip": self._networked(handle).address, "netout_rules": written}
        await self._call("bulk-net-out", handle, go_json(asked))

    async def run(
        self, handle: str, argv: Sequence[str], *, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """A user process inside the container's network. Its stderr goes where its stdout goes. It ends with the
        container; whoever reads its output does so off the event loop."""
        container = self._known(handle)
        words = ["nsenter", f"--net={container.netns}", "--", *argv]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                words, stdin=stdin, stdout=stdout, stderr=subprocess.STDOUT, env=self._environment, process_group=0
            )

        process = await self._in_thread(start)
        container.processes.append(process)
        return process

    def _known(self, handle: str) -> Container:
        if (container := self.containers.get(handle)) is None:
            raise GardenError(f"unknown handle: {handle}")
        return container

    def _networked(self, handle: str) -> Container:
        container = self._known(handle)
        if not container.address:
            raise GardenError(f"cannot find container [{handle}]\n")
        return container

    async def _destroy_persistently(self, handle: str) -> None:
        for attempt in range(DESTROY_ATTEMPTS):
            try:
                await self.destroy(handle)
                return
            except GardenError:
                if attempt == DESTROY_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(self._retry_seconds)

    async def _call(self, action: str, handle: str, stdin: bytes) -> bytes:
        """Run the networker; no timeout, no lock."""
        call = await self._in_thread(lambda: self._run_networker(action, handle, stdin))
        self.calls.append(call)
        if call.status != 0:
            message = f"external networker encountered an error running '{action}' action: exit status {call.status}"
            raise GardenError(message, call.stderr)
        return call.stdout

    def _run_networker(self, action: str, handle: str, stdin: bytes) -> Call:
        started = time.perf_counter()
        words = [*self._plugin, "--action", action, "--handle", handle]
        pipe = subprocess.PIPE
        networker = subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment, process_group=0
        )
        self._networkers.add(networker)
        try:
            stdout, stderr = networker.communicate(stdin)
        finally:
            self._networkers.discard(networker)
        seconds = time.perf_counter() - started
        return Call(action, handle, stdin, networker.returncode, stdout, stderr.decode("utf-8", "replace"), seconds)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def up_stdin(spec: ContainerSpec, pid: int) -> bytes:
    """Only what is `network.*` (without that prefix) or `log_config`; keys sorted; empty lists left out."""
    shown = {k.removeprefix("network."): v for k, v in spec.properties.items() if k.startswith("network.")}
    if "log_config" in spec.properties:
        shown["log_config"] = spec.properties["log_config"]
    asked: dict[str, Any] = {"Pid": pid, "Properties": dict(sorted(shown.items()))}
    if spec.netout_rules:
        asked["netout_rules"] = [net_out_rule(rule) for rule in spec.netout_rules]
    if spec.netin:
        asked["netin"] = [{"host_port": host, "container_port": container} for host, container in spec.netin]
    return go_json(asked)


def net_out_rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    """As Go writes it: in its order, zero values left out, but an ICMP code even when it is 0."""
    written: dict[str, Any] = {}
    for name in ("protocol", "networks", "ports"):
        if rule.get(name):
            written[name] = rule[name]
    if (icmps := rule.get("icmps")) is not None:
        known = {"type": icmps["type"]} if icmps.get("type") else {}
        written["icmps"] = known | ({"code": icmps["code"]} if icmps.get("code") is not None else {})
    if rule.get("log"):
        written["log"] = True
    return written


def go_json(value: object) -> bytes:
    """Compact, and with the characters escaped that Go escapes for the sake of HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace")


def diego_spec(
    handle: str,
    *,
    org: str,
    space: str,
    app: str,
    org_name: str = "",
    space_name: str = "",
    app_name: str = "",
    lifecycle: str = "app",
    index: int = 0,
    listed_ports: Sequence[int] = (8080,),
    netin: Sequence[tuple[int, int]] = (),
    netout_rules: Sequence[Mapping[str, Any]] = (),
) -> ContainerSpec:
    """A container as Diego asks for it: an app's instance, a task or a staging (`lifecycle`)."""
    tags = {"app_id": app, "app_name": app_name, "organization_id": org, "organization_name": org_name}
    if lifecycle == "app":
        tags |= {"instance_id": str(index), "process_id": app, "process_instance_id": handle, "process_type": "web"}
    tags |= {"source_id": app, "space_id": space, "space_name": space_name}
    source = "STG" if lifecycle == "staging" else "CELL"
    log_config = {"guid": app, "index": index, "source_name": source, "tags": dict(sorted(tags.items()))}
    properties = {
        "executor:owner": "executor",
        "log_config": go_json(log_config).decode(),
        "network.app_id": app,
        "network.container_workload": lifecycle,
        "network.org_id": org,
        "network.policy_group_id": app,
        "network.ports": ",".join(str(port) for port in sorted(set(listed_ports))),
        "network.space_id": space,
    }
    return ContainerSpec(handle, properties, netin if lifecycle == "app" else (), netout_rules)


def health_check_spec(handle: str) -> ContainerSpec:
    """What the rep makes at its start and every ten minutes."""
    return ContainerSpec(handle, {"executor:owner": "executor-health-check", "network.healthcheck": "true"})


def _accept(container: Container, stdout: bytes) -> None:
    """Read the answer of an `up` as strictly as Guardian's decoder does. Nothing at all is success without address."""
    if not stdout:
        return
    try:
        answer = json.loads(stdout)
    except ValueError as fault:
        raise GardenError(f"unmarshaling result from external networker: {fault}") from None
    properties = answer.get("properties") or {}
    if not all(isinstance(value, str) for value in properties.values()):
        raise GardenError(
            "unmarshaling result from external networker: json: cannot unmarshal into field of type string"
        )
    container.properties |= properties
    for name in ("dns_servers", "search_domains"):
        if answer.get(name) is not None:
            setattr(container, name, tuple(answer[name]))


def _start_init() -> subprocess.Popen[bytes]:
    """A process in a network namespace of its own, with a loopback and nothing else. What it echoes proves that it is
    in there; it ends when our end of its stdin is closed."""
    words = ["unshare", "--net", "--", "cat"]
    init = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, process_group=0)
    assert init.stdin is not None
    assert init.stdout is not None
    try:
        init.stdin.write(b"\n")
        echoed = init.stdout.read(1)
    except OSError:
        echoed = b""
    if not echoed:
        init.kill()
        init.communicate()
        raise GardenError("the container's process did not start; root and unshare(1) are needed")
    return init


def _kill(container: Container) -> None:
    """Everything in the container, then its first process."""
    for process in container.processes:
        if process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()
    if container.init is not None:
        container.init.kill()
        container.init.communicate()
